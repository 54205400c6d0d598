package transport

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

// expectClosed waits for the server to end a connection.
func expectClosed(conn net.Conn) error {
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	if _, err := io.Copy(io.Discard, conn); isTimeoutError(err) {
		return errors.New("still connected")
	}
	return nil
}

// TestFramingAttack sends what spins other servers forever.
func TestFramingAttack(t *testing.T) {
	cfg := testTransports(t)
	s := startTransports(t, cfg, newEcho())
	for _, kind := range []Protocol{TCP, TLS} {
		other := dialTransport(t, s, kind)
		for _, header := range [][]byte{
			wiretest.STUN(0xffec)[:20],
			wiretest.STUN(0xfffc)[:20],
			{0x40, 0, 0xff, 0xfc},
			append(wiretest.STUN(0), 0x40, 0, 0xff, 0xfc),
			append(wiretest.STUN(0), 0x40, 0, 0xff, 0xfd),
			append(wiretest.STUN(0), 0x40, 0, 0xff, 0xfe),
			append(wiretest.STUN(0), 0x40, 0, 0xff, 0xff),
			{0, 1, 0xff, 0xff, 0x21, 0x12, 0xa4, 0x42},
			bytes.Repeat([]byte{0x90}, 40),
			[]byte("GET / HTTP/1.1\r\n\r\n"),
		} {
			conn := dialTransport(t, s, kind)
			if _, err := conn.Write(header); err != nil {
				t.Fatal(err)
			}
			if err := expectClosed(conn); err != nil {
				t.Errorf("%v, %x: %v", kind, header, err)
			}
			if err := ping(other, channelOrSTUN(kind)); err != nil {
				t.Errorf("%v, another client: %v", kind, err)
			}
		}
		closed := cfg.Metrics.closed.WithLabelValues(kind.String(), closedFrame)
		systemtest.Eventually(t, "all were closed for their framing", func() bool { return turntest.ValueOf(t, closed) == 10 })
	}
}

func channelOrSTUN(kind Protocol) []byte { return wiretest.STUN(int(kind) * 4) }

// flakyListener fails some times before it accepts.
type flakyListener struct {
	net.Listener
	errs []error
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return l.Listener.Accept()
}

func TestAcceptErrorsPass(t *testing.T) {
	flaky := systemSockets()
	flaky.stream = func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		return &flakyListener{l, []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.ENOBUFS}}, err
	}
	cfg := testTransports(t)
	s, err := listen(cfg, newEcho(), flaky)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, kind := range []Protocol{TCP, TLS} {
		if err := ping(dialTransport(t, s, kind), wiretest.STUN(0)); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
		if got := turntest.ValueOf(t, cfg.Metrics.socketErrors.WithLabelValues(kind.String())); got != 4 {
			t.Errorf("%v: %v errors counted", kind, got)
		}
	}
}

// TestConnectionLimits refuses what is above the limit of an address and takes
// more when others left.
func TestConnectionLimits(t *testing.T) {
	cfg := testTransports(t)
	cfg.ConnsOfAddress, cfg.conns = 3, 5
	s := startTransports(t, cfg, newEcho())
	var conns []net.Conn
	for _, kind := range []Protocol{TCP, TLS, DTLS} {
		conn := dialTransport(t, s, kind)
		if err := ping(conn, wiretest.STUN(0)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	above, err := net.Dial("tcp4", at("127.0.0.1", s.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = above.Close() }()
	if err := expectClosed(above); err != nil {
		t.Errorf("above the limit: %v", err)
	}
	if got := turntest.ValueOf(t, cfg.Metrics.closed.WithLabelValues("tcp", closedLimit)); got != 1 {
		t.Errorf("%v connections refused", got)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 44)}}
	other, err := dialer.Dial("tcp4", at("127.0.0.1", s.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if err := ping(other, wiretest.STUN(0)); err != nil {
		t.Errorf("another address: %v", err)
	}
	_ = conns[0].Close()
	systemtest.Eventually(t, "there is room again", func() bool {
		conn, err := net.Dial("tcp4", at("127.0.0.1", s.Port()))
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		return ping(conn, wiretest.STUN(0)) == nil
	})
}

// TestHalfOpenStreams holds 2,000 TLS and TCP connections that say nothing.
func TestHalfOpenStreams(t *testing.T) {
	cfg := testTransports(t)
	cfg.ConnsOfAddress = 3000
	s := startTransports(t, cfg, newEcho())
	live := []net.Conn{dialTransport(t, s, TCP), dialTransport(t, s, TLS)}
	before := heapInUse()
	for i := range 2000 {
		port := s.Port()
		if i%2 == 1 {
			port = s.TLSPort()
		}
		conn, err := net.Dial("tcp4", at("127.0.0.1", port))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if i%100 == 0 {
			for _, c := range live {
				if err := ping(c, wiretest.STUN(0)); err != nil {
					t.Fatalf("with %d half-open connections: %v", i, err)
				}
			}
		}
	}
	connections := func() float64 {
		return turntest.ValueOf(t, cfg.Metrics.connections.WithLabelValues("tcp")) +
			turntest.ValueOf(t, cfg.Metrics.connections.WithLabelValues("tls"))
	}
	systemtest.Eventually(t, "all are accepted", func() bool { return connections() == 2002 })
	// The clients' half of the descriptors is counted, too.
	used := heapInUse() - before
	t.Logf("%d bytes for each half-open connection", used/2000)
	if used > 2000*24<<10 {
		t.Error("too much")
	}
	for _, c := range live {
		if err := ping(c, wiretest.ChannelData(7)); err != nil {
			t.Error(err)
		}
	}
}

// heapInUse returns the bytes of heap and stacks that live.
func heapInUse() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}

// TestSlowReaderLosesItsDataAlone floods two clients, one of which does not
// read. It gets all its control messages when it does.
func TestSlowReaderLosesItsDataAlone(t *testing.T) {
	for _, kind := range []Protocol{TCP, TLS} {
		t.Run(kind.String(), func(t *testing.T) { testSlowReader(t, kind) })
	}
}

func testSlowReader(t *testing.T, kind Protocol) {
	var mu sync.Mutex
	paths := map[netip.AddrPort]Path{}
	e := newEcho()
	e.hook = func(from FiveTuple, via Path, packet []byte) {
		mu.Lock()
		paths[from.Client] = via
		mu.Unlock()
		_ = via.Send(packet, 0)
	}
	cfg := testTransports(t)
	s := startTransports(t, cfg, e)
	pathOf := func(conn net.Conn) Path {
		if err := ping(conn, wiretest.STUN(0)); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return paths[conn.LocalAddr().(*net.TCPAddr).AddrPort()]
	}
	slow, fast := dialTransport(t, s, kind), dialTransport(t, s, kind)
	toSlow, toFast := pathOf(slow), pathOf(fast)
	drops := cfg.Metrics.drops.WithLabelValues(kind.String(), dropSlowClient)

	data, sent, controls := wiretest.ChannelData(1000), 0, 0
	for turntest.ValueOf(t, drops) < 1000 {
		for range 100 {
			if err := toSlow.Send(data, 0); err != nil {
				t.Fatalf("after %d packets: %v", sent, err)
			}
			sent++
		}
		if controls < 50 {
			controls++
			if err := toSlow.Send(wiretest.STUN(8), 0); err != nil {
				t.Fatalf("control message %d: %v", controls, err)
			}
		}
		if err := pingPath(fast, toFast, data); err != nil {
			t.Fatalf("the fast client: %v", err)
		}
	}
	if queued := queuedBytes(toSlow); queued > cfg.sendQueue {
		t.Errorf("%d bytes wait", queued)
	}
	got := drainFrames(t, slow, controls)
	dropped := int(turntest.ValueOf(t, drops))
	if got > sent-dropped {
		t.Errorf("%d of %d data frames arrived, %d were counted as dropped", got, sent, dropped)
	}
}

func queuedBytes(to Path) int {
	c := to.(*streamConn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue == nil {
		return 0
	}
	return len(c.queue.bytes)
}

// pingPath sends to a client and reads it there.
func pingPath(conn net.Conn, to Path, frame []byte) error {
	if err := to.Send(frame, 0); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	_, err := io.ReadFull(conn, make([]byte, wire.Padded(len(frame))))
	return err
}

// drainFrames reads until all control messages have come and returns how much
// data there was before the last one.
func drainFrames(t *testing.T, conn net.Conn, controls int) (data int) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	// A client may get data first; only a server's stream begins with STUN.
	frames := wire.NewFramer(io.MultiReader(bytes.NewReader(wiretest.STUN(0)), conn))
	for controls++; controls > 0; {
		frame, err := frames.Next()
		switch {
		case err != nil:
			t.Fatalf("%d control messages are missing: %v", controls, err)
		case wire.IsDataToClient(frame):
			data++
		default:
			controls--
		}
	}
	return data
}

func TestSendQueue(t *testing.T) {
	indication := wiretest.STUN(0)
	indication[1] = 0x17
	var q sendQueue
	push := func(packet []byte, wantDropped int, wantKept bool) {
		t.Helper()
		if dropped, kept := q.push(packet, 100); dropped != wantDropped || kept != wantKept {
			t.Errorf("%x: %d dropped, kept %v", packet[:2], dropped, kept)
		}
	}
	push(wiretest.STUN(20), 0, true)        // 40 bytes
	push(wiretest.ChannelData(13), 0, true) // 60
	push(indication, 0, true)               // 80
	push(wiretest.STUN(0), 0, true)         // 100
	push(wiretest.ChannelData(1), 2, true)  // 40 + 20 + 8, since a quarter is freed at once
	want := bytes.Join([][]byte{wiretest.STUN(20), wiretest.STUN(0), wiretest.Padded(wiretest.ChannelData(1))}, nil)
	if !bytes.Equal(q.bytes, want) || len(q.frames) != 3 {
		t.Errorf("the queue holds %x", q.bytes)
	}
	push(wiretest.STUN(16), 1, true) // 40 + 20 + 36
	push(wiretest.ChannelData(8), 1, false)
	push(wiretest.STUN(0), 0, false)
	if len(q.bytes) != 96 {
		t.Errorf("%d bytes came out", len(q.bytes))
	}
}

// pipeClient is a client of a stream server without a network.
func pipeClient(s *streamServer) net.Conn {
	client, server := net.Pipe()
	s.serve(server, layers{}, FiveTuple{s.transport, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")})
	return client
}

type noListener struct{ net.Listener }

func (noListener) Close() error { return nil }

func pipeServer(cfg options, e *echo) *streamServer {
	return newStreamServer(newTransports(cfg, e).common, noListener{}, nil)
}

// TestStreamDeadlines checks when a silent, an idle and a trickling client are
// disconnected, to the second.
func TestStreamDeadlines(t *testing.T) {
	for name, tt := range map[string]struct {
		client func(net.Conn)
		after  time.Duration
		reason string
	}{
		"silent":    {func(net.Conn) {}, standardLimits().firstMessageTimeout, closedSilent},
		"trickling": {trickle, standardLimits().firstMessageTimeout, closedSilent},
		"idle":      {func(c net.Conn) { _ = ping(c, wiretest.STUN(0)) }, testIdle, closedIdle},
		"active": {func(c net.Conn) {
			for range 4 {
				_ = ping(c, wiretest.STUN(0))
				time.Sleep(4 * time.Minute)
			}
		}, 12*time.Minute + testIdle, closedIdle},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, cfg := newEcho(), testOptions()
				s := pipeServer(cfg, e)
				start := time.Now()
				client := pipeClient(s)
				go tt.client(client)
				s.running.Wait()
				if took := time.Since(start); took != tt.after {
					t.Errorf("disconnected after %v, want %v", took, tt.after)
				}
				if turntest.ValueOf(t, cfg.Metrics.closed.WithLabelValues("tcp", tt.reason)) != 1 || !e.goneOnce() {
					t.Error("for another reason")
				}
				_ = client.Close()
				synctest.Wait()
				time.Sleep(time.Hour) // The client's goroutine ends in the bubble.
			})
		})
	}
}

// trickle sends a frame byte by byte, too slowly.
func trickle(conn net.Conn) {
	for _, b := range wiretest.STUN(100) {
		if _, err := conn.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

// TestControlOverflowCloses closes a client that does not read even answers,
// and one whose write takes too long.
func TestControlOverflowCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testOptions()
		cfg.sendQueue = 1000
		s := pipeServer(cfg, newEcho())
		var to Path
		s.common.receiver.(*echo).hook = func(_ FiveTuple, via Path, _ []byte) { to = via }
		for name, end := range map[string]func(){
			"answers without end": func() {
				for to.Send(wiretest.STUN(0), 0) == nil {
				}
			},
			"one answer": func() { _ = to.Send(wiretest.STUN(0), 0) },
		} {
			client := pipeClient(s)
			_, _ = client.Write(wiretest.STUN(0))
			synctest.Wait()
			end()
			s.running.Wait()
			if err := to.Send(wiretest.STUN(0), 0); !errors.Is(err, errGone) {
				t.Errorf("%s: %v", name, err)
			}
			_ = client.Close()
		}
		if got := turntest.ValueOf(t, cfg.Metrics.closed.WithLabelValues("tcp", closedSlow)); got != 2 {
			t.Errorf("%v slow clients", got)
		}
	})
}

// TestQueuesHaveABoundTogether sends much to many clients that do not read, and then to one that does.
func TestQueuesHaveABoundTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testOptions()
		cfg.sendQueue, cfg.shortQueue, cfg.MaxQueued = 100_000, 5_000, 250_000
		s := pipeServer(cfg, newEcho())
		var to Path
		s.common.receiver.(*echo).hook = func(_ FiveTuple, via Path, _ []byte) { to = via }
		connect := func() net.Conn {
			client := pipeClient(s)
			_, _ = client.Write(wiretest.STUN(0))
			synctest.Wait()
			return client
		}
		data := wiretest.ChannelData(1000)
		const count = 10
		var clients []net.Conn
		for i := range count {
			clients = append(clients, connect())
			for range 200 {
				if err := to.Send(data, 0); err != nil {
					t.Fatalf("client %d: %v", i, err)
				}
			}
			synctest.Wait()
			most := cfg.MaxQueued + int64((i+1)*2*cfg.shortQueue) // A writer holds as much as waits behind it.
			if queued := cfg.Metrics.queued.Load(); queued < min(cfg.MaxQueued/2, int64((i+1)*50_000)) || queued > most {
				t.Errorf("%d bytes wait for %d clients, want %d at most", queued, i+1, most)
			}
		}
		reader := connect()
		for i := range 50 {
			if err := to.Send(data, 0); err != nil {
				t.Fatal(err)
			}
			if n, err := io.ReadFull(reader, make([]byte, wire.Padded(len(data)))); err != nil {
				t.Fatalf("packet %d: %d bytes, %v", i, n, err)
			}
		}
		for _, client := range append(clients, reader) {
			_ = client.Close()
		}
		s.running.Wait()
		if queued := cfg.Metrics.queued.Load(); queued != 0 {
			t.Errorf("%d bytes are counted for nobody", queued)
		}
	})
}

// TestPathClose ends the connection from the receiver.
func TestPathClose(t *testing.T) {
	e := newEcho()
	e.hook = func(_ FiveTuple, via Path, packet []byte) {
		ends := via.(interface{ close() })
		ends.close()
		ends.close()
		if via.Send(packet, 0) == nil {
			t.Error("sent after close")
		}
	}
	s := startTransports(t, testTransports(t), e)
	for _, kind := range []Protocol{TCP, TLS, DTLS} {
		conn := dialTransport(t, s, kind)
		if _, err := conn.Write(wiretest.STUN(0)); err != nil {
			t.Fatal(err)
		}
		if err := expectClosed(conn); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
	}
	systemtest.Eventually(t, "all clients are gone", e.goneOnce)
}

// TestTLSHandshakeDeadline starts a handshake and stops.
func TestTLSHandshakeDeadline(t *testing.T) {
	cfg := testTransports(t)
	cfg.handshakeTimeout = 50 * time.Millisecond
	s := startTransports(t, cfg, newEcho())
	conn, err := net.Dial("tcp4", at("127.0.0.1", s.TLSPort()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte{22, 3, 1, 1, 0}); err != nil {
		t.Fatal(err)
	}
	if err := expectClosed(conn); err != nil {
		t.Error(err)
	}
	if got := turntest.ValueOf(t, cfg.Metrics.handshakes.WithLabelValues("tls", handshakeTimeout)); got != 1 {
		t.Errorf("%v handshakes timed out", got)
	}
}

// TestCertificateSwap replaces the certificate under live connections.
func TestCertificateSwap(t *testing.T) {
	var current swapped
	cfg := testTransports(t)
	cfg.TLS = &tls.Config{GetCertificate: current.get}
	s := startTransports(t, cfg, newEcho())
	var old []net.Conn
	for _, name := range []string{"first.example", "second.example"} {
		current.now.Store(newCertificate(t, name))
		for _, kind := range []Protocol{TLS, DTLS} {
			conn := dialTransport(t, s, kind)
			if got := peerName(t, conn); got != name {
				t.Errorf("%v: the certificate of %s, want %s", kind, got, name)
			}
			old = append(old, conn)
		}
		for _, conn := range old {
			if err := ping(conn, wiretest.STUN(0)); err != nil {
				t.Errorf("%T: %v", conn, err)
			}
		}
	}
}

// TestRecordIsAFrame reads records of TLS, of which some clients, coturn's among
// them, take each for one message. Echoes of frames that came at once would
// share records when they are written together.
func TestRecordIsAFrame(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	conn := dialTransport(t, s, TLS)
	frames := [][]byte{wiretest.STUN(0)}
	for size := range 200 {
		frames = append(frames, wiretest.ChannelData(8*size))
	}
	var all []byte
	for _, f := range frames {
		all = append(all, f...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	record := make([]byte, 1<<16)
	for i, f := range frames {
		n, err := conn.Read(record)
		if err != nil || !bytes.Equal(record[:n], f) {
			t.Fatalf("record %d has %d bytes, the frame %d (%v)", i, n, len(f), err)
		}
	}
}

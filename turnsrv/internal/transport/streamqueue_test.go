package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

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

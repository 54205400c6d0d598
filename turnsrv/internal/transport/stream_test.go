package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
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

// pipeClients counts those without a network, to give each a port.
var pipeClients atomic.Uint32

// pipeClient is a client of a stream server without a network.
func pipeClient(s *streamServer) net.Conn { return pipeClientAt(s, uint16(pipeClients.Add(1))) }

func pipeClientAt(s *streamServer, port uint16) net.Conn {
	client, server := net.Pipe()
	from := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)
	s.serve(server, layers{}, FiveTuple{s.transport, from, netip.MustParseAddrPort("192.0.2.2:2")})
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

// TestNewConnectionFromTheSamePort has a client come from the same port again while the receiver is told that it has gone, and once
// more while that connection lives.
func TestNewConnectionFromTheSamePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		e, cfg, gone := newEcho(), testOptions(), make(chan struct{})
		e.hook = func(_ FiveTuple, _ Path, packet []byte) { events = append(events, "received") }
		e.going = func() {
			<-gone
			events = append(events, "gone")
		}
		s := pipeServer(cfg, e)
		sends := func() net.Conn {
			client := pipeClientAt(s, 1)
			go func() { _, _ = client.Write(wiretest.STUN(0)) }()
			synctest.Wait()
			return client
		}
		_ = sends().Close()
		synctest.Wait()
		second := sends()
		if !slices.Equal(events, []string{"received"}) {
			t.Errorf("before the first has gone: %v", events)
		}
		close(gone)
		synctest.Wait()
		_ = sends().Close()
		_ = second.Close()
		s.close()
		if !slices.Equal(events, []string{"received", "gone", "received", "gone", "received", "gone"}) {
			t.Errorf("events %v", events)
		}
		if n := turntest.ValueOf(t, cfg.Metrics.closed.WithLabelValues("tcp", closedReplaced)); n != 1 {
			t.Errorf("%v connections were replaced", n)
		}
	})
}

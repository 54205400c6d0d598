package transport

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

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

func TestAddressLimit(t *testing.T) {
	l := newAddressLimit(3, 2)
	take := func(addr string) error { return l.acquire(netip.MustParseAddr(addr)) }
	for i, step := range []struct {
		addr string
		want error
	}{
		{"2001:db8::1", nil}, {"2001:db8::ffff:2", nil}, {"2001:db8::3", errAddressLimit},
		{"::ffff:192.0.2.1", nil}, {"192.0.2.2", errTotalLimit},
	} {
		if err := take(step.addr); !errors.Is(err, step.want) {
			t.Errorf("step %d, %s: %v", i, step.addr, err)
		}
	}
	l.release(netip.MustParseAddr("192.0.2.1"))
	l.release(netip.MustParseAddr("2001:db8::1"))
	if err := take("2001:db8:0:1::1"); err != nil {
		t.Error(err)
	}
	l.release(netip.MustParseAddr("2001:db8:0:1::1"))
	l.release(netip.MustParseAddr("2001:db8::2"))
	if l.held != 0 || len(l.by) != 0 {
		t.Errorf("%d held, %v", l.held, l.by)
	}
}

package transport

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

// TestRepliesLeaveFromTheAskedAddress asks several addresses of a wildcard
// bind, by sockets that take a reply from there alone.
func TestRepliesLeaveFromTheAskedAddress(t *testing.T) {
	var mu sync.Mutex
	asked := map[netip.AddrPort]netip.AddrPort{}
	e := newEcho()
	e.hook = func(from FiveTuple, via Path, packet []byte) {
		mu.Lock()
		asked[from.Client] = from.Server
		mu.Unlock()
		_ = via.Send(packet, 0)
	}
	cfg := testTransports(t)
	cfg.UDPSockets = 3
	hosts := []string{"127.0.0.1", "127.0.0.2", "127.9.8.7"}
	if canBind("udp6", "[::1]:0") == nil {
		cfg.Listen = append(cfg.Listen, netip.IPv6Unspecified())
		hosts = append(hosts, "::1")
	}
	s := startTransports(t, cfg, e)
	for _, host := range hosts {
		for _, kind := range []Protocol{UDP, DTLS} {
			port := s.Port()
			var conn net.Conn
			var err error
			if kind == DTLS {
				port = s.TLSPort()
				conn, err = dialDTLS(at(host, port))
			} else {
				conn, err = net.Dial("udp", at(host, port))
			}
			if err != nil {
				t.Errorf("%v %s: %v", kind, host, err)
				continue
			}
			if err := ping(conn, wiretest.STUN(0)); err != nil {
				t.Errorf("%v %s: %v", kind, host, err)
			}
			want := netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port))
			mu.Lock()
			if got := asked[conn.LocalAddr().(*net.UDPAddr).AddrPort()]; got != want {
				t.Errorf("%v: asked %v, the receiver heard %v", kind, want, got)
			}
			mu.Unlock()
			_ = conn.Close()
		}
	}
}

// flakyUDP fails some reads.
type flakyUDP struct {
	batch.Conn
	errs []error
}

func (c *flakyUDP) ReadMsgUDPAddrPort(b, oob []byte) (int, int, int, netip.AddrPort, error) {
	if len(c.errs) > 0 {
		err := c.errs[0]
		c.errs = c.errs[1:]
		return 0, 0, 0, netip.AddrPort{}, err
	}
	return c.Conn.ReadMsgUDPAddrPort(b, oob)
}

// TestReadErrorsPass keeps a UDP and a DTLS listener through errors.
func TestReadErrorsPass(t *testing.T) {
	cfg := testTransports(t)
	s := newTransports(cfg, newEcho())
	s.common.UDPSockets = 1
	if err := s.bindAll(systemSockets()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, socket := range []*udpSocket{s.datagrams[0].socket, s.secure[0].socket} {
		socket.conn = &flakyUDP{socket.conn, []error{syscall.ENOBUFS, syscall.ECONNREFUSED, syscall.ENOMEM}}
	}
	s.Serve()
	for _, kind := range []Protocol{UDP, DTLS} {
		if err := ping(dialTransport(t, s, kind), wiretest.STUN(0)); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
		if got := turntest.ValueOf(t, cfg.Metrics.socketErrors.WithLabelValues(kind.String())); got != 3 {
			t.Errorf("%v: %v errors counted", kind, got)
		}
	}
}

// TestDatagramsKeepTheirSize sends the largest there is.
func TestDatagramsKeepTheirSize(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	conn := dialTransport(t, s, UDP)
	frame := wiretest.ChannelData(65507 - wire.ChannelHeader)
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(systemtest.Patience))
	got := make([]byte, batch.MaxDatagram)
	if n, err := conn.Read(got); err != nil || !bytes.Equal(got[:n], frame) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := conn.Write(nil); err != nil {
		t.Fatal(err)
	}
	if err := ping(conn, wiretest.STUN(0)); err != nil {
		t.Errorf("after an empty datagram: %v", err)
	}
}

// TestUDPPathsAreReused checks that a packet costs no allocation for its way
// back, and that spoofed addresses do not pile up.
func TestUDPPathsAreReused(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	u := newUDPServer(s.common, s.datagrams[0].socket)
	from := FiveTuple{UDP, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("127.0.0.1:3478")}
	first := u.path(from)
	if allocs := testing.AllocsPerRun(100, func() { u.path(from) }); allocs != 0 || u.path(from) != first {
		t.Errorf("%v allocations", allocs)
	}
	for port := range uint16(3 * maxKnownPaths) {
		from.Client = netip.AddrPortFrom(from.Client.Addr(), port)
		u.path(from)
	}
	if len(u.paths) > maxKnownPaths {
		t.Errorf("%d paths are kept", len(u.paths))
	}
}

// BenchmarkUDPEcho is what a datagram costs through the transport, both ways.
func BenchmarkUDPEcho(b *testing.B) {
	cfg := testOptions()
	cfg.Listen = []netip.Addr{netip.IPv4Unspecified()}
	s, err := listen(cfg, newEcho(), systemSockets())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("udp4", at("127.0.0.1", s.Port()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	frame, buffer := wiretest.ChannelData(160), make([]byte, 2000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(frame); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Read(buffer); err != nil {
			b.Fatal(err)
		}
	}
}

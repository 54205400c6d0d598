package transport

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

// echo is a receiver that sends everything back.
type echo struct {
	hook func(from FiveTuple, via Path, packet []byte) // hook, if set, is called instead.

	mu       sync.Mutex
	received map[FiveTuple]int
	left     map[FiveTuple]int
	late     int // late counts what came after gone.
}

func newEcho() *echo { return &echo{received: map[FiveTuple]int{}, left: map[FiveTuple]int{}} }

func (e *echo) Receive(from FiveTuple, via Path, packet []byte, _ batch.Mark) {
	e.mu.Lock()
	e.received[from]++
	if e.left[from] > 0 {
		e.late++
	}
	e.mu.Unlock()
	if e.hook != nil {
		e.hook(from, via, packet)
		return
	}
	_ = via.Send(packet, 0)
}

func (e *echo) Rest(FiveTuple) {}

func (e *echo) Gone(from FiveTuple) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.left[from]++
}

// goneOnce says whether all stream clients that sent something have left, once.
func (e *echo) goneOnce() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for from := range e.received {
		if from.Protocol != UDP && e.left[from] != 1 {
			return false
		}
	}
	return e.late == 0
}

// clients returns how many clients of a transport there were.
func (e *echo) clients(t Protocol) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for from := range e.received {
		if from.Protocol == t {
			n++
		}
	}
	return n
}

// testIdle is how long a client may be silent in tests.
const testIdle = 5 * time.Minute

// testOptions are those of transports that listen nowhere.
func testOptions() options {
	return options{
		Config{
			IdleTimeout: testIdle, ConnsOfAddress: 500,
			Log: slog.New(slog.DiscardHandler), DTLSLogs: turntest.QuietLogs(), Metrics: NewMetrics(),
		},
		standardLimits(),
	}
}

// testTransports is a configuration on free ports of this machine.
func testTransports(t *testing.T) options {
	certificate := newCertificate(t, "localhost")
	opts := testOptions()
	opts.Listen = []netip.Addr{netip.IPv4Unspecified()}
	opts.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate, nil }}
	return opts
}

// listen binds transports and serves them.
func listen(opts options, r Receiver, make sockets) (*Transports, error) {
	t, err := bind(opts, r, make)
	if err == nil {
		t.Serve()
	}
	return t, err
}

// newCertificate returns one that nobody but its clients trusts.
func newCertificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	cert := systemtest.Certificate(t, name)
	return &cert
}

func startTransports(t *testing.T, cfg options, r Receiver) *Transports {
	t.Helper()
	s, err := listen(cfg, r, systemSockets())
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// at returns the address that a client dials.
func at(host string, port int) string { return hostPort(netip.MustParseAddr(host), port) }

// dialTransport connects a real client of a transport.
func dialTransport(t *testing.T, s *Transports, kind Protocol) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	switch kind {
	case UDP:
		conn, err = net.Dial("udp4", at("127.0.0.1", s.Port()))
	case TCP:
		conn, err = net.Dial("tcp4", at("127.0.0.1", s.Port()))
	case TLS:
		conn, err = tls.Dial("tcp4", at("127.0.0.1", s.TLSPort()), &tls.Config{InsecureSkipVerify: true})
	case DTLS:
		conn, err = dialDTLS(at("127.0.0.1", s.TLSPort()))
	}
	if err != nil {
		t.Fatalf("dialing %v: %v", kind, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ping sends a frame and expects it back, padded on streams.
func ping(conn net.Conn, frame []byte) error {
	_ = conn.SetDeadline(time.Now().Add(systemtest.Patience))
	if _, ok := conn.(*net.UDPConn); ok || isDTLSConn(conn) {
		return pingDatagram(conn, frame)
	}
	if _, err := conn.Write(wiretest.Padded(frame)); err != nil {
		return err
	}
	got := make([]byte, wire.Padded(len(frame)))
	for read := 0; read < len(got); {
		n, err := conn.Read(got[read:])
		if err != nil {
			return err
		}
		read += n
	}
	if !bytes.Equal(got, wiretest.Padded(frame)) {
		return fmt.Errorf("got %x", got)
	}
	return nil
}

func pingDatagram(conn net.Conn, frame []byte) error {
	if _, err := conn.Write(frame); err != nil {
		return err
	}
	got := make([]byte, 9000)
	n, err := conn.Read(got)
	if err != nil {
		return err
	}
	if !bytes.Equal(got[:n], frame) {
		return fmt.Errorf("got %x", got[:n])
	}
	return nil
}

var allTransports = []Protocol{UDP, TCP, TLS, DTLS}

// TestEveryTransportEchoes sends control messages and data of all kinds of
// sizes, by clients that are not ours.
func TestEveryTransportEchoes(t *testing.T) {
	e := newEcho()
	cfg := testTransports(t)
	s := startTransports(t, cfg, e)
	for _, kind := range allTransports {
		conn := dialTransport(t, s, kind)
		for _, frame := range [][]byte{
			wiretest.STUN(0), wiretest.ChannelData(0), wiretest.ChannelData(1), wiretest.ChannelData(4), wiretest.ChannelData(5), wiretest.STUN(100), wiretest.ChannelData(1171),
		} {
			if err := ping(conn, frame); err != nil {
				t.Errorf("%v, %d bytes: %v", kind, len(frame), err)
			}
		}
		if kind != UDP {
			name := kind.String()
			if got := turntest.ValueOf(t, cfg.Metrics.connections.WithLabelValues(name)); got != 1 {
				t.Errorf("%v: %v connections", kind, got)
			}
		}
		_ = conn.Close()
	}
	systemtest.Eventually(t, "all clients are gone", e.goneOnce)
	for _, kind := range allTransports {
		if e.clients(kind) != 1 {
			t.Errorf("%v: %d clients", kind, e.clients(kind))
		}
	}
	for _, kind := range []Protocol{TLS, DTLS} {
		if got := turntest.ValueOf(t, cfg.Metrics.handshakes.WithLabelValues(kind.String(), handshakeOK)); got != 1 {
			t.Errorf("%v: %v handshakes", kind, got)
		}
	}
}

// TestLargeFramesOfStreams relays the largest frames both ways.
func TestLargeFramesOfStreams(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	for _, kind := range []Protocol{TCP, TLS} {
		conn := dialTransport(t, s, kind)
		for _, frame := range [][]byte{wiretest.STUN(65484), wiretest.ChannelData(65503)} {
			if err := ping(conn, frame); err != nil {
				t.Errorf("%v, %d bytes: %v", kind, len(frame), err)
			}
		}
	}
}

// TestStartCloseThrice leaves nothing behind, with clients connected.
func TestStartCloseThrice(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		e := newEcho()
		s, err := listen(testTransports(t), e, systemSockets())
		if err != nil {
			t.Fatal(err)
		}
		var conns []net.Conn
		for _, kind := range allTransports {
			conn := dialTransport(t, s, kind)
			if err := ping(conn, wiretest.STUN(0)); err != nil {
				t.Errorf("%v: %v", kind, err)
			}
			conns = append(conns, conn)
		}
		s.Close()
		s.Close()
		if !e.goneOnce() {
			t.Error("close returned before every client was gone")
		}
		for _, conn := range conns[1:] {
			_ = conn.SetDeadline(time.Now().Add(systemtest.Patience))
			if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeoutError(err) {
				t.Errorf("%T is still connected: %v", conn, err)
			}
			_ = conn.Close()
		}
		_ = conns[0].Close()
		for _, network := range []string{"udp4", "tcp4"} {
			for _, port := range []int{s.Port(), s.TLSPort()} {
				if err := canBind(network, at("0.0.0.0", port)); err != nil {
					t.Errorf("%s port %d is not free: %v", network, port, err)
				}
			}
		}
	}
	systemtest.Eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func isTimeoutError(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func canBind(network, address string) error {
	if strings.HasPrefix(network, "udp") {
		conn, err := net.ListenPacket(network, address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	l, err := net.Listen(network, address)
	if err == nil {
		_ = l.Close()
	}
	return err
}

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

// TestSeveralAddresses binds two addresses, one of them IPv6, each alone.
func TestSeveralAddresses(t *testing.T) {
	cfg := testTransports(t)
	cfg.Listen = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.3")}
	if canBind("udp6", "[::1]:0") == nil {
		cfg.Listen = append(cfg.Listen, netip.IPv6Loopback())
	}
	e := newEcho()
	s := startTransports(t, cfg, e)
	for _, addr := range cfg.Listen {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := net.Dial(network, at(addr.String(), s.Port()))
			if err != nil {
				t.Fatal(err)
			}
			if err := ping(conn, wiretest.STUN(0)); err != nil {
				t.Errorf("%s %v: %v", network, addr, err)
			}
			_ = conn.Close()
		}
	}
	for from := range e.received {
		if from.Client.Addr().Is4In6() || from.Server.Addr().Is4In6() || int(from.Server.Port()) != s.Port() {
			t.Errorf("five-tuple %v", from)
		}
	}
}

// TestPickedNumbersAreFreeEverywhere lets the first picks collide.
func TestPickedNumbersAreFreeEverywhere(t *testing.T) {
	collisions := 3
	busy := systemSockets()
	busy.packet = func(network, address string, share bool) (*net.UDPConn, error) {
		if collisions > 0 {
			collisions--
			return nil, &net.OpError{Op: "listen", Net: network, Err: syscall.EADDRINUSE}
		}
		return listenPacket(network, address, share)
	}
	s, err := listen(testTransports(t), newEcho(), busy)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Port() == 0 || s.TLSPort() == 0 || collisions != 0 {
		t.Errorf("ports %d and %d, %d collisions left", s.Port(), s.TLSPort(), collisions)
	}
}

// TestTakenPort names the flag, although UDP sockets share ports.
func TestTakenPort(t *testing.T) {
	first := startTransports(t, testTransports(t), newEcho())
	for flag, change := range map[string]func(*options){
		"--turn-port":     func(c *options) { c.Port = first.Port() },
		"--turn-tls-port": func(c *options) { c.TLSPort = first.TLSPort() },
		"--turn-listen":   func(c *options) { c.Listen = []netip.Addr{netip.MustParseAddr("203.0.113.1")} },
	} {
		cfg := testTransports(t)
		change(&cfg)
		s, err := listen(cfg, newEcho(), systemSockets())
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", flag)
		} else if !strings.HasPrefix(err.Error(), flag+": ") {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, share := range []bool{false, true} {
		udp, err := listenPacket("udp4", "0.0.0.0:0", share)
		if err != nil {
			t.Fatal(err)
		}
		cfg := testTransports(t)
		cfg.Port, cfg.UDPSockets = udp.LocalAddr().(*net.UDPAddr).Port, 2
		if s, err := listen(cfg, newEcho(), systemSockets()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a port that UDP alone has, shared %v: %v", share, err)
			if err == nil {
				s.Close()
			}
		}
		_ = udp.Close()
	}
}

// TestWithoutIPv6 goes on where the wildcard is the default, and fails else.
func TestWithoutIPv6(t *testing.T) {
	lacking := systemSockets()
	lacking.stream = func(network, address string) (net.Listener, error) {
		if network == "tcp6" {
			return nil, &net.OpError{Op: "listen", Net: network, Err: syscall.EAFNOSUPPORT}
		}
		return net.Listen(network, address)
	}
	cfg := testTransports(t)
	cfg.Listen = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if _, err := listen(cfg, newEcho(), lacking); err == nil || !strings.Contains(err.Error(), "--turn-listen") {
		t.Errorf("configured: %v", err)
	}
	cfg.IPv6Optional = true
	s, err := listen(cfg, newEcho(), lacking)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
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

// swapped is a certificate that can be replaced.
type swapped struct {
	now atomic.Pointer[tls.Certificate]
}

func (s *swapped) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.now.Load(), nil }

package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

func dialDTLS(address string) (net.Conn, error) { return turntest.DialDTLS(address) }

func isDTLSConn(conn net.Conn) bool {
	_, ok := conn.(*dtls.Conn)
	return ok
}

// peerName returns the common name of the server's certificate.
func peerName(t *testing.T, conn net.Conn) string {
	t.Helper()
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	state, ok := conn.(*dtls.Conn).ConnectionState()
	if !ok || len(state.PeerCertificates) == 0 {
		t.Fatal("no certificate")
	}
	certificate, err := x509.ParseCertificate(state.PeerCertificates[0])
	if err != nil {
		t.Fatal(err)
	}
	return certificate.Subject.CommonName
}

// TestOnlyAHelloBeginsASession sends records that must leave no state.
func TestOnlyAHelloBeginsASession(t *testing.T) {
	cfg := testTransports(t)
	s := startTransports(t, cfg, newEcho())
	hello := turntest.DTLSHello(t)
	change := func(at int, to byte) []byte {
		packet := append([]byte(nil), hello...)
		packet[at] = to
		return packet
	}
	packets := [][]byte{
		{}, {22}, wiretest.STUN(0), hello[:24], change(0, 23), change(1, 3), change(4, 1), change(12, 255),
		change(11, 255), change(13, 2), change(21, 1),
	}
	for i, packet := range packets {
		if isClientHello(packet) {
			t.Errorf("packet %d passes for a ClientHello", i)
		}
	}
	conn, err := net.Dial("udp4", at("127.0.0.1", s.TLSPort()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, packet := range packets {
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	drops := cfg.Metrics.drops.WithLabelValues("dtls", dropNoSession)
	systemtest.Eventually(t, "all are dropped", func() bool { return turntest.ValueOf(t, drops) == float64(len(packets)) })
	if s.secure[0].sessions() != 0 {
		t.Error("there is a session")
	}
	if !isClientHello(hello) {
		t.Fatal("a real ClientHello is none")
	}
}

// sessions returns how many sessions and handshakes exist.
func (s *dtlsServer) sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// longTime is longer than any test waits.
const longTime = time.Hour

// halfOpen is how many handshakes may be under way.
var halfOpen = standardLimits().handshakes

// TestHalfOpenDTLS sends 2,000 ClientHellos of as many clients that go no
// further. A live client is unaffected and a new one gets in.
func TestHalfOpenDTLS(t *testing.T) {
	cfg := testTransports(t)
	cfg.handshakeTimeout = longTime // On a busy machine 2,000 may take longer than each of them has.
	s := startTransports(t, cfg, newEcho())
	live := dialTransport(t, s, DTLS)
	if err := ping(live, wiretest.STUN(0)); err != nil {
		t.Fatal(err)
	}
	hello := turntest.DTLSHello(t)
	before := heapInUse()
	remote := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(s.TLSPort()))
	for i := range 2000 {
		local := net.UDPAddr{IP: net.IPv4(127, 1, byte(i/8>>8), byte(i/8))}
		socket, err := net.ListenUDP("udp4", &local)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := socket.WriteToUDPAddrPort(hello, remote); err != nil {
			t.Fatal(err)
		}
		_ = socket.Close()
		if i%20 == 0 {
			if err := ping(live, wiretest.ChannelData(i%100)); err != nil {
				t.Fatalf("with %d handshakes: %v", i, err)
			}
		}
		if got := s.secure[0].sessions(); got > halfOpen+1 {
			t.Fatalf("%d handshakes", got-1)
		}
	}
	systemtest.Eventually(t, "the table is full", func() bool { return s.secure[0].sessions() == halfOpen+1 })
	used := heapInUse() - before
	t.Logf("%d bytes for each of %d half-open handshakes", used/int64(halfOpen), halfOpen)
	if used > int64(halfOpen)*96<<10 {
		t.Error("too much")
	}
	if err := ping(dialTransport(t, s, DTLS), wiretest.STUN(0)); err != nil {
		t.Errorf("a new client: %v", err)
	}
	if err := ping(live, wiretest.STUN(0)); err != nil {
		t.Errorf("the live client: %v", err)
	}
}

// TestHandshakesOfOneAddress bounds them, the newest taking the place of the
// oldest, as only a client that answers is known to be there.
func TestHandshakesOfOneAddress(t *testing.T) {
	cfg := testTransports(t)
	cfg.handshakesOfAddress = 4
	s := startTransports(t, cfg, newEcho())
	hello := turntest.DTLSHello(t)
	for range 12 {
		socket, err := net.Dial("udp4", at("127.0.0.1", s.TLSPort()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = socket.Close() }()
		if _, err := socket.Write(hello); err != nil {
			t.Fatal(err)
		}
		_ = socket.SetReadDeadline(time.Now().Add(systemtest.Patience))
		if _, err := socket.Read(make([]byte, 100)); err != nil {
			t.Fatalf("no HelloVerifyRequest: %v", err)
		}
	}
	if got := s.secure[0].sessions(); got > 4 {
		t.Errorf("%d handshakes of one address", got)
	}
	if err := ping(dialTransport(t, s, DTLS), wiretest.STUN(0)); err != nil {
		t.Errorf("a real client of the address: %v", err)
	}
}

// TestVerifiedHandshakesStay lets a flood of ClientHellos come while a client
// that has shown the cookie takes its time.
func TestVerifiedHandshakesStay(t *testing.T) {
	cfg := testTransports(t)
	cfg.handshakeTimeout, cfg.handshakesOfAddress = longTime, 4
	s := startTransports(t, cfg, newEcho())
	remote := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at("127.0.0.1", s.TLSPort())))
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	slow := &pausedSocket{UDPConn: socket, resume: make(chan struct{})}
	client, err := dtls.ClientWithOptions(slow, remote, dtls.WithInsecureSkipVerify(true), dtls.WithLoggerFactory(turntest.QuietLogs()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	resume := sync.OnceFunc(func() { close(slow.resume) })
	defer resume()
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), systemtest.Patience)
		defer cancel()
		done <- client.HandshakeContext(ctx)
	}()
	server := s.secure[0]
	systemtest.Eventually(t, "the client has shown the cookie", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.conns) == 1 && server.unverified.Len() == 0
	})
	for range 12 {
		sayHello(t, s)
	}
	refusals := cfg.Metrics.handshakes.WithLabelValues("dtls", handshakeFailed)
	systemtest.Eventually(t, "the oldest made room", func() bool { return turntest.ValueOf(t, refusals) == 9 })
	resume()
	if err := <-done; err != nil {
		t.Errorf("the slow client: %v", err)
	}
}

// pausedSocket sends two datagrams and waits before it sends more.
type pausedSocket struct {
	*net.UDPConn
	sent   int
	resume chan struct{}
}

func (s *pausedSocket) WriteTo(p []byte, to net.Addr) (int, error) {
	if s.sent++; s.sent > 2 {
		<-s.resume
	}
	return s.UDPConn.WriteTo(p, to)
}

// TestDTLSDeadlines ends a handshake, a silent and an idle session, of which each has a deadline alone that comes before the test's.
func TestDTLSDeadlines(t *testing.T) {
	const soon = 100 * time.Millisecond
	for reason, tt := range map[string]struct {
		change func(*options)
		dial   func(*testing.T, *Transports) net.Conn
	}{
		closedHandshake: {func(c *options) { c.handshakeTimeout = soon }, sayHello},
		closedSilent: {func(c *options) { c.firstMessageTimeout = soon }, func(t *testing.T, s *Transports) net.Conn {
			return dialTransport(t, s, DTLS)
		}},
		closedIdle: {func(c *options) { c.IdleTimeout = soon }, func(t *testing.T, s *Transports) net.Conn {
			conn := dialTransport(t, s, DTLS)
			if err := ping(conn, wiretest.STUN(0)); err != nil {
				t.Error(err)
			}
			return conn
		}},
	} {
		t.Run(reason, func(t *testing.T) {
			cfg, e := testTransports(t), newEcho()
			cfg.handshakeTimeout, cfg.firstMessageTimeout, cfg.IdleTimeout = longTime, longTime, longTime
			tt.change(&cfg)
			s := startTransports(t, cfg, e)
			conn := tt.dial(t, s)
			if isDTLSConn(conn) {
				if err := expectClosed(conn); err != nil {
					t.Error(err)
				}
			}
			closed := cfg.Metrics.closed.WithLabelValues("dtls", reason)
			systemtest.Eventually(t, "the session has ended", func() bool {
				return s.secure[0].sessions() == 0 && turntest.ValueOf(t, closed) == 1 && e.goneOnce()
			})
			if timedOut := turntest.ValueOf(t, cfg.Metrics.handshakes.WithLabelValues("dtls", handshakeTimeout)); timedOut > 0 != (reason == closedHandshake) {
				t.Errorf("%v handshakes timed out", timedOut)
			}
		})
	}
}

// sayHello begins a handshake and goes no further.
func sayHello(t *testing.T, s *Transports) net.Conn {
	t.Helper()
	socket, err := net.Dial("udp4", at("127.0.0.1", s.TLSPort()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	if _, err := socket.Write(turntest.DTLSHello(t)); err != nil {
		t.Fatal(err)
	}
	return socket
}

// TestDTLSHandshakeBudget feeds a handshake fragments without end.
func TestDTLSHandshakeBudget(t *testing.T) {
	cfg := testTransports(t)
	s := startTransports(t, cfg, newEcho())
	socket, err := net.Dial("udp4", at("127.0.0.1", s.TLSPort()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	hello := turntest.DTLSHello(t)
	drops := cfg.Metrics.drops.WithLabelValues("dtls", dropBudget)
	systemtest.Eventually(t, "the budget is spent", func() bool {
		_, err := socket.Write(append(hello, make([]byte, 4000)...))
		return err == nil && turntest.ValueOf(t, drops) > 10
	})
}

// TestStrangersCannotEndASession sends records in the client's name, which
// needs no more than its address.
func TestStrangersCannotEndASession(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	conn := dialTransport(t, s, DTLS)
	if err := ping(conn, wiretest.STUN(0)); err != nil {
		t.Fatal(err)
	}
	client := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	server := netip.MustParseAddrPort(at("127.0.0.1", s.TLSPort()))
	packets := [][]byte{turntest.DTLSHello(t), wiretest.STUN(0)}
	for _, kind := range []byte{20, 21, 22, 23, 24, 25, 99} {
		for _, epoch := range []byte{0, 1, 2} {
			for _, body := range [][]byte{{}, {1}, {2, 0}, {2, 40}, {1, 0}, make([]byte, 12), make([]byte, 300)} {
				header := []byte{kind, 254, 253, 0, epoch, 0, 0, 0, 0, 1, 0, 0, byte(len(body))}
				header[11] = byte(len(body) >> 8)
				packets = append(packets, append(header, body...), append(helloPacketOf(packets), append(header, body...)...))
			}
		}
	}
	for _, packet := range packets {
		s.secure[0].handle(nil, FiveTuple{DTLS, client, server}, packet, 0, s.secure[0].receive)
		if err := ping(conn, wiretest.ChannelData(9)); err != nil {
			t.Fatalf("after %x: %v", packet[:min(len(packet), 40)], err)
		}
	}
}

// helloPacketOf copies the ClientHello that a list begins with.
func helloPacketOf(packets [][]byte) []byte { return append([]byte(nil), packets[0]...) }

// FuzzRecords looks at any datagram that comes to the DTLS port.
func FuzzRecords(f *testing.F) {
	hello := append([]byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 14, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2}, 254, 253)
	f.Add(hello)
	f.Add(append(hello, 20, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1))
	f.Add([]byte{23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 1, 1})
	f.Add([]byte{23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 255, 255, 1})
	f.Fuzz(func(t *testing.T, packet []byte) {
		hello, whole := isClientHello(packet), 0
		for rest := packet; len(rest) > 0; {
			record, after, ok := nextRecord(rest)
			if !ok {
				break
			}
			if len(record) < recordHeader || len(record)+len(after) != len(rest) {
				t.Fatalf("a record of %d bytes and %d behind it make %d", len(record), len(after), len(rest))
			}
			if isSealed(record) && !isStray(record) {
				t.Error("data passes for a handshake")
			}
			if _, opened := testOpener(t).open(bytes.Clone(record)); opened {
				t.Error("a record that nobody has sealed is opened")
			}
			rest = after
			whole++
		}
		if hello && (whole == 0 || isStray(packet)) {
			t.Error("a ClientHello is of no handshake")
		}
	})
}

// TestNewSessionFromTheSamePort begins a session where another one lives whose client has gone without a word, as often as one may.
// Who says so in the client's name ends nothing.
func TestNewSessionFromTheSamePort(t *testing.T) {
	echo := newEcho()
	s := startTransports(t, testTransports(t), echo)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.TLSPort()))
	crashing, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	from := crashing.LocalAddr().(*net.UDPAddr)
	_ = crashing.Close()
	for round := range 3 {
		conn, err := turntest.DialDTLSFrom(from, address)
		if err != nil {
			t.Fatalf("session %d: %v", round, err)
		}
		if err := echoes(conn); err != nil {
			t.Errorf("session %d: %v", round, err)
		}
		verifies := conn.Verifies.Load()
		if _, err := conn.Socket.Write(turntest.DTLSHello(t)); err != nil { // As a forger would.
			t.Fatal(err)
		}
		systemtest.Eventually(t, "the forger is asked to show the address", func() bool { return conn.Verifies.Load() > verifies })
		if err := echoes(conn); err != nil {
			t.Errorf("session %d after a forged hello: %v", round, err)
		}
		conn.Crash()
	}
}

// echoes sends a frame and waits for it to come back.
func echoes(conn net.Conn) error {
	frame := wiretest.STUN(0)
	if _, err := conn.Write(frame); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	buffer := make([]byte, 2000)
	n, err := conn.Read(buffer)
	if err == nil && !bytes.Equal(buffer[:n], frame) {
		return fmt.Errorf("got %x", buffer[:n])
	}
	return err
}

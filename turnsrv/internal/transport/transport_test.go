package transport

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
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
	hook  func(from FiveTuple, via Path, packet []byte) // hook, if set, is called instead.
	going func()                                        // going, if set, is called when a client has gone.

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
	if e.going != nil {
		e.going()
	}
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

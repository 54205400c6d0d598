package transport

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

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

// swapped is a certificate that can be replaced.
type swapped struct {
	now atomic.Pointer[tls.Certificate]
}

func (s *swapped) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.now.Load(), nil }

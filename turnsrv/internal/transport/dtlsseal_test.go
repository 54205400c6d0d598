package transport

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

// testKeys are those of a session with a cipher suite.
func testKeys(t testing.TB, suite dtls.CipherSuiteID) (*sealer, *opener) {
	t.Helper()
	e := exported{LocalEpoch: 1, RemoteEpoch: 1, CipherSuiteID: uint16(suite), MasterSecret: make([]byte, 48), SequenceNumber: 1}
	s, o, err := e.keys()
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

// testOpener opens what nobody seals.
func testOpener(t testing.TB) *opener {
	_, o := testKeys(t, cipherSuites[0])
	return o
}

// reversed opens what a sealer seals.
func reversed(s *sealer) *opener { return &opener{recordAEAD: s.recordAEAD} }

// TestSealedRecordsOpen seals records and opens them, once each, unless a byte has changed.
func TestSealedRecordsOpen(t *testing.T) {
	for _, suite := range cipherSuites {
		s, _ := testKeys(t, suite)
		o := reversed(s)
		for _, size := range []int{0, 1, 1100, maxPayload - 3} {
			message := make([]byte, size)
			message = append(message, 1)[:size]
			record, err := s.seal([]byte("before"), recordData, message[:size/2], message[size/2:], 3)
			if err != nil {
				t.Fatal(err)
			}
			record = record[len("before"):]
			changed := bytes.Clone(record)
			changed[rand.IntN(len(changed))] ^= 1 << rand.IntN(8)
			if !isSealed(changed) {
				continue
			}
			if _, whole, ok := nextRecord(changed); ok && len(whole) == 0 {
				if _, ok := o.open(changed); ok {
					t.Errorf("%v: a changed record opens", suite)
				}
			}
			got, ok := o.open(bytes.Clone(record))
			if !ok || !bytes.Equal(got, append(message, 0, 0, 0)) {
				t.Errorf("%v, %d bytes: got %d, %v", suite, size, len(got), ok)
			}
			if _, ok := o.open(record); ok {
				t.Errorf("%v: a record opens again", suite)
			}
		}
	}
}

// TestNumbersAreUsedOnce has each number once, as a nonce must be, and none behind the last.
func TestNumbersAreUsedOnce(t *testing.T) {
	s, _ := testKeys(t, cipherSuites[0])
	if s.number != 1+spareNumbers {
		t.Errorf("the first number is %d", s.number)
	}
	for range 2 {
		before := s.number
		record, err := s.seal(nil, recordData, nil, nil, 0)
		if err != nil || binary.BigEndian.Uint64(record[recordEpochAt:]) != sealedEpoch<<48|before {
			t.Errorf("%v, %x", err, record)
		}
	}
	s.number = lastNumber + 1
	if _, err := s.seal(nil, recordData, nil, nil, 0); err == nil {
		t.Error("there is a number behind the last")
	}
}

// TestEverySuite has clients of the implementation read and write records of every suite, and of none without an AEAD.
func TestEverySuite(t *testing.T) {
	for _, certificate := range []*tls.Certificate{newCertificate(t, "localhost"), rsaCertificate(t)} {
		cfg := testTransports(t)
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
		s := startTransports(t, cfg, newEcho())
		sessions := 0
		for _, suite := range append(slices.Clone(cipherSuites), dtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, dtls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA) {
			conn := dialSuite(t, s, suite)
			if conn == nil {
				continue
			}
			sessions++
			for _, size := range []int{0, 1000, 8000} {
				if err := ping(conn, wiretest.ChannelData(size)); err != nil {
					t.Errorf("%v, %d bytes: %v", suite, size, err)
				}
			}
			_ = conn.Close()
		}
		if sessions != len(cipherSuites)/2 {
			t.Errorf("%d suites make a session", sessions)
		}
	}
}

// dialSuite connects a client that offers one suite, or returns nil when that is refused.
func dialSuite(t *testing.T, s *Transports, suite dtls.CipherSuiteID) net.Conn {
	t.Helper()
	remote := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at("127.0.0.1", s.TLSPort())))
	conn, err := dtls.DialWithOptions("udp4", remote, dtls.WithCipherSuites(suite), dtls.WithInsecureSkipVerify(true),
		dtls.WithLoggerFactory(turntest.QuietLogs()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), systemtest.Patience)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			t.Error(err)
		}
		return nil
	}
	return conn
}

// rsaCertificate returns one with a key that the suites of RSA need.
func rsaCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(crand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(crand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}
}

// TestRecordsAreTakenOnce sends all that a client sends twice, and some of it late.
func TestRecordsAreTakenOnce(t *testing.T) {
	e := newEcho()
	var got sync.Map
	e.hook = func(_ FiveTuple, via Path, packet []byte) {
		if _, again := got.LoadOrStore(string(packet), true); again {
			t.Errorf("%x is taken twice", packet)
		}
		_ = via.Send(packet, 0)
	}
	cfg := testTransports(t)
	s := startTransports(t, cfg, e)
	conn, err := turntest.DialDTLSFrom(nil, at("127.0.0.1", s.TLSPort()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const messages = 200
	for i := range messages {
		if err := ping(conn, binary.BigEndian.AppendUint32(wiretest.ChannelData(0), uint32(i))); err != nil {
			t.Fatal(err)
		}
		for _, sent := range conn.Sent(i % 70) {
			if _, err := conn.Socket.Write(sent); err != nil {
				t.Fatal(err)
			}
		}
	}
	drops := cfg.Metrics.drops.WithLabelValues("dtls", dropNoSession)
	systemtest.Eventually(t, "all repetitions are dropped", func() bool { return turntest.ValueOf(t, drops) >= messages })
}

// FuzzWindow holds the window against one that remembers everything.
func FuzzWindow(f *testing.F) {
	f.Add([]byte{0, 1, 3, 2, 70, 6, 200, 136, 135})
	f.Fuzz(func(t *testing.T, numbers []byte) {
		var w window
		seen, next := map[uint64]bool{}, uint64(0)
		for _, b := range numbers {
			number := uint64(b)
			want := number >= next || next-number <= 64 && !seen[number]
			if w.lacks(number) != want {
				t.Fatalf("%d after %v: %v", number, numbers, !want)
			}
			if want {
				w.note(number)
				seen[number], next = true, max(next, number+1)
			}
		}
	})
}

// TestSealingAllocatesNothing, nor does opening.
func TestSealingAllocatesNothing(t *testing.T) {
	for _, suite := range cipherSuites {
		s, _ := testKeys(t, suite)
		o := reversed(s)
		buffer, message := make([]byte, 0, 2000), make([]byte, 1100)
		if n := testing.AllocsPerRun(100, func() {
			record, err := s.seal(buffer, recordData, message[:4], message[4:], 0)
			if _, ok := o.open(record); err != nil || !ok {
				t.Fatal(err, ok)
			}
		}); n > 0 {
			t.Errorf("%v: %v allocations", suite, n)
		}
	}
}

// TestEarlyMessagesAreKept has messages come before the server knows that the handshake is over. They arrive in order,
// before what comes after.
func TestEarlyMessagesAreKept(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	conn := dialTransport(t, s, DTLS)
	if err := ping(conn, wiretest.STUN(0)); err != nil {
		t.Fatal(err)
	}
	server := s.secure[0]
	server.mu.Lock()
	var c *DTLSConn
	for _, c = range server.conns {
		break
	}
	server.mu.Unlock()
	var opener *opener
	systemtest.Eventually(t, "the session is established", func() bool { // Its beginning may have answered the ping.
		c.mu.Lock()
		defer c.mu.Unlock()
		opener, c.opener = c.opener, nil
		return opener != nil
	})
	const early = 5
	for i := range early {
		if _, err := conn.Write(wiretest.ChannelData(i)); err != nil {
			t.Fatal(err)
		}
	}
	systemtest.Eventually(t, "all have come", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.early) == early
	})
	c.begin(opener)
	buffer := make([]byte, 2000)
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	for i := range early {
		n, err := conn.Read(buffer)
		if err != nil || !bytes.Equal(buffer[:n], wiretest.ChannelData(i)) {
			t.Fatalf("message %d: %x, %v", i, buffer[:n], err)
		}
	}
	if err := ping(conn, wiretest.STUN(0)); err != nil {
		t.Error(err)
	}
}

// TestFarewells end a session: the client's at once, and that of the server reaches a client that has been sent much.
func TestFarewells(t *testing.T) {
	cfg, e := testTransports(t), newEcho()
	s := startTransports(t, cfg, e)
	for _, byClient := range []bool{true, false} {
		conn := dialTransport(t, s, DTLS)
		for range 100 {
			if err := ping(conn, wiretest.ChannelData(8)); err != nil {
				t.Fatal(err)
			}
		}
		reason := closedByServer
		if byClient {
			reason = closedByClient
			_ = conn.Close()
		} else {
			s.secure[0].close()
			if err := expectClosed(conn); err != nil {
				t.Error(err)
			}
		}
		closed := cfg.Metrics.closed.WithLabelValues("dtls", reason)
		systemtest.Eventually(t, "the session has ended", func() bool { return turntest.ValueOf(t, closed) == 1 && e.goneOnce() })
	}
}

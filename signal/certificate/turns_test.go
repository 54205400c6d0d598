package certificate

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// slowKey takes its time to sign, and notes for how many at once at most.
type slowKey struct {
	crypto.Signer
	takes         time.Duration
	mu            sync.Mutex
	signing, most int
}

func (k *slowKey) note(change int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signing += change
	k.most = max(k.most, k.signing)
}

func (k *slowKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.note(1)
	defer k.note(-1)
	time.Sleep(k.takes)
	return k.Signer.Sign(random, digest, opts)
}

// keyed is a source with one certificate.
type keyed struct {
	source
	cert tls.Certificate
}

func (k keyed) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &k.cert, nil }

// client is a connection of an address.
type client struct {
	net.Conn
	from netip.AddrPort
}

func (c client) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }

// serving returns what serves HTTPS and TURN with a key that takes some time, for some handshakes at once.
func serving(t *testing.T, takes time.Duration, atOnce int) (*Set, *slowKey) {
	t.Helper()
	cert := systemtest.Certificate(t, "signal.example.org")
	key := &slowKey{Signer: cert.PrivateKey.(crypto.Signer), takes: takes}
	cert.PrivateKey = key
	turns := newTurns()
	turns.taken = make(chan struct{}, atOnce)
	return &Set{https: keyed{cert: cert}, turn: keyed{cert: cert}, turns: turns}, key
}

// shake is a handshake of TLS with a client at an address.
func shake(t *testing.T, cfg *tls.Config, from string) {
	shakeWith(t, cfg, from, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
}

// shakeWith returns what the client, which offers something, knows of the connection then.
func shakeWith(t *testing.T, cfg *tls.Config, from string, offer *tls.Config) tls.ConnectionState {
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	browser := tls.Client(far, offer)
	ended := make(chan error, 1)
	go func() {
		err := browser.Handshake()
		if err == nil {
			_, err = browser.Read(make([]byte, 1)) // It takes the tickets, too.
		}
		ended <- err
	}()
	server := tls.Server(client{near, netip.MustParseAddrPort(from)}, cfg)
	if err := server.Handshake(); err != nil {
		t.Error(err)
	}
	if _, err := server.Write([]byte{0}); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return browser.ConnectionState()
}

// sign is what a handshake of DTLS does with a certificate.
func sign(t *testing.T, cfg *tls.Config) {
	cert, err := cfg.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
}

// checkFree looks for what handshakes that are over have left.
func checkFree(t *testing.T, of *turns) {
	t.Helper()
	synctest.Wait()
	if len(of.taken)+len(of.lines)+len(of.begun) != 0 {
		t.Errorf("%d turns are taken, addresses %v and handshakes %v remain", len(of.taken), of.lines, of.begun)
	}
}

// TestHandshakesWaitForEachOther has many handshakes of HTTPS and TURN at once. Those with a long signature leave half of the time to others.
func TestHandshakesWaitForEachOther(t *testing.T) {
	const long = 3 * time.Millisecond // It is longer than a turn without a signature.
	for _, test := range []struct{ takes, all time.Duration }{{long, 9 * long}, {short / 2, 5 * short / 2}} {
		for what, handshake := range map[string]func(*testing.T, *tls.Config){
			"TLS":  func(t *testing.T, cfg *tls.Config) { shake(t, cfg, "192.0.2.1:1") },
			"DTLS": sign,
		} {
			synctest.Test(t, func(t *testing.T) {
				s, key := serving(t, test.takes, 2)
				began := time.Now()
				var all sync.WaitGroup
				for _, cfg := range []*tls.Config{s.HTTPS(), s.TURN()} {
					for range 5 {
						all.Go(func() { handshake(t, cfg) })
					}
				}
				all.Wait()
				if took := time.Since(began); key.most != 2 || took != test.all {
					t.Errorf("%s, %v each: %d have signed at once, 10 in %v", what, test.takes, key.most, took)
				}
				time.Sleep(test.takes)
				checkFree(t, s.turns)
			})
		}
	}
}

// silent is a client that never reads.
type silent struct {
	net.Conn
	done chan struct{}
}

func (c silent) Read([]byte) (int, error) {
	<-c.done
	return 0, io.EOF
}

// TestTurnEndsWithoutSignature begins handshakes that fail at once, and one that is asked for another key and says nothing.
func TestTurnEndsWithoutSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, key := serving(t, time.Millisecond, 1)
		cfg := s.HTTPS()
		cfg.CurvePreferences = []tls.CurveID{tls.CurveP256}
		begin := func(wrap func(net.Conn) net.Conn, offer *tls.Config) (server *tls.Conn) {
			near, far := net.Pipe()
			offer.InsecureSkipVerify = true
			go func() {
				_ = tls.Client(wrap(far), offer).Handshake()
				_ = far.Close()
			}()
			return tls.Server(client{near, netip.MustParseAddrPort("192.0.2.1:1")}, cfg)
		}
		old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11} //nolint:gosec // It is to be refused.
		if err := begin(func(c net.Conn) net.Conn { return c }, old).Handshake(); err == nil {
			t.Error("TLS 1.1 is accepted")
		}
		checkFree(t, s.turns)

		done, ended := make(chan struct{}), make(chan error)
		other := &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}
		server := begin(func(c net.Conn) net.Conn { return silent{c, done} }, other)
		go func() { ended <- server.Handshake() }()
		synctest.Wait()
		if len(s.turns.taken) != 1 || len(s.turns.begun) != 1 {
			t.Errorf("a handshake has begun: %d turns are taken of %d", len(s.turns.taken), len(s.turns.begun))
		}
		time.Sleep(unsigned)
		synctest.Wait()
		if len(s.turns.taken) != 0 {
			t.Error("who says nothing has its turn for ever")
		}
		close(done)
		if err := <-ended; err == nil || key.most != 0 {
			t.Errorf("%v, %d signatures", err, key.most)
		}
		checkFree(t, s.turns)
	})
}

// TestNewAddressIsNotBehindAnother has somebody come when an address has begun many handshakes.
func TestNewAddressIsNotBehindAnother(t *testing.T) {
	for other, want := range map[string]time.Duration{
		"192.0.2.1:1":         5 * time.Millisecond, // behind one that signs, one that is to sign, and the rests of both
		"[2001:db8:0:1::1]:1": 5 * time.Millisecond,
		"[2001:db8::2]:1":     129 * time.Millisecond, // of the same network
	} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := serving(t, time.Millisecond, 1)
			began := time.Now()
			var all sync.WaitGroup
			for range 64 {
				all.Go(func() { shake(t, s.HTTPS(), "[2001:db8::1]:1") })
			}
			synctest.Wait()
			shake(t, s.TURN(), other)
			if took := time.Since(began); took != want {
				t.Errorf("%s waited %v, want %v", other, took, want)
			}
			all.Wait()
		})
	}
}

// TestNobodyWaitsForLong has handshakes of TLS and DTLS, of one address and of others, behind a key that is never done.
func TestNobodyWaitsForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, key := serving(t, 3*maxWait, 1)
		var all sync.WaitGroup
		all.Go(func() { sign(t, s.TURN()) })
		synctest.Wait()
		began := time.Now()
		for _, from := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1"} {
			near, far := net.Pipe()
			go func() {
				_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true}).Handshake() //nolint:gosec // self-signed
				_ = far.Close()
			}()
			all.Go(func() {
				if err := tls.Server(client{near, netip.MustParseAddrPort(from)}, s.HTTPS()).Handshake(); !errors.Is(err, errBusy) {
					t.Errorf("%s: %v", from, err)
				}
				_ = near.Close()
			})
		}
		all.Go(func() {
			cert, _ := s.TURN().GetCertificate(&tls.ClientHelloInfo{})
			if _, err := cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, errBusy) {
				t.Errorf("DTLS: %v", err)
			}
		})
		time.Sleep(maxWait)
		synctest.Wait()
		if len(s.turns.lines) != 0 || time.Since(began) != maxWait {
			t.Errorf("after %v these wait: %v", time.Since(began), s.turns.lines)
		}
		all.Wait()
		time.Sleep(3 * maxWait)
		checkFree(t, s.turns)
		if key.most != 1 {
			t.Errorf("%d have signed at once", key.most)
		}
	})
}

// TestResumedSessionsWaitLittle resumes sessions, each with a client that takes longer to answer than a turn lasts.
func TestResumedSessionsWaitLittle(t *testing.T) {
	const away, many = 20 * time.Millisecond, 10
	synctest.Test(t, func(t *testing.T) {
		s, key := serving(t, 0, 1)
		cfg := s.HTTPS()
		offer := &tls.Config{ //nolint:gosec // self-signed
			ServerName: "signal.example.org", InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1),
			VerifyConnection: func(tls.ConnectionState) error { time.Sleep(away); return nil },
		}
		shakeWith(t, cfg, "192.0.2.1:1", offer)
		began := time.Now()
		var all sync.WaitGroup
		for range many {
			all.Go(func() {
				if !shakeWith(t, cfg, "192.0.2.1:1", offer).DidResume {
					t.Error("the session is not resumed")
				}
			})
		}
		all.Wait()
		if took, want := time.Since(began), away+(many-1)*short; took != want || key.most != 1 {
			t.Errorf("all took %v, want %v", took, want)
		}
		checkFree(t, s.turns)
	})
}

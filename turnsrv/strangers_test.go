package turnsrv

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// strangersFront is a front that nobody reaches but by Receive, without an engine: nothing that strangers get needs one.
func strangersFront(t *testing.T) *front {
	t.Helper()
	cfg := testConfig()
	cfg.RelayIP = []string{"127.0.0.1"}
	f, err := newFront(cfg, newMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.close() })
	return f
}

// answered is a path that notes whether an answer has come.
type answered struct{ yes bool }

func (a *answered) Send([]byte, batch.Mark) error {
	a.yes = true
	return nil
}

// transmissions is how often libwebrtc sends a request.
const transmissions = 9

// transact sends a request as libwebrtc does until it is answered, and returns how long that took and how often it was sent.
func transact(f *front, from transport.FiveTuple, m *stun.Message) (took time.Duration, sent int) {
	began, timeout := time.Now(), 250*time.Millisecond
	for sent < transmissions {
		var answer answered
		sent++
		if f.Receive(from, &answer, m.Raw, 0); answer.yes {
			return time.Since(began), sent
		}
		time.Sleep(timeout)
		timeout = min(2*timeout, 8*time.Second)
	}
	return time.Since(began), transmissions + 1
}

func udpClient(port int) transport.FiveTuple {
	return transport.FiveTuple{
		Protocol: transport.UDP, Client: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), uint16(port)),
		Server: netip.MustParseAddrPort("198.51.100.1:3478"),
	}
}

// TestOfficeGathersInTime has 64 people of one address join rooms of 10 within two seconds: each has 9 peer connections, with a
// Binding and a first Allocate. A client alone is answered at once.
func TestOfficeGathersInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := strangersFront(t)
		const clients = officeUsers * 9
		var mu sync.Mutex
		var last time.Duration
		var office sync.WaitGroup
		for i := range clients {
			for _, m := range []*stun.Message{wireRequest(stun.MethodBinding), wireRequest(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))} {
				office.Go(func() {
					time.Sleep(2 * time.Second * time.Duration(i) / clients)
					took, _ := transact(f, udpClient(10_000+i), m)
					mu.Lock()
					defer mu.Unlock()
					last = max(last, took)
				})
			}
		}
		office.Wait()
		if last > 2*time.Second {
			t.Errorf("the last one was answered after %v", last)
		}
	})
}

// floods are what a forger may send in somebody's name, without ever seeing an answer.
func floods() map[string]func() *stun.Message {
	stale := &wireClient{username: "x", password: "x", realm: "signal", nonce: "0123456789012345678901"}
	return map[string]func() *stun.Message{
		"Bindings":        func() *stun.Message { return wireRequest(stun.MethodBinding) },
		"first Allocates": func() *stun.Message { return wireRequest(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)) },
		"stale nonces":    func() *stun.Message { return stale.signed(stun.MethodRefresh) },
	}
}

// TestForgerLocksNobodyOut sends 2,000 packets a second in somebody's name. Whoever comes from that address by UDP gets
// an answer after two retransmissions at most, and the forger no more bytes than he sends.
func TestForgerLocksNobodyOut(t *testing.T) {
	for name, forged := range floods() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := strangersFront(t)
				stop := make(chan struct{})
				var flood sync.WaitGroup
				flood.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						case <-time.After(500 * time.Microsecond):
							f.Receive(udpClient(1024+n%60_000), new(answered), forged().Raw, 0)
						}
					}
				})
				time.Sleep(5 * time.Second) // The budgets are empty.
				for i := range 20 {
					for kind, m := range floods() {
						if _, sent := transact(f, udpClient(62_000+i), m()); sent > 3 {
							t.Errorf("%s: answered at transmission %d", kind, sent)
						}
					}
				}
				close(stop)
				flood.Wait()
			})
		})
	}
}

// TestRepeatingWinsAForgerNothing sends every request twice: what comes back is no more than what was sent, with IP headers.
func TestRepeatingWinsAForgerNothing(t *testing.T) {
	const headers = 28 // IPv4 and UDP.
	for name, forged := range floods() {
		f := strangersFront(t)
		var counted countingPath
		for range 1000 { // More than the budget.
			f.Receive(udpClient(5000), new(answered), forged().Raw, 0)
		}
		sent := 0
		for range 1000 {
			m := forged()
			for range 2 {
				sent += headers + len(m.Raw)
				f.Receive(udpClient(5000), &counted, m.Raw, 0)
			}
		}
		if got := counted.bytes + headers*counted.packets; got > sent+headers*10 {
			t.Errorf("%s: %d bytes in %d packets came back for %d", name, got, counted.packets, sent)
		}
	}
}

type countingPath struct{ bytes, packets int }

func (c *countingPath) Send(packet []byte, _ batch.Mark) error {
	c.bytes += len(packet)
	c.packets++
	return nil
}

// TestGuessesAreBounded guesses at passwords with a good nonce, each twice, over UDP and TCP.
func TestGuessesAreBounded(t *testing.T) {
	for _, protocol := range []transport.Protocol{transport.UDP, transport.TCP} {
		f := strangersFront(t)
		from := udpClient(5000)
		from.Protocol = protocol
		realm, nonce := f.auth.Challenge(from.Client.Addr(), f.now())
		guess := &wireClient{username: "9999999999:x", realm: realm.String(), nonce: nonce.String()}
		var counted countingPath
		began := time.Now()
		for i := range 1000 {
			guess.password = strconv.Itoa(i)
			m := guess.signed(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
			f.Receive(from, &counted, m.Raw, 0)
			f.Receive(from, &counted, m.Raw, 0)
		}
		bound := int(f.cfg.UnauthRate * (3 + time.Since(began).Seconds()))
		if counted.packets == 0 || counted.packets > bound {
			t.Errorf("%s: %d guesses were answered, want some and at most %d", protocol, counted.packets, bound)
		}
	}
}

// starved is a server on which the budgets of this address are used up and hardly ever come back.
func starved(t *testing.T, cfg Config) (*Server, func()) {
	t.Helper()
	cfg.UnauthRate = 0.001
	s := startServer(t, cfg)
	forger, err := newWireClient("udp", loopbackIPv4, addressOfServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = forger.conn.Close() })
	dropped := s.front.metrics.dropCounters[dropSourceLimit]
	return s, func() {
		t.Helper()
		for name, forged := range floods() {
			before := turntest.ValueOf(t, dropped)
			systemtest.Eventually(t, name+" are not answered any more", func() bool {
				_ = forger.send(forged().Raw)
				return turntest.ValueOf(t, dropped) > before
			})
		}
	}
}

// TestRunningCallGetsItsNonce refreshes allocations with a stale nonce while a forger uses up all that strangers get, over all transports.
func TestRunningCallGetsItsNonce(t *testing.T) {
	s, starve := starved(t, loopbackConfig())
	for _, network := range []string{"udp", "tcp"} {
		c, _, err := proven(s, network)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.conn.Close() }()
		starve()
		c.nonce = "0123456789012345678901"
		for range 20 { // Each of them once, without a retransmission.
			if err := c.once(438, c.signed(stun.MethodRefresh)); err != nil {
				t.Fatalf("%s: %v", network, err)
			}
		}
		c.password = "another"
		before := turntest.ValueOf(t, s.front.metrics.dropCounters[dropSourceLimit])
		if err := c.send(c.signed(stun.MethodRefresh).Raw); err != nil {
			t.Fatal(err)
		}
		if network == "udp" {
			systemtest.Eventually(t, "who does not know the key gets nothing", func() bool {
				return turntest.ValueOf(t, s.front.metrics.dropCounters[dropSourceLimit]) > before
			})
		}
	}
}

// TestStreamsHaveShownTheirAddress makes first Allocates over TCP, TLS and DTLS while a forger uses up all that strangers get.
func TestStreamsHaveShownTheirAddress(t *testing.T) {
	cfg := loopbackConfig()
	cfg.TLS = testTLS(t)
	s, starve := starved(t, cfg)
	starve()
	for name, dial := range map[string]func() (net.Conn, error){
		"tcp": func() (net.Conn, error) { return net.Dial("tcp4", serverAddress(s)) },
		"tls": func() (net.Conn, error) {
			return tls.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.TLSPort())), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
		},
		"dtls": func() (net.Conn, error) {
			return turntest.DialDTLS(net.JoinHostPort("127.0.0.1", strconv.Itoa(s.TLSPort())))
		},
	} {
		for range 5 {
			conn, err := dial()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c := &wireClient{conn: conn}
			for _, m := range []*stun.Message{wireRequest(stun.MethodBinding), wireRequest(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))} {
				want := map[stun.Method]int{stun.MethodAllocate: 401}[m.Type.Method]
				if err := c.once(want, m); err != nil {
					t.Errorf("%s: %s: %v", name, m.Type.Method, err)
				}
			}
			_ = conn.Close()
		}
	}
}

// proven returns a client with an allocation, who asks twice where strangers have to.
func proven(s *Server, network string) (*wireClient, netip.AddrPort, error) {
	c, err := newWireClient(network, loopbackIPv4, addressOfServer(s))
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	c.username, c.password = Credentials(testSecret, "alice", time.Now().Add(time.Hour))
	first := wireRequest(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
	_ = c.send(first.Raw)
	_ = c.send(first.Raw)
	answer, err := c.await(first.TransactionID, wirePatience)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	if err := c.learn(answer); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if answer, err = c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		return nil, netip.AddrPort{}, err
	}
	relay, err := answerAddress(answer, stun.AttrXORRelayedAddress)
	return c, relay, err
}

// once sends a request once, which must be answered with a code, 0 for success.
func (c *wireClient) once(code int, m *stun.Message) error {
	if err := c.send(m.Raw); err != nil {
		return err
	}
	answer, err := c.await(m.TransactionID, wirePatience)
	switch {
	case err != nil:
		return err
	case code == 0:
		return wantSuccess(answer)
	}
	return wantCode(answer, code)
}

func TestStrangersAreAnsweredSparingly(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UnauthRate = 1
	s := startServer(t, cfg)
	c, err := newWireClient("udp", loopbackIPv4, addressOfServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.conn.Close() }()
	sent, answered := 0, 0
	for range 50 {
		for _, m := range []*stun.Message{wireRequest(stun.MethodBinding), wireRequest(stun.MethodAllocate, attrTransport(17))} {
			sent += len(m.Raw)
			if err := c.send(m.Raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	for {
		frame, err := c.read(wireQuiet)
		if err != nil {
			break
		}
		answered += len(frame)
	}
	if answered == 0 || answered > sent/2 {
		t.Errorf("%d bytes came back for %d", answered, sent)
	}
}

package turnsrv

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"weak"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/turntest"
)

// TestWaysEndWithThePolicy changes what peers are allowed between packets of a flow.
func TestWaysEndWithThePolicy(t *testing.T) {
	cfg := loopbackConfig()
	cfg.MinPort, cfg.MaxPort = 62_000, 65_535 // A peer at a port of these would be a relay to the policy.
	s := startServer(t, cfg)
	f := newFlow(t, s, "udp", "alice")
	if err := s.SetPeers(nil, nil); err != nil {
		t.Fatal(err)
	}
	f.dead(t)
	refused := s.front.metrics.dropCounters[dropNoPermission]
	before := turntest.ValueOf(t, refused)
	if _, err := f.peer.WriteToUDPAddrPort([]byte("denied"), f.relay); err != nil {
		t.Fatal(err)
	}
	systemtest.Eventually(t, "what the peer sends is dropped", func() bool { return turntest.ValueOf(t, refused) > before })
	if err := s.SetPeers(cfg.AllowPeers, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.roundTrip("again"); err != nil {
		t.Error(err)
	}
}

// leave leaves no relay port free, but for one that is given back.
func leave(s *Server) {
	p := s.front.pools[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		port, ok := p.free.oldest(func(uint16) bool { return true })
		if !ok {
			return
		}
		p.free.take(port)
	}
}

// TestWaysFollowAPort has a channel to the port of a relay, of nobody, and of the relay that gets it then.
func TestWaysFollowAPort(t *testing.T) {
	cfg := loopbackConfig()
	cfg.MinPort, cfg.MaxPort, cfg.UserQuota = 62_000, 65_535, 0 // The system gives these to nobody by itself.
	s := startServer(t, cfg)
	a, b := newCrosser(t, s, "udp", "alice"), newCrosser(t, s, "udp", "bob")
	deafen(t, s, b.relay)
	a.meet(t, b.relay, true)
	b.meet(t, a.relay, true)
	say := func(text string) [][]byte {
		t.Helper()
		if err := a.sendOn(flowChannel, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.accepts(stun.MethodRefresh); err != nil { // What came before has been dealt with.
			t.Fatal(err)
		}
		return [][]byte{[]byte(text)}
	}
	b.gets(t, say("to bob"), a.relay, true)
	leave(s)
	s.KillUser("bob")
	say("to nobody")
	say("to nobody")
	c := newCrosser(t, s, "udp", "carol")
	if c.relay != b.relay {
		t.Fatalf("carol's relay is at %v instead of %v", c.relay, b.relay)
	}
	deafen(t, s, c.relay)
	c.meet(t, a.relay, false)
	c.gets(t, say("to carol"), a.relay, false)
}

// TestWaysShareAPlace has two channels of a client in one place of the loop's memory.
func TestWaysShareAPlace(t *testing.T) {
	s := startServer(t, loopbackConfig())
	client, relay := allocated(t, s, "udp", "alice")
	from := client.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	var m memory[way]
	first, second := uint16(minChannel), uint16(minChannel+1)
	for m.place(from, second) != m.place(from, first) {
		second++
	}
	peers := map[uint16]*net.UDPConn{}
	for _, channel := range []uint16{first, second} {
		var at netip.AddrPort
		peers[channel], at = udpPeer(t)
		if _, err := client.accepts(stun.MethodChannelBind, attrChannel(channel), attrPeer(at)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		channel := []uint16{first, second}[i%2]
		if err := client.sendOn(channel, numbered(0, i, 100)); err != nil {
			t.Fatal(err)
		}
		f := flow{client: client, relay: relay, peer: peers[channel]}
		if err := f.arrives(string(numbered(0, i, 100))); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	if w := m.place(from, first); w.leads(transport.FiveTuple{}, first, s.front.now()) {
		t.Error("a way that nobody has asked about is known")
	}
}

// allocationOf returns a user's allocation without keeping it.
func allocationOf(s *Server, user string) weak.Pointer[allocation] {
	for _, a := range s.front.allocations() {
		if a.owner().User == user {
			return weak.Make(a)
		}
	}
	return weak.Pointer[allocation]{}
}

// TestWaysEndWithTheirRelay has allocations of a loop end of which it has remembered a flow.
func TestWaysEndWithTheirRelay(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UDPSockets = 1
	s := startServer(t, cfg)
	other, _ := allocated(t, s, "udp", "other")
	for _, network := range []string{"udp", "tcp"} {
		newFlow(t, s, network, "alice")
		left := allocationOf(s, "alice")
		if left.Value() == nil {
			t.Fatal("there is no allocation")
		}
		s.KillUser("alice")
		systemtest.Eventually(t, "nothing keeps an allocation of "+network, func() bool {
			if _, err := other.accepts(stun.MethodRefresh); err != nil { // The loop goes round.
				t.Fatal(err)
			}
			runtime.GC()
			return left.Value() == nil
		})
	}
}

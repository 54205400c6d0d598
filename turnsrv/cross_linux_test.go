package turnsrv

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/pion/stun/v2"
	"golang.org/x/sys/unix"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// deafen makes a relay's socket take nothing from the network, since it is connected to
// where nobody is. What reaches its client has crossed.
func deafen(t testing.TB, s *Server, relay netip.AddrPort) {
	t.Helper()
	for _, p := range s.front.pools {
		r := p.relayAt(p.address.Translate(relay))
		if r == nil {
			continue
		}
		system, err := r.conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var nobody unix.Sockaddr = &unix.SockaddrInet6{Addr: p.address.Bind.As16(), Port: 9}
		if p.address.Bind.Is4() {
			nobody = &unix.SockaddrInet4{Addr: p.address.Bind.As4(), Port: 9}
		}
		var failed error
		if err := system.Control(func(fd uintptr) { failed = unix.Connect(int(fd), nobody) }); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		return
	}
	t.Fatalf("no relay is known at %v", relay)
}

// crosser is a client with a relay.
type crosser struct {
	*wireClient
	relay netip.AddrPort
}

// newCrosser returns a client whose allocation ends before its port may be another's, to whom it would still belong.
func newCrosser(t testing.TB, s *Server, network, user string, attrs ...stun.Setter) crosser {
	t.Helper()
	c, relay := allocated(t, s, network, user, attrs...)
	t.Cleanup(func() { s.KillUser(user) })
	return crosser{c, relay}
}

// meet binds a channel to the other's relay, or only permits it.
func (c crosser) meet(t testing.TB, relay netip.AddrPort, channel bool) {
	t.Helper()
	method, attrs := stun.MethodCreatePermission, []stun.Setter{attrPeer(relay)}
	if channel {
		method, attrs = stun.MethodChannelBind, append(attrs, attrChannel(flowChannel))
	}
	if _, err := c.accepts(method, attrs...); err != nil {
		t.Fatal(err)
	}
}

// crossTo sends packets of many sizes and kinds, with a request between them, and
// returns what the other client must get.
func (c crosser) crossTo(t testing.TB, to netip.AddrPort, channel bool) (sent [][]byte) {
	t.Helper()
	dontFragment := attrRaw(stun.AttrDontFragment)
	for i, size := range []int{8, 1100, 1100, 1100, 0, 1, 999, 2001, 1100, 8000} {
		payload := bytes.Repeat([]byte{byte(i + 1)}, size)
		var err error
		switch {
		case channel && i%3 != 2:
			err = c.sendOn(flowChannel, payload)
		case i%2 == 0:
			err = c.sendTo(to, payload, dontFragment)
		default:
			err = c.sendTo(to, payload)
		}
		if i == 5 {
			err = errors.Join(err, c.send(c.signed(stun.MethodRefresh).Raw))
		}
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, payload)
	}
	return sent
}

// gets fails unless a client gets just that, from a relay.
func (c crosser) gets(t testing.TB, want [][]byte, from netip.AddrPort, channel bool) {
	t.Helper()
	for i, payload := range want {
		got, err := c.receive()
		if err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
		if !bytes.Equal(got.data, payload) {
			t.Fatalf("packet %d has %d bytes instead of %d, or others", i, len(got.data), len(payload))
		}
		if channel && got.channel != flowChannel || !channel && got.peer != from {
			t.Fatalf("packet %d came on channel %#x from %v, want %v", i, got.channel, got.peer, from)
		}
	}
}

// TestRelaysCross sends from relay to relay, between clients of all transports, where the network
// would lead nowhere.
func TestRelaysCross(t *testing.T) {
	for name, choose := range map[string]func(*Config){
		"":         func(*Config) {},
		"1:1 NAT":  func(c *Config) { c.ExternalIP = []string{"198.51.100.7"} },
		"portable": func(c *Config) { c.DataPath = false },
	} {
		cfg := loopbackConfig()
		cfg.TLS, cfg.UDPSockets, cfg.UserQuota = testTLS(t), 2, 0
		choose(&cfg)
		s := startServer(t, cfg)
		for _, from := range []string{"udp", "tcp", "tls", "dtls"} {
			for _, to := range []string{"udp", "tcp", "tls", "dtls"} {
				for _, channels := range [][2]bool{{true, true}, {true, false}, {false, true}} {
					t.Run(fmt.Sprintf("%s/%s to %s/%v", name, from, to, channels), func(t *testing.T) {
						cross(t, s, newCrosser(t, s, from, "alice"), newCrosser(t, s, to, "bob"), channels)
					})
				}
			}
		}
	}
}

// cross sends both ways and looks at what both allocations have counted.
func cross(t *testing.T, s *Server, a, b crosser, channels [2]bool) {
	t.Helper()
	deafen(t, s, a.relay)
	deafen(t, s, b.relay)
	a.meet(t, b.relay, channels[0])
	b.meet(t, a.relay, channels[1])
	there := a.crossTo(t, b.relay, channels[0])
	b.gets(t, there, a.relay, channels[1])
	back := b.crossTo(t, a.relay, channels[1])
	a.gets(t, back, b.relay, channels[0])
	bytes := uint64(0)
	for _, payload := range there {
		bytes += uint64(len(payload))
	}
	seen := 0
	for _, d := range s.List() {
		if d.Relays[0] != a.relay && d.Relays[0] != b.relay {
			continue
		}
		seen++
		if n := uint64(len(there)); d.PacketsToPeers != n || d.PacketsFromPeers != n || d.BytesToPeers != bytes || d.BytesFromPeers != bytes {
			t.Errorf("%s has counted %d packets and %d bytes to peers, %d and %d from there, instead of %d and %d",
				d.User, d.PacketsToPeers, d.BytesToPeers, d.PacketsFromPeers, d.BytesFromPeers, n, bytes)
		}
	}
	if seen != 2 {
		t.Errorf("%d allocations are known", seen)
	}
}

// TestRelaysCrossOverIPv6 is the same for relays of IPv6, and has a client whose peer is its own relay.
func TestRelaysCrossOverIPv6(t *testing.T) {
	if !hasIPv6Loopback() {
		systemtest.Unable(t, "there is no IPv6 here")
	}
	cfg := loopbackConfig()
	cfg.RelayIP, cfg.UserQuota = loopbacks(), 0
	s := startServer(t, cfg)
	family := attrFamily(wire.FamilyIPv6)
	cross(t, s, newCrosser(t, s, "udp", "alice", family), newCrosser(t, s, "tcp", "bob", family), [2]bool{true, false})
	c := newCrosser(t, s, "udp", "carol", family)
	deafen(t, s, c.relay)
	c.meet(t, c.relay, true)
	c.gets(t, c.crossTo(t, c.relay, true), c.relay, true)
}

// TestCrossingAsksBoth has what the receiver's allocation refuses, and a receiver that ends.
func TestCrossingAsksBoth(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota, cfg.Bandwidth = 0, 100_000
	s := startServer(t, cfg)
	a, b, c := newCrosser(t, s, "udp", "alice"), newCrosser(t, s, "udp", "bob"), newCrosser(t, s, "udp", "carol")
	a.meet(t, b.relay, true)
	drops := func(reason string) float64 { return turntest.ValueOf(t, s.front.metrics.dropCounters[reason]) }
	send := func(from crosser, size int) {
		t.Helper()
		if err := from.sendOn(flowChannel, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if _, err := from.accepts(stun.MethodRefresh); err != nil { // What came before has been dealt with.
			t.Fatal(err)
		}
	}
	send(a, 10)
	if drops(dropNoPermission) != 1 || turntest.ValueOf(t, s.front.metrics.toPeerPackets) != 1 {
		t.Error("what the receiver has not permitted is not counted as sent and dropped")
	}
	b.meet(t, a.relay, true)
	c.meet(t, b.relay, true)
	b.meet(t, c.relay, false)
	send(a, 40_000)
	send(c, 40_000)
	if n := drops(dropBandwidth); n != 1 {
		t.Errorf("%v packets were dropped for a bandwidth that each sender keeps to and the receiver does not", n)
	}
	s.KillUser("bob")
	sent := turntest.ValueOf(t, s.front.metrics.fromPeerPackets)
	send(a, 10)
	if got := turntest.ValueOf(t, s.front.metrics.fromPeerPackets); got != sent {
		t.Error("a packet reached a relay that is closed")
	}
}

// TestCrossersComeAndGoUnderLoad ends allocations of every kind while others send to them, from another loop or from a
// goroutine of a stream.
func TestCrossersComeAndGoUnderLoad(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota, cfg.AllocateRate, cfg.UDPSockets = 0, 0, 2
	s := startServer(t, cfg)
	var running sync.WaitGroup
	for i, network := range []string{"udp", "udp", "tcp"} {
		steady, back := newCrosser(t, s, network, "steady"), newCrosser(t, s, "udp", "steady")
		steady.meet(t, back.relay, true)
		running.Go(func() {
			for round := range 30 {
				user := fmt.Sprint("brief", i)
				brief := newCrosser(t, s, []string{"udp", "tcp"}[round%2], user)
				brief.meet(t, steady.relay, false)
				steady.meet(t, brief.relay, false)
				for n := range 20 {
					_ = steady.sendTo(brief.relay, numbered(0, n, 600))
					_ = brief.sendTo(steady.relay, numbered(1, n, 600))
				}
				if round%3 == 0 {
					s.KillUser(user)
				} else if _, err := brief.call(stun.MethodRefresh, attrLifetime(0)); err != nil {
					t.Error(err)
				}
				_ = brief.conn.Close()
				steady.payloads = nil
			}
		})
	}
	running.Wait()
}

package turnsrv

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/peers/peerstest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// ownAddressServer is a node whose own relay address is a peer at relay ports alone, which are above those that the system picks.
func ownAddressServer(t *testing.T) *Server {
	t.Helper()
	cfg := loopbackConfig()
	cfg.AllowPeers = nil
	cfg.MinPort, cfg.MaxPort = 62_000, 65_535
	return startServer(t, cfg)
}

// TestPermissionIsForAnAddress permits the own relay address by ports that are no relay's, as browsers do with the candidates of
// whatever else is there, and by none. Then relays reach each other, and nothing but relays.
func TestPermissionIsForAnAddress(t *testing.T) {
	s := ownAddressServer(t)
	local, localAddr := udpPeer(t)
	if localAddr.Port() >= 62_000 {
		systemtest.Unable(t, "the system picks ports that are relays' here")
	}
	for _, network := range []string{"udp", "tcp"} {
		a, relayA := allocated(t, s, network, "alice")
		b, relayB := allocated(t, s, network, "bob")
		for _, port := range []uint16{22222, 0, uint16(s.Port()), localAddr.Port()} {
			if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(netip.AddrPortFrom(loopbackIPv4, port))); err != nil {
				t.Errorf("%s: port %d: %v", network, port, err)
			}
		}
		if _, err := b.accepts(stun.MethodCreatePermission, attrPeer(netip.AddrPortFrom(loopbackIPv4, 0))); err != nil {
			t.Fatal(err)
		}
		if err := a.refuses(403, stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(localAddr)); err != nil {
			t.Error(err)
		}
		if err := a.sendTo(localAddr, []byte("to a service")); err != nil {
			t.Fatal(err)
		}
		if _, err := local.WriteToUDPAddrPort([]byte("from a service"), relayB); err != nil {
			t.Fatal(err)
		}
		if err := a.sendTo(relayB, []byte("to a relay")); err != nil {
			t.Fatal(err)
		}
		got, err := b.receive()
		if err != nil || string(got.data) != "to a relay" || got.peer != relayA {
			t.Errorf("%s: the other relay got %q of %v, %v", network, got.data, got.peer, err)
		}
		_ = local.SetReadDeadline(time.Now().Add(wireLate))
		if n, _, err := local.ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
			t.Errorf("%s: a service got %d bytes", network, n)
		}
	}
}

// TestFamilyComesBeforePolicy permits a denied peer of the other family.
func TestFamilyComesBeforePolicy(t *testing.T) {
	c, _ := allocated(t, ownAddressServer(t), "udp", "alice")
	if err := c.refuses(443, stun.MethodCreatePermission, attrPeer(netip.MustParseAddrPort("[::1]:9"))); err != nil {
		t.Error(err)
	}
}

// TestChannelNeedsItsPermission lets a permission end before its channel: nothing passes either way until the channel is refreshed, which
// refreshes both.
func TestChannelNeedsItsPermission(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		cfg := loopbackConfig()
		var ahead atomic.Int64
		cfg.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		s := startServer(t, cfg)
		f := newFlow(t, s, network, "alice")
		ahead.Store(int64(permissionLifetime + time.Second))
		f.dead(t)
		refused := s.front.metrics.dropCounters[dropNoPermission]
		before := turntest.ValueOf(t, refused)
		if _, err := f.peer.WriteToUDPAddrPort([]byte("late"), f.relay); err != nil {
			t.Fatal(err)
		}
		systemtest.Eventually(t, "what the peer sends is dropped", func() bool { return turntest.ValueOf(t, refused) > before })
		peer := f.peer.LocalAddr().(*net.UDPAddr).AddrPort()
		if _, err := f.client.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(peer)); err != nil {
			t.Fatal(err)
		}
		if err := f.roundTrip("again"); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// TestStaticAndMintedUsersAreTwo has a static user and one with a minted credential under one name.
func TestStaticAndMintedUsersAreTwo(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota, cfg.Users = 1, []string{"gate:a password"}
	s := startServer(t, cfg)
	minted, _ := allocated(t, s, "udp", "gate")
	static := wired(t, s, "udp", "gate")
	username, password := static.username, static.password
	static.username, static.password = "gate", "a password"
	if _, err := static.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Fatalf("the other one is at the quota: %v", err)
	}
	static.username, static.password = username, password
	if err := static.refuses(441, stun.MethodRefresh); err != nil {
		t.Errorf("the minted credential for what is the static user's: %v", err)
	}
	static.username, static.password = "gate", "a password"
	if n := s.Revoke("gate"); n != 1 {
		t.Errorf("%d allocations were revoked", n)
	}
	if _, err := static.accepts(stun.MethodRefresh); err != nil {
		t.Errorf("what the static user has was revoked: %v", err)
	}
	if err := minted.refuses(401, stun.MethodRefresh); err != nil {
		t.Error(err)
	}
}

// TestDualAllocationTakesTwo has places for three relays: one of each family, and another one.
func TestDualAllocationTakesTwo(t *testing.T) {
	if !hasIPv6Loopback() {
		systemtest.Unable(t, "there is no IPv6 here")
	}
	cfg := loopbackConfig()
	cfg.RelayIP, cfg.UserQuota = loopbacks(), 3
	s := startServer(t, cfg)
	both := attrRaw(wire.AttrAdditionalAddressFamily, wire.FamilyIPv6, 0, 0, 0)
	dual, _ := allocated(t, s, "udp", "alice", both)
	if err := wired(t, s, "udp", "alice").refuses(486, stun.MethodAllocate, attrTransport(wire.ProtocolUDP), both); err != nil {
		t.Error(err)
	}
	allocated(t, s, "udp", "alice")
	fourth := wired(t, s, "udp", "alice")
	if err := fourth.refuses(486, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	if _, err := dual.accepts(stun.MethodRefresh, attrFamily(wire.FamilyIPv6), attrLifetime(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := fourth.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Errorf("after one of two relays was released: %v", err)
	}
	s.KillUser("alice")
	systemtest.Eventually(t, "all places are free", func() bool {
		s.front.quotas.mu.Lock()
		defer s.front.quotas.mu.Unlock()
		return s.front.quotas.all == 0 && len(s.front.quotas.users) == 0
	})
}

// TestDualAllocationWithoutIPv6 takes one place where there is no IPv6 relay to be had.
func TestDualAllocationWithoutIPv6(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota = 2
	s := startServer(t, cfg)
	allocated(t, s, "udp", "alice", attrRaw(wire.AttrAdditionalAddressFamily, wire.FamilyIPv6, 0, 0, 0))
	allocated(t, s, "udp", "alice")
}

// TestFreedPortComesLast opens and closes relays: each port is given out once before any comes again, in the order in which they
// became free.
func TestFreedPortComesLast(t *testing.T) {
	cfg := loopbackConfig()
	cfg.MinPort, cfg.MaxPort = 62_000, 62_040
	pool := startServer(t, cfg).front.pools[0]
	var order []uint16
	for range 3 {
		var round []uint16
		for range 30 { // Other programs may have some.
			s, err := pool.open()
			if err != nil {
				t.Fatal(err)
			}
			round = append(round, s.port)
			s.close()
		}
		for i, port := range round {
			if slices.Contains(round[:i], port) {
				t.Fatalf("port %d was given out again after %d others", port, i-slices.Index(round, port))
			}
		}
		order = append(order, round...)
	}
	if slices.IsSorted(order[:30]) {
		t.Error("ports are given out by number")
	}
}

// TestFreePorts takes and frees ports in any order, and pairs.
func TestFreePorts(t *testing.T) {
	f := newFreePorts(65_530, 65_535)
	first := func() uint16 {
		port, ok := f.oldest(func(uint16) bool { return true })
		if !ok {
			t.Fatal("no port is free")
		}
		f.take(port)
		return port
	}
	var all []uint16
	for range 6 {
		all = append(all, first())
	}
	if _, ok := f.oldest(func(uint16) bool { return true }); ok || f.has(65_530) || f.has(65_529) {
		t.Error("there are more ports than there should be")
	}
	for _, i := range []int{3, 0, 5, 1} {
		f.add(all[i])
	}
	f.take(all[0]) // From between two others.
	for _, i := range []int{3, 5, 1} {
		if port := first(); port != all[i] {
			t.Errorf("got %d, want %d", port, all[i])
		}
	}
	if empty := newFreePorts(2, 1); empty.has(1) || empty.has(2) {
		t.Error("an empty range has a port")
	}
}

// TestDisguisedPeersAreRefused tries every way to name a peer that must not be
// reached, with every request that names one. A permission is granted where it is but
// the port that must not be reached; then nothing is sent there.
func TestDisguisedPeersAreRefused(t *testing.T) {
	cfg := testConfig()
	cfg.Listen = []string{"127.0.0.1"}
	cfg.RelayIP = []string{"127.0.0.1"}
	if hasIPv6Loopback() {
		cfg.RelayIP = append(cfg.RelayIP, "::1")
	}
	cfg.UnauthRate = 1e6
	cfg.ForbiddenPeers = peerstest.Forbidden
	registry := prometheus.NewRegistry()
	cfg.Registerer = registry
	s := startServer(t, cfg)
	v4, _ := allocated(t, s, "udp", "alice")
	v6 := v4
	if hasIPv6Loopback() {
		v6, _ = allocated(t, s, "udp", "alice", attrFamily(wire.FamilyIPv6))
	}
	for _, peer := range peerstest.Disguised {
		c := v4
		if peer.Addr().Is6() {
			c = v6
		}
		for _, m := range []*stun.Message{
			c.signed(stun.MethodCreatePermission, wirePeerAddress(peer)),
			c.signed(stun.MethodChannelBind, attrChannel(0x4000), wirePeerAddress(peer)),
		} {
			answer, err := c.exchange(m)
			if err != nil {
				t.Fatalf("%s of %v: %v", m.Type.Method, peer, err)
			}
			byAddress := m.Type.Method == stun.MethodCreatePermission && s.front.policy.Load().PermitsAddress(peer.Addr())
			if code := answerCode(answer); code != 403 && code != 443 && !byAddress {
				t.Errorf("%s of %v got %s", m.Type.Method, peer, describeAnswer(answer))
			}
		}
		if err := c.send(wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication),
			wirePeerAddress(peer), attrRaw(stun.AttrData, 1, 2, 3)).Raw); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*wireClient{v4, v6} {
		if _, err := c.exchange(wireRequest(stun.MethodBinding)); err != nil {
			t.Fatal(err)
		}
	}
	if n := metric(t, registry, "signal_turn_relayed_packets_total", toPeer); n != 0 {
		t.Errorf("%v packets reached peers", n)
	}
}

// wirePeerAddress is XOR-PEER-ADDRESS of exactly that address: the library would
// send an IPv4-mapped one as IPv4.
func wirePeerAddress(peer netip.AddrPort) stun.Setter {
	return wire.SetXORAddress(stun.AttrXORPeerAddress, peer)
}

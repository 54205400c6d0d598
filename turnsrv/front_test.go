package turnsrv

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/peers/peerstest"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

// loopbackConfig is a node whose relays and peers are on loopback.
func loopbackConfig() Config {
	cfg := testConfig()
	cfg.Listen = []string{"127.0.0.1"}
	cfg.RelayIP = []string{"127.0.0.1"}
	cfg.AllowPeers = []string{"127.0.0.0/8", "127.0.0.1"}
	cfg.UnauthRate = 1e6
	return cfg
}

func addressOfServer(s *Server) netip.AddrPort {
	return netip.AddrPortFrom(loopbackIPv4, uint16(s.Port()))
}

// dialed returns a client over udp, tcp, tls or dtls with credentials of user.
func dialed(t testing.TB, s *Server, network, user string) *wireClient {
	t.Helper()
	if network == "tls" || network == "dtls" {
		return dialedTo(t, network, netip.AddrPortFrom(loopbackIPv4, uint16(s.TLSPort())), user)
	}
	return dialedTo(t, network, addressOfServer(s), user)
}

func dialedTo(t testing.TB, network string, server netip.AddrPort, user string) *wireClient {
	t.Helper()
	c, err := newWireClient(network, loopbackIPv4, server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	c.username, c.password = Credentials(testSecret, user, time.Now().Add(time.Hour))
	return c
}

// wired returns such a client that has a nonce.
func wired(t testing.TB, s *Server, network, user string) *wireClient {
	t.Helper()
	c := dialed(t, s, network, user)
	if err := c.challenge(); err != nil {
		t.Fatal(err)
	}
	return c
}

// allocated returns a client with an allocation, and the address of its relay.
func allocated(t testing.TB, s *Server, network, user string, attrs ...stun.Setter) (*wireClient, netip.AddrPort) {
	t.Helper()
	c := wired(t, s, network, user)
	return c, c.allocates(t, attrs...)
}

// allocates returns the address of the relay that the client gets.
func (c *wireClient) allocates(t testing.TB, attrs ...stun.Setter) netip.AddrPort {
	t.Helper()
	answer, err := c.accepts(stun.MethodAllocate, append([]stun.Setter{attrTransport(wire.ProtocolUDP)}, attrs...)...)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := answerAddress(answer, stun.AttrXORRelayedAddress)
	if err != nil {
		t.Fatal(err)
	}
	return relay
}

// udpPeer is a peer on loopback.
func udpPeer(t testing.TB) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// flow is a client with a channel to a peer, both ways proven.
type flow struct {
	client *wireClient
	relay  netip.AddrPort
	peer   *net.UDPConn
}

const flowChannel = 0x4001

func newFlow(t testing.TB, s *Server, network, user string) *flow {
	t.Helper()
	f := new(flow)
	f.client, f.relay = allocated(t, s, network, user)
	f.bind(t)
	return f
}

// bind binds the channel to a peer of its own.
func (f *flow) bind(t testing.TB) {
	t.Helper()
	var addr netip.AddrPort
	f.peer, addr = udpPeer(t)
	if _, err := f.client.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(addr)); err != nil {
		t.Fatal(err)
	}
	if err := f.roundTrip("first"); err != nil {
		t.Fatal(err)
	}
}

// roundTrip sends a text to the peer and back.
func (f *flow) roundTrip(text string) error {
	if err := f.client.sendOn(flowChannel, []byte(text)); err != nil {
		return err
	}
	if err := f.arrives(text); err != nil {
		return err
	}
	if _, err := f.peer.WriteToUDPAddrPort([]byte(text), f.relay); err != nil {
		return err
	}
	got, err := f.client.receive()
	if err != nil {
		return err
	}
	if got.channel != flowChannel || string(got.data) != text {
		return fmt.Errorf("the client got %q on channel %x", got.data, got.channel)
	}
	return nil
}

func (f *flow) arrives(text string) error {
	_ = f.peer.SetReadDeadline(time.Now().Add(wirePatience))
	buf := make([]byte, 2000)
	n, from, err := f.peer.ReadFromUDPAddrPort(buf)
	if err != nil {
		return fmt.Errorf("waiting at the peer: %w", err)
	}
	if string(buf[:n]) != text || from != f.relay {
		return fmt.Errorf("the peer got %q from %v", buf[:n], from)
	}
	return nil
}

// dead fails if the peer gets anything that the client sends now. A Binding of
// the same client, answered later, proves that the server has seen it.
func (f *flow) dead(t *testing.T) {
	t.Helper()
	if err := f.client.sendOn(flowChannel, []byte("ghost")); err != nil {
		return // The connection is gone, all the better.
	}
	if _, err := f.client.exchange(wireRequest(stun.MethodBinding)); err != nil {
		return
	}
	_ = f.peer.SetReadDeadline(time.Now().Add(wireLate))
	if n, _, err := f.peer.ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
		t.Errorf("a packet of %d bytes was relayed", n)
	}
}

func TestKillAndRevokeEndRelaying(t *testing.T) {
	for name, end := range map[string]func(s *Server) int{
		"Kill": func(s *Server) int {
			for _, a := range s.List() {
				if a.User == "victim" && s.Kill(a.ID) {
					return 1
				}
			}
			return 0
		},
		"KillUser": func(s *Server) int { return s.KillUser("victim") },
		"Revoke":   func(s *Server) int { return s.Revoke("victim") },
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				s := startServer(t, loopbackConfig())
				victim, other := newFlow(t, s, network, "victim"), newFlow(t, s, network, "other")
				began := time.Now()
				if n := end(s); n != 1 {
					t.Fatalf("ended %d allocations", n)
				}
				t.Logf("over after %v", time.Since(began))
				victim.dead(t)
				if err := other.roundTrip("alive"); err != nil {
					t.Error(err)
				}
				if s.Allocations() != 1 {
					t.Errorf("%d allocations are left", s.Allocations())
				}
				answer, err := victim.client.call(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
				if err != nil {
					t.Fatal(err)
				}
				if want := map[bool]int{true: 401, false: 0}[name == "Revoke"]; answerCode(answer) != want {
					t.Errorf("a new Allocate got %s", describeAnswer(answer))
				}
			})
		}
	}
}

func TestListDescribesAllocations(t *testing.T) {
	s := startServer(t, loopbackConfig())
	f := newFlow(t, s, "tcp", "alice")
	list := s.List()
	if len(list) != 1 {
		t.Fatalf("listed %+v", list)
	}
	a, peer := list[0], f.peer.LocalAddr().(*net.UDPAddr).AddrPort()
	if a.User != "alice" || a.Username != f.client.username || a.Client != f.client.local() || a.Transport != "tcp" ||
		!slices.Equal(a.Relays, []netip.AddrPort{f.relay}) || !slices.Equal(a.Channels, []netip.AddrPort{peer}) ||
		!slices.Equal(a.Permissions, []netip.Addr{peer.Addr()}) {
		t.Errorf("listed %+v", a)
	}
	if a.BytesToPeers != 5 || a.PacketsToPeers != 1 || a.BytesFromPeers != 5 || a.PacketsFromPeers != 1 {
		t.Errorf("traffic %+v", a)
	}
	if left := time.Until(a.Expires); left < 9*time.Minute || left > 10*time.Minute || time.Since(a.Created) > time.Minute {
		t.Errorf("expires in %v, created %v", left, a.Created)
	}
}

func TestDrainLetsAllocationsLive(t *testing.T) {
	s := startServer(t, loopbackConfig())
	f := newFlow(t, s, "udp", "alice")
	s.Drain()
	if err := wired(t, s, "udp", "bob").refuses(508, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	for i := range 200 {
		if err := f.roundTrip(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.client.accepts(stun.MethodRefresh); err != nil {
		t.Error(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(context.Background()) }()
	if err := f.roundTrip("while shutting down"); err != nil {
		t.Error(err)
	}
	if _, err := f.client.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestShutdownEndsAtItsLimit(t *testing.T) {
	s := startServer(t, loopbackConfig())
	f := newFlow(t, s, "tcp", "alice")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if _, err := f.client.receive(); err == nil {
		t.Error("the client is still connected")
	}
}

func TestAllocationEndsWithItsConnection(t *testing.T) {
	s := startServer(t, loopbackConfig())
	f := newFlow(t, s, "tcp", "alice")
	_ = f.client.conn.Close()
	systemtest.Eventually(t, "the allocation is gone", func() bool { return s.Allocations() == 0 })
}

// TestCyclesLeaveNothing makes and deletes many allocations and counts what is
// left of them.
func TestCyclesLeaveNothing(t *testing.T) {
	const cycles = 20_000
	cfg := loopbackConfig()
	cfg.AllocateRate = 0
	s := startServer(t, cfg)
	c := wired(t, s, "udp", "alice")
	cycle := func() {
		if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		cycle()
	}
	goroutines, descriptors, heap := footprint(t, s)
	for range cycles {
		cycle()
	}
	systemtest.Eventually(t, "goroutines and descriptors are given back", func() bool {
		g, d, _ := footprint(t, s)
		return g <= goroutines && d <= descriptors
	})
	if _, _, after := footprint(t, s); after > heap+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes", heap, after)
	}
}

// footprint counts what the process holds once the server has no allocation.
func footprint(t *testing.T, s *Server) (goroutines, descriptors int, heap uint64) {
	t.Helper()
	systemtest.Eventually(t, "no allocation is left", func() bool {
		return s.Allocations() == 0 && s.front.engine.Open() == 0
	})
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		systemtest.Unable(t, fmt.Sprintf("no /proc on this system: %v", err))
	}
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return runtime.NumGoroutine(), len(fds), mem.HeapAlloc
}

func TestQuotas(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota, cfg.AddrQuota, cfg.TotalQuota = 2, 0, 3
	s := startServer(t, cfg)
	first, _ := allocated(t, s, "udp", "alice")
	allocated(t, s, "udp", "alice")
	if err := wired(t, s, "udp", "alice").refuses(486, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	allocated(t, s, "udp", "bob")
	carol := wired(t, s, "udp", "carol")
	if err := carol.refuses(508, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	if _, err := first.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := carol.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Errorf("after one was released: %v", err)
	}
}

func TestAllocateRate(t *testing.T) {
	cfg := loopbackConfig()
	cfg.AllocateRate = 0.5 // A burst of one.
	s := startServer(t, cfg)
	allocated(t, s, "udp", "alice")
	if _, code := allocatedFrom(t, s, "127.0.0.1", "bob"); code != 486 {
		t.Errorf("the same address got %d", code)
	}
	if _, code := allocatedFrom(t, s, "127.0.0.2", "bob"); code != 508 {
		t.Errorf("another address got %d", code)
	}
}

func TestPermissionAndChannelQuotas(t *testing.T) {
	cfg := loopbackConfig()
	cfg.MaxPermissions, cfg.MaxChannels = 2, 1
	s := startServer(t, cfg)
	c, _ := allocated(t, s, "udp", "alice")
	peer := func(last byte) stun.Setter {
		return attrPeer(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, last}), 9))
	}
	if _, err := c.accepts(stun.MethodCreatePermission, peer(2), peer(3)); err != nil {
		t.Fatal(err)
	}
	if err := c.refuses(508, stun.MethodCreatePermission, peer(4)); err != nil {
		t.Error(err)
	}
	if _, err := c.accepts(stun.MethodCreatePermission, peer(3)); err != nil {
		t.Errorf("refreshing one: %v", err)
	}
	if _, err := c.accepts(stun.MethodChannelBind, attrChannel(0x4000), peer(2)); err != nil {
		t.Fatal(err)
	}
	if err := c.refuses(508, stun.MethodChannelBind, attrChannel(0x4001), peer(3)); err != nil {
		t.Error(err)
	}
}

func TestBandwidthOfAnAllocation(t *testing.T) {
	cfg := loopbackConfig()
	cfg.Bandwidth = 1000 // With a burst of 64 KiB.
	registry := prometheus.NewRegistry()
	cfg.Registerer = registry
	s := startServer(t, cfg)
	f := newFlow(t, s, "udp", "alice")
	payload := make([]byte, 1000)
	for range 100 {
		if err := f.client.sendOn(flowChannel, payload); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.client.exchange(wireRequest(stun.MethodBinding)); err != nil {
		t.Fatal(err)
	}
	a := s.List()[0]
	if a.PacketsToPeers < 50 || a.PacketsToPeers > 80 {
		t.Errorf("%d packets passed", a.PacketsToPeers)
	}
	if n := metric(t, registry, "signal_turn_drops_total", "bandwidth"); n < 20 {
		t.Errorf("%v drops were counted", n)
	}
}

// metric returns the sum of a metric over the series that have a label of that
// value.
func metric(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == label {
					sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
	}
	return sum
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

func TestStrictExpiry(t *testing.T) {
	for _, strict := range []bool{false, true} {
		cfg := loopbackConfig()
		cfg.StrictExpiry = strict
		var clock atomic.Int64 // How far ahead the server's clock is.
		cfg.now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
		s := startServer(t, cfg)
		c := wired(t, s, "udp", "alice")
		c.username, c.password = Credentials(testSecret, "alice", time.Now().Add(30*time.Second))
		answer, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
		if err != nil {
			t.Fatal(err)
		}
		lifetime, err := answerLifetime(answer)
		if err != nil || (lifetime <= 30) != strict {
			t.Errorf("strict %v: the allocation lives %d s (%v)", strict, lifetime, err)
		}
		clock.Store(int64(time.Minute))
		answer, err = c.call(stun.MethodRefresh)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 401, false: 0}[strict]; answerCode(answer) != want {
			t.Errorf("strict %v: Refresh with an expired credential got %s", strict, describeAnswer(answer))
		}
		c.username, c.password = Credentials(testSecret, "alice", time.Now().Add(time.Hour))
		if _, err := c.accepts(stun.MethodRefresh); err != nil {
			t.Errorf("Refresh with a fresh credential of the same user: %v", err)
		}
	}
}

func TestStaticUsersAndRotation(t *testing.T) {
	cfg := loopbackConfig()
	cfg.Secrets = []string{"the newest of all secrets", testSecret}
	cfg.Users = []string{"gate:with:colon"}
	s := startServer(t, cfg)
	allocated(t, s, "udp", "old secret")
	c := wired(t, s, "udp", "x")
	c.username, c.password = Credentials("the newest of all secrets", "new secret", time.Now().Add(time.Hour))
	if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	c = wired(t, s, "udp", "x")
	c.username, c.password = "gate", "wrong"
	if err := c.refuses(401, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	c.password = "with:colon"
	if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
}

func TestNonceOutlivesARestart(t *testing.T) {
	first := startServer(t, loopbackConfig())
	c := wired(t, first, "udp", "alice")
	second := startServer(t, loopbackConfig())
	d, err := newWireClient("udp", loopbackIPv4, addressOfServer(second))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.conn.Close() }()
	d.username, d.password, d.realm, d.nonce = c.username, c.password, c.realm, c.nonce
	answer, err := d.exchange(d.signed(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)))
	if err != nil {
		t.Fatal(err)
	}
	if err := wantSuccess(answer); err != nil {
		t.Error(err)
	}
}

// TestCertificateSwapUnderLoad replaces the certificate while clients relay over
// TLS: theirs live on, new ones see the new one.
func TestCertificateSwapUnderLoad(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	old, fresh := makeCertificate(t.TempDir()), makeCertificate(t.TempDir())
	current.Store(&old)
	cfg := loopbackConfig()
	cfg.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }}
	s := startServer(t, cfg)
	var flows []*flow
	for range 4 {
		flows = append(flows, newFlow(t, s, "tls", "alice"))
	}
	stop, failed := make(chan struct{}), make(chan error, len(flows))
	for _, f := range flows {
		go func() { failed <- f.keepRelaying(stop) }()
	}
	for i := range 40 {
		want := &old
		if i >= 20 {
			current.Store(&fresh)
			want = &fresh
		}
		c := dialed(t, s, "tls", "bob")
		if got := c.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw; !bytes.Equal(got, want.Certificate[0]) {
			t.Errorf("client %d sees another certificate", i)
		}
		if err := c.challenge(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	for range flows {
		if err := <-failed; err != nil {
			t.Errorf("an old connection: %v", err)
		}
	}
}

// keepRelaying makes round trips until stop is closed, at least one.
func (f *flow) keepRelaying(stop <-chan struct{}) error {
	for {
		if err := f.roundTrip("load"); err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		default:
		}
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

func FuzzFront(f *testing.F) {
	allocate := wireRequest(stun.MethodAllocate, attrTransport(17))
	for _, seed := range [][]byte{
		wireRequest(stun.MethodBinding).Raw,
		wireRequest(stun.MethodBinding, stun.Fingerprint).Raw,
		allocate.Raw,
		wireRequest(stun.MethodAllocate, attrTransport(17), stun.NewUsername("1:a"), stun.NewRealm("signal"),
			stun.NewNonce("x"), stun.MessageIntegrity("k")).Raw,
		wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication), attrRaw(stun.AttrData, 1)).Raw,
		wireChannelData(0x4000, []byte("abc"), 0), wireChannelData(0x4000, nil, 3), {0x40, 0, 0xff, 0xff},
		{0, 1, 0xff, 0xec, 0x21, 0x12, 0xa4, 0x42}, {}, {0x80},
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	cfg := loopbackConfig()
	if err := cfg.Validate(); err != nil {
		f.Fatal(err)
	}
	front, err := newFront(cfg, newMetrics())
	if err != nil {
		f.Fatal(err)
	}
	if err = front.startEngine(1); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = front.close() })
	if err := front.decidePeers(cfg.peers()); err != nil {
		f.Fatal(err)
	}
	from := transport.FiveTuple{Protocol: transport.UDP, Client: netip.MustParseAddrPort("127.0.0.1:1000"), Server: netip.MustParseAddrPort("127.0.0.1:3478")}
	username, credential := Credentials(testSecret, "fuzz", time.Now().Add(24*time.Hour))
	key := stun.NewLongTermIntegrity(username, cfg.Realm, credential)
	f.Fuzz(func(t *testing.T, packet []byte, sign bool) {
		if sign {
			packet = signedForFuzz(packet, username, cfg.Realm, freshNonce(front, from.Client.Addr()), key)
		}
		var p recorder
		front.Receive(from, &p, packet, 0)
		if len(p.sent) > 1 {
			t.Fatalf("%d answers", len(p.sent))
		}
		for _, answer := range p.sent {
			if !stun.IsMessage(answer) || len(answer) > len(packet)+200 {
				t.Fatalf("answer of %d bytes to %d", len(answer), len(packet))
			}
		}
	})
}

// signedForFuzz adds valid credentials to a message, so that the fuzzer reaches
// what lies behind them; what is no message stays as it is.
func signedForFuzz(packet []byte, username, realm, nonce string, key stun.MessageIntegrity) []byte {
	m := new(stun.Message)
	if _, err := m.Write(packet); err != nil {
		return packet
	}
	setters := []stun.Setter{stun.NewTransactionIDSetter(m.TransactionID), m.Type}
	for _, a := range m.Attributes {
		setters = append(setters, wire.SetValue(a.Type, a.Value...))
	}
	signed, err := stun.Build(append(setters, stun.NewUsername(username), stun.NewRealm(realm), stun.NewNonce(nonce), key)...)
	if err != nil {
		return packet
	}
	return signed.Raw
}

// recorder is a path that keeps what is sent.
type recorder struct{ sent [][]byte }

func (r *recorder) Send(packet []byte, _ batch.Mark) error {
	r.sent = append(r.sent, slices.Clone(packet))
	return nil
}

// freshNonce is a nonce for a client.
func freshNonce(f *front, client netip.Addr) string {
	_, nonce := f.auth.Challenge(client, time.Now())
	return string(nonce)
}

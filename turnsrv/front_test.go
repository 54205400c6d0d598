package turnsrv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/packaging/systemtest"
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

package turnsrv

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/wire"
)

// dataPaths are the ways that data can take through a server. All of them must do the same.
var dataPaths = []struct {
	name   string
	choose func(*Config)
	// growing says that the first datagram above usualDatagram is lost at each relay, whose buffer grows with it.
	growing bool
}{
	{name: "portable", choose: func(c *Config) { c.DataPath = false }, growing: true},
	{name: "data loops", choose: func(c *Config) { c.DataPath = true }},
}

// scripts is how many scripts are played on each path, and scriptSteps how long each is.
const scripts, scriptSteps = 3, 100

// TestDataPathsDoTheSame plays random scripts of clients and peers on every path, and compares what came out byte by byte: every
// datagram at every peer and client with its source, the order of each flow, the answers to requests, the allocations that are left,
// and all counters. Nothing is decided by time: the server's clock moves when a script says so, and after every step something
// follows on each way that data takes, and is waited for.
func TestDataPathsDoTheSame(t *testing.T) {
	systemtest.InOwnNetwork(t, func(t *testing.T) {
		systemtest.IP(t, "link set lo up", "")
		for _, addr := range []netip.Addr{stageRelay6, stagePeer6, stageOther6, stageDenied6, stageWarden6} {
			systemtest.Address(t, addr.String())
		}
		seen := map[string]float64{}
		for seed := range uint64(scripts) {
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { compareDataPaths(t, newScript(seed, scriptSteps), seen) })
		}
		// The scripts would prove nothing if they did not reach this.
		for _, what := range []string{dropMalformed, dropNoAllocation, dropNoChannel, dropNoPermission, dropOversize} {
			if seen["signal_turn_drops_total "+what] == 0 {
				t.Errorf("no script has had anything dropped for %s", what)
			}
		}
		for _, what := range []string{"signal_turn_peers_denied_total", "signal_turn_relayed_packets_total " + toPeer,
			"signal_turn_relayed_packets_total " + fromPeer, "signal_turn_allocations_ended_total " + endGone,
			"signal_turn_allocations_ended_total " + endKilled, "signal_turn_allocations_ended_total " + endReleased} {
			if seen[what] == 0 {
				t.Errorf("no script has had any %s", what)
			}
		}
	})
}

// compareDataPaths plays a script on every path.
func compareDataPaths(t *testing.T, script []step, seen map[string]float64) {
	var first outcome
	for i, path := range dataPaths {
		cfg := stageConfig(t)
		path.choose(&cfg)
		got := play(t, cfg, path.growing, script)
		if t.Failed() {
			return
		}
		for name, value := range got.counters {
			seen[name] += value
		}
		if i == 0 {
			first = got
			continue
		}
		first.compare(t, dataPaths[0].name, path.name, &got)
	}
}

// outcome is what came out of a script: lines by where and from whom they came, and counters.
type outcome struct {
	flows    map[string][]string
	counters map[string]float64
}

func (o *outcome) compare(t *testing.T, mine, other string, with *outcome) {
	t.Helper()
	for _, flow := range keysOf(o.flows, with.flows) {
		a, b := o.flows[flow], with.flows[flow]
		for i := range max(len(a), len(b)) {
			if i >= len(a) || i >= len(b) || a[i] != b[i] {
				t.Errorf("%s: line %d of %d and %d differs:\n%s: %s\n%s: %s", flow, i, len(a), len(b), mine, lineOf(a, i), other, lineOf(b, i))
				break
			}
		}
	}
	for _, name := range keysOf(o.counters, with.counters) {
		if o.counters[name] != with.counters[name] {
			t.Errorf("%s: %s %v, %s %v", name, mine, o.counters[name], other, with.counters[name])
		}
	}
}

func lineOf(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing"
}

func keysOf[V any](maps ...map[string]V) []string {
	var keys []string
	for _, m := range maps {
		for key := range m {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// The addresses of the stage. A warden is a peer that may always send, for what follows on the way of data.
var (
	stageRelay4, stageRelay6   = loopbackIPv4, netip.MustParseAddr("fd00::1")
	stagePeer4, stagePeer6     = netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("fd00::2")
	stageOther4, stageOther6   = netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("fd00::3")
	stageDenied4, stageDenied6 = netip.MustParseAddr("127.0.0.66"), netip.MustParseAddr("fd00::66")
	stageWarden4, stageWarden6 = netip.MustParseAddr("127.0.0.250"), netip.MustParseAddr("fd00::fa")
)

// stageConfig is a node with few relay ports, which are used again soon.
func stageConfig(t *testing.T) Config {
	cfg := loopbackConfig()
	cfg.Listen = []string{stageRelay4.String(), stageRelay6.String()}
	cfg.RelayIP = cfg.Listen
	cfg.AllowPeers = []string{"127.0.0.0/8", "fd00::/8"}
	cfg.DenyPeers = []string{stageDenied4.String(), stageDenied6.String()}
	cfg.MinPort, cfg.MaxPort = 50_000, 50_008
	cfg.TLS = testTLS(t)
	cfg.AllocateRate, cfg.UserQuota, cfg.AddrQuota = 0, 0, 0
	return cfg
}

// stage is a server, its clients and their peers while a script is played.
type stage struct {
	t       *testing.T
	s       *Server
	ahead   atomic.Int64 // ahead is how far the server's clock has been moved.
	clients []*actor
	peers   []*net.UDPConn
	wardens []*net.UDPConn // wardens are by family: IPv4, IPv6.
	names   map[netip.AddrPort]string
	fences  int
	growing bool
	grown   int // grown is how many relays have had their first large datagram.
	out     outcome
}

// stagePeers are bound to fixed ports, as there is nobody else in the network.
var stagePeers = []netip.AddrPort{
	netip.AddrPortFrom(stagePeer4, 4001), netip.AddrPortFrom(stagePeer4, 4002), netip.AddrPortFrom(stageOther4, 4003),
	netip.AddrPortFrom(stagePeer6, 4004), netip.AddrPortFrom(stageOther6, 4005),
	netip.AddrPortFrom(stageDenied4, 4006), netip.AddrPortFrom(stageDenied6, 4007),
}

// play plays a script and returns what came out of it.
func play(t *testing.T, cfg Config, growing bool, script []step) outcome {
	w := &stage{t: t, names: map[netip.AddrPort]string{}, growing: growing,
		out: outcome{flows: map[string][]string{}, counters: map[string]float64{}}}
	epoch := time.Now()
	cfg.now = func() time.Time { return epoch.Add(time.Duration(w.ahead.Load())) }
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.s = s
	defer func() { _ = s.Close() }()
	for i, addr := range stagePeers {
		w.peers = append(w.peers, w.listen(addr))
		w.names[addr] = fmt.Sprint("peer ", i)
	}
	w.wardens = []*net.UDPConn{w.listen(netip.AddrPortFrom(stageWarden4, 4008)), w.listen(netip.AddrPortFrom(stageWarden6, 4009))}
	for i, network := range actorNetworks {
		w.clients = append(w.clients, &actor{stage: w, name: fmt.Sprint("client ", i), network: network, v6: i == 1})
		w.clients[i].connect()
		w.clients[i].allocate()
	}
	w.settle()
	for _, do := range script {
		do(w)
		w.settle()
	}
	w.list()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	w.count()
	for _, c := range w.clients {
		_ = c.wire.conn.Close()
	}
	for _, conn := range slices.Concat(w.peers, w.wardens) {
		_ = conn.Close()
	}
	return w.out
}

// listen returns a socket with room for all that a step brings.
func (w *stage) listen(at netip.AddrPort) *net.UDPConn {
	w.t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		w.t.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	batch.TellMarks(conn, at.Addr().Is6())
	return conn
}

// note adds a line to a flow.
func (w *stage) note(flow, format string, args ...any) {
	w.out.flows[flow] = append(w.out.flows[flow], fmt.Sprintf(format, args...))
}

// nameOf is what an address is called on every path alike.
func (w *stage) nameOf(addr netip.AddrPort) string {
	if name := w.names[addr]; name != "" {
		return name
	}
	if slices.Contains([]netip.Addr{stageWarden4, stageWarden6}, addr.Addr()) {
		return "the warden"
	}
	return addr.Addr().String() + " somewhere"
}

// settle waits until all that was sent has arrived or was dropped. What goes from one relay to another takes two rounds.
func (w *stage) settle() {
	w.t.Helper()
	for range 2 {
		w.fences++
		for _, c := range w.clients {
			c.fence()
		}
	}
	for i := range w.peers {
		w.collect(i)
	}
}

// collect notes all that has come to a peer.
func (w *stage) collect(peer int) {
	w.t.Helper()
	conn, fence := w.peers[peer], fmt.Appendf(nil, "fence %d", w.fences)
	warden := w.wardens[familyIndex(stagePeers[peer].Addr())]
	if _, err := warden.WriteToUDPAddrPort(fence, stagePeers[peer]); err != nil {
		w.t.Fatal(err)
	}
	buffer, control := make([]byte, wireBuffer), make([]byte, batch.ControlSpace)
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buffer, control)
		if err != nil {
			w.t.Fatalf("peer %d waits for %s: %v", peer, fence, err)
		}
		if from = wire.Unmapped(from); from == wire.Unmapped(warden.LocalAddr().(*net.UDPAddr).AddrPort()) {
			return
		}
		w.note(fmt.Sprintf("peer %d from %s", peer, w.nameOf(from)), "mark %x, %s", batch.MarkOf(control[:oobn]), summary(buffer[:n]))
	}
}

// summary tells packets apart without holding them.
func summary(packet []byte) string {
	return fmt.Sprintf("%d bytes %x… %x", len(packet), packet[:min(len(packet), 8)], sha256.Sum256(packet))
}

func familyIndex(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// list notes the allocations that are left at the end.
func (w *stage) list() {
	for _, a := range w.s.List() {
		line := fmt.Sprintf("%s by %s from %s at %s", a.User, a.Transport, w.nameOf(a.Client), w.nameOf(a.Server))
		for _, relay := range a.Relays {
			line += ", " + w.nameOf(relay)
			if w.growing {
				a.BytesFromPeers += growSize
				a.PacketsFromPeers++
			}
		}
		var channels []string
		for _, peer := range a.Channels {
			channels = append(channels, w.nameOf(peer))
		}
		slices.Sort(channels)
		w.note("allocations", "%s: permissions %v, channels %v, to peers %d bytes in %d, from peers %d bytes in %d", line,
			a.Permissions, channels, a.BytesToPeers, a.PacketsToPeers, a.BytesFromPeers, a.PacketsFromPeers)
	}
	slices.Sort(w.out.flows["allocations"])
}

// count notes what the server has counted. It has ended, and counts no more.
func (w *stage) count() {
	w.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.s.front.metrics)
	families, err := registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			w.out.counters[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	// The farewells of a DTLS client and its session may cross, or not.
	delete(w.out.counters, "signal_turn_transport_drops_total no_session dtls")
	if w.growing {
		w.out.counters["signal_turn_drops_total "+dropOversize] -= float64(w.grown)
		w.out.counters["signal_turn_relayed_packets_total "+fromPeer] += float64(w.grown)
		w.out.counters["signal_turn_relayed_bytes_total "+fromPeer] += float64(w.grown * growSize)
	}
}

package turnsrv

import (
	"strconv"
	"sync/atomic"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/cpu"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/consent"
)

// Directions of relayed traffic, as the metric names them.
const (
	toPeer   = "to_peer"
	fromPeer = "from_peer"
)

// directions are the names of consent.Directions.
var directions = [...]string{consent.Out: toPeer, consent.In: fromPeer}

// Reasons for which the front drops a packet, as the metric names them.
const (
	dropMalformed    = "malformed"
	dropMethod       = "method"
	dropNoAllocation = "no_allocation"
	dropNoChannel    = "no_channel"
	dropNoPermission = "no_permission"
	dropBandwidth    = "bandwidth"
	dropOversize     = "oversize"
	dropSendError    = "send_error"
	dropSourceLimit  = "source_limit"
	dropShare        = "share"  // The client took more than its share of a loop that is behind.
	dropKernel       = "kernel" // The socket's buffer was full.
)

// metrics is one collector for all that a Server counts, so that it registers
// and unregisters as a whole. Traffic is counted as it passes.
type metrics struct {
	allocations  *prometheus.GaugeVec
	created      *prometheus.CounterVec
	endedTotal   *prometheus.CounterVec
	refreshed    prometheus.Counter
	authFailures *prometheus.CounterVec
	errors       *prometheus.CounterVec
	quotaHits    *prometheus.CounterVec
	quotas       *prometheus.GaugeVec
	peersDenied  prometheus.Counter
	drops        *prometheus.CounterVec
	transport    []prometheus.Collector

	// What was relayed is summed up when it is asked for.
	toPeerBytes, toPeerPackets     prometheus.CounterFunc
	fromPeerBytes, fromPeerPackets prometheus.CounterFunc
	counts                         []*relayed // counts are fixed before anybody is served.
	unlooped                       *relayed   // unlooped counts what no data loop relays.

	// What is counted for every packet that is dropped, looked up once.
	dropCounters map[string]prometheus.Counter
	kernelDrops  prometheus.Counter
	denials      [2]map[consent.Verdict]denial // denials are by consent.Direction.

	deniedPackets, deniedBytes *prometheus.CounterVec
}

// denial counts what is denied in one direction for one reason.
type denial struct{ packets, bytes prometheus.Counter }

// relayed counts what relays sent to and received from peers. Each data loop has
// its own: a counter that all write would move from core to core with every
// packet. For the same reason nothing that others write is near it in memory.
type relayed struct {
	_                              cpu.CacheLinePad
	toPeerBytes, toPeerPackets     atomic.Uint64
	fromPeerBytes, fromPeerPackets atomic.Uint64
	_                              cpu.CacheLinePad
}

func (r *relayed) sentToPeer(packets, bytes int) {
	r.toPeerPackets.Add(uint64(packets))
	r.toPeerBytes.Add(uint64(bytes))
}

func (r *relayed) receivedFromPeer(packets, bytes int) {
	r.fromPeerPackets.Add(uint64(packets))
	r.fromPeerBytes.Add(uint64(bytes))
}

func newMetrics(transport ...prometheus.Collector) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "signal_turn_" + name, Help: help}, labels)
	}
	m := &metrics{
		allocations: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "signal_turn_allocations",
			Help: "TURN allocations that exist now, by the client's transport and the relay's address family.",
		}, []string{"transport", "family"}),
		created: counter("allocations_created_total", "TURN allocations created.", "transport", "family"),
		endedTotal: counter("allocations_ended_total",
			"TURN allocations that ended, by reason.", "reason"),
		authFailures: counter("auth_failures_total",
			"TURN requests that were not proved, by reason; missing is the first request of every client.", "reason"),
		errors:    counter("errors_total", "Error responses, by method and code.", "method", "code"),
		quotaHits: counter("quota_hits_total", "Requests refused for a quota.", "quota"),
		quotas: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "signal_turn_quota", Help: "How high a quota is; there is none where that is 0."}, []string{"quota"}),
		drops: counter("drops_total", "Packets of clients and peers that were dropped, by reason.", "reason"),
		refreshed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signal_turn_allocations_refreshed_total", Help: "TURN allocations refreshed."}),
		peersDenied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signal_turn_peers_denied_total",
			Help: "Peer addresses in requests and packets that the peer policy denied."}),
		deniedPackets: counter("denied_packets_total",
			"Packets denied for want of the peer's consent, by direction and reason.", "direction", "reason"),
		deniedBytes: counter("denied_bytes_total",
			"Payload bytes of those packets, by direction and reason.", "direction", "reason"),
		transport:    transport,
		dropCounters: map[string]prometheus.Counter{},
	}
	m.countRelayed()
	for _, reason := range []string{dropMalformed, dropMethod, dropNoAllocation, dropNoChannel, dropNoPermission,
		dropBandwidth, dropShare, dropOversize, dropSendError, dropSourceLimit} {
		m.dropCounters[reason] = m.drops.WithLabelValues(reason)
	}
	m.kernelDrops = m.drops.WithLabelValues(dropKernel)
	for direction, label := range directions {
		m.denials[direction] = map[consent.Verdict]denial{}
		for _, v := range consent.Denials() {
			m.denials[direction][v] = denial{m.deniedPackets.WithLabelValues(label, v.String()), m.deniedBytes.WithLabelValues(label, v.String())}
		}
	}
	for _, reason := range auth.Reasons() {
		m.authFailures.WithLabelValues(reason)
	}
	for _, reason := range []string{endExpired, endReleased, endGone, endKilled, endRevoked, endClosed} {
		m.endedTotal.WithLabelValues(reason)
	}
	for _, quota := range []string{quotaUser, quotaAddress, quotaTotal, quotaUserRate, quotaAddressRate, quotaRate, quotaPeers, quotaDrain} {
		m.quotaHits.WithLabelValues(quota)
	}
	return m
}

// tell says how high the quotas are.
func (m *metrics) tell(cfg Config) {
	userRate, addressRate := cfg.allocateRatesOfOne()
	for quota, high := range map[string]float64{
		quotaUser: float64(cfg.UserQuota), quotaAddress: float64(cfg.addressQuota()), quotaTotal: float64(cfg.totalQuota()),
		quotaUserRate: userRate, quotaAddressRate: addressRate, quotaRate: cfg.AllocateRate, quotaPeers: float64(cfg.MaxPermissions),
	} {
		m.quotas.WithLabelValues(quota).Set(high)
	}
}

// countRelayed makes the counters of what is relayed.
func (m *metrics) countRelayed() {
	sum := func(name, help, direction string, of func(*relayed) *atomic.Uint64) prometheus.CounterFunc {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "signal_turn_relayed_" + name, Help: help, ConstLabels: prometheus.Labels{"direction": direction},
		}, func() float64 {
			var all uint64
			for _, r := range m.counts {
				all += of(r).Load()
			}
			return float64(all)
		})
	}
	const (
		bytes   = "Payload bytes that relays sent to and received from peers."
		packets = "Packets that relays sent to and received from peers."
	)
	m.toPeerBytes = sum("bytes_total", bytes, toPeer, func(r *relayed) *atomic.Uint64 { return &r.toPeerBytes })
	m.toPeerPackets = sum("packets_total", packets, toPeer, func(r *relayed) *atomic.Uint64 { return &r.toPeerPackets })
	m.fromPeerBytes = sum("bytes_total", bytes, fromPeer, func(r *relayed) *atomic.Uint64 { return &r.fromPeerBytes })
	m.fromPeerPackets = sum("packets_total", packets, fromPeer, func(r *relayed) *atomic.Uint64 { return &r.fromPeerPackets })
	m.unlooped = m.newRelayed()
}

// newRelayed returns what one more data loop counts with.
func (m *metrics) newRelayed() *relayed {
	r := new(relayed)
	m.counts = append(m.counts, r)
	return r
}

func (m *metrics) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{m.allocations, m.created, m.endedTotal, m.refreshed, m.authFailures, m.errors,
		m.quotaHits, m.quotas, m.peersDenied, m.drops, m.deniedPackets, m.deniedBytes, m.toPeerBytes, m.toPeerPackets, m.fromPeerBytes, m.fromPeerPackets}, m.transport...)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}

func (m *metrics) allocated(a *allocation) {
	m.created.WithLabelValues(a.tuple.Protocol.String(), a.family).Inc()
	m.allocations.WithLabelValues(a.tuple.Protocol.String(), a.family).Inc()
}

func (m *metrics) ended(a *allocation, why string) {
	m.endedTotal.WithLabelValues(why).Inc()
	m.allocations.WithLabelValues(a.tuple.Protocol.String(), a.family).Dec()
}

func (m *metrics) dropped(reason string) { m.dropCounters[reason].Inc() }

func (m *metrics) droppedPackets(reason string, packets int) {
	m.dropCounters[reason].Add(float64(packets))
}

// denied counts a packet of n bytes that a gate did not let pass.
func (m *metrics) denied(d consent.Direction, v consent.Verdict, n int) {
	m.denials[d][v].packets.Inc()
	m.denials[d][v].bytes.Add(float64(n))
}

func codeLabel(code stun.ErrorCode) string { return strconv.Itoa(int(code)) }

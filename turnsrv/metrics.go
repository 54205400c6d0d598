package turnsrv

import (
	"strconv"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// Directions of relayed traffic, as the metric names them.
const (
	toPeer   = "to_peer"
	fromPeer = "from_peer"
)

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
	peersDenied  prometheus.Counter
	drops        *prometheus.CounterVec
	bytes        *prometheus.CounterVec
	packets      *prometheus.CounterVec
	transport    []prometheus.Collector

	// What is counted for every packet, looked up once.
	toPeerBytes, toPeerPackets     prometheus.Counter
	fromPeerBytes, fromPeerPackets prometheus.Counter
	dropCounters                   map[string]prometheus.Counter
	kernelDrops                    prometheus.Counter
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
		drops:     counter("drops_total", "Packets of clients and peers that were dropped, by reason.", "reason"),
		bytes:     counter("relayed_bytes_total", "Payload bytes that relays sent to and received from peers.", "direction"),
		packets:   counter("relayed_packets_total", "Packets that relays sent to and received from peers.", "direction"),
		refreshed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signal_turn_allocations_refreshed_total", Help: "TURN allocations refreshed."}),
		peersDenied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signal_turn_peers_denied_total",
			Help: "Peer addresses in requests and packets that the peer policy denied."}),
		transport:    transport,
		dropCounters: map[string]prometheus.Counter{},
	}
	m.toPeerBytes, m.toPeerPackets = m.bytes.WithLabelValues(toPeer), m.packets.WithLabelValues(toPeer)
	m.fromPeerBytes, m.fromPeerPackets = m.bytes.WithLabelValues(fromPeer), m.packets.WithLabelValues(fromPeer)
	for _, reason := range []string{dropMalformed, dropMethod, dropNoAllocation, dropNoChannel, dropNoPermission,
		dropBandwidth, dropShare, dropOversize, dropSendError, dropSourceLimit} {
		m.dropCounters[reason] = m.drops.WithLabelValues(reason)
	}
	m.kernelDrops = m.drops.WithLabelValues(dropKernel)
	for _, reason := range []string{failMissing, failFields, failNonce, failUsername, failExpired, failRevoked, failPassword} {
		m.authFailures.WithLabelValues(reason)
	}
	for _, reason := range []string{endExpired, endReleased, endGone, endKilled, endRevoked, endClosed} {
		m.endedTotal.WithLabelValues(reason)
	}
	for _, quota := range []string{quotaUser, quotaTotal, quotaRate, quotaPeers, quotaDrain} {
		m.quotaHits.WithLabelValues(quota)
	}
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{m.allocations, m.created, m.endedTotal, m.refreshed, m.authFailures, m.errors,
		m.quotaHits, m.peersDenied, m.drops, m.bytes, m.packets}, m.transport...)
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
	m.created.WithLabelValues(a.tuple.transport.String(), a.family).Inc()
	m.allocations.WithLabelValues(a.tuple.transport.String(), a.family).Inc()
}

func (m *metrics) ended(a *allocation, why string) {
	m.endedTotal.WithLabelValues(why).Inc()
	m.allocations.WithLabelValues(a.tuple.transport.String(), a.family).Dec()
}

func (m *metrics) dropped(reason string) { m.dropCounters[reason].Inc() }

func (m *metrics) droppedPackets(reason string, packets int) {
	m.dropCounters[reason].Add(float64(packets))
}

func (m *metrics) sentToPeer(packets, bytes int) {
	m.toPeerPackets.Add(float64(packets))
	m.toPeerBytes.Add(float64(bytes))
}

func (m *metrics) receivedFromPeer(packets, bytes int) {
	m.fromPeerPackets.Add(float64(packets))
	m.fromPeerBytes.Add(float64(bytes))
}

func codeLabel(code stun.ErrorCode) string { return strconv.Itoa(int(code)) }

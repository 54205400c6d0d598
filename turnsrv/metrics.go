package turnsrv

import "github.com/prometheus/client_golang/prometheus"

// Directions of relayed traffic, as the metric names them.
const (
	toPeer   = "to_peer"
	fromPeer = "from_peer"
)

// metrics is one collector for all that a Server counts, so that it registers
// and unregisters as a whole.
type metrics struct {
	allocations  prometheus.GaugeFunc
	created      prometheus.Counter
	authFailures *prometheus.CounterVec
	peersDenied  prometheus.Counter
	bytes        *prometheus.CounterVec
	packets      *prometheus.CounterVec

	// What the relays count, looked up once since they count every packet.
	toPeerBytes, toPeerPackets     prometheus.Counter
	fromPeerBytes, fromPeerPackets prometheus.Counter
}

// newMetrics returns the metrics of a server that has allocations() allocations.
func newMetrics(allocations func() int) *metrics {
	m := &metrics{
		allocations: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "signal_turn_allocations",
			Help: "TURN allocations that exist now.",
		}, func() float64 { return float64(allocations()) }),
		created: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signal_turn_allocations_created_total",
			Help: "TURN allocations created.",
		}),
		authFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_auth_failures_total",
			Help: "TURN requests with credentials that were refused, by reason.",
		}, []string{"reason"}),
		peersDenied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signal_turn_peers_denied_total",
			Help: "Peer addresses in requests and packets that the peer policy denied.",
		}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_relayed_bytes_total",
			Help: "Payload bytes that relays sent to and received from peers.",
		}, []string{"direction"}),
		packets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_relayed_packets_total",
			Help: "Packets that relays sent to and received from peers.",
		}, []string{"direction"}),
	}
	m.toPeerBytes, m.toPeerPackets = m.bytes.WithLabelValues(toPeer), m.packets.WithLabelValues(toPeer)
	m.fromPeerBytes, m.fromPeerPackets = m.bytes.WithLabelValues(fromPeer), m.packets.WithLabelValues(fromPeer)
	for _, reason := range []string{failUsername, failExpired, failPassword} {
		m.authFailures.WithLabelValues(reason)
	}
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.allocations, m.created, m.authFailures, m.peersDenied, m.bytes, m.packets}
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

func (m *metrics) sentToPeer(n int) {
	m.toPeerPackets.Inc()
	m.toPeerBytes.Add(float64(n))
}

func (m *metrics) receivedFromPeer(n int) {
	m.fromPeerPackets.Inc()
	m.fromPeerBytes.Add(float64(n))
}

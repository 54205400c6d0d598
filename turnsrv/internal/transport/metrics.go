package transport

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcomes of handshakes, as the metric names them.
const (
	handshakeOK      = "ok"
	handshakeFailed  = "failed"
	handshakeTimeout = "timeout"
	handshakeRefused = "refused"
)

// Reasons for packets that were dropped, as the metric names them.
const (
	dropSlowClient  = "slow_client"  // data for a stream client that does not read fast enough
	dropSendFailed  = "send_failed"  // a datagram that the system refused to send
	dropNoSession   = "no_session"   // a DTLS record of nobody's session that begins none
	dropQueueFull   = "inbox_full"   // a DTLS record that came faster than it was read
	dropTooLarge    = "oversize"     // a DTLS datagram or frame that is too large
	dropUnreachable = "unreachable"  // a datagram from port 0, which cannot be answered
	dropHandshakes  = "handshakes"   // a ClientHello above the limits
	dropBudget      = "handshake_io" // a DTLS handshake that sends more than any needs
)

// Reasons for connections that ended, as the metric names them.
const (
	closedByClient  = "client"    // the client or the network ended it
	closedByServer  = "server"    // the server ended it
	closedIdle      = "idle"      // no message for long
	closedSilent    = "silent"    // no first message
	closedFrame     = "frame"     // what came was neither STUN nor ChannelData
	closedSlow      = "slow"      // the client did not even read control messages
	closedLimit     = "limit"     // too many connections
	closedHandshake = "handshake" // the handshake failed
	closedReplaced  = "replaced"  // the client began anew from the same port
)

// Metrics is what the transports count.
type Metrics struct {
	handshakes   *prometheus.CounterVec // by transport and outcome
	connections  *prometheus.GaugeVec   // by transport
	closed       *prometheus.CounterVec // by transport and reason
	drops        *prometheus.CounterVec // by transport and reason
	socketErrors *prometheus.CounterVec // by transport
	queuedBytes  prometheus.GaugeFunc   // of queued

	queued atomic.Int64 // queued is how many bytes wait for stream clients or are being written to them.
}

// NewMetrics returns metrics that count from 0 and are not registered.
func NewMetrics() *Metrics {
	m := &Metrics{
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_handshakes_total",
			Help: "TLS and DTLS handshakes of clients, by outcome.",
		}, []string{"transport", "outcome"}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "signal_turn_connections",
			Help: "TCP, TLS and DTLS connections of clients that exist now.",
		}, []string{"transport"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_connections_closed_total",
			Help: "TCP, TLS and DTLS connections of clients that ended, by reason.",
		}, []string{"transport", "reason"}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_transport_drops_total",
			Help: "Packets from and to clients that a transport dropped, by reason.",
		}, []string{"transport", "reason"}),
		socketErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_socket_errors_total",
			Help: "Errors of accepting connections and of reading datagrams that the listener survived.",
		}, []string{"transport"}),
	}
	m.queuedBytes = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signal_turn_queued_bytes", Help: "Bytes that wait for clients of TCP and TLS, or are being written to them.",
	}, func() float64 { return float64(m.queued.Load()) })
	for _, t := range []Protocol{TCP, TLS, DTLS} {
		m.connections.WithLabelValues(t.String())
	}
	return m
}

// Collectors returns what is to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.handshakes, m.connections, m.closed, m.drops, m.socketErrors, m.queuedBytes}
}

func (m *Metrics) drop(t Protocol, reason string, packets int) {
	m.drops.WithLabelValues(t.String(), reason).Add(float64(packets))
}

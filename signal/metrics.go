package signal

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts what the server does. No label ever names a room or a user.
type metrics struct {
	accepted  prometheus.Counter
	refused   *prometheus.CounterVec
	messages  *prometheus.CounterVec
	ended     *prometheus.CounterVec
	overflows prometheus.Counter
	resumes   *prometheus.CounterVec
	handovers *prometheus.CounterVec
}

func newMetrics(s *Server, reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string, value func() int) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	gauge("signal_connections", "WebSockets that are open on this node.", s.connections)
	gauge("signal_rooms", "Rooms in which this node has members.", s.roomCount)
	gauge("signal_members", "Members of rooms whose connection is on this node.", func() int { return int(s.members.Load()) })
	gauge("signal_detached", "Participants that lost their connection and may come back.", s.detachedCount)
	return &metrics{
		resumes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_resumes_total", Help: "Attempts to resume, by outcome: here, moved (from another node), gone or unavailable."}, []string{"outcome"}),
		handovers: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_handovers_total", Help: "Requests of other nodes for a participant, by outcome: handed or gone."}, []string{"outcome"}),
		accepted: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_connections_accepted_total", Help: "WebSockets that were opened."}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_connections_refused_total", Help: "WebSocket requests that were refused, by reason."}, []string{"reason"}),
		ended: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_connections_ended_total", Help: "WebSockets that ended, by reason."}, []string{"reason"}),
		messages: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_messages_total", Help: "Messages from clients, by type and outcome: ok, refused or the error code."}, []string{"type", "outcome"}),
		overflows: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_queue_overflows_total", Help: "Clients that were disconnected because they read too slowly."}),
	}
}

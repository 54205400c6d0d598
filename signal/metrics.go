package signal

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts what the server does. No label ever names a room or a user.
type metrics struct {
	accepted         prometheus.Counter
	refused          *prometheus.CounterVec
	messages         [messageTypes][outcomes]prometheus.Counter
	ended            *prometheus.CounterVec
	overflows        prometheus.Counter
	duplicates, gaps prometheus.Counter
	invalid          prometheus.Counter
	acceptErrors     prometheus.Counter
	resumes          *prometheus.CounterVec
	handovers        *prometheus.CounterVec
	cut              *prometheus.CounterVec
	limits           [limits]prometheus.Counter
	authRefusals     *prometheus.CounterVec
}

func newMetrics(s *Server, reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string, value func() int) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	gauge("signal_connections", "WebSockets that are open on this node.", s.Connections)
	gauge("signal_ready", "1 while /ready says yes.", func() int {
		if reasons, _ := s.Readiness(); len(reasons) > 0 {
			return 0
		}
		return 1
	})
	gauge("signal_problems", "What does not work although the node may be ready, as /ready lists it.", func() int {
		_, problems := s.Readiness()
		return len(problems)
	})
	gauge("signal_rooms", "Rooms in which this node has members.", s.roomCount)
	gauge("signal_members", "Members of rooms whose connection is on this node.", func() int { return int(s.members.Load()) })
	gauge("signal_detached", "Participants that lost their connection and may come back.", s.detached)
	gauge("signal_held_bytes", "Memory that is held for participants.", func() int { return int(s.budget.used.Load()) })
	gauge("signal_http_connections", "Connections that are no WebSocket, or not yet.", func() int { return s.callers.count() })
	gauge("signal_addresses", "Client addresses that hold a place or have been busy a moment ago.", s.addrs.count)
	gauge("signal_peer_passwords", "ICE passwords of room members that are known here, for TURN servers that ask for them.", s.peers.count)
	return &metrics{
		cut: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_http_connections_cut_total", Help: "Connections without a WebSocket that were closed because there were too many, of their address or in total."}, []string{"reason"}),
		limits: limitMetrics(f, s),
		resumes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_resumes_total", Help: "Attempts to resume, by outcome: here, moved (from another node), adopted (from a dead one), revived (after a restart), gone or unavailable."}, []string{"outcome"}),
		handovers: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_handovers_total", Help: "Requests of other nodes for a participant, by outcome: handed or gone."}, []string{"outcome"}),
		authRefusals: authCounters(f),
		acceptErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_accept_errors_total", Help: "Connections that could not be accepted, such as for a lack of descriptors."}),
		accepted: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_connections_accepted_total", Help: "WebSockets that were opened."}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_connections_refused_total", Help: "WebSocket requests that were refused, by reason."}, []string{"reason"}),
		ended: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_connections_ended_total", Help: "WebSockets that ended, by reason."}, []string{"reason"}),
		messages: messageCounters(f),
		duplicates: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_duplicates_total", Help: "Messages that came again and were not delivered again."}),
		gaps: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_gaps_total", Help: "Gaps in what nodes sent, of which a client was told."}),
		invalid: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_invalid_frames_total", Help: "Messages of other nodes that were not UTF-8 and were dropped."}),
		overflows: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_queue_overflows_total", Help: "Clients that were disconnected because they read too slowly."}),
	}
}

// limitMetrics returns the counters of limits, by limit, and registers how high these are.
func limitMetrics(f promauto.Factory, s *Server) (counters [limits]prometheus.Counter) {
	high := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "signal_limit", Help: "How high a limit is, by the setting that it is of; there is none where that is 0."}, []string{"limit"})
	reached := f.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_limit_reached_total", Help: "How often something was refused because a limit was reached, by its setting."}, []string{"limit"})
	for l := noLimit + 1; l < limits; l++ {
		high.WithLabelValues(l.String()).Set(s.cfg.limit(l))
		counters[l] = reached.WithLabelValues(l.String())
	}
	return counters
}

func (m *metrics) reached(l limit) { m.limits[l].Inc() }

// The outcomes of messages from clients; the ones after these are the codes of errors.
const (
	outcomeOK = iota
	outcomeRefused
	outcomeCode
	outcomes = outcomeCode + 9
)

var outcomeCodes = [outcomes - outcomeCode]int{
	codeBadRequest, codeUnauthorized, codeForbidden, codeNotMember, codeNoRoom, codeGone, codeTooLarge, codeRateLimited, codeUnavailable}

func outcomeOf(code int) int { return outcomeCode + slices.Index(outcomeCodes[:], code) }

// messageCounters returns the counters of messages, found by type and outcome without a look at
// their labels.
func messageCounters(f promauto.Factory) (counters [messageTypes][outcomes]prometheus.Counter) {
	vec := f.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_messages_total", Help: "Messages from clients, by type and outcome: ok, refused or the error code."}, []string{"type", "outcome"})
	for t := range messageTypes {
		counters[t][outcomeOK] = vec.WithLabelValues(t.String(), "ok")
		counters[t][outcomeRefused] = vec.WithLabelValues(t.String(), "refused")
		for _, code := range outcomeCodes {
			counters[t][outcomeOf(code)] = vec.WithLabelValues(t.String(), strconv.Itoa(code))
		}
	}
	return counters
}

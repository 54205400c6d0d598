package state

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// redisMetrics counts what the node does with Redis. No label ever names a room, a user or a node.
type redisMetrics struct {
	trips     *prometheus.CounterVec
	failures  *prometheus.CounterVec
	resyncs   *prometheus.CounterVec
	unknown   *prometheus.CounterVec
	reaped    prometheus.Counter
	adoptions prometheus.Counter
	messages  prometheus.Counter
}

func newRedisMetrics(r *Redis, reg prometheus.Registerer) *redisMetrics {
	f := promauto.With(reg) // Makes metrics that nobody sees of a nil one.
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	age := func(at func() time.Time) func() float64 {
		return func() float64 { return time.Since(at()).Seconds() }
	}
	gauge("signal_state_up", "1 while the shared state can be reached.", func() float64 {
		if r.Ready() != nil {
			return 0
		}
		return 1
	})
	gauge("signal_state_nodes", "Other nodes that are alive.", func() float64 { return float64(len(r.Nodes())) })
	gauge("signal_state_probe_age_seconds", "Age of the last message of this node to itself that arrived.",
		age(func() time.Time { return *r.echoed.Load() }))
	gauge("signal_state_lease_age_seconds", "Age of the last renewal of this node's lease.",
		age(func() time.Time { return *r.renewed.Load() }))
	return &redisMetrics{
		trips: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_state_round_trips_total", Help: "Round trips to Redis, by kind."}, []string{"kind"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_state_publish_failures_total", Help: "Publishes that reached nobody, by reason: no_receiver or error."}, []string{"reason"}),
		resyncs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_state_resyncs_total", Help: "What had to be compared or sent again, by cause: gap, lost, conflict or recovery."}, []string{"cause"}),
		unknown: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_state_unknown_total", Help: "What newer nodes sent and this one skipped: packet, record or field."}, []string{"what"}),
		reaped: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_state_reaped_members_total", Help: "Members of dead nodes that this node removed."}),
		adoptions: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_state_adopted_members_total", Help: "Members of dead nodes that this node took over."}),
		messages: f.NewCounter(prometheus.CounterOpts{
			Name: "signal_state_messages_total", Help: "Messages and views that Redis took for other nodes."}),
	}
}

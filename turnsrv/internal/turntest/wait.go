package turntest

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// ValueOf returns what one metric, a counter or a gauge, says now.
func ValueOf(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || len(families[0].GetMetric()) != 1 {
		t.Fatalf("gathering one metric: %v, %v", families, err)
	}
	metric := families[0].GetMetric()[0]
	if metric.GetCounter() != nil {
		return metric.GetCounter().GetValue()
	}
	return metric.GetGauge().GetValue()
}

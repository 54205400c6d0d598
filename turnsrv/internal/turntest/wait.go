package turntest

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Eventually polls until the condition holds or ten seconds have passed.
func Eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

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

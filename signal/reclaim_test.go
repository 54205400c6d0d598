package signal

import (
	"testing"
	"time"
)

func TestReclaimer(t *testing.T) {
	var r reclaimer
	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		count int
		due   bool
	}{
		{0, 999, false}, {time.Hour, 999, false}, // not worth it
		{0, 1000, false}, {4 * time.Second, 3000, false}, {2 * time.Second, 4000, true}, // once all have come
		{time.Hour, 4000, false}, {0, 4999, false}, {time.Hour, 4999, false},
		{0, 5000, false}, {time.Second, 4500, false}, {time.Hour, 5000, false}, // It was back meanwhile.
		{5 * time.Second, 5000, true},
		{0, 40, false}, {5 * time.Second, 40, true}, {time.Hour, 40, false},
	} {
		now = now.Add(step.after)
		if due := r.due(step.count, now); due != step.due {
			t.Errorf("%d connections: %v, want %v", step.count, due, step.due)
		}
	}
}

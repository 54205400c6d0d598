package batch

import (
	"testing"
	"time"
)

// TestPaceNapsBetweenManyPackets follows what a loop would do at steady rates.
func TestPaceNapsBetweenManyPackets(t *testing.T) {
	for _, row := range []struct {
		every   time.Duration // every is the time between two packets.
		maxNap  time.Duration
		backlog bool
		naps    bool
		busy    bool
	}{
		{every: 10 * time.Millisecond, maxNap: 300 * time.Microsecond},
		{every: 500 * time.Microsecond, maxNap: 300 * time.Microsecond, busy: true},
		{every: 200 * time.Microsecond, maxNap: 300 * time.Microsecond, busy: true}, // 50 calls of 50 packets a second, both ways.
		{every: 200 * time.Microsecond, maxNap: time.Millisecond, naps: true, busy: true},
		{every: 50 * time.Microsecond, maxNap: 300 * time.Microsecond, naps: true, busy: true},
		{every: 50 * time.Microsecond, maxNap: 300 * time.Microsecond, backlog: true, busy: true},
		{every: 50 * time.Microsecond, busy: true},
		{every: time.Microsecond, maxNap: 300 * time.Microsecond, naps: true, busy: true},
	} {
		p := pace{maxNap: row.maxNap}
		now := time.Unix(1, 0)
		for range 20_000 {
			now = now.Add(row.every)
			p.turned(1, row.backlog, now)
		}
		if got := p.nap() > 0; got != row.naps || p.busy() != row.busy {
			t.Errorf("%+v: naps %v, busy %v", row, got, p.busy())
		}
		if p.nap() > row.maxNap {
			t.Errorf("%+v: naps for %v", row, p.nap())
		}
		p.turned(1, false, now.Add(time.Second))
		if p.nap() > 0 || p.busy() {
			t.Errorf("%+v: still naps or is busy after a second of nothing", row)
		}
	}
}

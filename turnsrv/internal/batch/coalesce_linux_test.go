package batch

import (
	"testing"
	"time"
)

// TestMergingIsUsedWhereItPays follows trains, single packets and trains again.
func TestMergingIsUsedWhereItPays(t *testing.T) {
	var m coalescing
	now := time.Unix(1, 0)
	see := func(datagrams, merged, run, times int) (changes int) {
		for range times {
			now = now.Add(time.Millisecond)
			if m.learn(datagrams, merged, run, now) {
				changes++
			}
		}
		return changes
	}
	if see(64, 0, 3, 1000) != 0 || m.on {
		t.Error("on without anything like a train")
	}
	if see(64, 0, 20, 1) != 1 || !m.on {
		t.Error("not on for what looks like one")
	}
	if see(8, 8, 1, 1000) != 0 || !m.on {
		t.Error("off again under trains")
	}
	if see(8, 0, 8, 200) != 1 || m.on {
		t.Error("still on for single packets")
	}
	if see(64, 0, 20, 60_000) > 40 {
		t.Error("goes on and off all the time")
	}
}

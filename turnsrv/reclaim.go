package turnsrv

import (
	"sync"
	"time"
)

const (
	// reclaimFrom is how many allocations are worth giving memory back.
	reclaimFrom = 1000

	// reclaimDelay is how long after their number has doubled or halved that
	// happens, so that it does so once.
	reclaimDelay = 5 * time.Second
)

// reclaimer gives garbage back to the system when there are twice as many
// allocations as the last time, which have left theirs of being made, or half as
// many. The runtime would keep it for minutes.
type reclaimer struct {
	give func() // give is fixed before the first note.

	mu        sync.Mutex
	low, high int // low and high are the fewest and the most allocations since the last time.
	now       int
	timer     *time.Timer // timer runs when memory is to be given back.
}

// note tells how many allocations there are.
func (r *reclaimer) note(count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.low, r.high = count, min(r.low, count), max(r.high, count)
	if r.timer == nil && r.high >= reclaimFrom && (count <= r.high/2 || count >= 2*r.low) {
		r.timer = time.AfterFunc(reclaimDelay, r.reclaim)
	}
}

func (r *reclaimer) reclaim() {
	r.mu.Lock()
	r.low, r.high, r.timer = r.now, r.now, nil
	r.mu.Unlock()
	r.give()
}

// close makes it do nothing any more.
func (r *reclaimer) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
}

package turnsrv

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	// reclaimFrom is how many allocations are worth giving their memory back.
	reclaimFrom = 1000

	// reclaimDelay is how long after most allocations have ended that happens, so
	// that it does so once.
	reclaimDelay = 5 * time.Second
)

// reclaimer gives memory back to the system when most allocations have ended.
// The runtime would keep it for minutes.
type reclaimer struct {
	give func() // give is fixed after construction.

	mu    sync.Mutex
	peak  int // peak is the most allocations since the last time.
	now   int
	timer *time.Timer // timer runs when memory is to be given back.
}

func newReclaimer() *reclaimer { return &reclaimer{give: debug.FreeOSMemory} }

// note tells how many allocations there are.
func (r *reclaimer) note(count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.peak = count, max(r.peak, count)
	if r.timer == nil && r.peak >= reclaimFrom && count <= r.peak/2 {
		r.timer = time.AfterFunc(reclaimDelay, r.reclaim)
	}
}

func (r *reclaimer) reclaim() {
	r.mu.Lock()
	r.peak, r.timer = r.now, nil
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

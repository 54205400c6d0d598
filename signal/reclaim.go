package signal

import (
	"runtime"
	"runtime/debug"
	measures "runtime/metrics"
	"time"
)

const (
	// reclaimFrom is how many connections are worth giving memory back.
	reclaimFrom = 1000
	// reclaimDelay is how long after their number has changed that happens, so that it does so once.
	reclaimDelay = 5 * time.Second
)

// reclaimer decides when garbage is given back to the system: when many connections have come, whose
// handshakes have left much of it, or have gone. The runtime would keep it for minutes. It is the wheel's.
type reclaimer struct {
	last  int       // how many connections there were the last time
	since time.Time // when their number was first seen to be another, zero if it is not
}

// due takes note of the number of connections and reports whether it is time.
func (r *reclaimer) due(count int, now time.Time) bool {
	changed := max(count-r.last, r.last-count)
	switch {
	case changed < reclaimFrom || changed < r.last/4:
		r.since = time.Time{}
		return false
	case r.since.IsZero():
		r.since = now
		return false
	case now.Sub(r.since) < reclaimDelay:
		return false
	}
	r.last, r.since = count, time.Time{}
	return true
}

const (
	// wasteFrom is how much memory is worth giving back that is mapped and not in use.
	wasteFrom = 16 << 20
	// wasteInterval is the least time between two times that it is: what is needed again at once costs to be got again.
	wasteInterval = 20 * time.Second
)

// waste decides when memory is given back to the system that was in use a while ago: when much more is mapped than is in use, and the
// runtime has not collected garbage for some time. It does not while nobody makes any, and keeps what is free for minutes; while it does it
// gives back by itself. It is the wheel's.
type waste struct {
	samples []measures.Sample
	since   time.Time // when too much was first seen to be mapped, zero if it is not
	cycles  uint64    // how many collections there were then
	last    time.Time // when it was given back
}

// due takes note of what is mapped and reports whether it is time.
func (w *waste) due(mapped, inUse, cycles uint64, now time.Time) bool {
	switch {
	case mapped < inUse+inUse/4+wasteFrom:
		w.since = time.Time{}
		return false
	case w.since.IsZero() || w.cycles != cycles:
		w.since, w.cycles = now, cycles
		return false
	case now.Sub(w.since) < reclaimDelay, now.Sub(w.last) < wasteInterval:
		return false
	}
	w.since, w.last = time.Time{}, now
	return true
}

// measure returns how much memory is mapped, what of it was in use at the last collection, in bytes, and how many of those there were.
func (w *waste) measure() (mapped, live, cycles uint64) {
	if w.samples == nil {
		w.samples = []measures.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/gc/heap/live:bytes"},
			{Name: "/gc/cycles/automatic:gc-cycles"}}
	}
	measures.Read(w.samples)
	return w.samples[0].Value.Uint64() - w.samples[1].Value.Uint64(), w.samples[2].Value.Uint64(), w.samples[3].Value.Uint64()
}

// reclaim gives garbage back to the system. What pools hold is garbage only when it was not used for two collections.
func reclaim() {
	runtime.GC()
	debug.FreeOSMemory()
}

package signal

import "time"

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

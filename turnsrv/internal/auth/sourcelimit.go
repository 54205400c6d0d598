package auth

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// SourceLimit bounds how often a source address, or an IPv6 /64, gets an answer
// before it has proven that the address is its own. It is a table of fixed size,
// so that spoofed sources cost no memory and push nobody out. Sources that meet
// in a place of the table share its rate; where they meet is secret and changes
// with every start, and a flood of spoofed sources must saturate most places,
// millions of packets a second, before it locks others out. Any number of
// goroutines may use it.
type SourceLimit struct {
	// Fixed after construction.
	seed  maphash.Seed
	start time.Time
	step  int64 // step is the time in nanoseconds that one answer costs; 0 means no limit.
	depth int64 // depth is the time in nanoseconds that a full bucket holds.

	// full holds for each place when its bucket will be full again, in
	// nanoseconds since start. It is the whole state of a token bucket: what is
	// missing now is what flows in until then.
	full []atomic.Int64
}

// epoch is how long before its start a limit counts time from. So a place that was
// never used, which is 0, is a full bucket, and its memory is not touched.
const epoch = 100 * 365 * 24 * time.Hour

// NewSourceLimit returns a limit of perSecond answers for each source, and
// burst at once, in a table of maxSources places of 8 bytes. A perSecond of 0
// means no limit.
func NewSourceLimit(perSecond float64, burst, maxSources int) *SourceLimit {
	l := &SourceLimit{seed: maphash.MakeSeed(), start: time.Now().Add(-epoch)}
	if perSecond <= 0 {
		return l
	}
	// The bounds keep the sums of Allow from overflowing; no rate that means
	// anything comes near them.
	step := min(max(float64(time.Second)/perSecond, 1), math.MaxInt64/8)
	l.step = int64(step)
	l.depth = int64(min(step*float64(burst), math.MaxInt64/4))
	l.full = make([]atomic.Int64, max(maxSources, 1))
	return l
}

// Allow takes one answer to addr at now, if the rate has one left. Times that
// are not in order are harmless.
func (l *SourceLimit) Allow(addr netip.Addr, now time.Time) bool {
	if l.step == 0 {
		return true
	}
	at, full := int64(now.Sub(l.start)), l.place(addr)
	for {
		old := full.Load()
		next := max(old, at) + l.step
		if next-at > l.depth {
			return false
		}
		if full.CompareAndSwap(old, next) {
			return true
		}
	}
}

// Return gives addr one answer back, because who got it has proved that the address is its own. So those who
// share an address do not starve each other.
func (l *SourceLimit) Return(addr netip.Addr, now time.Time) {
	if l.step == 0 {
		return
	}
	at, full := int64(now.Sub(l.start)), l.place(addr)
	for old := full.Load(); old > at && !full.CompareAndSwap(old, old-l.step); old = full.Load() {
		continue
	}
}

// place returns the bucket of a source. Who has one IPv6 address has its /64.
func (l *SourceLimit) place(addr netip.Addr) *atomic.Int64 {
	b := addr.As16()
	source := b[:]
	if addr.Is6() && !addr.Is4In6() {
		source = b[:8]
	}
	return &l.full[maphash.Bytes(l.seed, source)%uint64(len(l.full))]
}

package turnsrv

import (
	"maps"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// leastUserRate is what a user may make a second however small the quota, as browsers do that try again.
const leastUserRate = 16

// checkRate is how many connectivity checks and answers of one user leave a second for peers that have not consented, over all allocations, also
// those that are gone. A browser has 9 peer connections in a room of 10, each of which sends 20 checks a second while it looks for a path, and as
// many answers.
const checkRate = 400

// paceSweep is how many who have been paced are kept before those are forgotten that need not be.
const paceSweep = 256

// allocateRates bounds how often allocations are made: by one user, who may make as many a second as it may have, by one client
// address, and by all. One address gets at most half of what all do, so that no user and no address keeps the others out.
// Its methods may be called by any goroutine.
type allocateRates struct {
	user    *pace[owner]
	address *pace[netip.Addr]
	node    *rate.Limiter
}

// newAllocateRates returns the rates of a node. Twice of each is allowed at once.
func newAllocateRates(cfg *Config) *allocateRates {
	user, address := cfg.allocateRatesOfOne()
	return &allocateRates{
		user:    newPace[owner](user),
		address: newPace[netip.Addr](address),
		node:    limiter(cfg.AllocateRate),
	}
}

// allocateRatesOfOne returns how many allocations a second one user and one client address may make, 0 for any number.
func (c *Config) allocateRatesOfOne() (user, address float64) {
	if c.AllocateRate <= 0 {
		return 0, 0
	}
	address = c.AllocateRate / 2
	if quota := c.addressQuota(); quota > 0 {
		address = min(address, float64(quota))
	}
	if c.UserQuota > 0 {
		user = max(float64(c.UserQuota), leastUserRate)
	}
	return user, address
}

// limiter allows perSecond events, any number when that is 0.
func limiter(perSecond float64) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(2*perSecond)))
}

// take counts one allocation, or names the rate that has none left. Who asks too often is told so before anything is taken
// from what others share.
func (r *allocateRates) take(h holder, now time.Time) (exceeded string) {
	switch {
	case !r.user.allow(h.user, now):
		return quotaUserRate
	case !r.address.allow(h.address, now):
		return quotaAddressRate
	case !r.node.AllowN(now, 1):
		return quotaRate
	}
	return ""
}

// pace bounds how often each of many may do something. It remembers only those who did it lately. They have proved who
// they are, so their number is bounded by how many credentials there are. Any number of goroutines may use it.
type pace[K comparable] struct {
	// Fixed after construction.
	step  time.Duration // step is the time that one costs; 0 means no limit.
	depth time.Duration // depth is the time that a full bucket holds.

	// Guarded by mu.
	mu    sync.Mutex
	full  map[K]time.Time // full says when a bucket will be full again, which is its whole state.
	sweep int             // sweep is how many there may be before buckets that are full are forgotten.
}

// newPace allows perSecond, and twice that at once, to each, any number when that is 0.
func newPace[K comparable](perSecond float64) *pace[K] {
	p := &pace[K]{full: map[K]time.Time{}, sweep: paceSweep}
	if perSecond > 0 {
		p.step = max(1, time.Duration(min(float64(time.Second)/perSecond, math.MaxInt64/8)))
		p.depth = max(p.step, 2*time.Second)
	}
	return p
}

func (p *pace[K]) allow(who K, now time.Time) bool {
	if p.step == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next := now.Add(p.step)
	if until := p.full[who]; until.After(now) {
		next = until.Add(p.step)
	}
	if next.Sub(now) > p.depth {
		return false
	}
	p.full[who] = next
	if len(p.full) > p.sweep {
		maps.DeleteFunc(p.full, func(_ K, until time.Time) bool { return !until.After(now) })
		p.sweep = max(paceSweep, 2*len(p.full))
	}
	return true
}

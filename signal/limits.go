package signal

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// addressBurst is how many seconds of its rate a client address may use at once.
const addressBurst = 4

// maxAddresses bounds how many addresses are remembered that hold nothing. They are forgotten when their
// buckets are full again, in seconds, so that it takes very many addresses at once to reach it.
const maxAddresses = 1 << 16

// sweepInterval is the time between two looks for addresses to forget.
const sweepInterval = 10 * time.Second

// pace is how often something may happen: the time that once costs, and the time that a full bucket holds.
// The zero pace is no limit.
type pace struct{ step, depth time.Duration }

// newPace allows perSecond, and some seconds of that at once.
func newPace(perSecond, seconds float64) pace {
	if perSecond <= 0 || perSecond >= float64(time.Second) {
		return pace{}
	}
	step := float64(time.Second) / perSecond
	return pace{time.Duration(step), time.Duration(max(step, seconds*float64(time.Second)))}
}

// bucket counts what happens at a pace. It holds when it will be full again, by uptime: what is missing now is what flows in
// until then. The zero bucket is full.
type bucket struct{ full atomic.Int64 }

// take takes one, or returns how long to wait until there is one.
func (b *bucket) take(p pace, now time.Duration) (wait time.Duration) {
	for p.step > 0 {
		old := time.Duration(b.full.Load())
		next := max(old, now) + p.step
		if wait = next - now - p.depth; wait > 0 {
			return wait
		}
		if b.full.CompareAndSwap(int64(old), int64(next)) {
			break
		}
	}
	return 0
}

// maxDebt bounds what a bucket may be overdrawn, so that who shares an address with somebody who does not stop is let go soon after.
const maxDebt = 10 * time.Second

// charge takes as many as are told, there or not, and returns how long it takes until they are paid back.
func (b *bucket) charge(p pace, n int, now time.Duration) (wait time.Duration) {
	for p.step > 0 {
		old := time.Duration(b.full.Load())
		next := min(max(old, now)+time.Duration(n)*p.step, now+p.depth+maxDebt)
		if b.full.CompareAndSwap(int64(old), int64(next)) {
			return max(0, next-now-p.depth)
		}
	}
	return 0
}

func (b *bucket) isFull(now time.Duration) bool { return time.Duration(b.full.Load()) <= now }

// addressLimits are what one client address may take, 0 for any number. The rates are those of all its
// connections together, and hold when they come and go.
type addressLimits struct {
	places      int // connections, and participants that have lost theirs
	upgrades    pace
	messages    pace
	credentials pace
	requests    pace // by HTTP
	arrivals    pace // connections, before anything is read from them
}

// address is what a client address, which for IPv6 is a /64, takes of the server.
type address struct {
	prefix netip.Prefix
	places int // guarded by the lock of addresses

	upgrades, messages, credentials, requests, arrivals bucket
}

func (a *address) isIdle(now time.Duration) bool {
	return a.places == 0 && a.upgrades.isFull(now) && a.messages.isFull(now) && a.credentials.isFull(now) &&
		a.requests.isFull(now) && a.arrivals.isFull(now)
}

// addresses are the client addresses that hold something or have been busy a moment ago, and the number of all
// connections. Its methods may be called by any goroutine.
type addresses struct {
	// Fixed after construction.
	limits addressLimits
	conns  int // connections of all addresses, 0 for any number

	mu    sync.Mutex
	known map[netip.Prefix]*address
	open  int           // connections
	swept time.Duration // when those were forgotten that are idle
}

func newAddresses(limits addressLimits, conns int) *addresses {
	return &addresses{limits: limits, conns: conns, known: map[netip.Prefix]*address{}}
}

// of returns an address, which may be forgotten while it holds no place.
func (as *addresses) of(p netip.Prefix) *address {
	as.mu.Lock()
	defer as.mu.Unlock()
	return as.ofLocked(p, uptime())
}

func (as *addresses) ofLocked(p netip.Prefix, now time.Duration) *address {
	a := as.known[p]
	if a == nil {
		if len(as.known) >= maxAddresses {
			as.evictLocked(now)
		}
		a = &address{prefix: p}
		as.known[p] = a
	}
	return a
}

// evictLooks is how many addresses are looked at for an idle one before one is forgotten that has been busy.
const evictLooks = 32

// evictLocked forgets an address that holds no place, an idle one if it finds one.
func (as *addresses) evictLocked(now time.Duration) {
	var busy *address
	looks := 0
	for p, a := range as.known {
		if a.isIdle(now) {
			delete(as.known, p)
			return
		}
		if a.places == 0 {
			busy = a
		}
		if looks++; looks >= evictLooks {
			break
		}
	}
	if busy != nil {
		delete(as.known, busy.prefix)
	}
}

// sweep forgets idle addresses, now and then.
func (as *addresses) sweep() {
	as.mu.Lock()
	defer as.mu.Unlock()
	now := uptime()
	if now-as.swept < sweepInterval {
		return
	}
	as.swept = now
	for p, a := range as.known {
		if a.isIdle(now) {
			delete(as.known, p)
		}
	}
}

// connect takes what a new connection takes, or names the limit that is reached and how long to wait. Who is back for a
// participant that holds a place here gets one beside it, which is free when it has taken over: else a
// full house that loses its network could not come back.
func (as *addresses) connect(p netip.Prefix, isBack bool) (a *address, reached limit, wait time.Duration) {
	as.mu.Lock()
	defer as.mu.Unlock()
	now := uptime()
	a = as.ofLocked(p, now)
	places := as.limits.places
	if isBack {
		places *= 2
	}
	switch {
	case as.limits.places > 0 && a.places >= places:
		return nil, limitAddressConnections, retryPlace
	case as.conns > 0 && as.open >= as.conns:
		return nil, limitConnections, retryPlace
	}
	if wait := a.upgrades.take(as.limits.upgrades, now); wait > 0 {
		return nil, limitAddressUpgrades, wait
	}
	a.places++
	as.open++
	return a, noLimit, 0
}

// retryPlace is when somebody may try again for whom there is no place.
const retryPlace = 10 * time.Second

// disconnect gives back what a connection has taken.
func (as *addresses) disconnect(a *address) {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.open--
	a.places--
}

// hold takes a place for a participant that has lost its connection, whose place it follows.
func (as *addresses) hold(a *address) {
	as.mu.Lock()
	defer as.mu.Unlock()
	a.places++
}

// release gives the place of such a participant back.
func (as *addresses) release(a *address) {
	as.mu.Lock()
	defer as.mu.Unlock()
	a.places--
}

// count returns how many addresses are known.
func (as *addresses) count() int {
	as.mu.Lock()
	defer as.mu.Unlock()
	return len(as.known)
}

package signal

import (
	"net/netip"
	"sync"
)

// addrLimit bounds how many connections one client address holds. It must survive one host that
// opens connections in a loop, so it remembers addresses only while they hold one.
type addrLimit struct {
	limit int

	mu    sync.Mutex
	count map[netip.Prefix]int
}

func newAddrLimit(limit int) *addrLimit {
	return &addrLimit{limit: limit, count: map[netip.Prefix]int{}}
}

// acquire takes a place for a connection; it reports false when none is left.
func (l *addrLimit) acquire(p netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count[p] >= l.limit {
		return false
	}
	l.count[p]++
	return true
}

func (l *addrLimit) release(p netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count[p]--; l.count[p] <= 0 {
		delete(l.count, p)
	}
}

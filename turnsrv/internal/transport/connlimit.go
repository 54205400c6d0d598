package transport

import (
	"errors"
	"net/netip"
	"sync"
)

// ipv6Site is the prefix that counts as one address: who has one IPv6 address
// has all of its /64.
const ipv6Site = 64

var (
	errAddressLimit = errors.New("too many of this address")
	errTotalLimit   = errors.New("too many in total")
)

// addressLimit bounds how many of something exist, in total and by address.
type addressLimit struct {
	total, perAddress int

	// Guarded by mu.
	mu   sync.Mutex
	held int
	by   map[netip.Addr]int
}

func newAddressLimit(total, perAddress int) *addressLimit {
	return &addressLimit{total: total, perAddress: perAddress, by: map[netip.Addr]int{}}
}

// acquire counts one more, unless that is above a limit: errAddressLimit or
// errTotalLimit.
func (l *addressLimit) acquire(addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	site := Site(addr)
	if l.by[site] >= l.perAddress {
		return errAddressLimit
	}
	if l.held >= l.total {
		return errTotalLimit
	}
	l.held++
	l.by[site]++
	return nil
}

// release undoes an acquire of the same address.
func (l *addressLimit) release(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	site := Site(addr)
	l.held--
	if l.by[site]--; l.by[site] == 0 {
		delete(l.by, site)
	}
}

// Site is the unit in which clients are limited: an IPv4 address itself, and an IPv6 address without its lower half.
func Site(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr
	}
	prefix, err := addr.Prefix(ipv6Site)
	if err != nil {
		return addr
	}
	return prefix.Addr()
}

package turnsrv

import (
	"net/netip"
	"sync"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/transport"
)

// quotas bounds how many allocations and reserved ports exist, of one user, of one client address and in total. 0 means
// no bound. Its methods may be called by any goroutine.
type quotas struct {
	perUser, perAddress, total int

	mu        sync.Mutex
	users     map[owner]int
	addresses map[netip.Addr]int
	all       int
}

func newQuotas(perUser, perAddress, total int) *quotas {
	return &quotas{perUser: perUser, perAddress: perAddress, total: total, users: map[owner]int{}, addresses: map[netip.Addr]int{}}
}

// holder is whom an allocation or a reserved port counts for: a user, at a client address. Who has one IPv6 address has
// its /64.
type holder struct {
	user    owner
	address netip.Addr
}

// holder is whom what a request asks for counts for.
func (q *request) holder() holder {
	return holder{ownerOf(q.who), transport.Site(q.from.Client.Addr())}
}

func (a *allocation) holder() holder {
	return holder{ownerOf(a.owner()), transport.Site(a.tuple.Client.Addr())}
}

// Names of quotas, as the metric has them.
const (
	quotaUser        = "user"
	quotaAddress     = "address"
	quotaTotal       = "total"
	quotaUserRate    = "user_rate"
	quotaAddressRate = "address_rate"
	quotaRate        = "rate"
	quotaPeers       = "peers"
	quotaDrain       = "drain"
)

// acquire takes so many places for a holder, or names the quota that has less and takes none.
func (q *quotas) acquire(h holder, places int) (exceeded string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.perUser > 0 && q.users[h.user]+places > q.perUser:
		return quotaUser
	case q.perAddress > 0 && q.addresses[h.address]+places > q.perAddress:
		return quotaAddress
	case q.total > 0 && q.all+places > q.total:
		return quotaTotal
	}
	q.users[h.user] += places
	q.addresses[h.address] += places
	q.all += places
	return ""
}

func (q *quotas) release(h holder, places int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all -= places
	if q.users[h.user] -= places; q.users[h.user] <= 0 {
		delete(q.users, h.user)
	}
	if q.addresses[h.address] -= places; q.addresses[h.address] <= 0 {
		delete(q.addresses, h.address)
	}
}

// minted returns the users with minted credentials who hold something.
func (q *quotas) minted() (users []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for u := range q.users {
		if !u.static {
			users = append(users, u.name)
		}
	}
	return users
}

// officeUsers is how many users one client address is meant to have room for, which is what --address-connections is by
// default: an office, or a carrier's NAT.
const officeUsers = 64

// addressQuota returns how many allocations one client address may have. However high it is set, it leaves half of the relays
// to others.
func (c *Config) addressQuota() int {
	quota := c.AddrQuota
	if quota == setting.Derived {
		quota = officeUsers * c.UserQuota
	}
	return min(quota, max(1, c.capacity()/2))
}

// capacity is how many allocations there can be at once, by the ports and the quota.
func (c *Config) capacity() int {
	ports := c.MaxPort - c.MinPort + 1
	if total := c.totalQuota(); total > 0 {
		return min(ports, total)
	}
	return ports
}

// totalQuota returns how many allocations there may be at once. Without a setting two fifths of what the process may open are for
// relays, of which an allocation has one, mostly. Half are for the signaling, and what is left for the rest of it.
func (c *Config) totalQuota() int {
	if c.TotalQuota > 0 {
		return c.TotalQuota
	}
	return setting.Descriptors() * 2 / 5
}

package turnsrv

import "sync"

// quotas bounds how many allocations and reserved ports exist, of one user and
// in total. 0 means no bound. Its methods may be called by any goroutine.
type quotas struct {
	perUser, total int

	mu    sync.Mutex
	users map[string]int
	all   int
}

func newQuotas(perUser, total int) *quotas {
	return &quotas{perUser: perUser, total: total, users: map[string]int{}}
}

// Names of quotas, as the metric has them.
const (
	quotaUser  = "user"
	quotaTotal = "total"
	quotaRate  = "rate"
	quotaPeers = "peers"
	quotaDrain = "drain"
)

// acquire takes so many places for user, or names the quota that has less and
// takes none.
func (q *quotas) acquire(user string, places int) (exceeded string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.perUser > 0 && q.users[user]+places > q.perUser:
		return quotaUser
	case q.total > 0 && q.all+places > q.total:
		return quotaTotal
	}
	q.users[user] += places
	q.all += places
	return ""
}

func (q *quotas) release(user string, places int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all -= places
	if q.users[user] -= places; q.users[user] <= 0 {
		delete(q.users, user)
	}
}

// totalQuota returns how many allocations there may be at once. Without a
// setting nine tenths of what the process may open are for relays, of which
// an allocation has one, mostly.
func (c *Config) totalQuota() int {
	if c.TotalQuota > 0 {
		return c.TotalQuota
	}
	return maxDescriptors() * 9 / 10
}

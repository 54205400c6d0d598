package turnsrv

import (
	"time"

	"golang.org/x/time/rate"

	"cline-meet/signal/turnsrv/internal/auth"
)

// leastUserRate is what a user may make a second however small the quota, as browsers do that try again.
const leastUserRate = 16

// rateSources bounds the memory for the users and addresses that allocations are counted by.
const rateSources = 1 << 14

// allocateRates bounds how often allocations are made: by one user, who may make as many a second as it may have, by one client
// address, and by all. One address gets at most half of what all do, so that no user and no address keeps the others out.
// Its methods may be called by any goroutine.
type allocateRates struct {
	user, address *auth.SourceLimit
	node          *rate.Limiter
}

// newAllocateRates returns the rates of a node. Twice of each is allowed at once.
func newAllocateRates(cfg *Config) *allocateRates {
	user, address := cfg.allocateRatesOfOne()
	return &allocateRates{
		user:    auth.NewSourceLimit(user, max(1, int(2*user)), rateSources),
		address: auth.NewSourceLimit(address, max(1, int(2*address)), rateSources),
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
	case !r.user.AllowName(h.user, now):
		return quotaUserRate
	case !r.address.Allow(h.address, now):
		return quotaAddressRate
	case !r.node.AllowN(now, 1):
		return quotaRate
	}
	return ""
}

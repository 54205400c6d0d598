package state

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/redis/go-redis/v9"
)

// warnOfEviction warns, once and whenever it changes, when a master may throw away what nodes write: every
// key of theirs but one lives for some time only, so that the volatile policies take them too.
func (r *Redis) warnOfEviction(addr, memory string) {
	policy, limit := infoField(memory, "maxmemory_policy"), infoField(memory, "maxmemory")
	if limit == "0" || policy == "noeviction" {
		policy = ""
	}
	r.mu.Lock()
	before := r.evicting[addr]
	r.evicting[addr] = policy
	r.mu.Unlock()
	if policy != "" && policy != before {
		r.log.Warn("Redis may evict rooms: set its maxmemory-policy to noeviction, or give nodes a Redis of their own",
			"node", r.id, "redis", addr, "maxmemory_policy", policy, "maxmemory", limit)
	}
}

// warnOfCoverage warns once, at the start, when a Cluster does nothing for any room as soon as one slot has no master. A
// user who may not ask is told nothing.
func (r *Redis) warnOfCoverage(ctx context.Context, addr string, c redis.Cmdable) {
	const setting = "cluster-require-full-coverage"
	if r.cluster == nil || r.covered.Load() {
		return
	}
	answer, err := c.ConfigGet(ctx, setting).Result()
	if err == nil && answer[setting] == "yes" && !r.covered.Swap(true) {
		r.log.Warn("Redis refuses all when a part of it is gone: set its "+setting+" to no", "node", r.id, "redis", addr)
	}
}

// fingerprintsLocked returns the fingerprints of the secrets that are valid at this node, by name: those that it
// was given, or that the cluster agreed on.
func (r *Redis) fingerprintsLocked() map[string][]string {
	out := map[string][]string{}
	for name, values := range r.told {
		out[name] = fingerprints(values)
	}
	for name, values := range r.given {
		out[name] = fingerprints(values)
	}
	return out
}

// Configure replaces the values of a secret that this node was given.
func (r *Redis) Configure(name string, values []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.given[name] = values
}

// fingerprints tell secrets apart and tell nothing of them.
func fingerprints(secrets []string) []string {
	var out []string
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte("fingerprint"))
		out = append(out, hex.EncodeToString(mac.Sum(nil)[:4]))
	}
	return out
}

// compareSecretsLocked warns once of a node with which this one shares no valid secret of some name: what one of them
// signs the other refuses. During a rotation they share one.
func (r *Redis) compareSecretsLocked(other NodeInfo) {
	if other.ID == r.id || r.mismatched[other.ID] {
		return
	}
	for name, own := range r.fingerprintsLocked() {
		theirs := other.Secrets[name]
		if len(theirs) == 0 || len(own) == 0 || slices.ContainsFunc(own, func(one string) bool { return slices.Contains(theirs, one) }) {
			continue
		}
		r.mismatched[other.ID] = true
		r.log.Warn("another node has another secret: give all nodes the same --"+name+", or another deployment another --redis-prefix",
			"node", r.id, "other", other.ID, "secret", name, "prefix", r.cfg.Prefix)
	}
}

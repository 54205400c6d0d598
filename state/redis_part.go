package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Part of Redis is part of the service. A master of a Cluster that does not answer takes its slots with it: what
// touches these fails, at once and not after a timeout, and all else goes on. A master that answers and
// refuses to write, because it has no memory or is a replica, still publishes. Only when most slots are gone is the
// state away. The looks at the masters, see redis_data.go, say which are broken; an operation that fails says it
// sooner, until the next look.

// mostSlots is the share of the slots without which the state is of no use.
const mostSlots = 0.5

// slotSamples is how many keys are looked at to tell which share of the slots a master has.
const slotSamples = 192

// part is a master that does not do what it should.
type part struct {
	err     error
	refuses bool // It answers, and takes no writes.
}

func silentPart(p part) bool { return !p.refuses }

func anyPart(part) bool { return true }

// refusesWrites reports whether an error is a server's that would do anything but write. One that lives in a Cluster that
// is down, as another has failed and all slots are required, does not read either, and still publishes. One that is cut off
// with a minority says the same; there most slots are silent, and so the state is away.
func refusesWrites(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && slices.ContainsFunc([]string{"OOM command", "READONLY ", "MISCONF ", "NOREPLICAS ", "CLUSTERDOWN The cluster is down"},
		func(text string) bool { return strings.Contains(err.Error(), text) }) // Redis 6 puts it into another error.
}

// ofOneMaster reports whether an error says something about one master and not about the whole of Redis.
func ofOneMaster(err error) bool {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return true
	}
	return redis.HasErrorPrefix(err, "LOADING") || redis.HasErrorPrefix(err, "MASTERDOWN") || strings.Contains(err.Error(), "slot not served")
}

// masterOf returns the address of the master that has a key, "" when there is one at a time. It does not ask.
func (r *Redis) masterOf(key string) (string, error) {
	if r.cluster == nil {
		return "", nil
	}
	c, err := r.cluster.MasterForKey(r.ctx, key)
	if err != nil {
		return "", err
	}
	return c.Options().Addr, nil
}

// silent says why the master that has a key does not answer, or nil if it does for all that is known.
func (r *Redis) silent(key string) error {
	r.mu.Lock()
	whole := len(r.broken) == 0
	r.mu.Unlock()
	if whole {
		return nil
	}
	addr, err := r.masterOf(key)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.broken[addr]; !p.refuses {
		return p.err
	}
	return nil
}

// ofPart reports whether an error of an operation says that a part of Redis does not work, without which the rest
// goes on. Which part it is the next look finds out, and whether the rest is most: the client may have asked
// another master than that of the key.
func (r *Redis) ofPart(err error) bool {
	return refusesWrites(err) || r.cluster != nil && ofOneMaster(err)
}

func (r *Redis) noteBrokenLocked(addr string, p part) {
	if _, known := r.broken[addr]; !known {
		r.log.Warn("part of Redis does not work", "node", r.id, "redis", addr, "refuses_writes", p.refuses, "error", p.err)
	}
	r.broken[addr] = p
}

// weigh notes which share of the slots does not work, and returns that which does not even answer.
func (r *Redis) weigh(parts map[string]part) (silent float64) {
	share := r.shareOf(parts, anyPart)
	r.mu.Lock()
	r.share = share
	r.mu.Unlock()
	return r.shareOf(parts, silentPart)
}

// shareOf returns the share of the slots that parts of some kind have.
func (r *Redis) shareOf(parts map[string]part, kind func(part) bool) float64 {
	if len(parts) == 0 {
		return 0
	}
	samples := slotSamples
	if r.cluster == nil {
		samples = 1
	}
	bad := 0
	for i := range samples {
		addr, err := r.masterOf(r.sentinelKey(i))
		if p, broken := parts[addr]; err != nil || broken && kind(p) {
			bad++
		}
	}
	return float64(bad) / float64(samples)
}

// replaceBroken takes over what a look found of all masters. Rooms of those that work again are compared with
// Redis, since nobody could change them there.
func (r *Redis) replaceBroken(parts map[string]part) (silent float64) {
	r.mu.Lock()
	healed := false
	for addr := range r.broken {
		if _, still := parts[addr]; !still {
			healed = true
			r.log.Info("part of Redis works again", "node", r.id, "redis", addr)
		}
	}
	for addr, p := range parts {
		r.noteBrokenLocked(addr, p)
	}
	r.broken = maps.Clone(parts)
	if healed {
		for room := range r.rooms {
			r.dirty[room] = struct{}{}
		}
		r.metrics.resyncs.WithLabelValues("recovery").Add(float64(len(r.rooms)))
		wake(r.work)
		wake(r.poke)
	}
	r.mu.Unlock()
	return r.weigh(parts)
}

// Problems returns what does not work while the node is ready, for people.
func (r *Redis) Problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for addr, p := range r.broken {
		what := "does not answer"
		if p.refuses {
			what = "refuses to write"
		}
		out = append(out, strings.Join(strings.Fields(fmt.Sprintf("Redis %s %s (%.0f %% of all rooms cannot change): %v", addr, what, 100*r.share, p.err)), " "))
	}
	if r.unrenewable.Load() {
		out = append(out, "no node can renew its lease, so that none is taken for dead")
	}
	slices.Sort(out)
	return out
}

// nobodyRenews reports whether a lease could not be renewed for a reason that holds for all nodes: the master
// refuses to write, or the other masters have found it dead. Then none is taken for dead, since who would say so
// has to write it there, and a node need not stop at the end of its lease.
func (r *Redis) nobodyRenews(ctx context.Context, err error) bool {
	if refusesWrites(err) || r.cluster == nil {
		return refusesWrites(err)
	}
	addr, unknown := r.masterOf(directoryKeys(r.cfg.Prefix)[0])
	if unknown != nil {
		return false
	}
	var failed atomic.Bool
	_ = r.eachData(ctx, func(ctx context.Context, _, _ string, c redis.Cmdable) error { // Some do not answer.
		ctx, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		text, err := c.ClusterNodes(ctx).Result()
		if err == nil && saysFailed(text, addr) {
			failed.Store(true)
		}
		return err
	})
	return failed.Load()
}

// saysFailed reports whether what a master knows of the Cluster has a node of an address as failed.
func saysFailed(nodes, addr string) bool {
	for line := range strings.Lines(nodes) {
		fields := strings.Fields(line) // id, ip:port@bus, flags, …
		if len(fields) > 2 && strings.HasPrefix(fields[1], addr+"@") {
			return slices.Contains(strings.Split(fields[2], ","), "fail")
		}
	}
	return false
}

// pickChannel gives the node another channel when the master of its own does not answer, so that the others can
// reach it all the same. They hear of it with its next beat.
func (r *Redis) pickChannel() {
	if r.silent(r.channel(r.id)) == nil {
		return
	}
	for i := range slotSamples {
		tag := fmt.Sprint(i)
		if r.silent(r.channelOf(r.id, tag)) == nil {
			r.log.Info("this node listens elsewhere", "node", r.id, "channel", r.channelOf(r.id, tag))
			r.tags.Store(r.id, tag)
			return
		}
	}
}

// tag returns what a node's channel has besides its id, none for the first one.
func (r *Redis) tag(node string) string {
	tag, _ := r.tags.Load(node)
	text, _ := tag.(string)
	return text
}

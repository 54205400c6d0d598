package state

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// The watch finds nodes whose process has ended long before their lease does: Redis knows at once that nobody
// listens on their channel any more. Two things keep it from taking the living for dead. A node is declared
// dead only by declare.lua, which compares the end of its lease with what it was when the channel was first
// found empty: who lives beats, and one that lost its connection beats the more. And a node does not
// judge when it has reason to doubt itself or Redis: while it is away or was a moment ago, while Redis has no
// subscription of its own, when Redis is another process than at the last beat, and after it was frozen.
const (
	// watchEvery is the time between two looks.
	watchEvery = 400 * time.Millisecond
	// watchLooks is how often in a row a channel must have nobody: for 1.2 s.
	watchLooks = 4
	// watched is how many other nodes a node watches at most: the next ones in the ring of ids.
	watched = 16
	// settling is how long the watch is blind after an outage, in which nobody could renew a lease.
	settling = 5 * time.Second
)

// absence is a node on whose channel nobody listens.
type absence struct {
	looks int
	lease int64 // the end of its lease at the first look, 0 if Redis had none
}

// watch is the goroutine that looks who has gone.
func (r *Redis) watch() {
	absent := map[string]*absence{}
	for {
		next := time.Now().Add(watchEvery)
		if !r.pause(next) {
			return
		}
		frozen := r.noticeSleep(time.Since(next))
		began := time.Now()
		if err := r.look(absent); err != nil {
			r.log.Debug("looking at the other nodes", "node", r.id, "error", err)
			clear(absent)
		}
		if r.noticeSleep(time.Since(began)-2*opTimeout) || frozen {
			clear(absent)
		}
	}
}

// noticeSleep reports whether this process did not run for longer than a beat, as when it is stopped, by how
// late it is. Then it treats all that it knows as doubtful.
func (r *Redis) noticeSleep(late time.Duration) bool {
	if late < max(r.cfg.Beat, opTimeout) {
		return false
	}
	r.log.Warn("this node did not run for a while", "node", r.id, "late_ms", late.Milliseconds())
	r.mu.Lock()
	r.doubtLocked()
	r.distrustLocked(time.Now())
	r.missed = true
	r.mu.Unlock()
	wake(r.poke)
	return true
}

// distrustLocked keeps the watch from judging for a while.
func (r *Redis) distrustLocked(now time.Time) {
	r.trust = now.Add(min(r.cfg.Lease, settling))
}

// look asks Redis in one round trip who listens and who is dead, and judges.
func (r *Redis) look(absent map[string]*absence) error {
	if err := r.away(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, opTimeout)
	defer cancel()
	began := time.Now()
	nodes := r.neighbours()
	pipe := r.client.Pipeline()
	counts := r.countListeners(ctx, pipe, append(nodes, r.id))
	dead := pipe.ZRangeWithScores(ctx, directoryKeys(r.cfg.Prefix)[2], 0, -1)
	r.metrics.trips.WithLabelValues("watch").Inc()
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	ends := map[string]int64{}
	for _, z := range dead.Val() {
		node, _ := z.Member.(string)
		ends[node] = int64(z.Score)
	}
	r.mu.Lock()
	r.learnDeathsLocked(ends, began)
	blind := began.Before(r.trust)
	r.mu.Unlock()
	listeners := counts()
	if blind || listeners[r.id] == 0 {
		clear(absent)
		return nil
	}
	return r.judge(ctx, nodes, listeners, absent)
}

// neighbours returns the nodes to watch: those that have a lease, and those that had one which Redis has lost, since they may have died with it.
func (r *Redis) neighbours() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ring []string
	for node, p := range r.peers {
		if (p.listed || p.info.ID != "") && node != r.id && r.dead[node] == nil {
			ring = append(ring, node)
		}
	}
	slices.Sort(ring)
	if len(ring) <= watched {
		return ring
	}
	at, _ := slices.BinarySearch(ring, r.id)
	return slices.Concat(ring[at:], ring[:at])[:watched]
}

// countListeners adds the question how many listen on the nodes' channels, and returns a function for the
// answer. On a Cluster every shard knows its own channels.
func (r *Redis) countListeners(ctx context.Context, pipe redis.Pipeliner, nodes []string) func() map[string]int64 {
	var cmds []*redis.MapStringIntCmd
	if r.cluster == nil {
		channels := make([]string, len(nodes))
		for i, node := range nodes {
			channels[i] = r.channel(node)
		}
		cmds = append(cmds, pipe.PubSubNumSub(ctx, channels...))
	} else {
		for _, node := range nodes {
			cmd := redis.NewMapStringIntCmd(ctx, "pubsub", "shardnumsub", r.channel(node))
			cmd.SetFirstKeyPos(2) // It is a channel's shard that knows.
			_ = pipe.Process(ctx, cmd)
			cmds = append(cmds, cmd)
		}
	}
	return func() map[string]int64 {
		all := map[string]int64{}
		for _, cmd := range cmds {
			maps.Copy(all, cmd.Val())
		}
		counts := map[string]int64{}
		for _, node := range nodes {
			counts[node] = all[r.channel(node)]
		}
		return counts
	}
}

// judge counts how long nodes are absent and has those declared dead that are for too long.
func (r *Redis) judge(ctx context.Context, nodes []string, listeners map[string]int64, absent map[string]*absence) error {
	maps.DeleteFunc(absent, func(node string, _ *absence) bool {
		return listeners[node] > 0 || !slices.Contains(nodes, node)
	})
	gone := map[string]silent{}
	var fresh []string
	for _, node := range nodes {
		a := absent[node]
		switch {
		case listeners[node] > 0:
		case a == nil:
			fresh = append(fresh, node)
		case a.looks+1 < watchLooks:
			a.looks++
		default:
			gone[node] = silent{lease: a.lease, grace: r.cfg.Grace}
			delete(absent, node)
		}
	}
	if err := r.noteLeases(ctx, fresh, absent); err != nil || len(gone) == 0 {
		return err
	}
	if same, err := r.sameRedis(ctx); err != nil || !same {
		clear(absent)
		return err
	}
	return r.declare(ctx, gone)
}

// noteLeases notes the ends of the leases of nodes that are absent for the first time.
func (r *Redis) noteLeases(ctx context.Context, nodes []string, absent map[string]*absence) error {
	if len(nodes) == 0 {
		return nil
	}
	pipe := r.client.Pipeline()
	cmds := map[string]*redis.FloatCmd{}
	for _, node := range nodes {
		cmds[node] = pipe.ZScore(ctx, directoryKeys(r.cfg.Prefix)[0], node)
	}
	r.metrics.trips.WithLabelValues("watch").Inc()
	if _, err := pipe.Exec(ctx); err != nil && err != redis.Nil {
		return err
	}
	for node, cmd := range cmds {
		if cmd.Err() == nil || cmd.Err() == redis.Nil {
			absent[node] = &absence{looks: 1, lease: int64(cmd.Val())}
		}
	}
	return nil
}

// sameRedis reports whether Redis is the process that it was at the last beat: another one begins without any
// subscription.
func (r *Redis) sameRedis(ctx context.Context) (bool, error) {
	masters, err := r.findMasters(ctx)
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	same := maps.Equal(masters, r.masters)
	if !same {
		wake(r.poke)
	}
	return same, nil
}

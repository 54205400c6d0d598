package state

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errLapsed = errors.New("this node's lease was not renewed in time")

// death is what is known of a dead node. Its members are orphans until its grace ends: they stay in their
// rooms, and another node may adopt them; then one node, which lease.lua picks, removes those that are left.
// The truth is in Redis, where the dead are a set of their own, so that all nodes have the same ends of
// graces. A node that beats within its grace is not dead any more, and what it had it has.
type death struct {
	since   time.Time // when this node heard of it
	until   time.Time // the end of the grace
	listed  bool      // Redis has it among the dead
	reaped  bool      // Redis had it, and has forgotten it since
	indexed bool      // the node kept an index of its rooms
	ended   bool      // the node said that it ends: it does not come back
}

// obituary is a death of which Events.Died has not told yet: it waits for a probe that was sent after the
// death was known, since whatever the node published arrives before it.
type obituary struct {
	node  string
	probe uint64
}

// awayLocked says why this node must not act in the sight of the others, or nil: the state is away, or its
// lease has ended by its own clock, so that the others may have taken it for dead.
func (r *Redis) awayLocked() error {
	if r.down != nil {
		return r.down
	}
	return r.lapsed()
}

func (r *Redis) lapsed() error {
	if r.beats.Load() && !r.unrenewable.Load() && time.Since(*r.renewed.Load()) >= r.cfg.Lease {
		return errLapsed
	}
	return nil
}

// overLocked reports whether a node is dead and its grace is over.
func (r *Redis) overLocked(node string) bool {
	d := r.dead[node]
	return d != nil && !time.Now().Before(d.until)
}

// lostNodes returns the dead nodes whose grace is over.
func (r *Redis) lostNodes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for node := range r.dead {
		if r.overLocked(node) {
			out = append(out, node)
		}
	}
	return out
}

// dieLocked takes a node for dead, until the end of its grace.
func (r *Redis) dieLocked(node string, until time.Time) {
	if r.dead[node] != nil || node == r.id {
		return
	}
	d := &death{since: time.Now(), until: until}
	if p := r.peers[node]; p != nil {
		d.indexed = p.info.Protocol >= indexProtocol
	}
	delete(r.peers, node)
	r.dead[node] = d
	r.obits = append(r.obits, obituary{node: node, probe: r.probe.Load() + 1})
	if s := r.streams[node]; s != nil {
		s.drop(ErrNoNode)
	}
	r.log.Info("node is dead", "node", r.id, "dead", node, "grace_s", time.Until(until).Seconds())
	wake(r.poke) // For the probe, and for the sweep if there is no grace.
}

// reviveLocked takes a node for alive again.
func (r *Redis) reviveLocked(node string) {
	if r.dead[node] == nil {
		return
	}
	delete(r.dead, node)
	delete(r.estates, node)
	r.asks[node] = true // It may have had something to say.
	r.log.Info("node is alive again", "node", r.id, "alive", node)
}

// learnDeathsLocked takes over who is dead, as Redis said after a question that was sent at a time.
func (r *Redis) learnDeathsLocked(dead map[string]int64, asked time.Time) {
	now := time.Now()
	for node, ms := range dead {
		if p := r.peers[node]; p != nil && asked.Before(p.at) {
			continue // It was heard to live since.
		}
		if node == r.id {
			wake(r.poke)
			continue
		}
		r.enlistLocked(node, ms)
	}
	for node, d := range r.dead {
		if _, there := dead[node]; there || !d.listed || asked.Before(d.since) {
			continue
		}
		d.listed = false
		if d.reaped = !now.Before(d.until); !d.reaped {
			wake(r.poke) // It lives again, or Redis has lost something.
		}
	}
}

// enlistLocked takes over a death that Redis knows, with the end of the grace. Who sweeps puts that off in Redis.
func (r *Redis) enlistLocked(node string, ms int64) {
	until := r.localTime(ms)
	r.dieLocked(node, until)
	d := r.dead[node]
	if !d.listed {
		d.until = until
	}
	d.listed, d.reaped = true, false
}

// localTime translates a time of Redis' clock, in ms, to this machine's.
func (r *Redis) localTime(ms int64) time.Time {
	return r.started.Add(time.Duration(ms*1000-r.skew.Load()) * time.Microsecond)
}

// reviewDeadLocked finds the dead that Redis does not know as dead, as after the loss of its data, once, and again
// while rooms name them. It forgets those of old, and returns when the next grace ends.
func (r *Redis) reviewDeadLocked(now time.Time, named map[string]bool) (due time.Time) {
	due = now.Add(r.cfg.Lease)
	for node, d := range r.dead {
		late := now.Sub(d.until)
		switch {
		case !d.listed && !d.reaped && (named[node] || !d.ended), !d.listed && named[node] && late > r.cfg.Lease:
			r.undeclared[node] = true
		case late > 10*r.cfg.Lease:
			r.forgetLocked(node, d.ended)
		case late < 0:
			due = minTime(due, d.until)
		}
	}
	return due
}

// forgetLocked forgets a dead node. One that has not said that it ends may come back, and finds its streams as they were.
func (r *Redis) forgetLocked(node string, ended bool) {
	delete(r.dead, node)
	delete(r.estates, node)
	if !ended {
		return
	}
	delete(r.streams, node)
	delete(r.positions, node)
	delete(r.strangers, node)
	delete(r.mismatched, node)
	r.tags.Delete(node)
}

// declareMissing tells Redis of dead nodes that it does not know as such.
func (r *Redis) declareMissing(ctx context.Context) {
	r.mu.Lock()
	missing := map[string]silent{}
	for node := range r.undeclared {
		if d := r.dead[node]; d != nil {
			missing[node] = silent{grace: max(time.Until(d.until), 0)}
		}
	}
	clear(r.undeclared)
	r.mu.Unlock()
	if len(missing) == 0 {
		return
	}
	if err := r.declare(ctx, missing); err != nil {
		r.log.Debug("declaring nodes dead", "node", r.id, "error", err)
	}
}

// silent is a node that is to be declared dead.
type silent struct {
	lease int64 // the end of the lease that it may have, 0 for none
	grace time.Duration
}

// declare declares nodes dead in Redis unless they have renewed their lease since.
func (r *Redis) declare(ctx context.Context, nodes map[string]silent) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	began := time.Now()
	args := []any{r.clock(deadline) / 1000, r.roomTTL().Milliseconds()}
	for node, s := range nodes {
		args = append(args, node, s.lease, s.grace.Milliseconds())
	}
	r.metrics.trips.WithLabelValues("declare").Inc()
	raw, err := declareScript.Run(ctx, r.client, directoryKeys(r.cfg.Prefix), args...).Result()
	if err != nil {
		return fmt.Errorf("declaring a node dead: %w", err)
	}
	dead, err := parseTimes(raw)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for node, ms := range dead {
		if p := r.peers[node]; p == nil || p.at.Before(began) {
			r.enlistLocked(node, ms)
		}
	}
	if len(dead) > 0 {
		wake(r.poke)
	}
	return nil
}

// mourn tells of the deaths that were known when the probe of that number was sent. It is called by the
// goroutine that delivers.
func (r *Redis) mourn(probe uint64) {
	r.mu.Lock()
	var due, rest []obituary
	for _, o := range r.obits {
		if o.probe <= probe {
			due = append(due, o)
		} else {
			rest = append(rest, o)
		}
	}
	r.obits = rest
	r.mu.Unlock()
	for _, o := range due {
		r.lastWords(o.node)
		r.events.Died(o.node)
	}
}

// tellMissed calls Lost for all nodes after a time in which they may have sent this one nothing.
func (r *Redis) tellMissed() {
	r.mu.Lock()
	var nodes []string
	if r.missed {
		for node := range r.peers {
			if node != r.id {
				nodes = append(nodes, node)
			}
		}
	}
	r.missed = false
	r.mu.Unlock()
	for _, node := range nodes {
		r.events.Lost(node)
	}
}

// farewell notes that a node has ended in good order.
func (r *Redis) farewell(source string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dieLocked(source, time.Now().Add(r.cfg.Grace))
	r.dead[source].ended = true
}

package state

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// repair is the goroutine that mends: it buries dead nodes, asks the living what this one missed and
// asserts this node's members where there is doubt.
func (r *Redis) repair() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.work:
		}
		if r.Ready() != nil {
			continue // The end of the outage wakes us again.
		}
		r.bury(r.ctx)
		r.askAround()
		r.assertDirty(r.ctx)
		r.sweep(r.ctx)
	}
}

// each runs f for every name, some at a time, and waits for all.
func each(names []string, f func(string)) {
	var wg sync.WaitGroup
	next := make(chan string)
	for range min(repairers, len(names)) {
		wg.Go(func() {
			for name := range next {
				f(name)
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	wg.Wait()
}

// assertDirty compares all rooms in doubt with Redis. Those for which it fails stay in doubt.
func (r *Redis) assertDirty(ctx context.Context) {
	r.mu.Lock()
	rooms := slices.Collect(maps.Keys(r.dirty))
	r.mu.Unlock()
	each(rooms, func(room string) { r.assert(ctx, room) })
}

// assert makes a room right about this node's members, here, in Redis and at the other nodes.
func (r *Redis) assert(ctx context.Context, room string) {
	r.mu.Lock()
	m := r.mirrorLocked(room)
	if m.busy > 0 || m.asserting != nil {
		r.mu.Unlock() // It stays in doubt; the end of the change wakes the repairer.
		return
	}
	delete(r.dirty, room)
	m.asserting = make(chan struct{})
	known, args := r.assertionLocked(m)
	r.mu.Unlock()

	rep, err := r.change(ctx, "assert", assertScript, room, known, args...)

	r.mu.Lock()
	close(m.asserting)
	m.asserting = nil
	if err != nil {
		r.dirty[room] = struct{}{}
		r.mu.Unlock()
		return
	}
	view, news := r.agreeLocked(room, m, rep, known)
	r.tidyLocked(room, m)
	r.mu.Unlock()
	r.log.Debug("room asserted", "node", r.id, "room", room, "version", rep.version, "members", len(rep.members), "changed", rep.changed)
	if news {
		r.events.View(view)
	}
}

// assertionLocked returns the version that this node knows and what it asserts: its members, and
// those of other living nodes in case Redis has lost the room.
func (r *Redis) assertionLocked(m *mirror) (known uint64, args []any) {
	var own, others []any
	for id, s := range m.own {
		own = append(own, id, epochText(s.epoch), s.joined)
	}
	for _, e := range m.members {
		if _, dead := r.dead[e.Node]; e.Node != r.id && !dead && len(m.own)+len(m.leaving) > 0 {
			r.rumourLocked(e.Node, time.Now()) // This node may be the one that brings it back to Redis.
			others = append(others, e.ID, epochText(e.Epoch), e.Joined, e.Node)
		}
	}
	known = m.version
	if m.ahead {
		known++ // So that what was shown is replaced.
	}
	return known, slices.Concat([]any{known, m.founded, len(m.own)}, own, others)
}

// agreeLocked takes over a room as its assertion left it and has the other nodes told if anything
// about it may be news to them. It reports whether it is news here.
func (r *Redis) agreeLocked(room string, m *mirror, rep reply, known uint64) (View, bool) {
	c := change{Room: room, Version: rep.version, Members: rep.members, Founded: rep.founded}
	for _, e := range rep.left {
		reason := ReasonDisconnect
		if d, ok := m.leaving[e.ID]; ok {
			reason = d.Reason
		} else if r.closed {
			reason = ReasonNodeLost
		}
		c.Left = append(c.Left, Departure{Member: e.member(), Reason: reason})
	}
	for id, s := range m.own {
		if e, there := find(rep.members, id); there && e.Epoch > s.epoch {
			delete(m.own, id)
		} else if there {
			m.own[id] = stay{epoch: s.epoch, joined: e.Joined, settled: true}
		}
	}
	if rep.changed || rep.version != known {
		for id, d := range m.leaving { // Redis may know without the others having heard.
			if _, there := find(c.Members, id); !there && !slices.ContainsFunc(c.Left, func(d Departure) bool { return d.ID == id }) {
				c.Left = append(c.Left, d)
			}
		}
		r.tellLocked(c) // Without the guesses that follow, which their own nodes would have to believe.
	}
	r.explainLocked(m, &c)
	clear(m.leaving)
	m.touched = time.Now()
	if rep.version < m.version {
		return View{}, false
	}
	m.founded = rep.founded
	if rep.version == m.version {
		return View{}, false
	}
	m.take(c)
	return c.view(), true
}

// bury removes the members of nodes that died from the rooms that this node knows.
func (r *Redis) bury(ctx context.Context) {
	r.mu.Lock()
	graves := r.graves
	r.graves = nil
	var rooms []string
	for room, m := range r.rooms {
		if slices.ContainsFunc(m.members, func(e entry) bool { return slices.Contains(graves, e.Node) }) {
			rooms = append(rooms, room)
		}
	}
	r.mu.Unlock()
	each(rooms, func(room string) { r.reap(ctx, room, graves) })
	for _, node := range graves {
		r.log.Info("node is lost", "node", r.id, "lost", node)
		r.lastWords(node)
		r.events.Died(node)
	}
}

// reap removes the members of dead nodes from a room. Whichever node is first has the others told.
func (r *Redis) reap(ctx context.Context, room string, dead []string) {
	args := make([]any, len(dead))
	for i, node := range dead {
		args[i] = node
	}
	rep, err := r.change(ctx, "reap", reapScript, room, 0, args...)
	if err != nil {
		r.log.Debug("reaping", "node", r.id, "room", room, "error", err)
		return
	}
	c := change{Room: room, Version: rep.version, Members: rep.members, Founded: rep.founded}
	for _, e := range rep.left {
		c.Left = append(c.Left, Departure{Member: e.member(), Reason: ReasonNodeLost})
	}
	if rep.changed {
		r.metrics.reaped.Add(float64(len(rep.left)))
		r.mu.Lock()
		r.tellLocked(c)
		r.mu.Unlock()
	}
	if v, news := r.update(c); news {
		r.events.View(v)
	}
}

// sweep removes the members of nodes that died from all rooms, also those that no living node knows
// of. Redis picks one node for it; see lease.lua.
func (r *Redis) sweep(ctx context.Context) {
	r.mu.Lock()
	dead := r.sweeps
	r.sweeps = nil
	r.mu.Unlock()
	if len(dead) == 0 {
		return
	}
	rooms, err := r.allRooms(ctx)
	if err != nil {
		r.log.Debug("looking for rooms of lost nodes", "node", r.id, "error", err)
		return // Somebody tries again after another lease.
	}
	each(rooms, func(room string) { r.reap(ctx, room, dead) })
	if r.Ready() != nil {
		return
	}
	if err := r.release(ctx, dead...); err != nil {
		r.log.Debug("ending the burial", "node", r.id, "error", err)
	}
}

// allRooms returns the names of all rooms that Redis holds.
func (r *Redis) allRooms(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	found := map[string]bool{}
	prefix, suffix := r.cfg.Prefix+"{r:", "}"
	scan := func(ctx context.Context, c redis.Cmdable) error {
		var cursor uint64
		for {
			r.metrics.trips.WithLabelValues("scan").Inc()
			keys, next, err := c.Scan(ctx, cursor, prefix+"*"+suffix, 1000).Result()
			if err != nil {
				return err
			}
			mu.Lock()
			for _, key := range keys {
				found[strings.TrimSuffix(strings.TrimPrefix(key, prefix), suffix)] = true
			}
			mu.Unlock()
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	err := r.eachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return scan(ctx, c) }, scan)
	return slices.Collect(maps.Keys(found)), err
}

// eachMaster runs one of the functions: the first on every master of a Cluster, else the second.
func (r *Redis) eachMaster(ctx context.Context, many func(context.Context, *redis.Client) error, single func(context.Context, redis.Cmdable) error) error {
	if r.cluster != nil {
		return r.cluster.ForEachMaster(ctx, many)
	}
	return single(ctx, r.client)
}

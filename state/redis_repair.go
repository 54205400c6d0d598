package state

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// repair is the goroutine that mends: it declares nodes dead that Redis does not know as such, asks the living
// what this one missed, asserts this node's members where there is doubt, and sweeps after the dead.
func (r *Redis) repair() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.work:
		}
		if r.away() != nil {
			continue // The end of the outage wakes us again.
		}
		r.declareMissing(r.ctx)
		r.askAround()
		r.tellMissed()
		r.assertDirty(r.ctx)
		r.endDoubt()
		r.sweep(r.ctx)
		r.fileRooms(r.ctx)
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
	doubts, stale, users := m.doubts, m.stale, slices.Collect(maps.Keys(m.own))
	r.mu.Unlock()
	absent := r.absent(room, users)
	r.mu.Lock()
	known, args := r.assertionLocked(m, absent)
	asserted := m.version
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
	missed := m.returned(rep.back)
	m.leave(rep.over)
	view, news := r.agreeLocked(room, m, rep, known, m.version > asserted)
	r.mu.Unlock()
	if len(missed) > 0 {
		r.events.Missed(room, missed)
	}
	r.log.Debug("room asserted", "node", r.id, "room", room, "version", rep.version, "members", len(rep.members), "changed", rep.changed, "stale", stale, "over", len(rep.over))
	if news {
		r.events.View(view)
	}
	r.mu.Lock()
	r.trustLocked(m, doubts) // Whoever was to be told has been told.
	r.tidyLocked(room, m)
	r.mu.Unlock()
}

// returned returns those of this node's members that others had taken out of the room, as when they took this
// node for dead for longer than the grace: meanwhile nothing was sent to them. Redis' mu is held.
func (m *mirror) returned(back []any) (users []string) {
	for _, id := range back {
		if user, _ := id.(string); m.own[user].known {
			users = append(users, user)
		}
	}
	return users
}

// leave forgets members of this node whom others have taken out rightly. Redis' mu is held.
func (m *mirror) leave(over []any) {
	for _, id := range over {
		user, _ := id.(string)
		delete(m.own, user)
	}
}

// assertionLocked returns the version that this node knows and what it asserts: its members, of whom some may be absent, and
// those of other nodes, orphans included, in case Redis has lost the room and this node has heard all that happened.
func (r *Redis) assertionLocked(m *mirror, absent map[string]bool) (known uint64, args []any) {
	var own, left, others []any
	for id, s := range m.own {
		gone := 0
		if absent[id] && s.known {
			gone = 1
			if m.stale {
				gone = 2
			}
		}
		own = append(own, id, epochText(s.epoch), s.joined, gone)
	}
	for _, e := range m.members {
		if e.Node != r.id && !r.overLocked(e.Node) && len(m.own) > 0 && !m.stale && !m.isOver(e) {
			r.rumourLocked(e.Node, time.Now()) // This node may be the one that brings it back to Redis.
			others = append(others, e.ID, epochText(e.Epoch), e.Joined, e.Node)
		}
	}
	for id, d := range m.leaving {
		left = append(left, id, epochText(d.Epoch))
	}
	for id, g := range m.gone {
		if e, there := find(m.members, id); !there || m.isOver(e) {
			left = append(left, id, epochText(g.epoch))
		}
	}
	known = m.version
	if m.ahead {
		known++ // So that what was shown is replaced.
	}
	return known, slices.Concat([]any{known, m.founded, len(m.own)}, own, []any{len(left) / 2}, left, others)
}

// agreeLocked takes over a room as its assertion left it and has the other nodes told if anything
// about it may be news to them. It reports whether it is news here. What this node heard of meanwhile it has not asserted: when Redis
// lost the room, that comes next.
func (r *Redis) agreeLocked(room string, m *mirror, rep reply, known uint64, heard bool) (View, bool) {
	c := change{Room: room, Version: rep.version, Members: rep.members, Founded: rep.founded}
	for _, e := range rep.left {
		reason := ReasonDisconnect
		if d, ok := m.leaving[e.ID]; ok {
			reason = d.Reason
		} else if r.closed {
			reason = ReasonNodeLost
		} else if _, there := find(rep.members, e.ID); there {
			continue // It has moved, and somebody who had not heard of that had restored it here.
		}
		c.Left = append(c.Left, Departure{Member: e.member(), Reason: reason})
	}
	for id, s := range m.own {
		if e, there := find(rep.members, id); there && e.Epoch > s.epoch {
			delete(m.own, id)
		} else if there {
			m.own[id] = stay{epoch: s.epoch, joined: e.Joined, settled: true, known: true}
		}
	}
	if rep.changed || rep.version != known {
		for id, d := range m.leaving { // Redis may know without the others having heard.
			if _, there := find(c.Members, id); !there && !slices.ContainsFunc(c.Left, func(d Departure) bool { return d.ID == id }) {
				c.Left = append(c.Left, d)
			}
		}
		r.tellLocked(c, nodesOf(m.members)...) // Without the guesses that follow, which their own nodes would have to believe.
	}
	m.remember(c.Left, r.remembrance())
	c.Members = slices.DeleteFunc(slices.Clone(c.Members), m.isOver)
	incomplete := (r.guessLocked(m, c) || heard) && r.completeLocked(m, &c)
	r.explainLocked(m, &c)
	clear(m.leaving)
	m.touched = time.Now()
	if rep.version < m.version {
		return View{}, false
	}
	if !incomplete {
		m.founded = rep.founded
	}
	if rep.version == m.version {
		return View{}, false
	}
	m.take(c)
	return c.view(r.id), true
}

// eachMaster runs one of the functions: the first on every master of a Cluster, else the second.
func (r *Redis) eachMaster(ctx context.Context, many func(context.Context, *redis.Client) error, single func(context.Context, redis.Cmdable) error) error {
	if r.cluster != nil {
		return r.cluster.ForEachMaster(ctx, many)
	}
	return single(ctx, r.client)
}

package state

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A node knows better than Redis about its own members, unless the others have taken it for dead: then they may have
// adopted some or removed them, and who was adopted may have left since. They can do that while this process stands
// still or cannot reach Redis, and it must know so before it acts on what it believes. So a node doubts from the
// moment at which that can have begun, which it sees by its own clock, until a beat has found its lease as it
// left it. When the lease was another or gone, each room stays in doubt until it was asserted. Doubtful is for
// whoever wants to believe something of a room.
//
// What a node believes is stale, besides, when it heard nothing for some time in which the others acted. Then it restores nobody else's
// members in rooms that Redis lost, and of its own that others have removed it puts back only those whose client is there. Its clients
// see the others' members as before, until their own nodes have had the time to restore them.
const (
	// stillness is how long this process must not have run for that to be noticed: less than others need to take
	// it for dead.
	stillness  = (watchLooks - 1) * watchEvery * 5 / 6
	pulseEvery = stillness / 4
	// trustTime bounds how long anybody waits for the end of doubt.
	trustTime = 3 * time.Second
)

// pulse notices that the process did not run.
type pulse struct {
	mu   sync.Mutex   // held while the node is told
	last atomic.Int64 // when it ran last, in ns since the node's start
	woke atomic.Int64 // when it ran again after a time in which it did not, the same
}

// woke returns when the process ran again last, after it had not for a while; the node's start if it always ran. What a client
// wanted before it may want no more.
func (r *Redis) woke() time.Time {
	r.feelPulse()
	return r.started.Add(time.Duration(r.pulse.woke.Load()))
}

// beatPulse is the goroutine that notes that the process runs.
func (r *Redis) beatPulse() {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		now := int64(time.Since(r.started))
		r.feelPulse()
		r.pulse.last.Store(max(now, r.pulse.last.Load()))
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
	}
}

// stoodStill reports whether the process has just begun to run again, which the node may not have been told yet.
func (r *Redis) stoodStill() bool {
	return time.Since(r.started)-time.Duration(r.pulse.last.Load()) > stillness
}

// feelPulse returns when the node knows whether the process did not run until a moment ago.
func (r *Redis) feelPulse() {
	if !r.stoodStill() {
		return
	}
	r.pulse.mu.Lock()
	defer r.pulse.mu.Unlock()
	if !r.stoodStill() {
		return
	}
	now := time.Since(r.started)
	since := r.started.Add(time.Duration(r.pulse.last.Load()))
	r.log.Debug("this process did not run", "node", r.id, "for_ms", time.Since(since).Milliseconds())
	r.doubt()
	r.mu.Lock()
	r.slept, r.waking = true, true
	r.mu.Unlock()
	r.events.Slept(since)
	r.pulse.woke.Store(int64(now))
	r.pulse.last.Store(int64(now))
	wake(r.poke)
}

// doubt notes that others may take this node for dead from now on, if it ever lived for them.
func (r *Redis) doubt() {
	if r.beats.Load() {
		now := time.Now()
		r.doubted.Store(&now)
	}
}

// Doubtful reports whether members that this node has in a room may be at another node, or in the room no more,
// because others may have taken this node for dead. It does no I/O and may be called under a lock, as Send.
func (r *Redis) Doubtful(room string) bool {
	switch {
	case r.doubted.Load() != nil, r.stoodStill(), r.lapsed() != nil:
		return true
	case !r.doubtful.Load():
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.rooms[room]
	return m != nil && m.doubts > 0
}

// AwaitTrust waits, as long as that makes sense, until the members that this node has in a room are known not to be
// elsewhere. Without Redis nobody can know.
func (r *Redis) AwaitTrust(ctx context.Context, room string) {
	late := time.NewTimer(trustTime)
	defer late.Stop()
	for {
		r.feelPulse()
		r.mu.Lock()
		relief := r.reliefLocked(r.rooms[room])
		r.mu.Unlock()
		if relief == nil {
			return
		}
		select {
		case <-relief:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		case <-r.ctx.Done():
			return
		}
	}
}

// reliefLocked returns what is closed when it is time to look again whether a room is in doubt, nil if it is not or nobody can
// know.
func (r *Redis) reliefLocked(m *mirror) <-chan struct{} {
	lapsed := errors.Is(r.awayLocked(), errLapsed) // It has a lease again before long, as after an outage.
	away := r.down != nil && !lapsed && time.Since(r.fell) > insistTime
	if away || !r.waking && !lapsed && (m == nil || m.doubts == 0) {
		return nil
	}
	if r.relief == nil {
		r.relief = make(chan struct{})
	}
	return r.relief
}

func (r *Redis) relieveLocked() {
	if r.relief != nil {
		close(r.relief)
		r.relief = nil
	}
}

// awake notes that a beat has ended which began at a time, so that it is known whether Redis is away.
func (r *Redis) awake(began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if since := r.doubted.Load(); since == nil || began.After(*since) || r.down != nil && !errors.Is(r.down, errLapsed) {
		r.waking = false
	}
	r.relieveLocked()
}

// reassureLocked ends the doubt with a beat that began at a time. If it did not find the lease as this node left
// it, the rooms are in doubt.
func (r *Redis) reassureLocked(l lease, began time.Time) {
	same := l.had != 0 && l.had == r.leaseEnd
	r.leaseEnd = l.now/1000 + r.cfg.Lease.Milliseconds()
	if r.beaten && !same {
		for room, m := range r.rooms {
			m.doubts++
			m.stale = m.stale || l.buried || r.slept
			r.dirty[room] = struct{}{}
		}
		r.doubtful.Store(true)
	}
	if since := r.doubted.Load(); since != nil && began.After(*since) && r.doubted.CompareAndSwap(since, nil) {
		r.slept = false
	}
}

// trustLocked ends the doubt of a room that was asserted, unless there is new reason for it.
func (r *Redis) trustLocked(m *mirror, doubts int) {
	if m.doubts == doubts {
		m.doubts, m.stale = 0, !m.guessed.IsZero()
	}
	r.relieveLocked()
}

// guessLocked reports whether members of other nodes may be there although a room that Redis lost does not have them and this node
// cannot restore them, since what it knows is stale: their own nodes do that when they hear of the loss. After a time they have, unless
// Redis has lost the room again. A node that is slow may take as long as it likes: its time begins when it answers.
func (r *Redis) guessLocked(m *mirror, c change) bool {
	lacking := r.lackingLocked(m, c)
	again := m.anew != c.Founded
	switch {
	case !m.stale || !m.lost(c.Founded) || len(lacking) == 0, !m.guessed.IsZero() && !again && r.hadTimeLocked(m, lacking):
		m.guessed = time.Time{}
		return false
	case m.guessed.IsZero():
		r.spawn(func() { r.reviewGuess(c.Room, m) })
	case !again:
		return true
	}
	m.guessed, m.anew = time.Now(), c.Founded
	for _, e := range lacking {
		r.positionLocked(e.Node).unsure = true
		r.asks[e.Node] = true
	}
	wake(r.work)
	return true
}

// hadTimeLocked reports whether the nodes of members that a room lacks have had the time to restore them. Who does not answer for a lease is
// not slow but dead.
func (r *Redis) hadTimeLocked(m *mirror, lacking []entry) bool {
	since := time.Since(m.guessed)
	if since < trustTime || since >= r.cfg.Lease+trustTime {
		return since >= trustTime
	}
	for _, e := range lacking {
		if at := r.positionLocked(e.Node); at.unsure || time.Since(at.sure) < trustTime {
			return false
		}
	}
	return true
}

// lackingLocked returns the members of other nodes that this one knows and a room lacks.
func (r *Redis) lackingLocked(m *mirror, c change) (lacking []entry) {
	for _, e := range m.members {
		if _, there := find(c.Members, e.ID); !there && e.Node != r.id && !m.isOver(e) && !r.overLocked(e.Node) {
			lacking = append(lacking, e)
		}
	}
	return lacking
}

// reviewGuess has a room asserted now and then, until its guesses have turned out true or not.
func (r *Redis) reviewGuess(room string, m *mirror) {
	for r.pause(time.Now().Add(trustTime)) {
		r.mu.Lock()
		open := r.rooms[room] == m && !m.guessed.IsZero()
		if open {
			r.conflictLocked(room)
		}
		r.mu.Unlock()
		if !open {
			return
		}
	}
}

// endDoubt notes whether any room is in doubt.
func (r *Redis) endDoubt() {
	if !r.doubtful.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.rooms {
		if m.doubts > 0 {
			return
		}
	}
	r.doubtful.Store(false)
}

// absent returns which of this node's members in a room have no client there, see Events.Present. It is called
// without a lock.
func (r *Redis) absent(room string, users []string) map[string]bool {
	out := map[string]bool{}
	for _, user := range users {
		out[user] = !r.events.Present(room, user)
	}
	return out
}

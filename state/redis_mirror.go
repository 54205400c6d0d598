package state

import (
	"maps"
	"slices"
	"time"
)

// mirror is what the node knows of a room in which it has members, or is about to. Redis' mu guards
// it.
type mirror struct {
	version uint64
	// founded is the founding of Redis' copy, see room.lua, that is known to hold all members; 0 when it
	// is not known.
	founded uint64
	members []entry
	// ahead says that the members are more than Redis had at that version.
	ahead bool
	// own are this node's members, by id: what Redis must hold of them whatever happens to it.
	own map[string]stay
	// leaving are members that left, of which the others may not have heard yet.
	leaving map[string]Departure
	// gone are those whose stay is over, as their own nodes said a while ago; see remember.
	gone map[string]gone
	// busy counts the changes of this node that are under way; no assertion begins meanwhile.
	busy int
	// asserting is closed at the end of an assertion; no change begins meanwhile.
	asserting chan struct{}
	// indexed says that the node's index of rooms may have this one.
	indexed bool
	// doubts counts the reasons to doubt the node's own members since the last assertion, and stale says that the
	// others acted while this node heard nothing. See redis_doubt.go.
	doubts int
	stale  bool
	// guessed is when a stale mirror was first held against a room that Redis lost, zero for not, and anew that room's
	// founding; see guessLocked.
	guessed time.Time
	anew    uint64
	// touched is when this node last made Redis keep the room for longer.
	touched time.Time
}

// stay is one member of this node in a room.
type stay struct {
	epoch   uint64
	joined  uint64
	settled bool // the join is done; until then Redis may or may not have it
	known   bool // Redis had it, so that other nodes may have
}

// gone is a stay that is over.
type gone struct {
	epoch, joined uint64
	at            time.Time
}

// remember notes whose stay is over, as their own nodes say: who has not heard of it may bring them back to a room that
// Redis lost, as when a node was cut off and Redis lost its data meanwhile. They are not seen to come and leave again; their
// nodes put Redis right. A stay that is over never comes back: who enters again has another.
func (m *mirror) remember(left []Departure, keep time.Duration) {
	now := time.Now()
	maps.DeleteFunc(m.gone, func(_ string, g gone) bool { return now.Sub(g.at) > keep })
	for _, d := range left {
		if d.Reason == ReasonNodeLost || d.Joined < m.gone[d.ID].joined {
			continue // Whom others took for dead may come back.
		}
		if m.gone == nil {
			m.gone = map[string]gone{}
		}
		m.gone[d.ID] = gone{d.Epoch, d.Joined, now}
	}
}

// isOver reports whether a member that Redis holds is known to have left. Of its own members who have entered again the node
// makes Redis right instead.
func (m *mirror) isOver(e entry) bool {
	g, known := m.gone[e.ID]
	s, own := m.own[e.ID]
	return known && e.Joined <= g.joined && e.Epoch <= g.epoch && !(own && s.epoch == e.Epoch)
}

// follow takes over who has moved by a change that is old because Redis lost the room since and this node brought it back without
// knowing of that. It reports whether there is anybody; then Redis does not know it either.
func (m *mirror) follow(c change) (moved bool) {
	if c.Founded == 0 || c.Founded == m.founded {
		return false
	}
	members := slices.Clone(m.members)
	for i, e := range members {
		if there, _ := find(c.Members, e.ID); e.Epoch < there.Epoch && e.Joined == there.Joined {
			members[i], moved = there, true
		}
	}
	if moved {
		m.members, m.founded, m.ahead = members, otherFounding, true
	}
	return moved
}

// otherFounding stands for one that is not known but that Redis' copy of the room does not have.
const otherFounding = 1

// change is a room after a change, on its way to the other nodes.
type change struct {
	Room    string
	Version uint64
	Members []entry
	Left    []Departure `json:",omitempty"`
	Founded uint64      `json:",omitempty"` // as in a reply
}

func (c change) view(from string) View {
	members := make([]Member, len(c.Members))
	for i, e := range c.Members {
		members[i] = e.member()
	}
	return View{Room: c.Room, Version: c.Version, Members: members, Left: c.Left, From: from}
}

func find(members []entry, id string) (entry, bool) {
	i := slices.IndexFunc(members, func(e entry) bool { return e.ID == id })
	if i < 0 {
		return entry{}, false
	}
	return members[i], true
}

// update takes over a room as a node, which may be this one when it buries another, left it. It reports whether the
// view is for this node's members: not when it is old, and not when it is wrong about them; then they
// are asserted, and the room as it is after that is for them.
func (r *Redis) update(from string, c change) (View, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raise(c.Version)
	m := r.rooms[c.Room]
	if m == nil {
		if slices.ContainsFunc(c.Members, func(e entry) bool { return e.Node == r.id }) {
			r.conflictLocked(c.Room)
		}
		return View{}, false
	}
	m.remember(c.Left, r.remembrance())
	if c.Version <= m.version {
		if m.follow(c) || slices.ContainsFunc(m.members, m.isOver) { // The latter left a room that Redis does not have.
			r.conflictLocked(c.Room)
		}
		return View{}, false
	}
	ghost := func(e entry) bool {
		_, own := m.own[e.ID]
		return e.Node == r.id && !own && m.busy == 0
	}
	robbed := r.robbedLocked(m, c)
	if m.lost(c.Founded) {
		c.Members = slices.DeleteFunc(slices.Clone(c.Members), ghost)
		r.completeLocked(m, &c)
	} else if robbed || slices.ContainsFunc(c.Members, ghost) {
		r.conflictLocked(c.Room)
		return View{}, false
	}
	c.Members = slices.DeleteFunc(slices.Clone(c.Members), func(e entry) bool { return m.isOver(e) || r.isHidden(m, e) })
	r.explainLocked(m, &c)
	m.take(c)
	r.tidyLocked(c.Room, m)
	return c.view(from), true
}

// lost reports whether Redis lost the room since the mirror's state of it and the room was founded anew:
// it need not hold all members that are there.
func (m *mirror) lost(founded uint64) bool {
	switch {
	case founded == 0 || m.version == 0:
		return false
	case m.founded == 0:
		return founded > m.version
	}
	return founded != m.founded
}

// take takes over a room as a change left it. A founding that is another than the mirror's stays to be
// agreed on by an assertion.
func (m *mirror) take(c change) {
	m.ahead = m.lost(c.Founded)
	switch {
	case !m.ahead:
		m.founded = max(m.founded, c.Founded)
	case m.founded == 0:
		m.founded = otherFounding
	}
	m.version, m.members = c.Version, c.Members
}

// completeLocked adds to a change of a room that Redis lost and somebody founded anew the members that
// this node knows and who did not leave, so that nobody is seen to leave because Redis forgot. It reports
// whether the room is such; then it will be asserted, which brings them back to Redis, unless all that is missing is a guess.
func (r *Redis) completeLocked(m *mirror, c *change) bool {
	if !m.lost(c.Founded) {
		return false
	}
	members, assert := slices.Clone(c.Members), m.guessed.IsZero()
	for _, e := range m.members {
		s, own := m.own[e.ID]
		own = own && s.epoch == e.Epoch
		i := slices.IndexFunc(members, func(o entry) bool { return o.ID == e.ID })
		left := m.isOver(e) || slices.ContainsFunc(c.Left, func(d Departure) bool { return d.ID == e.ID && d.Epoch >= e.Epoch })
		switch {
		case i >= 0 && members[i].isBefore(e) && (own || e.Node != r.id):
			members[i], assert = e, assert || own
		case i < 0 && (own || !left && e.Node != r.id && !r.overLocked(e.Node)):
			members, assert = append(members, e), assert || own
		}
	}
	sortEntries(members)
	c.Members = members
	c.Left = slices.DeleteFunc(slices.Clone(c.Left), func(d Departure) bool {
		e, there := find(members, d.ID)
		return there && (e.Epoch == d.Epoch || e.Joined == d.Joined)
	})
	if assert {
		r.conflictLocked(c.Room)
	}
	return true
}

// nodesOf returns the nodes of members, some more than once.
func nodesOf(members []entry) []string {
	nodes := make([]string, len(members))
	for i, e := range members {
		nodes[i] = e.Node
	}
	return nodes
}

func (r *Redis) conflictLocked(room string) {
	r.mirrorLocked(room)
	r.dirty[room] = struct{}{}
	r.metrics.resyncs.WithLabelValues("conflict").Inc()
	wake(r.work)
}

// robbedLocked reports whether members of this node are missing for no good reason: it was taken for
// dead. It forgets those that have another connection now or were made to leave.
func (r *Redis) robbedLocked(m *mirror, c change) bool {
	robbed := false
	for id, s := range m.own {
		e, there := find(c.Members, id)
		left := slices.ContainsFunc(c.Left, func(d Departure) bool {
			return d.ID == id && d.Epoch == s.epoch && d.Reason != ReasonNodeLost
		})
		switch {
		case there && e.Epoch > s.epoch, left && !there:
			delete(m.own, id)
		case s.settled && c.Version > s.joined && (!there || e.isBefore(entry{Epoch: s.epoch, Joined: s.joined})):
			robbed = true
		}
	}
	return robbed
}

// explainLocked adds to a change the departures of members whose leaving this node did not hear of.
func (r *Redis) explainLocked(m *mirror, c *change) {
	for _, old := range m.members {
		if _, there := find(c.Members, old.ID); there {
			continue
		}
		if slices.ContainsFunc(c.Left, func(d Departure) bool { return d.ID == old.ID }) {
			continue
		}
		reason := ReasonLeave
		if _, dead := r.dead[old.Node]; dead {
			reason = ReasonNodeLost
		}
		c.Left = append(c.Left, Departure{Member: old.member(), Reason: reason})
	}
}

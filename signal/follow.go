package signal

import (
	"maps"
	"slices"
	"time"

	"cline-meet/signal/state"
)

// A departure must not be heard before what was said before it. There are two ways in which it could.
//
// What a member says to one that has just moved away from its node is answered as soon as it waits there to be
// forwarded, and nobody else knows a number of it. So a participant that has come remembers the node that it has left until that
// says that all has followed; when it dies before, something may be missing, and the client is told. What follows may be from somebody who
// has left meanwhile, whose view came straight from its own node.
//
// Each node sends what its members say and how it has left the room in one order, but others may be faster to say, or the shared state itself,
// that a member is not there any more.
//
// So as long as something may follow, or the node of who has left has not said so itself, the client is not told.

// followTimeout is how long departures wait for that. It is far longer than the way, and a client can do without them.
const followTimeout = 2 * time.Second

// debtor is a node that has not said so yet.
type debtor struct {
	node  string
	since time.Time
}

// onFollowed notes that all has followed a participant from a node, which From names, or has that follow one that has
// gone on.
func (s *Server) onFollowed(m state.Message) {
	if r := s.room(m.Room); r != nil && r.followed(m.To, m.From) {
		return
	}
	move := s.moves.of(m.To)
	if move == nil || move.room != m.Room {
		return
	}
	if _, plain := move.target(); !plain {
		move.push(m)
	}
}

// followed reports whether the user is here.
func (r *room) followed(user, node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[user]
	if l == nil {
		return false
	}
	l.owing = slices.DeleteFunc(l.owing, func(d debtor) bool { return d.node == node })
	r.tellWaitingLocked(l)
	return true
}

// newsLocked tells a member's client what is new by the last view, which names it, unless there are departures that have to wait.
func (r *room) newsLocked(l *localMember, left []state.Departure) {
	l.left = append(l.left, left...)
	if r.mustWaitLocked(l) {
		r.tellLaterLocked(l)
		return
	}
	left, l.left, l.waits = l.left, nil, time.Time{}
	r.tellLocked(l, left)
}

// mustWaitLocked reports whether there are departures before which the member's client may still have to hear something.
func (r *room) mustWaitLocked(l *localMember) bool {
	if !l.waits.IsZero() && time.Since(l.waits) >= followTimeout {
		return false
	}
	following := l.awaitsFollowers()
	return slices.ContainsFunc(l.told, func(m state.Member) bool {
		return !stays(m, r.members, l.left) && (following || r.maySpeakLocked(m))
	})
}

// tellLaterLocked sees to it that departures do not wait for too long.
func (r *room) tellLaterLocked(l *localMember) {
	if !l.waits.IsZero() {
		return
	}
	l.waits = time.Now()
	time.AfterFunc(followTimeout, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.tellWaitingLocked(l)
	})
}

// tellWaitingLocked tells a member's client what waits, if that need not wait any longer. Where nothing waits the room may not be known yet:
// that all has followed may be heard before the change that has put the member here returns.
func (r *room) tellWaitingLocked(l *localMember) {
	if r.local[l.participant.user] == l && !l.waits.IsZero() {
		r.newsLocked(l, nil)
	}
}

// onSaid takes over what another node says of a room, which is no news but for those who wait for that node's own word.
func (s *Server) onSaid(v state.View) {
	r := s.room(v.Room)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noteLocked(v)
	for _, l := range r.local {
		r.tellWaitingLocked(l)
	}
}

// noteLocked notes who says what a view says. When another node begins to speak, those are forgotten that never will again, or a room that
// lives on would remember all that there ever were.
func (r *room) noteLocked(v state.View) {
	r.streams = v.From != ""
	if !r.streams || v.From == r.node || v.Version <= r.said[v.From].Version {
		return
	}
	if _, known := r.said[v.From]; !known {
		maps.DeleteFunc(r.said, func(node string, _ state.View) bool { return !r.srv.speaks(node) })
	}
	r.said[v.From] = v
}

// maySpeakLocked reports whether messages of a member that has left may still come: its node lives and has not said itself that its stay is over.
func (r *room) maySpeakLocked(m state.Member) bool {
	if !r.streams || m.Node == r.node {
		return false
	}
	said := r.said[m.Node]
	isStay := func(o state.Member) bool { return o.ID == m.ID && o.Joined == m.Joined }
	over := said.Version > m.Joined && !slices.ContainsFunc(said.Members, isStay)
	return !over && r.srv.speaks(m.Node)
}

// speaks reports whether another node lives and sends all in one order.
func (s *Server) speaks(node string) bool {
	return slices.ContainsFunc(s.state.Nodes(), func(n state.NodeInfo) bool { return n.ID == node && n.Protocol >= 2 })
}

// awaitsFollowers reports whether something may still come by way of a node that the member has left.
func (l *localMember) awaitsFollowers() bool {
	return slices.ContainsFunc(l.owing, func(d debtor) bool { return time.Since(d.since) < followTimeout })
}

// giveUpFollowing takes as lost what should have followed from a node that is dead. After some time what it has not said
// is not for want of time.
func (s *Server) giveUpFollowing(node string) {
	for _, r := range s.allRooms() {
		for _, p := range r.owed(node) {
			s.metrics.gaps.Inc()
			p.log.Debug("a node died before all had followed", "node", node)
			p.miss("messages may be missing")
		}
	}
}

func (r *room) owed(node string) (out []*participant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.local {
		i := slices.IndexFunc(l.owing, func(d debtor) bool { return d.node == node && time.Since(d.since) < lineRetention })
		if i >= 0 {
			out = append(out, l.participant)
			l.owing = slices.Delete(l.owing, i, i+1)
		}
		r.tellWaitingLocked(l)
	}
	return out
}

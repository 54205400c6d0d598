package signal

import (
	"slices"
	"time"

	"cline-meet/signal/state"
)

// What a member says to one that has just moved away from its node is answered as soon as it waits there to be
// forwarded, and nobody else knows a number of it. So a participant that has come remembers the node that it has left until that
// says that all has followed; when it dies before, something may be missing, and the client is told.
//
// What follows may be from somebody who has left meanwhile, whose view came straight from its own node. So as long as something
// may follow, the client is not told that anybody has left: it hears what was said before that.

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
	r.newsLocked(l, nil)
	return true
}

// newsLocked tells a member's client what is new by the last view, unless there are departures that have to wait. A view that does not
// name the member yet is none of its room: that all has followed may be heard before the change that has put it here returns.
func (r *room) newsLocked(l *localMember, left []state.Departure) {
	l.left = append(l.left, left...)
	if !slices.ContainsFunc(r.members, l.participant.member().Is) {
		return
	}
	departs := func(m state.Member) bool { return !stays(m, r.members, l.left) }
	if l.awaitsFollowers() && slices.ContainsFunc(l.told, departs) {
		r.tellLaterLocked(l)
		return
	}
	left, l.left = l.left, nil
	r.tellLocked(l, left)
}

// tellLaterLocked sees to it that departures do not wait for too long.
func (r *room) tellLaterLocked(l *localMember) {
	if l.telling {
		return
	}
	l.telling = true
	time.AfterFunc(followTimeout, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		l.telling = false
		if r.local[l.participant.user] == l {
			r.newsLocked(l, nil)
		}
	})
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
			r.newsLocked(l, nil)
		}
	}
	return out
}

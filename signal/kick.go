package signal

import (
	"context"
	"slices"
	"sync"
	"time"

	"cline-meet/signal/state"
)

// removed holds the users that were kicked a moment ago, wherever they are: one that is on its way to this node, or
// belonged to one that has died, is refused when it arrives. Longer than necessary does no harm: no other user gets that id.
type removed struct {
	mu    sync.Mutex
	users memory[string, struct{}]
}

func (r *removed) add(user string, life time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users.age(life)
	r.users.put(user, struct{}{})
}

func (r *removed) has(user string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.users.get(user)
	return ok
}

// Kick ends a user for good: its socket, its place in the room, which the others see it leave, and its resume token, also if it is about
// to come to this node. It reports whether the user was here, or in a room of this node as one whom a dead node has left there.
func (s *Server) Kick(ctx context.Context, user string) bool {
	s.kicked.add(user, 2*s.cfg.ResumeGrace+resumeTimeout)
	if p := s.participant(user); p != nil {
		p.kick()
		return true
	}
	return slices.ContainsFunc(s.allRooms(), func(r *room) bool { return r.kickOrphan(ctx, user) })
}

// kickOrphan takes a user out of the room whose node is dead, so that no node can let it back into the room, not even one that starts later
// and knows of no kick: that gives it its id alone. Of all nodes that try one succeeds.
func (r *room) kickOrphan(ctx context.Context, user string) bool {
	m, there := state.View{Members: r.info().Members}.Find(user)
	if !there || m.Node == r.node || slices.ContainsFunc(r.srv.state.Nodes(), func(n state.NodeInfo) bool { return n.ID == m.Node }) {
		return false
	}
	view, err := r.srv.state.Leave(ctx, r.id, user, m.Epoch, state.ReasonKick)
	if err != nil {
		r.srv.cfg.Logger.Debug("taking out a user whose node is dead", "error", err)
		return false
	}
	r.apply(view)
	return true
}

func (p *participant) kick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over, p.kicked = true, true
	if p.conn != nil {
		p.conn.cut(closeKicked, "removed from the room", lastWords)
	}
	p.expireLocked()
}

// fateOr returns why a participant ends, which its owner thinks is for that reason.
func (p *participant) fateOr(why state.Reason) state.Reason {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kicked {
		return state.ReasonKick
	}
	return why
}

// ownersID is who sends what the owner of the product says in a room.
const ownersID = "owner"

// Tell sends an app message of the owner, whose data is JSON, to the members of this node in a room, or to one user alone, and returns
// how many there are. An empty room or user is any.
func (s *Server) Tell(id, user string, data []byte) int {
	told := 0
	for _, r := range s.allRooms() {
		if id == "" || r.id == id {
			told += r.announce(user, data)
		}
	}
	return told
}

// announce queues a message of the owner for the members here that know of the room.
func (r *room) announce(user string, data []byte) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := 0
	var frame []byte
	for id, l := range r.local {
		if l.told == nil || user != "" && id != user {
			continue
		}
		if frame == nil {
			frame = ownersFrame(r.id, data)
		}
		l.participant.send(frame)
		told++
	}
	return told
}

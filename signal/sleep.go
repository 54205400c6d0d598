package signal

import (
	"context"
	"slices"
	"time"
)

// A node whose process did not run for a while, or that cannot reach the shared state, may have been taken for dead.
// Then what it has of its participants may be a leftover: the client is at another node by now, or has left. The
// state says when that can be, see state.Redis.Doubtful. Meanwhile this node hands nobody over, and takes a message
// as handed on only to a client that has a connection here; and where others have taken a member out, it comes back only
// if its client was there all the time.

// onSlept notes whose connection has ended while the process did not run. The system knows it already, but not since when.
func (s *Server) onSlept(time.Time) {
	for _, p := range s.everybody() {
		p.noteAbsence()
	}
	for _, move := range s.moves.all() {
		move.noteAbsence()
	}
}

func (p *participant) noteAbsence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.absent = p.conn == nil || p.conn.link.hungUp()
}

// isPresent reports whether the user is a member of a room here whose client was there when the process ran again, or
// has come since. Who is on its way to another node is there until it has arrived.
func (s *Server) isPresent(id, user string) bool {
	p := s.localMemberOf(id, user)
	if p == nil {
		move := s.moves.of(user)
		return move != nil && move.room == id && move.isUnderWay()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.absent
}

// localMemberOf returns the participant of this node that is a user in a room, nil for none.
func (s *Server) localMemberOf(id, user string) *participant {
	r := s.room(id)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.local[user]; l != nil {
		return l.participant
	}
	return nil
}

// awaitTrust waits, in the read loop, while the participant's place may be elsewhere, or that of others in a room that it is about
// to enter, if that is not empty. It reports false when its own turns out to be, or when its client has gone meanwhile and may be there: then what
// it asks here is asked too late.
func (p *participant) awaitTrust(entering string) bool {
	room := ""
	if p.room != nil {
		room = p.room.id
	}
	if !p.srv.state.Doubtful(room) && (entering == "" || !p.srv.state.Doubtful(entering)) {
		return true
	}
	p.yield()
	p.srv.state.AwaitTrust(p.srv.ctx, room)
	p.srv.state.AwaitTrust(p.srv.ctx, entering)
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.over && p.conn != nil && !p.conn.link.hungUp()
}

// stays reports whether a participant, which is the caller's and whose client has come back by a connection, has its place. While others
// may have taken it out, that is waited for: the client counts as there, and is not told that it is back before it is known. When the doubt
// has just ended, the room knows who was taken out although their connections may not yet.
func (p *participant) stays(ctx context.Context, c *conn) bool {
	r := p.room
	if r == nil {
		return true
	}
	if p.srv.state.Doubtful(r.id) {
		p.mu.Lock()
		p.absent = p.absent && c.link.hungUp()
		p.mu.Unlock()
		p.srv.state.AwaitTrust(ctx, r.id)
	}
	return r.has(p)
}

// has reports whether a participant of this node is a member, for all that the node knows.
func (r *room) has(p *participant) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.members, p.member().Is)
}

// isConnected reports whether the client has a connection that it has not ended.
func (p *participant) isConnected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil && !p.conn.link.hungUp()
}

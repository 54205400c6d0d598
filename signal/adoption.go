package signal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cline-meet/signal/state"
)

// A participant outlives its node. When that dies, the shared state keeps its member as an orphan for the
// grace, and whichever node the client comes to adopts it: a new participant takes the place of the
// orphan under a newer epoch, and nobody sees anybody leave. The client's token says who it is; the state
// says in which room. What was queued in the dead process is gone, so the greeting tells of a gap, the
// numbers of frames go on from what the client says it got, and its own user_joined follows with all
// who are there.
//
// A node that is its own deployment keeps its rooms in memory, which dies with it. There the token names
// the room, see revive.

// adoptPoll is how often a node is asked to which nobody listens although it is not known as dead.
const adoptPoll = 100 * time.Millisecond

// fetchAway returns the participant of a token that is not on this node, which is the caller's: its node hands it
// over, or it is adopted when the node is dead. A node to which nobody listens may be dying, which others
// notice before long: until ctx ends it is asked again. Who has gone on is followed.
func (s *Server) fetchAway(ctx context.Context, t resumeToken, got *uint64) (p *participant, outcome string, err error) {
	at := t
	for hops := 0; ; {
		p, outcome, err = s.fetchFrom(ctx, t, at, got)
		var on elsewhere
		switch {
		case errors.As(err, &on) && hops < maxHops:
			hops++
			at.Node, at.Epoch = on.Node, on.Epoch
		case errors.Is(err, errNotThere) && hops < maxHops && pause(ctx, adoptPoll):
			hops++
		case !errors.Is(err, state.ErrUnavailable) || s.state.Ready() != nil || !pause(ctx, adoptPoll):
			return p, outcome, err
		}
	}
}

// fetchFrom returns the participant of a token, which is said to be at a node.
func (s *Server) fetchFrom(ctx context.Context, t, at resumeToken, got *uint64) (p *participant, outcome string, err error) {
	if at.Node == s.state.ID() {
		p, err = s.comeBack(ctx, t)
		return p, "here", err
	}
	p, err = s.moveHere(ctx, t, at, got)
	if !errors.Is(err, state.ErrNoNode) {
		return p, "moved", err
	}
	p, err = s.adopt(ctx, t, at, got)
	return p, "adopted", err
}

// adopt puts a participant of this node into the place of one whose node is dead. It fails with errGone
// when that has left, or is somewhere else already.
func (s *Server) adopt(ctx context.Context, t, at resumeToken, got *uint64) (*participant, error) {
	p, err := s.claim(t, at.Epoch, got)
	if err != nil {
		return nil, err
	}
	p.adopted.node = at.Node
	s.awaitRoom()
	view, err := s.state.Adopt(ctx, at.Node, t.User, at.Epoch, p.epoch)
	if err == nil && view.Room != "" {
		l := &localMember{participant: p, joining: true, marks: watermarks{opened: time.Now()}}
		p.room = s.addLocal(view.Room, l)
		p.room.apply(view)
	}
	for _, v := range s.knowRoom(view.Room) {
		s.onView(v)
	}
	if err != nil {
		s.forget(p)
		if m, ok := view.Find(t.User); ok && m.Epoch > at.Epoch {
			return nil, elsewhere{m}
		}
		return nil, goneUnlessAway(err)
	}
	return p, nil
}

// revive gives a client of a former process its id and its room back, as far as the room has a place. Only
// the time after the start is for that: later the former process is no excuse any more.
func (s *Server) revive(ctx context.Context, t resumeToken, got *uint64) (*participant, error) {
	if !s.cfg.LastingSecret || time.Since(s.begun) > s.cfg.ResumeGrace {
		return nil, fmt.Errorf("%w: its process has ended", errGone)
	}
	p, err := s.claim(t, t.Epoch, got)
	if err != nil || t.Room == "" {
		return p, err
	}
	l := &localMember{participant: p, joining: true}
	r := s.addLocal(t.Room, l)
	view, err := s.state.Join(ctx, t.Room, p.member(), s.cfg.MaxRoomUsers)
	switch {
	case err == nil:
		p.room, p.place = r, r.id
		r.apply(view)
		return p, nil
	case errors.Is(err, state.ErrRoomFull):
		s.removeLocal(r, p)
		p.send(appendRoomFull(nil, nil, t.Room))
		return p, nil
	}
	s.removeLocal(r, p)
	s.forget(p)
	return nil, goneUnlessAway(err)
}

// nameRoom gives the client a token that names its room, if that has changed, where none but the token does
// so after the end of the process. It is called in the read loop.
func (p *participant) nameRoom() {
	if p.srv.cfg.Clustered || !p.srv.outlived() {
		return
	}
	place := ""
	if p.room != nil {
		place = p.room.id
	}
	p.mu.Lock()
	same := p.place == place
	p.place = place
	p.mu.Unlock()
	if !same {
		p.sendICE()
	}
}

func goneUnlessAway(err error) error {
	if errors.Is(err, state.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", errGone, err)
}

// claim registers a participant in the place of one of that epoch whose process is gone; it is the caller's. It
// fails with errGone when a newer connection of the user is here. An older one that is here was adopted by
// another node meanwhile.
func (s *Server) claim(t resumeToken, epoch uint64, got *uint64) (*participant, error) {
	p := newParticipant(s, t.User, max(newEpoch(), epoch+1))
	p.former, p.gap = t.Epoch, true
	if got != nil {
		p.sent = *got
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.participants[t.User]; old != nil {
		if old.epoch > epoch {
			p.holding.settle()
			return nil, fmt.Errorf("%w: a newer connection has it", errGone)
		}
		s.tasks.run(old.replaced)
	}
	s.participants[t.User] = p
	return p, nil
}

func (p *participant) hasGap() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gap
}

// takeStock reports whether a participant, which is the caller's, has missed something. Then it queues what
// its client needs to compare: who is in its room.
func (p *participant) takeStock() bool {
	gap := p.hasGap()
	if gap && p.room != nil {
		p.room.welcome(p)
	}
	return gap
}

// awaitRoom has views of rooms put aside that this node does not have, because a participant is about to
// be adopted whose room is not known. Each call needs one of knowRoom.
func (s *Server) awaitRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopting++
}

// knowRoom ends the wait for one room and returns the view of it that was put aside, if any.
func (s *Server) knowRoom(id string) []state.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	var views []state.View
	if v, ok := s.aside[id]; ok {
		views = append(views, v)
	}
	if s.adopting--; s.adopting == 0 {
		clear(s.aside)
	}
	return views
}

// roomOf returns the room of a view, nil when this node has no members in it.
func (s *Server) roomOf(v state.View) *room {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[v.Room]
	if r == nil && s.adopting > 0 && v.Version > s.aside[v.Room].Version {
		s.aside[v.Room] = v
	}
	return r
}

// takeOver takes over a view that another node or the state made, and returns the participants of this node that have no
// place in the room any more: a newer connection has it at another node, or others have taken it out. Either happened
// while this node was taken for dead. What was said to them here since is lost, which the new node is told.
func (r *room) takeOver(v state.View) []*participant {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*participant
	before := r.members
	r.applyLocked(v)
	for _, m := range r.members {
		l := r.local[m.ID]
		if l == nil || m.Node == r.node || m.Epoch <= l.participant.epoch {
			continue
		}
		out = append(out, l.participant)
		if !l.doubtful.IsZero() {
			r.srv.tellStrayed(r.id, m, r.node, time.Since(l.doubtful))
		}
	}
	for _, m := range before {
		there := func(o state.Member) bool { return o.ID == m.ID }
		if l := r.localLocked(m); l != nil && !l.leaving && !slices.ContainsFunc(r.members, there) {
			out = append(out, l.participant)
		}
	}
	return out
}

// leaves notes that a participant is about to leave.
func (r *room) leaves(p *participant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.local[p.user]; l != nil && l.participant == p {
		l.leaving = true
	}
}

// replaced ends a participant whose session is at another node. There is nothing of it to leave.
func (p *participant) replaced() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeLocked(closeReplaced, "another connection has resumed this session")
	p.expireLocked()
}

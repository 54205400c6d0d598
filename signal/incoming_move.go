package signal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"cline-meet/signal/state"
)

// moveHere gets the participant of a token from the node that has it. It is the caller's then. It fails with
// state.ErrNoNode when the node is dead.
func (s *Server) moveHere(ctx context.Context, t, at resumeToken, got *uint64) (*participant, error) {
	snap, err := s.ask(ctx, at.Node, t.User, moveRequest{Epoch: t.Epoch, Greeting: t.Greeting, Got: got})
	if err != nil {
		return nil, err
	}
	return s.moveIn(ctx, at, snap)
}

// comeBack gets a participant that this node has handed over to one where it did not arrive. It is the caller's then.
func (s *Server) comeBack(ctx context.Context, t resumeToken) (*participant, error) {
	move := s.moves.of(t.User)
	if move == nil || !move.isOf(t.Epoch, t.Greeting) {
		return nil, errGone
	}
	snap, handed := move.again(s.state.ID(), false)
	if !handed {
		return nil, move.whither()
	}
	t.Node = s.state.ID()
	p, err := s.moveIn(ctx, t, snap)
	if err == nil {
		s.takeBack(move)
	}
	return p, err
}

// moveIn makes a participant of what was handed over by a node and gives it its place in the room.
func (s *Server) moveIn(ctx context.Context, t resumeToken, snap snapshot) (*participant, error) {
	t.Epoch = cmp.Or(snap.Epoch, t.Epoch) // Nodes of protocol 1 do not say theirs, which is the token's.
	p, l := s.unpack(snap, t)
	if l != nil {
		if err := s.arrive(ctx, snap.Room, l, t); err != nil {
			p.holding.settle()
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.participants[p.user] = p
	return p, nil
}

// ask sends a request to another node and waits for its answer.
func (s *Server) ask(ctx context.Context, node, user string, r moveRequest) (snapshot, error) {
	var snap snapshot
	frame, err := s.request(ctx, node, func(id string) state.Message {
		r.Ask = id
		frame, _ := json.Marshal(r) // Plain fields always encode.
		return state.Message{Op: opResume, From: user, Frame: frame}
	})
	if err != nil {
		return snap, err
	}
	switch err := json.Unmarshal(frame, &snap); {
	case err == nil && !snap.Gone:
		return snap, nil
	case err == nil && snap.Node != "":
		return snap, elsewhere{state.Member{ID: user, Node: snap.Node, Epoch: snap.Epoch}}
	}
	return snap, errGone
}

func (s *Server) allRooms() []*room {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.rooms))
}

// arrive puts a participant into the room that it was in at the other node.
func (s *Server) arrive(ctx context.Context, room string, l *localMember, t resumeToken) error {
	p := l.participant
	move := s.newIncomingMove(t, p.member())
	l.move = move
	out := s.moves.of(t.User)
	r := s.addLocal(room, l)
	view, err := s.state.Move(ctx, room, state.Member{ID: t.User, Node: t.Node, Epoch: t.Epoch}, p.epoch, l.told...)
	if err != nil {
		s.removeLocal(r, p)
		if m, there := view.Find(t.User); there && m.Node != r.node {
			return elsewhere{m}
		}
		if errors.Is(err, state.ErrNotMember) {
			return errNotThere
		}
		return err
	}
	p.room = r
	if out != nil {
		s.takeBack(out)
	}
	r.apply(view)
	if nodes := r.settle(p, view); len(nodes) > 0 {
		s.tasks.run(func() { s.awaitPassed(r, p, move, nodes) })
	}
	return nil
}

// takeBack ends a move to another node of a participant that has come back. What was to be forwarded is its own.
func (s *Server) takeBack(move *outgoingMove) {
	s.moves.remove(move)
	move.end()
	for _, m := range move.dequeue() {
		s.onControl(m)
	}
}

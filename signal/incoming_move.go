package signal

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cline-meet/signal/state"
)

// incomingMove is a participant that has come from another node and for which some messages may still
// come from there. It is guarded by the room's lock.
type incomingMove struct {
	marker marker
	// open is true until it is known whom to wait for; then await says so.
	open    bool
	await   map[string]bool
	held    map[string][]heldMessage
	bytes   int
	settled chan struct{}
}

// request is one that waits for the answer of a node.
type request struct {
	node   string
	answer chan handover
}

// handover is what a node says, or why it will not.
type handover struct {
	frame []byte
	err   error
}

// moveHere gets the participant of a token from its node. It is the caller's then. It fails with
// state.ErrNoNode when the node is dead.
func (s *Server) moveHere(ctx context.Context, session string, t resumeToken, got *uint64) (*participant, error) {
	snap, err := s.ask(ctx, t.Node, t.User, moveRequest{Epoch: t.Epoch, Got: got})
	if err != nil {
		return nil, err
	}
	p, l := s.unpack(snap, t, session)
	if l != nil {
		if err := s.arrive(ctx, snap.Room, l, t); err != nil {
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
	r.Ask = rand.Text()
	answers := make(chan handover, 1)
	s.mu.Lock()
	s.requests[r.Ask] = request{node, answers}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.requests, r.Ask)
	}()
	frame, _ := json.Marshal(r) // Plain fields always encode.
	if err := s.sendTo(ctx, node, state.Message{Op: opResume, From: user, Frame: frame}); err != nil {
		return snap, err
	}
	select {
	case a := <-answers:
		if a.err != nil {
			return snap, fmt.Errorf("waiting for node %s: %w", node, a.err)
		}
		if err := json.Unmarshal(a.frame, &snap); err != nil || snap.Gone {
			return snap, errGone
		}
		return snap, nil
	case <-ctx.Done():
		return snap, fmt.Errorf("waiting for node %s: %w", node, state.ErrUnavailable)
	}
}

// onHandover gives the answer to a request to who waits for it.
func (s *Server) onHandover(m state.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.requests[m.To]; ok {
		delete(s.requests, m.To)
		r.answer <- handover{frame: m.Frame}
	}
}

// loseRequests answers the requests to a node that will not, for that reason. It returns the rooms of this
// node.
func (s *Server) loseRequests(node string, why error) []*room {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.requests {
		if r.node == node {
			delete(s.requests, id)
			r.answer <- handover{err: why}
		}
	}
	return slices.Collect(maps.Values(s.rooms))
}

// arrive puts a participant into the room that it was in at the other node.
func (s *Server) arrive(ctx context.Context, room string, l *localMember, t resumeToken) error {
	p := l.participant
	now := p.member()
	now.Node = s.state.ID()
	move := &incomingMove{marker: marker{Via: t.Node, Epoch: t.Epoch, New: now}, open: true,
		held: map[string][]heldMessage{}, settled: make(chan struct{})}
	if out := s.moves.of(t.User); out != nil {
		out.end() // It has come back, with all that was forwarded.
	}
	l.move = move
	r := s.addLocal(room, l)
	view, err := s.state.Move(ctx, room, state.Member{ID: t.User, Node: t.Node, Epoch: t.Epoch}, p.epoch, l.told...)
	if err != nil {
		s.removeLocal(r, p)
		if errors.Is(err, state.ErrNotMember) {
			return fmt.Errorf("%w: it is in its room no more", errGone)
		}
		return err
	}
	p.room = r
	r.apply(view)
	nodes := r.settle(p, view)
	s.tasks.run(func() { s.awaitPassed(r.id, p, move, nodes) })
	return nil
}

// settle closes the list of nodes to wait for, the nodes of the other members in view, and returns
// it. What is held of others is let go.
func (r *room) settle(p *participant, view state.View) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[p.user]
	if l == nil || l.participant != p || l.move == nil {
		return nil
	}
	move := l.move
	move.open, move.await = false, map[string]bool{move.marker.Via: true} // It forwards nothing before it is asked.
	nodes := []string{move.marker.Via}
	for _, m := range view.Members {
		if m.ID != p.user && !move.await[m.Node] {
			move.await[m.Node] = true
			nodes = append(nodes, m.Node)
		}
	}
	for node := range move.held {
		if !move.await[node] {
			l.releaseHeld(node)
		}
	}
	return nodes
}

// releaseHeld lets go what is held of a node. The room's lock is held.
func (l *localMember) releaseHeld(node string) {
	held := l.move.held[node]
	delete(l.move.held, node)
	for _, h := range held {
		l.pass(h.From, h.Frame)
	}
}

// awaitPassed asks the nodes to send no more to where the participant was, and ends it if messages
// are still missing when all should have come.
func (s *Server) awaitPassed(room string, p *participant, move *incomingMove, nodes []string) {
	m := state.Message{Op: opMarker, Room: room, To: p.user, Frame: move.marker.frame()}
	for _, node := range nodes {
		if err := s.sendMarker(node, m); errors.Is(err, state.ErrNoNode) {
			s.passed(room, node, move.marker.New) // It has nothing more to send.
		}
	}
	limit := time.NewTimer(settleTimeout)
	defer limit.Stop()
	select {
	case <-move.settled:
	case <-s.ctx.Done():
	case <-limit.C:
		p.lose("messages may be missing")
	}
}

func (s *Server) sendMarker(node string, m state.Message) error {
	if node == s.state.ID() {
		s.onMarker(m)
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, settleTimeout)
	defer cancel()
	return s.sendTo(ctx, node, m)
}

// passed notes that all that a node had sent to a participant's former node has arrived.
func (s *Server) passed(room, node string, now state.Member) {
	r := s.room(room)
	if r == nil {
		return
	}
	move := r.settled(node, now)
	if move == nil {
		return
	}
	close(move.settled)
	s.tasks.run(func() {
		ctx, cancel := context.WithTimeout(s.ctx, settleTimeout)
		defer cancel()
		m := state.Message{Op: opSettled, To: now.ID, Frame: move.marker.frame()}
		_ = s.sendTo(ctx, move.marker.Via, m) // It gives up by itself.
	})
}

// settled lets go what was held of a node, and returns the member's move if that was the last node.
func (r *room) settled(node string, now state.Member) *incomingMove {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[now.ID]
	if l == nil || l.move == nil || l.move.open || l.move.marker.New != now {
		return nil
	}
	move := l.move
	delete(move.await, node)
	l.releaseHeld(node)
	if len(move.await) > 0 {
		return nil
	}
	l.move = nil
	return move
}

// awaitSettled waits until a participant that came from another node has all that was sent there.
// It reports false when ctx ends first.
func (r *room) awaitSettled(ctx context.Context, p *participant) bool {
	r.mu.Lock()
	l := r.local[p.user]
	var move *incomingMove
	if l != nil && l.participant == p {
		move = l.move
	}
	r.mu.Unlock()
	if move == nil {
		return true
	}
	select {
	case <-move.settled:
		return true
	case <-ctx.Done():
		return false
	}
}

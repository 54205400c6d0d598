package signal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"cline-meet/signal/state"
)

// Nodes of protocol 1 number nothing. When one of them is concerned, a participant that moves from node A to node B
// keeps its order by markers, besides what move.go tells:
//
//	B → C  mark       is the marker, for every node C that B must wait for, B and A included if A speaks protocol 1:
//	                  from now on C sends to B what is for the participant, and behind all that it sent to A
//	C → A  pass       it says so by a message that A hands on
//	A → B  passed     behind all that A forwards for C. Until then B holds back what C sends directly.
//	A → B  forward    is a message that still came to A, once the marker has come to A as well.
//	B → A  settled    ends it.
//
// Here is all that is for them. A frame of theirs has no receivers: it is for whom To says, and for all members
// here when that is empty.
const (
	opMarker  = "mark"
	opPass    = "pass"
	opPassed  = "passed"
	opForward = "forward"
	opSettled = "settled"
)

// settleTimeout bounds how long what was sent to a participant's former node may take to arrive.
const settleTimeout = 15 * time.Second

// isPlain reports whether a node is known to speak protocol 1. One that is not known yet is taken for one of ours:
// it has just started.
func (s *Server) isPlain(node string) bool {
	return slices.ContainsFunc(s.state.Nodes(), func(n state.NodeInfo) bool { return n.ID == node && n.Protocol < 2 })
}

// plainNodes reports whether any node speaks protocol 1.
func (s *Server) plainNodes() bool {
	return slices.ContainsFunc(s.state.Nodes(), func(n state.NodeInfo) bool { return n.Protocol < 2 })
}

// marker is what the messages of a move carry: which move it is.
type marker struct {
	Via   string       `json:"via"` // the former node
	Epoch uint64       `json:"epoch"`
	New   state.Member `json:"new"`
}

func (k marker) frame() []byte {
	frame, _ := json.Marshal(k) // Plain fields always encode.
	return frame
}

// receivePlainLocked takes a message of a node that names no receivers.
func (r *room) receivePlainLocked(m state.Message) {
	for user, l := range r.local {
		if m.To == "" || user == m.To {
			l.take(source{Node: m.Node}, heldMessage{From: m.From, Frame: m.Frame})
		}
	}
	r.srv.moves.forwardAllPlain(m)
}

// forwardPlain gives a message without numbers to a participant that has left this node; others are not touched.
func (ms *outgoingMoves) forwardPlain(m state.Message, user string) {
	if move := ms.of(user); move != nil && move.room == m.Room && len(m.Frame) > 0 {
		move.push(state.Message{Op: opForward, Room: m.Room, From: m.From, To: user, Frame: bytes.Clone(m.Frame)})
	}
}

// forwardAllPlain gives a message without receivers to the participant To that has left, or to all of a
// room when To is empty.
func (ms *outgoingMoves) forwardAllPlain(m state.Message) {
	if m.To != "" {
		ms.forwardPlain(m, m.To)
		return
	}
	for _, move := range ms.all() {
		ms.forwardPlain(m, move.user)
	}
}

// receiveForwarded takes a message that a node of protocol 1 had sent to a member's former node.
func (r *room) receiveForwarded(m state.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.local[m.To]; l != nil {
		l.pass(heldMessage{From: m.From, Frame: m.Frame})
		return
	}
	r.srv.moves.forwardPlain(m, m.To)
}

// onProtocol1 handles what is said about a move that concerns nodes of protocol 1.
func (s *Server) onProtocol1(m state.Message) {
	if m.Op == opForward {
		if r := s.room(m.Room); r != nil {
			r.receiveForwarded(m)
		}
		return
	}
	var k marker
	if err := json.Unmarshal(m.Frame, &k); err != nil {
		s.cfg.Logger.Warn("reading about a move", "node", m.Node, "op", m.Op, "error", err)
		return
	}
	move := s.moves.of(m.To)
	ours := move != nil && move.epoch == k.Epoch
	switch {
	case m.Op == opMarker:
		s.onMarker(m, k)
	case m.Op == opPassed:
		s.passed(m.Room, m.From, k.New)
	case m.Op == opPass && ours:
		move.push(state.Message{Op: opPassed, Room: m.Room, From: m.Node, To: m.To, Frame: m.Frame})
	case m.Op == opSettled && ours:
		move.end()
	}
}

// onMarker notes that a member has moved and says so by way of its former node, behind all that was sent there.
func (s *Server) onMarker(m state.Message, k marker) {
	if r := s.room(m.Room); r != nil {
		r.redirect(k.New)
	}
	pass := state.Message{Node: s.state.ID(), Op: opPass, Room: m.Room, To: m.To, Frame: m.Frame}
	if k.Via != s.state.ID() {
		s.state.Send(pass, []state.Copy{{Node: k.Via}}, func([]error) {}) // The new node waits for it, and not for ever.
		return
	}
	if move := s.moves.of(m.To); move != nil && move.epoch == k.Epoch {
		move.begin() // The new node has a place for what is forwarded.
	}
	s.onProtocol1(pass)
}

// redirect sends what is for a member to where it is now.
func (r *room) redirect(now state.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.members, func(m state.Member) bool { return m.ID == now.ID && m.Epoch < now.Epoch })
	if i >= 0 {
		now.Joined = r.members[i].Joined // The marker may lack it.
		r.members = slices.Clone(r.members)
		r.members[i] = now
		r.alignLocked()
	}
}

// incomingMove is a participant that has come from another node and for which nodes may still have sent messages
// without numbers there. It is guarded by the room's lock.
type incomingMove struct {
	marker marker
	all    bool // all nodes are to be waited for, because the former one speaks protocol 1
	// open is true until it is known whom to wait for; then await says so.
	open    bool
	await   map[string]bool
	held    map[string][]namedMessage
	bytes   int
	settled chan struct{}
}

// newIncomingMove returns what a participant from another node has to wait for, nil for nothing.
func (s *Server) newIncomingMove(t resumeToken, now state.Member) *incomingMove {
	if !s.plainNodes() {
		return nil
	}
	now.Node = s.state.ID()
	return &incomingMove{marker: marker{Via: t.Node, Epoch: t.Epoch, New: now}, all: s.isPlain(t.Node), open: true,
		held: map[string][]namedMessage{}, settled: make(chan struct{})}
}

func (move *incomingMove) holds(node string) bool { return move.open || move.await[node] }

// holdMoving holds back what a node has sent here while what it sent to the former node is on its way.
func (l *localMember) holdMoving(from source, h heldMessage) {
	h.Frame = bytes.Clone(h.Frame)
	move := l.move
	move.held[from.Node] = append(move.held[from.Node], namedMessage{from: from, heldMessage: h})
	if move.bytes += len(h.Frame) + heldOverhead; move.bytes > l.participant.srv.cfg.MaxQueue {
		l.participant.miss("too much waited while the session moved")
		l.endMove()
	}
}

// endMove waits for nobody any more.
func (l *localMember) endMove() {
	move := l.move
	l.move = nil
	close(move.settled)
	for _, held := range move.held {
		for _, m := range held {
			l.admit(m.from, m.heldMessage)
		}
	}
}

// releaseHeld lets go what is held of a node. The room's lock is held.
func (l *localMember) releaseHeld(node string) {
	held := l.move.held[node]
	delete(l.move.held, node)
	for _, m := range held {
		l.admit(m.from, m.heldMessage)
	}
}

// settle closes the list of nodes to wait for, those of the other members in view that number nothing, or all, and
// returns it. What is held of others is let go.
func (r *room) settle(p *participant, view state.View) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[p.user]
	if l == nil || l.participant != p || l.move == nil {
		return nil
	}
	move := l.move
	move.open, move.await = false, map[string]bool{}
	if move.all {
		move.await[move.marker.Via] = true // It forwards nothing before it is asked.
	}
	for _, m := range view.Members {
		if m.ID != p.user && (move.all || r.srv.isPlain(m.Node)) {
			move.await[m.Node] = true
		}
	}
	var nodes []string
	for node := range move.await {
		nodes = append(nodes, node)
	}
	for node := range move.held {
		if !move.await[node] {
			l.releaseHeld(node)
		}
	}
	if len(nodes) == 0 {
		l.endMove()
	}
	return nodes
}

// awaitPassed asks the nodes to send no more to where the participant was, and takes what is still missing
// as lost when all should have come.
func (s *Server) awaitPassed(r *room, p *participant, move *incomingMove, nodes []string) {
	m := state.Message{Op: opMarker, Room: r.id, To: p.user, Frame: move.marker.frame()}
	for _, node := range nodes {
		if err := s.sendMarker(node, m); errors.Is(err, state.ErrNoNode) {
			s.passed(r.id, node, move.marker.New) // It has nothing more to send.
		}
	}
	limit := time.NewTimer(settleTimeout)
	defer limit.Stop()
	select {
	case <-move.settled:
	case <-s.ctx.Done():
	case <-limit.C:
		p.miss("messages may be missing")
		r.endMove(p, move)
	}
}

func (r *room) endMove(p *participant, move *incomingMove) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.local[p.user]; l != nil && l.move == move {
		l.endMove()
	}
}

func (s *Server) sendMarker(node string, m state.Message) error {
	if node == s.state.ID() {
		s.onProtocol1(m)
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
	m := state.Message{Op: opSettled, To: now.ID, Frame: move.marker.frame()}
	s.state.Send(m, []state.Copy{{Node: move.marker.Via}}, func([]error) {}) // It gives up by itself.
}

// settled lets go what was held of a node, and returns the member's move if that was the last node.
func (r *room) settled(node string, now state.Member) *incomingMove {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[now.ID]
	if l == nil || l.move == nil || l.move.open || l.move.marker.New.Epoch != now.Epoch {
		return nil
	}
	move := l.move
	delete(move.await, node)
	l.releaseHeld(node)
	if len(move.await) > 0 {
		return nil
	}
	l.endMove()
	return move
}

// awaitSettled waits until a participant that came from another node has all that was sent there without numbers,
// and all that is numbered if it goes on to a node that could not tell. What is missing when ctx ends is a gap.
func (s *Server) awaitSettled(ctx context.Context, p *participant, to string) {
	plain := s.isPlain(to)
	for {
		move, holes := p.room.unsettled(p)
		var settled <-chan struct{}
		switch {
		case move != nil:
			settled = move.settled
		case !plain || !holes:
			return
		}
		select {
		case <-settled:
		case <-time.After(holeTimeout / 100):
		case <-ctx.Done():
			p.room.fill(p, plain)
			return
		}
	}
}

func (r *room) unsettled(p *participant) (move *incomingMove, holes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.local[p.user]; l != nil && l.participant == p {
		return l.move, l.hasHoles()
	}
	return nil, false
}

// fill takes what is missing without numbers as lost, and what is numbered too if the next node could not tell.
func (r *room) fill(p *participant, plain bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[p.user]
	if l == nil || l.participant != p {
		return
	}
	if l.move != nil {
		p.miss("messages may be missing")
		l.endMove()
	}
	for i := range l.marks.all {
		if plain {
			l.giveUp(&l.marks.all[i])
		}
	}
}

// giveUpPassing passes for a node that will not say so any more.
func (s *Server) giveUpPassing(node string) {
	for _, r := range s.allRooms() {
		for _, now := range r.waiting(node) {
			s.passed(r.id, node, now)
		}
	}
}

// waiting returns the members for which messages of a node are held back. Those whose former node it was have
// missed what that would have forwarded.
func (r *room) waiting(node string) []state.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []state.Member
	for _, l := range r.local {
		if l.move == nil {
			continue
		}
		if l.move.marker.Via == node {
			l.participant.miss("messages may be missing")
			l.endMove()
			continue
		}
		if l.move.await[node] {
			out = append(out, l.move.marker.New)
		}
	}
	return out
}

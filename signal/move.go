package signal

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"cline-meet/signal/state"
)

// A participant moves from node A to node B, where its client has shown up:
//
//	B → A  resume     A freezes the participant, whose client it cuts if need be,
//	A → B  handover   and sends it as a snapshot. B puts it into A's place in the room.
//	B → C  mark       is the marker, for every node C with members in the room, A and B included:
//	                  from now on C sends to B what is for the participant, and when all that it sent
//	                  to A is on its way, it says so,
//	C → A  pass       by a message that A hands on
//	A → B  passed     behind all that A forwards for C. Until then B holds back what C sends
//	                  directly, so that the order of each sender stands.
//	A → B  forward    is a message that still came to A, once the marker has come to A as well.
//	B → A  settled    ends it.
//
// When A dies before all has passed, the client is told that it may have missed something. B's side
// is an incomingMove, A's an outgoingMove. These texts are what nodes of all versions say.
const (
	opResume   = "resume"
	opHandover = "handover"
	opMarker   = "mark"
	opPass     = "pass"
	opPassed   = "passed"
	opForward  = "forward"
	opSettled  = "settled"
)

// settleTimeout bounds how long what was sent to a participant's former node may take to arrive.
const settleTimeout = 15 * time.Second

// moveRequest is what a resume message carries.
type moveRequest struct {
	Ask   string  `json:"ask"`
	Epoch uint64  `json:"epoch"`
	Got   *uint64 `json:"got,omitempty"`
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

// sendTo sends a message to one node and waits until it has been handed on.
func (s *Server) sendTo(ctx context.Context, node string, m state.Message) error {
	result := make(chan error, 1)
	s.state.Send(m, []state.Copy{{Node: node}}, func(errs []error) { result <- errs[0] })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("sending to node %s: %w", node, state.ErrUnavailable)
	}
}

// onControl handles what another node says to this one. It does not block.
func (s *Server) onControl(m state.Message) {
	switch m.Op {
	case opResume:
		s.tasks.run(func() { s.handOver(m) })
	case opHandover:
		s.onHandover(m)
	case opMarker:
		s.tasks.run(func() { s.onMarker(m) })
	case opForward:
		if r := s.room(m.Room); r != nil {
			r.receiveForwarded(m.From, m.To, m.Frame)
		}
	case opPass, opPassed, opSettled:
		s.onMove(m)
	}
}

// onMove handles what is said about a move that is under way.
func (s *Server) onMove(m state.Message) {
	var k marker
	if err := json.Unmarshal(m.Frame, &k); err != nil {
		s.cfg.Logger.Warn("reading about a move", "node", m.Node, "op", m.Op, "error", err)
		return
	}
	move := s.moves.of(m.To)
	ours := move != nil && move.epoch == k.Epoch
	switch {
	case m.Op == opPassed:
		s.passed(m.Room, m.From, k.New)
	case m.Op == opPass && ours:
		if m.Node == s.state.ID() {
			move.begin() // The new node has a place for what is forwarded.
		}
		move.push(state.Message{Op: opPassed, Room: m.Room, From: m.Node, To: m.To, Frame: m.Frame})
	case m.Op == opSettled && ours:
		move.end()
	}
}

// onMarker notes that a member has moved and, when all that was sent to its former node is on its
// way, says so by way of that.
func (s *Server) onMarker(m state.Message) {
	var k marker
	if err := json.Unmarshal(m.Frame, &k); err != nil {
		s.cfg.Logger.Warn("reading a marker", "node", m.Node, "error", err)
		return
	}
	if r := s.room(m.Room); r != nil {
		r.redirect(k.New).Wait()
	}
	pass := state.Message{Op: opPass, Room: m.Room, To: m.To, Frame: m.Frame}
	if k.Via == s.state.ID() {
		pass.Node = k.Via
		s.onMove(pass)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, settleTimeout)
	defer cancel()
	if err := s.sendTo(ctx, k.Via, pass); err != nil {
		s.cfg.Logger.Debug("passing a marker on", "node", k.Via, "error", err)
	}
}

// redirect sends what is for a member to where it is now, and returns what counts the messages on
// their way to where it was.
func (r *room) redirect(now state.Member) *sync.WaitGroup {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.members, func(m state.Member) bool { return m.ID == now.ID && m.Epoch < now.Epoch })
	if i >= 0 {
		r.members = slices.Clone(r.members)
		r.members[i] = now
	}
	before := r.flight
	r.flight = new(sync.WaitGroup)
	return before
}

// onDied hears that a node is dead. Who waits for it waits in vain.
func (s *Server) onDied(node string) {
	for _, move := range s.moves.all() {
		if move.to == node {
			move.end()
			s.tasks.run(func() { s.abandon(move) })
		}
	}
	s.missed(node, s.loseRequests(node, state.ErrNoNode), false)
}

// onLost hears that messages of a node that lives may be missing.
func (s *Server) onLost(node string) {
	s.missed(node, s.loseRequests(node, state.ErrUnavailable), true)
}

func (s *Server) missed(node string, rooms []*room, alive bool) {
	for _, r := range rooms {
		for _, p := range r.losers(node, alive) {
			s.tasks.run(func() { p.miss("messages may be missing") })
		}
		for _, now := range r.waiting(node) {
			s.passed(r.id, node, now)
		}
	}
}

// losers returns the participants that may have missed messages of a node.
func (r *room) losers(node string, alive bool) []*participant {
	r.mu.Lock()
	defer r.mu.Unlock()
	shared := alive && slices.ContainsFunc(r.members, func(m state.Member) bool { return m.Node == node })
	var out []*participant
	for _, l := range r.local {
		if shared || l.move != nil && l.move.marker.Via == node {
			out = append(out, l.participant)
		}
	}
	return out
}

// waiting returns the members for which messages of a node are held back.
func (r *room) waiting(node string) []state.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []state.Member
	for _, l := range r.local {
		if l.move != nil && l.move.await[node] {
			out = append(out, l.move.marker.New)
		}
	}
	return out
}

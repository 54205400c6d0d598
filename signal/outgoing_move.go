package signal

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"cline-meet/signal/state"
)

// outgoingMove is a participant that another node has taken over, for which messages may still come.
// Its goroutine forwards them, in order.
type outgoingMove struct {
	user, room string
	epoch      uint64
	to         string

	mu    sync.Mutex
	queue []state.Message
	full  bool // something was dropped, so that nothing may follow
	wake  chan struct{}
	begun chan struct{} // closed when the other node has a place for what is forwarded
	done  chan struct{} // closed when it needs nothing more
	begin func()
	end   func()
}

func newOutgoingMove(p *participant, to string) *outgoingMove {
	move := &outgoingMove{user: p.user, room: p.room.id, epoch: p.epoch, to: to,
		wake: make(chan struct{}, 1), begun: make(chan struct{}), done: make(chan struct{})}
	move.begin = sync.OnceFunc(func() { close(move.begun) })
	move.end = sync.OnceFunc(func() { close(move.done) })
	return move
}

// maxForwarded is how many messages may wait for the new node. With more than come while a view
// travels something is wrong: the rest is dropped, and the new node, which hears no end, tells its
// client.
const maxForwarded = 10_000

// push queues a message for the new node.
func (move *outgoingMove) push(m state.Message) {
	move.mu.Lock()
	defer move.mu.Unlock()
	if move.full = move.full || len(move.queue) >= maxForwarded; move.full {
		return
	}
	move.queue = append(move.queue, m)
	select {
	case move.wake <- struct{}{}:
	default:
	}
}

// dequeue returns all that is queued.
func (move *outgoingMove) dequeue() []state.Message {
	move.mu.Lock()
	defer move.mu.Unlock()
	batch := move.queue
	move.queue = nil
	return batch
}

// outgoingMoves are the participants that have left this node for another a moment ago, by user id.
type outgoingMoves struct {
	mu     sync.Mutex // may be taken under a room's
	byUser map[string]*outgoingMove
}

func (ms *outgoingMoves) of(user string) *outgoingMove {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.byUser[user]
}

func (ms *outgoingMoves) add(move *outgoingMove) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.byUser[move.user] = move
}

func (ms *outgoingMoves) remove(move *outgoingMove) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.byUser[move.user] == move {
		delete(ms.byUser, move.user)
	}
}

func (ms *outgoingMoves) all() []*outgoingMove {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.Collect(maps.Values(ms.byUser))
}

// forwardAll gives a message to the participant to that has left, or to all of a room when to is
// empty.
func (ms *outgoingMoves) forwardAll(room, from, to string, frame []byte) {
	if to != "" {
		ms.forward(room, from, to, frame)
		return
	}
	for _, move := range ms.all() {
		ms.forward(room, from, move.user, frame)
	}
}

// forward gives a message to a participant that has left this node; others are not touched.
func (ms *outgoingMoves) forward(room, from, user string, frame []byte) {
	if move := ms.of(user); move != nil && move.room == room {
		move.push(state.Message{Op: opForward, Room: room, From: from, To: user, Frame: bytes.Clone(frame)})
	}
}

// handOver gives a participant to the node that asks for it.
func (s *Server) handOver(m state.Message) {
	var request moveRequest
	if err := json.Unmarshal(m.Frame, &request); err != nil {
		s.cfg.Logger.Warn("reading a request to resume", "node", m.Node, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, resumeTimeout)
	defer cancel()
	snap, move, err := s.release(ctx, m.From, m.Node, request)
	outcome := "handed"
	if err != nil {
		snap, outcome = snapshot{Gone: true}, "gone"
	}
	s.metrics.handovers.WithLabelValues(outcome).Inc()
	s.cfg.Logger.Debug("asked for a session", "user", m.From, "node", m.Node, "room", snap.Room, "kept", len(snap.Kept), "error", err)
	frame, _ := json.Marshal(snap) // Plain fields always encode.
	if err := s.sendTo(ctx, m.Node, state.Message{Op: opHandover, To: request.Ask, Frame: frame}); err != nil {
		s.cfg.Logger.Debug("handing a session over", "node", m.Node, "error", err)
	}
	if move != nil {
		s.seeOff(move)
	}
}

// release takes over a participant of this node, as soon as it has all that was sent to where it was
// before, and packs it for another node. A participant with which there is no going on ends.
func (s *Server) release(ctx context.Context, user, to string, request moveRequest) (snapshot, *outgoingMove, error) {
	p, err := s.takeOver(ctx, user, request.Epoch)
	if err != nil {
		return snapshot{}, nil, err
	}
	if p.room != nil && !p.room.awaitSettled(ctx, p) {
		p.end(state.ReasonDisconnect)
		return snapshot{}, nil, errGone
	}
	snap, move, err := s.pack(p, to, request.Got)
	if err != nil {
		p.end(state.ReasonDisconnect)
	}
	return snap, move, err
}

// seeOff forwards what comes for a participant that has gone to another node, until that has all.
// When it does not come to that, the participant is lost and its room is told.
func (s *Server) seeOff(move *outgoingMove) {
	ctx, cancel := context.WithTimeout(s.ctx, 2*settleTimeout)
	defer cancel()
	defer s.moves.remove(move)
	select {
	case <-move.begun:
	case <-move.done:
	case <-ctx.Done():
	}
	for {
		for _, m := range move.dequeue() {
			if err := s.sendTo(ctx, move.to, m); err != nil {
				s.abandon(move)
				return
			}
		}
		select {
		case <-move.wake:
		case <-move.done:
			return
		case <-ctx.Done():
			s.abandon(move)
			return
		}
	}
}

// abandon takes a participant out of its room if the other node has not moved it.
func (s *Server) abandon(move *outgoingMove) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), stateTimeout)
	defer cancel()
	view, err := s.state.Leave(ctx, move.room, move.user, move.epoch, state.ReasonDisconnect)
	if err != nil {
		return
	}
	if r := s.room(move.room); r != nil {
		r.apply(view)
	}
}

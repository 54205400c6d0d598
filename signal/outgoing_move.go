package signal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cline-meet/signal/state"
)

// outgoingMove is a participant that another node has taken over, for which messages may still come.
// Its goroutine forwards them, in order.
type outgoingMove struct {
	user, room string // room is empty when it is in none
	epoch      uint64
	former     uint64 // the oldest epoch that the client may still ask with, 0 for none
	proved     uint64 // bearer tokens of the epoch from before that greeting are used up

	mu    sync.Mutex
	stays []uint64     // what others call its stay
	there state.Member // where the room has it
	to    string
	plain bool      // that node speaks protocol 1
	snap  *snapshot // what was handed over, until that has arrived
	queue []state.Message
	full  bool      // something was dropped, so that nothing may follow
	slept bool      // the process did not run meanwhile
	last  time.Time // when it began or something came
	wake  chan struct{}
	begun chan struct{} // closed when the other node has a place for what is forwarded
	done  chan struct{} // closed when it needs nothing more
	begin func()
	end   func()

	holding holding // what is held for it: what was handed over, and what is to be forwarded
}

func newOutgoingMove(p *participant, snap *snapshot, to string) *outgoingMove {
	move := &outgoingMove{user: p.user, room: snap.Room, stays: snap.Stays, epoch: p.epoch, former: p.former, proved: p.proved, to: to, plain: p.srv.isPlain(to), snap: snap,
		last: time.Now(), wake: make(chan struct{}, 1), begun: make(chan struct{}), done: make(chan struct{})}
	move.begin = sync.OnceFunc(func() {
		move.forget()
		close(move.begun)
	})
	move.end = sync.OnceFunc(func() { close(move.done) })
	move.holding.budget = &p.srv.budget
	move.holding.add(snap.size())
	return move
}

// again returns what was handed over, for a node that asks because that was lost on its way. It reports false when it has
// arrived.
func (move *outgoingMove) again(to string, plain bool) (snapshot, bool) {
	move.mu.Lock()
	defer move.mu.Unlock()
	if move.snap == nil {
		return snapshot{}, false
	}
	move.to, move.plain = to, plain
	snap := *move.snap
	snap.Stays = slices.Clone(move.stays)
	return snap, true
}

func (move *outgoingMove) forget() {
	move.mu.Lock()
	defer move.mu.Unlock()
	if move.snap != nil {
		move.holding.add(-move.snap.size())
		move.snap = nil
	}
}

// drop gives up what is held to have its memory back. Its client is told of a gap where it has arrived, and else to come back as somebody
// new.
func (move *outgoingMove) drop() {
	move.mu.Lock()
	defer move.mu.Unlock()
	move.snap, move.queue, move.full = nil, nil, true
	move.holding.settle()
}

// hasArrived reports whether the other node has a place for what is forwarded.
func (move *outgoingMove) hasArrived() bool {
	select {
	case <-move.begun:
		return true
	default:
		return false
	}
}

func (move *outgoingMove) noteAbsence() {
	move.mu.Lock()
	defer move.mu.Unlock()
	move.slept = true
}

// isUnderWay reports whether the participant has not arrived, for all that a process knows that ran meanwhile.
func (move *outgoingMove) isUnderWay() bool {
	move.mu.Lock()
	defer move.mu.Unlock()
	return !move.slept && !move.hasArrived()
}

// target returns the node that has the participant now, and whether it speaks protocol 1.
func (move *outgoingMove) target() (node string, plain bool) {
	move.mu.Lock()
	defer move.mu.Unlock()
	return move.to, move.plain
}

// quietAfter is how long nothing comes for a participant that has left before a node that wants to end takes it
// that nothing will. What comes later all the same is refused, or is a gap that its tip shows.
const quietAfter = time.Second

// quiet reports whether nothing more is expected.
func (move *outgoingMove) quiet() bool {
	move.mu.Lock()
	defer move.mu.Unlock()
	return len(move.queue) == 0 && time.Since(move.last) > quietAfter
}

// maxForwarded is how many messages may wait for the new node. With more than come while a view
// travels something is wrong: the rest is dropped, and the new node, which sees that numbers are missing, tells
// its client.
const maxForwarded = 10_000

// push queues a message for the new node.
func (move *outgoingMove) push(m state.Message) {
	move.mu.Lock()
	defer move.mu.Unlock()
	if move.full = move.full || len(move.queue) >= maxForwarded; move.full {
		return
	}
	move.queue, move.last = append(move.queue, m), time.Now()
	move.holding.add(int64(len(m.Frame)) + heldOverhead)
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
	for _, m := range batch {
		move.holding.add(-int64(len(m.Frame)) - heldOverhead)
	}
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

// begin begins to forward for those that a view of their room shows at another node.
func (ms *outgoingMoves) begin(v state.View) {
	for _, move := range ms.all() {
		if move.room != v.Room {
			continue
		}
		switch m, ok := v.Find(move.user); {
		case ok && m.Epoch > move.epoch:
			move.arrived(m)
		case ok && m.Epoch == move.epoch:
			move.named(m.Joined)
		}
	}
}

// named notes what others call its stay: something else when the shared state has lost the room while it is on its way.
func (move *outgoingMove) named(joined uint64) {
	move.mu.Lock()
	defer move.mu.Unlock()
	if !slices.Contains(move.stays, joined) {
		move.stays = append(slices.Clip(move.stays), joined)
	}
}

func (move *outgoingMove) isStay(joined uint64) bool {
	move.mu.Lock()
	defer move.mu.Unlock()
	return slices.Contains(move.stays, joined)
}

// forward gives a message for one stay to the participant if it has left this node. It goes as it came: its To says
// which node has sent it.
func (ms *outgoingMoves) forward(m state.Message, to state.Receiver) {
	move := ms.of(to.ID)
	if move == nil || move.room != m.Room || !move.isStay(to.Joined) {
		return
	}
	if _, plain := move.target(); plain {
		ms.forwardPlain(m, to.ID)
		return
	}
	m.Op, m.To, m.Receivers = opRelay, m.Node, []state.Receiver{to}
	m.Frame = bytes.Clone(m.Frame)
	move.push(m)
}

// forwardAll gives a message to all its receivers that have left this node.
func (ms *outgoingMoves) forwardAll(m state.Message) {
	for _, to := range m.Receivers {
		ms.forward(m, to)
	}
	if len(m.Receivers) == 0 {
		ms.forwardAllPlain(m)
	}
}

// handOver gives a participant to the node that asks for it. To one that asked too early it says nothing: its
// client tries again.
func (s *Server) handOver(m state.Message) {
	var request moveRequest
	if err := json.Unmarshal(m.Frame, &request); err != nil {
		s.cfg.Logger.Warn("reading a request to resume", "node", m.Node, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, resumeTimeout)
	defer cancel()
	snap, move, err := s.release(ctx, m.From, m.Node, request)
	if errors.Is(err, state.ErrUnavailable) {
		return
	}
	outcome := "handed"
	if err != nil {
		snap, outcome = snapshot{Gone: true}, "gone"
		var on elsewhere
		if errors.As(err, &on) {
			snap.Node, snap.Epoch = on.Node, on.Epoch
		}
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

// release takes over a participant of this node and packs it for another node. What it has sent is answered before,
// so that its answers go with it and what it says next comes behind. A participant with which there is no going
// on ends.
func (s *Server) release(ctx context.Context, user, to string, request moveRequest) (snapshot, *outgoingMove, error) {
	if p := s.participant(user); p != nil && p.epoch == request.Epoch && (p.hasGoneOn(request.Got) || p.isUsedUp(request.Greeting)) {
		return snapshot{}, nil, fmt.Errorf("%w: its client has gone on here since it asked", errGone)
	}
	p, err := s.takeOver(ctx, user, s.translate(ctx, user, request.Epoch))
	if move := s.moves.of(user); errors.Is(err, errGone) && move != nil && move.isOf(request.Epoch, request.Greeting) {
		if snap, ok := move.again(to, s.isPlain(to)); ok {
			return snap, nil, nil
		}
		err = move.whither()
	}
	if err != nil {
		return snapshot{}, nil, err
	}
	if p.room != nil && s.state.Doubtful(p.room.id) {
		p.letGo()
		return snapshot{}, nil, fmt.Errorf("it may be elsewhere: %w", state.ErrUnavailable)
	}
	if p.room != nil {
		s.awaitSettled(ctx, p, to)
	}
	if err := p.awaitFlying(ctx, (*window).empty); err != nil {
		p.letGo()
		return snapshot{}, nil, err
	}
	snap, move, err := s.pack(p, to, request.Got)
	if err != nil {
		p.end(state.ReasonDisconnect)
	}
	return snap, move, err
}

// seeOff forwards what comes for a participant that has gone to another node, for as long as something may.
// When it does not come to that, because the other node died perhaps, the participant waits here for its client or for
// whichever node that comes to, as one that is detached. When its grace is over, it is lost and its room is told.
func (s *Server) seeOff(move *outgoingMove) {
	defer move.holding.settle()
	defer move.forget()
	defer s.moves.remove(move)
	if !s.awaitArrival(move) {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, lineRetention)
	defer cancel()
	done := move.done
	for followed := false; ; followed = true {
		to, plain := move.target()
		batch := move.dequeue()
		if !followed && !plain && move.room != "" {
			batch = append(batch, state.Message{Op: opFollowed, Room: move.room, From: s.state.ID(), To: move.user})
		}
		for _, m := range batch {
			s.state.Send(m, []state.Copy{{Node: to, Receivers: m.Receivers}}, func([]error) {}) // A gap shows.
		}
		select {
		case <-move.wake:
		case <-done:
			if s.moves.of(move.user) != move {
				return // It is back.
			}
			done = nil // It needs nothing more, but its client may not know yet where it is.
		case <-ctx.Done():
			return
		}
	}
}

// awaitArrival reports whether a participant has arrived at another node. Where sessions outlive the process, its end is
// none of theirs.
func (s *Server) awaitArrival(move *outgoingMove) bool {
	grace := time.NewTimer(max(s.cfg.ResumeGrace, 2*resumeTimeout))
	defer grace.Stop()
	select {
	case <-move.begun:
		return true
	case <-move.done: // It has come back.
		return false
	case <-grace.C:
	case <-s.ctx.Done():
		if s.outlived() {
			return false
		}
	}
	s.abandon(move)
	return false
}

// abandon takes a participant out of its room if the other node has not moved it.
func (s *Server) abandon(move *outgoingMove) {
	if move.room == "" {
		return
	}
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

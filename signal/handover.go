package signal

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cline-meet/signal/state"
)

// A participant moves from node A to node B, where its client has shown up:
//
//	B → A  resume     A freezes the participant, whose client it cuts if need be,
//	A → B  handover   and sends all that is kept for it. B puts it into A's place in the room.
//	B → C  mark       for every node C with members in the room, A and B included: from now on
//	                  C sends to B what is for the participant, and when all that it sent to A is
//	                  on its way, it says so,
//	C → A  pass       by a message that A hands on
//	A → B  passed     behind all that A forwards for C. Until then B holds back what C sends
//	                  directly, so that the order of each sender stands.
//	A → B  forward    is a message that still came to A, once B has asked it by a mark.
//	B → A  settled    ends it.
//
// When A dies before all has passed, the client is told that it may have missed something.
const (
	opResume   = "resume"
	opHandover = "handover"
	opMark     = "mark"
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

// luggage is what a handover message carries: the participant.
type luggage struct {
	Gone bool           `json:"gone,omitempty"`
	Room string         `json:"room,omitempty"`
	Sent uint64         `json:"sent"`
	Kept [][]byte       `json:"kept"`
	Told []state.Member `json:"told"`
}

// mark is what the messages of a move carry: the move.
type mark struct {
	Via   string       `json:"via"` // the former node
	Epoch uint64       `json:"epoch"`
	New   state.Member `json:"new"`
}

func (k mark) frame() []byte {
	frame, _ := json.Marshal(k) // Plain fields always encode.
	return frame
}

// arrival is a participant that has come from another node and for which some messages may still
// come from there. It is guarded by the room's lock.
type arrival struct {
	move mark
	// open is true until it is known whom to wait for; then await says so.
	open    bool
	await   map[string]bool
	held    map[string][]held
	bytes   int
	settled chan struct{}
}

// held is a message that waits for those that its sender sent before.
type held struct {
	from  string
	frame []byte
}

// maxEarly bounds what may come for a member before it is one; it is there for a moment only.
const maxEarly = 1000

// hear queues a frame that came from a node, or holds it back. The room's lock is held.
func (s *seat) hear(node, from string, frame []byte) {
	a := s.arrival
	if a == nil && s.told == nil && len(s.early) < maxEarly {
		s.early = append(s.early, held{from, frame})
		return
	}
	if a == nil || !a.open && !a.await[node] {
		s.conn.send(frame)
		return
	}
	a.held[node] = append(a.held[node], held{from, frame})
	if a.bytes += len(frame); a.bytes > s.conn.srv.cfg.MaxQueue {
		a.held, a.bytes = map[string][]held{}, 0
		s.conn.srv.crew.do(func() { s.conn.lose("too much waited while the session moved") })
	}
}

// departure is a participant that another node has taken over, for which messages may still come.
// Its goroutine sends them on, in order.
type departure struct {
	user, room string
	epoch      uint64
	to         string

	mu    sync.Mutex
	queue []state.Message
	full  bool // something was dropped, so that nothing may follow
	wake  chan struct{}
	begun chan struct{} // closed when the other node has a place for what is sent on
	done  chan struct{} // closed when it needs nothing more
	begin func()
	end   func()
}

func newDeparture(c *conn, to string) *departure {
	d := &departure{user: c.user, room: c.room.id, epoch: c.epoch, to: to,
		wake: make(chan struct{}, 1), begun: make(chan struct{}), done: make(chan struct{})}
	d.begin = sync.OnceFunc(func() { close(d.begun) })
	d.end = sync.OnceFunc(func() { close(d.done) })
	return d
}

// maxForwarded is how many messages may wait for the new node. With more than come while a view
// travels something is wrong: the rest is dropped, and the new node, which hears no end, tells its
// client.
const maxForwarded = 10_000

// push queues a message for the new node.
func (d *departure) push(m state.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full = d.full || len(d.queue) >= maxForwarded; d.full {
		return
	}
	d.queue = append(d.queue, m)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *departure) take() []state.Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	batch := d.queue
	d.queue = nil
	return batch
}

// onControl handles what another node says to this one. It does not block.
func (s *Server) onControl(m state.Message) {
	switch m.Op {
	case opResume:
		s.crew.do(func() { s.handOver(m) })
	case opHandover:
		s.answerAsk(m)
	case opMark:
		s.crew.do(func() { s.marked(m) })
	case opForward:
		s.forwarded(m)
	case opPass, opPassed, opSettled:
		s.onMove(m)
	}
}

// onMove handles what is said about a move that is under way.
func (s *Server) onMove(m state.Message) {
	var k mark
	if err := json.Unmarshal(m.Frame, &k); err != nil {
		s.cfg.Logger.Warn("reading about a move", "node", m.Node, "op", m.Op, "error", err)
		return
	}
	d := s.departures.of(m.To)
	ours := d != nil && d.epoch == k.Epoch
	switch {
	case m.Op == opPassed:
		s.passed(m.Room, m.From, k.New)
	case m.Op == opPass && ours:
		if m.Node == s.state.ID() {
			d.begin() // The new node has a place for what is sent on.
		}
		d.push(state.Message{Op: opPassed, Room: m.Room, From: m.Node, To: m.To, Frame: m.Frame})
	case m.Op == opSettled && ours:
		d.end()
	}
}

// departures are the participants that have left this node for another a moment ago, by user id.
type departures struct {
	mu     sync.Mutex // may be taken under a room's
	byUser map[string]*departure
}

func (ds *departures) of(user string) *departure {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return ds.byUser[user]
}

func (ds *departures) add(d *departure) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.byUser[d.user] = d
}

func (ds *departures) remove(d *departure) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.byUser[d.user] == d {
		delete(ds.byUser, d.user)
	}
}

func (ds *departures) all() []*departure {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return slices.Collect(maps.Values(ds.byUser))
}

// sendAllOn gives a message to the participant to that has left, or to all of a room when to is
// empty.
func (ds *departures) sendAllOn(room, from, to string, frame []byte) {
	if to != "" {
		ds.sendOn(room, from, to, frame)
		return
	}
	for _, d := range ds.all() {
		ds.sendOn(room, from, d.user, frame)
	}
}

// sendOn gives a message to a participant that has left this node; others are not touched.
func (ds *departures) sendOn(room, from, user string, frame []byte) {
	if d := ds.of(user); d != nil && d.room == room {
		d.push(state.Message{Op: opForward, Room: room, From: from, To: user, Frame: frame})
	}
}

// ask sends a request to another node and waits for its answer.
func (s *Server) ask(ctx context.Context, node, user string, r moveRequest) (luggage, error) {
	var l luggage
	r.Ask = rand.Text()
	answer := make(chan []byte, 1)
	s.mu.Lock()
	s.asks[r.Ask] = asked{node, answer}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asks, r.Ask)
	}()
	frame, _ := json.Marshal(r) // Plain fields always encode.
	if err := s.state.Send(ctx, []string{node}, state.Message{Op: opResume, From: user, Frame: frame}); err != nil {
		return l, err
	}
	select {
	case frame := <-answer:
		if err := json.Unmarshal(frame, &l); err != nil || l.Gone {
			return l, errGone
		}
		return l, nil
	case <-ctx.Done():
		return l, fmt.Errorf("waiting for node %s: %w", node, state.ErrUnavailable)
	}
}

// asked is a request that waits for the answer of a node.
type asked struct {
	node   string
	answer chan []byte
}

func (s *Server) answerAsk(m state.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.asks[m.To]; ok {
		delete(s.asks, m.To)
		a.answer <- m.Frame
	}
}

// resumeFrom gives a connection the participant of another node.
func (s *Server) resumeFrom(ctx context.Context, c *conn, t resumeToken, got *uint64) error {
	l, err := s.ask(ctx, t.Node, t.User, moveRequest{Epoch: t.Epoch, Got: got})
	if errors.Is(err, state.ErrNoNode) {
		return fmt.Errorf("%w: its node is gone", errGone)
	}
	if err != nil {
		return err
	}
	c.user, c.epoch = t.User, max(c.epoch, t.Epoch+1)
	c.log = s.cfg.Logger.With("user", c.user)
	c.sent, c.kept = l.Sent, l.Kept
	for _, frame := range l.Kept {
		c.keptBytes += len(frame)
	}
	if l.Room != "" {
		if err := s.arrive(ctx, c, t, l); err != nil {
			return err
		}
	}
	s.adopt(c)
	c.begin(c.iceFrame(true))
	s.metrics.resumes.WithLabelValues("moved").Inc()
	c.log.Debug("resumed", "from", t.Node, "room", l.Room, "kept", len(l.Kept))
	return nil
}

// arrive puts a participant into the room that it was in at the other node.
func (s *Server) arrive(ctx context.Context, c *conn, t resumeToken, l luggage) error {
	move := mark{Via: t.Node, Epoch: t.Epoch, New: state.Member{ID: c.user, Node: s.state.ID(), Epoch: c.epoch}}
	a := &arrival{move: move, open: true, held: map[string][]held{}, settled: make(chan struct{})}
	if d := s.departures.of(t.User); d != nil {
		d.end() // It has come back, with all that was sent on.
	}
	r := s.sit(l.Room, &seat{conn: c, told: l.Told, arrival: a})
	view, err := s.state.Move(ctx, l.Room, state.Member{ID: t.User, Epoch: t.Epoch}, c.epoch)
	if err != nil {
		s.unseat(r, c)
		if errors.Is(err, state.ErrNotMember) {
			return fmt.Errorf("%w: it is in its room no more", errGone)
		}
		return err
	}
	c.room = r
	r.apply(view)
	nodes := r.settle(c, view)
	m := state.Message{Op: opMark, Room: r.id, To: c.user, Frame: move.frame()}
	s.crew.do(func() {
		for _, node := range nodes {
			if err := s.sendMark(node, m); errors.Is(err, state.ErrNoNode) {
				s.passed(r.id, node, move.New) // It has nothing more to send.
			}
		}
		s.watch(c, a)
	})
	return nil
}

// watch ends a participant for which messages may be missing when all should have come.
func (s *Server) watch(c *conn, a *arrival) {
	limit := time.NewTimer(settleTimeout)
	defer limit.Stop()
	select {
	case <-a.settled:
	case <-s.ctx.Done():
	case <-limit.C:
		c.lose("messages may be missing")
	}
}

// sendMark asks a node to send no more to where the participant was.
func (s *Server) sendMark(node string, m state.Message) error {
	if node == s.state.ID() {
		s.marked(m)
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, settleTimeout)
	defer cancel()
	return s.state.Send(ctx, []string{node}, m)
}

// settle closes the list of nodes to wait for, the nodes of the other members in view, and returns
// it. What is held of others is let go.
func (r *room) settle(c *conn, view state.View) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.local[c.user]
	if s == nil || s.conn != c || s.arrival == nil {
		return nil
	}
	a := s.arrival
	a.open, a.await = false, map[string]bool{a.move.Via: true} // It sends nothing on before it is asked.
	nodes := []string{a.move.Via}
	for _, m := range view.Members {
		if m.ID != c.user && !a.await[m.Node] {
			a.await[m.Node] = true
			nodes = append(nodes, m.Node)
		}
	}
	for node := range a.held {
		if !a.await[node] {
			r.releaseLocked(s, node)
		}
	}
	return nodes
}

// releaseLocked lets go what is held of a node.
func (r *room) releaseLocked(s *seat, node string) {
	held := s.arrival.held[node]
	delete(s.arrival.held, node)
	for _, h := range held {
		if slices.ContainsFunc(r.members, func(m state.Member) bool { return m.ID == h.from }) {
			s.conn.send(h.frame)
		}
	}
}

// passed notes that all that a node had sent to a participant's former node has arrived.
func (s *Server) passed(roomID, node string, now state.Member) {
	r := s.room(roomID)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seat := r.local[now.ID]
	if seat == nil || seat.arrival == nil || seat.arrival.open || seat.arrival.move.New != now {
		return
	}
	a := seat.arrival
	delete(a.await, node)
	r.releaseLocked(seat, node)
	if len(a.await) > 0 {
		return
	}
	seat.arrival = nil
	close(a.settled)
	s.crew.do(func() {
		ctx, cancel := context.WithTimeout(s.ctx, settleTimeout)
		defer cancel()
		_ = s.state.Send(ctx, []string{a.move.Via}, state.Message{Op: opSettled, To: now.ID, Frame: a.move.frame()}) // It gives up by itself.
	})
}

func (r *room) arrivalOf(c *conn) *arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.local {
		if s.conn == c {
			return s.arrival
		}
	}
	return nil
}

// marked notes that a member has moved and, when all that was sent to its former node is on its
// way, says so by way of that.
func (s *Server) marked(m state.Message) {
	var k mark
	if err := json.Unmarshal(m.Frame, &k); err != nil {
		s.cfg.Logger.Warn("reading a mark", "node", m.Node, "error", err)
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
	if err := s.state.Send(ctx, []string{k.Via}, pass); err != nil {
		s.cfg.Logger.Debug("passing a mark", "node", k.Via, "error", err)
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

// handOver gives a participant to the node that asks for it.
func (s *Server) handOver(m state.Message) {
	var request moveRequest
	if err := json.Unmarshal(m.Frame, &request); err != nil {
		s.cfg.Logger.Warn("reading a request to resume", "node", m.Node, "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, resumeTimeout)
	defer cancel()
	l, d := s.pack(ctx, m.From, m.Node, request)
	if l.Gone {
		s.metrics.handovers.WithLabelValues("gone").Inc()
	}
	frame, _ := json.Marshal(l) // Plain fields always encode.
	err := s.state.Send(ctx, []string{m.Node}, state.Message{Op: opHandover, To: request.Ask, Frame: frame})
	if err != nil {
		s.cfg.Logger.Debug("handing a session over", "node", m.Node, "error", err)
	}
	if d != nil {
		s.seeOff(d)
	}
}

// pack freezes a participant. The departure is nil when nothing can follow.
func (s *Server) pack(ctx context.Context, user, to string, request moveRequest) (luggage, *departure) {
	c, err := s.take(ctx, user, request.Epoch)
	if err != nil {
		return luggage{Gone: true}, nil
	}
	if c.room != nil && !c.room.awaitSettled(ctx, c) || c.rewind(request.Got) != nil {
		s.end(c, state.ReasonDisconnect)
		return luggage{Gone: true}, nil
	}
	if c.room == nil {
		s.forget(c)
		return luggage{Sent: c.sent, Kept: c.kept}, nil
	}
	d := newDeparture(c, to)
	l := s.leaveSeat(c, d)
	s.forget(c)
	s.metrics.handovers.WithLabelValues("handed").Inc()
	c.log.Debug("handed over", "node", to, "room", l.Room, "kept", len(l.Kept))
	return l, d
}

// leaveSeat takes a participant with all that is kept for it out of its seat. What comes for it
// from then on is the departure's.
func (s *Server) leaveSeat(c *conn, d *departure) luggage {
	r := c.room
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	s.departures.add(d)
	l := luggage{Room: r.id, Told: r.local[c.user].told}
	s.unseatLocked(r, c)
	c.mu.Lock()
	defer c.mu.Unlock()
	l.Sent, l.Kept = c.sent, c.kept
	return l
}

// awaitSettled waits until a participant that came from another node has all that was sent there.
func (r *room) awaitSettled(ctx context.Context, c *conn) bool {
	a := r.arrivalOf(c)
	if a == nil {
		return true
	}
	select {
	case <-a.settled:
		return true
	case <-ctx.Done():
		return false
	}
}

// seeOff sends on what comes for a participant that has gone to another node, until that has all.
// When it does not come to that, the participant is lost and its room is told.
func (s *Server) seeOff(d *departure) {
	ctx, cancel := context.WithTimeout(s.ctx, 2*settleTimeout)
	defer cancel()
	defer s.departures.remove(d)
	select {
	case <-d.begun:
	case <-d.done:
	case <-ctx.Done():
	}
	for {
		for _, m := range d.take() {
			if err := s.state.Send(ctx, []string{d.to}, m); err != nil {
				s.abandon(d)
				return
			}
		}
		select {
		case <-d.wake:
		case <-d.done:
			return
		case <-ctx.Done():
			s.abandon(d)
			return
		}
	}
}

// abandon takes a participant out of its room if the other node has not moved it.
func (s *Server) abandon(d *departure) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), stateTimeout)
	defer cancel()
	view, err := s.state.Leave(ctx, d.room, d.user, d.epoch, state.ReasonDisconnect)
	if err != nil {
		return
	}
	if r := s.room(d.room); r != nil {
		r.apply(view)
	}
}

// forwarded delivers a message that came to a participant's former node.
func (s *Server) forwarded(m state.Message) {
	r := s.room(m.Room)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if seat := r.local[m.To]; seat != nil {
		seat.conn.send(m.Frame)
	}
}

// onLost hears that messages of a node may be missing. Who waits for that node waits in vain; when
// it lives, whoever shares a room with its members may have missed something.
func (s *Server) onLost(node string) {
	s.mu.Lock()
	for id, a := range s.asks {
		if a.node == node {
			delete(s.asks, id)
			a.answer <- []byte(`{"gone":true}`)
		}
	}
	rooms := make([]*room, 0, len(s.rooms))
	for _, r := range s.rooms {
		rooms = append(rooms, r)
	}
	s.mu.Unlock()
	for _, d := range s.departures.all() {
		if d.to == node {
			d.end()
			s.crew.do(func() { s.abandon(d) })
		}
	}
	alive := slices.ContainsFunc(s.state.Nodes(), func(n state.NodeInfo) bool { return n.ID == node })
	for _, r := range rooms {
		for _, c := range r.losers(node, alive) {
			s.crew.do(func() { c.lose("messages may be missing") })
		}
		for _, now := range r.waiting(node) {
			s.passed(r.id, node, now)
		}
	}
}

// losers returns the connections that may have missed messages of a node.
func (r *room) losers(node string, alive bool) []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	shared := alive && slices.ContainsFunc(r.members, func(m state.Member) bool { return m.Node == node })
	var out []*conn
	for _, s := range r.local {
		if shared || s.arrival != nil && s.arrival.move.Via == node {
			out = append(out, s.conn)
		}
	}
	return out
}

// waiting returns the members for which messages of a node are held back.
func (r *room) waiting(node string) []state.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []state.Member
	for _, s := range r.local {
		if s.arrival != nil && s.arrival.await[node] {
			out = append(out, s.arrival.move.New)
		}
	}
	return out
}

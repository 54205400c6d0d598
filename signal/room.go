package signal

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"cline-meet/signal/state"
)

// room is what this node knows of a room in which it has members: the last view of all members,
// and the participants of its own. It exists from the first local join until the last local leave.
// All methods may be called by any goroutine.
type room struct {
	id    string
	node  string // the id of this node
	moves *outgoingMoves

	// mu is taken after the server's and before a participant's.
	mu      sync.Mutex
	version uint64
	members []state.Member
	// local holds the node's own participants by user id. One is there from before its join, so
	// that no view can miss it, but hears nothing until its join is done and a view names it.
	local map[string]*localMember
	// flight counts the messages that are on their way to other nodes. It is replaced when a
	// member moves, so that what was sent to its former node can be waited for.
	flight *sync.WaitGroup
}

// localMember is one participant of this node in a room. The room's lock guards it.
type localMember struct {
	room        *room
	participant *participant
	// joining says that the join has not returned, or that an adopted one was not welcomed yet. A join may still fail although a view names the member,
	// when nobody knows whether the shared state took it; then the client must not have heard of it.
	joining bool
	// told are the members as the client knows them; nil before it was told of itself.
	told []state.Member
	// early are messages of senders of whom the client was not told yet.
	early      []heldMessage
	earlyBytes int
	// move is nil unless the participant has come from another node a moment ago.
	move *incomingMove
}

// heldMessage is a message that waits for something that its receiver must hear before.
type heldMessage struct {
	From  string    `json:"from"`
	Frame []byte    `json:"frame"`
	since time.Time // of early ones
}

func newRoom(id, node string, moves *outgoingMoves) *room {
	return &room{id: id, node: node, moves: moves, local: map[string]*localMember{}, flight: new(sync.WaitGroup)}
}

// apply takes over a view unless a newer one was applied, and tells the local members what changed
// since the last: first who left, then who joined, in join order. A joiner hears of itself first.
func (r *room) apply(v state.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applyLocked(v)
}

func (r *room) applyLocked(v state.View) {
	if v.Version <= r.version {
		return
	}
	r.version, r.members = v.Version, newest(v.Members, r.members)
	for _, m := range r.members {
		if l := r.localLocked(m); l != nil && !l.joining {
			r.tellLocked(l, v.Left)
		}
	}
}

// joined takes over the view with which a join has returned, unless a newer one was applied meanwhile,
// and tells the client.
func (r *room) joined(l *localMember, v state.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.joining = false
	r.applyLocked(v)
	if l.told == nil && slices.ContainsFunc(r.members, l.participant.member().Is) {
		r.tellLocked(l, nil)
	}
}

// newest returns the members with the newest epoch of each that is known: a member that has moved
// is not where an older view has it.
func newest(members, known []state.Member) []state.Member {
	for i, m := range members {
		k := slices.IndexFunc(known, func(o state.Member) bool { return o.ID == m.ID && o.Epoch > m.Epoch })
		if k >= 0 {
			members = slices.Clone(members)
			members[i] = known[k]
		}
	}
	return members
}

// tellLocked brings a member's client from what it was told to what is, and then gives it the messages
// that had to wait for that.
func (r *room) tellLocked(l *localMember, left []state.Departure) {
	old, self := l.told, l.participant.user
	for _, m := range old {
		if m.ID != self && !stays(m, r.members, left) {
			l.participant.send(userLeftFrame(r.id, m.ID, string(reasonOf(left, m))))
		}
	}
	var users []string // as the client knows them, in join order
	for i, m := range r.members {
		switch {
		case m.ID == self && old == nil:
			users = append(users, self)
			l.participant.send(userJoinedFrame(r.id, self, users))
		case old == nil && !slices.ContainsFunc(r.members[:i], func(o state.Member) bool { return o.ID == self }):
			users = append(users, m.ID) // A joiner is told of who was there by its own join.
		case old != nil && slices.ContainsFunc(old, func(o state.Member) bool { return o.ID == m.ID && stays(o, r.members, left) }):
		default:
			l.participant.send(userJoinedFrame(r.id, m.ID, r.knownLocked(old, left, i)))
		}
	}
	l.told = r.members
	l.releaseEarly()
}

// knownLocked returns the users that a client knows when it is told of member i: those that it was
// told before and that stayed, and those that it is told of now, which are the ones before i.
func (r *room) knownLocked(old []state.Member, left []state.Departure, i int) []string {
	var users []string
	for j, m := range r.members {
		known := func(o state.Member) bool { return o.ID == m.ID && stays(o, r.members, left) }
		if j <= i || slices.ContainsFunc(old, known) {
			users = append(users, m.ID)
		}
	}
	return users
}

// stays reports whether a member is still there, if only by another connection. Who left and came
// again has not stayed.
func stays(m state.Member, members []state.Member, left []state.Departure) bool {
	return slices.ContainsFunc(members, func(o state.Member) bool {
		return o.ID == m.ID && (o.Epoch == m.Epoch || !slices.ContainsFunc(left, func(d state.Departure) bool { return d.Is(m) }))
	})
}

func reasonOf(left []state.Departure, m state.Member) state.Reason {
	for _, d := range left {
		if d.ID == m.ID {
			return d.Reason
		}
	}
	return state.ReasonLeave
}

// localLocked returns the local member that a member is, nil when it is on another node.
func (r *room) localLocked(m state.Member) *localMember {
	if l := r.local[m.ID]; l != nil && l.participant.epoch == m.Epoch {
		return l
	}
	return nil
}

// welcome tells a member, whatever it was told before, how the room stands: it asked to join again, or it
// has missed something.
func (r *room) welcome(p *participant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[p.user]
	if l == nil || l.participant != p {
		return
	}
	var users []string
	for _, m := range r.members {
		users = append(users, m.ID)
	}
	l.joining, l.told = false, r.members
	p.send(userJoinedFrame(r.id, p.user, users))
	l.releaseEarly()
}

// remoteNodes are where a message of this node has to go besides the local members. Whoever is given
// them calls done when they have got it or will not.
type remoteNodes struct {
	nodes  []string
	flight *sync.WaitGroup // nil when there are no nodes
}

func (n remoteNodes) done() {
	if n.flight != nil {
		n.flight.Done()
	}
}

// deliver queues a frame, which it copies, of the local member from for the member to, or for all members but the
// sender when to is empty. It returns the nodes of the receivers that are elsewhere, in no order,
// and whether from and to are members at all.
func (r *room) deliver(from, to string, frame []byte) (remote remoteNodes, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := to == ""
	for _, m := range r.members {
		switch {
		case m.ID == from:
			ok = true
			if to != from {
				continue
			}
		case to != "" && m.ID != to:
			continue
		}
		found = true
		l := r.localLocked(m)
		switch {
		case l != nil:
			l.hear(r.node, from, frame)
		case m.Node == r.node:
			r.moves.forward(r.id, from, m.ID, frame)
		case !slices.Contains(remote.nodes, m.Node):
			remote.nodes = append(remote.nodes, m.Node)
		}
	}
	if len(remote.nodes) > 0 {
		r.flight.Add(1)
		remote.flight = r.flight
	}
	return remote, ok && found
}

// receive queues a frame that came from another node for the local member to, or for all of them
// when to is empty. Who has moved from this node a moment ago gets it there.
//
// Both ends must be members. The receiver is one as long as it is in local. The sender was one for its
// own node; here the view that names it may come later than its message, above all after an outage
// in which it joined with what its node knew. What a client knows decides, see pass.
func (r *room) receive(node, from, to string, frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for user, l := range r.local {
		if to == "" || user == to {
			l.hear(node, from, frame)
		}
	}
	r.moves.forwardAll(r.id, from, to, frame)
}

// receiveForwarded queues a frame that was sent to a member's former node.
func (r *room) receiveForwarded(from, to string, frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.local[to]; l != nil {
		l.pass(from, frame)
	}
}

// hear queues a frame that came from a node, unless what the sender sent before is still on its way
// by the member's former node. The room's lock is held.
func (l *localMember) hear(node, from string, frame []byte) {
	a := l.move
	if a == nil || !a.open && !a.await[node] {
		l.pass(from, frame)
		return
	}
	a.held[node] = append(a.held[node], heldMessage{From: from, Frame: bytes.Clone(frame)})
	if a.bytes += len(frame); a.bytes > l.participant.srv.cfg.MaxQueue {
		a.held, a.bytes = map[string][]heldMessage{}, 0
		l.participant.srv.tasks.run(func() { l.participant.lose("too much waited while the session moved") })
	}
}

// earlyTimeout is how long a message waits for the view that names its sender: longer than a node
// takes to tell the others of its members after an outage.
const earlyTimeout = 5 * time.Second

// pass queues a frame if the client knows the sender as a member. Else it waits until the client was
// told, so that a user_joined comes before what that user sends. It does not wait for long, since its
// sender was told that it has been handed on: who was never named, or has left already, is heard late,
// and so is the oldest when more than MaxQueue wait. The room's lock is held.
func (l *localMember) pass(from string, frame []byte) {
	if l.knows(from) {
		l.participant.send(frame)
		return
	}
	l.early = append(l.early, heldMessage{from, bytes.Clone(frame), time.Now()})
	l.earlyBytes += len(frame)
	if len(l.early) == 1 {
		l.awaitView()
	}
	for l.earlyBytes > l.participant.srv.cfg.MaxQueue {
		l.releaseOldest()
	}
}

// awaitView has the early messages queued when they have waited for long enough.
func (l *localMember) awaitView() {
	r := l.room
	time.AfterFunc(earlyTimeout, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.local[l.participant.user] != l {
			return // They went with it.
		}
		for len(l.early) > 0 && time.Since(l.early[0].since) >= earlyTimeout {
			l.releaseOldest()
		}
		if len(l.early) > 0 {
			l.awaitView()
		}
	})
}

func (l *localMember) releaseOldest() {
	h := l.early[0]
	l.early = l.early[1:]
	l.earlyBytes -= len(h.Frame)
	l.participant.send(h.Frame)
}

func (l *localMember) knows(user string) bool {
	return slices.ContainsFunc(l.told, func(m state.Member) bool { return m.ID == user })
}

// releaseEarly queues the early messages of all senders that the client knows by now.
func (l *localMember) releaseEarly() {
	early := l.early
	l.early, l.earlyBytes = nil, 0
	for _, h := range early {
		if l.knows(h.From) {
			l.participant.send(h.Frame)
			continue
		}
		l.early = append(l.early, h)
		l.earlyBytes += len(h.Frame)
	}
}

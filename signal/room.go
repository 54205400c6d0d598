package signal

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"cline-meet/signal/state"
)

// room is what this node knows of a room in which it has members: the last view of all members,
// and the participants of its own. It exists from the first local join until the last local leave; then its
// numbers are kept for a while. All methods may be called by any goroutine.
type room struct {
	srv  *Server
	id   string
	node string    // the id of this node
	run  uint64    // tells this life of the room from others at this node
	left time.Time // when the last local member left; guarded by the server's lock

	// mu is taken after the server's and before a participant's.
	mu      sync.Mutex
	version uint64
	members []state.Member
	// said is the newest that each other node has said of the room, and streams whether they do so, each in its own order.
	said    map[string]state.View
	streams bool
	// local holds the node's own participants by user id. One is there from before its join, so
	// that no view can miss it, but hears nothing until its join is done and a view names it.
	local map[string]*localMember
	// number is that of the last frame that went to another node, and lines are whom such frames are for.
	number  uint64
	lines   map[stay]*line
	mending bool // a timer runs that tries again what other nodes need to know of the lines
}

// localMember is one participant of this node in a room. The room's lock guards it.
type localMember struct {
	room        *room
	participant *participant
	// joining says that the join has not returned, or that an adopted one was not welcomed yet. A join may still fail although a view names the member,
	// when nobody knows whether the shared state took it; then the client must not have heard of it.
	joining bool
	// stays are what others call its stay: one, unless the shared state has lost the room and got it back.
	// They are empty until a view names the member; what comes before that waits in unnamed.
	stays   []uint64
	unnamed []namedMessage
	// told are the members as the client knows them; nil before it was told of itself.
	told []state.Member
	// early are messages of senders of whom the client was not told yet.
	early      []heldMessage
	earlyBytes int
	// voices say by which connections it has heard others.
	voices []voice
	// marks say what it has got of each node; heldBytes are what waits there. awaiting says that a timer runs
	// that looks after it.
	marks     watermarks
	heldBytes int
	awaiting  bool
	// leaving says that it leaves by itself, which a view may say before the state has answered.
	leaving bool
	// doubtful is when it was last given a message here while its place may have been elsewhere, zero for never.
	doubtful time.Time
	// owing are the nodes that it has left and that have not said that all has followed it. While its client is not told of
	// departures, left are those of the views since, and waits says since when.
	owing []debtor
	left  []state.Departure
	waits time.Time
	// move is nil unless the participant has come from another node a moment ago and nodes of protocol 1
	// are concerned.
	move *incomingMove
}

// heldMessage is a message that waits for something that its receiver must hear before.
type heldMessage struct {
	From   string    `json:"from"`
	Joined uint64    `json:"joined,omitempty"` // the sender's stay, 0 when its node does not say
	Epoch  uint64    `json:"epoch,omitempty"`  // its connection, the same
	Key    uint64    `json:"key,omitempty"`    // of the id, 0 for none
	Before uint64    `json:"before,omitempty"`
	Number uint64    `json:"number,omitempty"` // 0 for none
	Frame  []byte    `json:"frame"`
	since  time.Time // of early ones
	Waited int64     `json:"waited_ms,omitempty"` // the same, on their way to another node
	search *search   // of the frame, nil when it is nobody else's
}

// namedMessage is a message for a stay of which it is not known yet whether it is the member's.
type namedMessage struct {
	from   source
	joined uint64
	heldMessage
}

func newRoom(id string, s *Server) *room {
	return &room{srv: s, id: id, node: s.state.ID(), run: newEpoch(), local: map[string]*localMember{}, lines: map[stay]*line{}, said: map[string]state.View{}}
}

// apply takes over a view unless a newer one was applied, and tells the local members what changed
// since the last: first who left, then who joined, in join order. A joiner hears of itself first.
func (r *room) apply(v state.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applyLocked(v)
}

func (r *room) applyLocked(v state.View) {
	r.srv.moves.begin(v)
	r.noteLocked(v)
	if v.Version <= r.version {
		return
	}
	r.version, r.members = v.Version, newest(v.Members, r.members)
	for _, m := range r.members {
		l := r.localLocked(m)
		if l == nil {
			continue
		}
		if !l.joining {
			r.newsLocked(l, v.Left)
		}
		l.named(m.Joined)
	}
	r.alignLocked()
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
	l.joining, l.told, l.left, l.waits = false, r.members, nil, time.Time{}
	p.send(userJoinedFrame(r.id, p.user, users))
	l.releaseEarly()
	if i := slices.IndexFunc(r.members, p.member().Is); i >= 0 {
		l.named(r.members[i].Joined)
	}
}

// earlyTimeout is how long a message waits for the view that names its sender: longer than a node
// takes to tell the others of its members after an outage.
const earlyTimeout = 5 * time.Second

// pass queues a frame if the client knows the sender as a member. Else it waits until the client was
// told, so that a user_joined comes before what that user sends. It does not wait for long, since its
// sender was told that it has been handed on: see releaseOldest, which is also for the oldest when more
// than MaxQueue wait. The room's lock is held.
func (l *localMember) pass(h heldMessage) {
	switch {
	case len(h.Frame) == 0: // It carried a number alone.
		return
	case l.knows(h.From):
		l.hear(h)
		return
	}
	h.Frame, h.since = bytes.Clone(h.Frame), time.Now()
	l.early = append(l.early, h)
	l.earlyMore(len(h.Frame))
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
	time.AfterFunc(earlyTimeout-time.Since(l.early[0].since), func() {
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

// releaseOldest has waited for the oldest early message for long enough. The stay of its sender is over when the
// room is known as it was after that had joined, and does not name it: the client learns that it has missed something. Else it is heard late.
func (l *localMember) releaseOldest() {
	h := l.early[0]
	l.early = l.early[1:]
	l.earlyMore(-len(h.Frame))
	if h.Joined == 0 || h.Joined > l.room.version {
		l.hear(h)
		return
	}
	l.lack(h, "a message of somebody who has left is missing")
}

func (l *localMember) knows(user string) bool {
	return slices.ContainsFunc(l.told, func(m state.Member) bool { return m.ID == user })
}

// releaseEarly queues the early messages of all senders that the client knows by now.
func (l *localMember) releaseEarly() {
	early := l.early
	l.early = nil
	l.earlyMore(-l.earlyBytes)
	for _, h := range early {
		if l.knows(h.From) {
			l.hear(h)
			continue
		}
		l.early = append(l.early, h)
		l.earlyMore(len(h.Frame))
	}
}

package signal

import (
	"slices"
	"sync"

	"cline-meet/signal/state"
)

// room is what this node knows of a room in which it has members: the last view of all members,
// and the connections of its own. It exists from the first local join until the last local leave.
// All methods may be called by any goroutine.
type room struct {
	id         string
	node       string // the id of this node
	departures *departures

	mu      sync.Mutex
	version uint64
	members []state.Member
	// local holds the node's own connections by user id. One is there from before its join, so
	// that no view can miss it, but hears nothing until a view names it as a member.
	local map[string]*seat
	// flight counts the messages that are on their way to other nodes. It is replaced when a
	// member moves, so that what was sent to its former node can be waited for.
	flight *sync.WaitGroup
}

// seat is one local connection in a room.
type seat struct {
	conn *conn
	// told are the members as the client knows them; nil before it was told of itself.
	told []state.Member
	// early are messages that came before that: others know of a join before it has returned.
	early []held
	// arrival is nil unless the participant has come from another node a moment ago.
	arrival *arrival
}

func newRoom(id, node string, ds *departures) *room {
	return &room{id: id, node: node, departures: ds, local: map[string]*seat{}, flight: new(sync.WaitGroup)}
}

// apply takes over a view unless a newer one was applied, and tells the local members what changed
// since the last: first who left, then who joined, in join order. A joiner hears of itself first.
func (r *room) apply(v state.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.Version <= r.version {
		return
	}
	r.version, r.members = v.Version, newest(v.Members, r.members)
	for _, m := range r.members {
		if s := r.seatLocked(m); s != nil {
			r.tellLocked(s, v.Left)
		}
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

// tellLocked brings a member's client from what it was told to what is.
func (r *room) tellLocked(s *seat, left []state.Departure) {
	old, self := s.told, s.conn.user
	for _, m := range old {
		if m.ID != self && !stays(m, r.members, left) {
			s.conn.send(userLeftFrame(r.id, m.ID, string(reasonOf(left, m))))
		}
	}
	var users []string // as the client knows them, in join order
	for i, m := range r.members {
		switch {
		case m.ID == self && old == nil:
			users = append(users, self)
			s.conn.send(userJoinedFrame(r.id, self, users))
		case old == nil && !slices.ContainsFunc(r.members[:i], func(o state.Member) bool { return o.ID == self }):
			users = append(users, m.ID) // A joiner is told of who was there by its own join.
		case old != nil && slices.ContainsFunc(old, func(o state.Member) bool { return o.ID == m.ID && stays(o, r.members, left) }):
		default:
			s.conn.send(userJoinedFrame(r.id, m.ID, r.knownLocked(old, left, i)))
		}
	}
	s.told = r.members
	early := s.early
	s.early = nil
	for _, h := range early {
		s.conn.send(h.frame)
	}
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

// seatLocked returns the seat of a member, nil when it is on another node.
func (r *room) seatLocked(m state.Member) *seat {
	if s := r.local[m.ID]; s != nil && s.conn.epoch == m.Epoch {
		return s
	}
	return nil
}

// welcome tells a member that asked to join again how the room stands.
func (r *room) welcome(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var users []string
	for _, m := range r.members {
		users = append(users, m.ID)
	}
	c.send(userJoinedFrame(r.id, c.user, users))
}

// replace gives the seat of a detached connection, with all that is kept for it, to a new one.
func (r *room) replace(old, c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old.mu.Lock()
	defer old.mu.Unlock()
	c.sent, c.kept, c.keptBytes = old.sent, old.kept, old.keptBytes
	if s := r.local[old.user]; s != nil && s.conn == old {
		s.conn = c
	}
}

// journey is where a message of this node has to go besides the local members. Whoever is given
// one with nodes ends it, when all have got the message.
type journey struct {
	nodes []string
	end   func()
}

// deliver queues a frame of the local member from for the member to, or for all members but the
// sender when to is empty. It returns the nodes of the receivers that are elsewhere, in no order,
// and whether from and to are members at all.
func (r *room) deliver(from, to string, frame []byte) (j journey, ok bool) {
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
		s := r.seatLocked(m)
		switch {
		case s != nil:
			s.hear(r.node, from, frame)
		case m.Node == r.node:
			r.departures.sendOn(r.id, from, m.ID, frame)
		case !slices.Contains(j.nodes, m.Node):
			j.nodes = append(j.nodes, m.Node)
		}
	}
	if len(j.nodes) > 0 {
		r.flight.Add(1)
		j.end = r.flight.Done
	}
	return j, ok && found
}

// receive queues a frame that came from another node for the local member to, or for all of them
// when to is empty. Who has left this node a moment ago gets it there.
func (r *room) receive(node, from, to string, frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for user, s := range r.local {
		if to == "" || user == to {
			s.hear(node, from, frame)
		}
	}
	r.departures.sendAllOn(r.id, from, to, frame)
}

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
	id string

	mu      sync.Mutex
	version uint64
	members []state.Member
	// local holds the node's own connections by user id. One is there from before its join, so
	// that no view can miss it, but hears nothing until a view names it as a member.
	local map[string]*conn
}

// apply takes over a view unless a newer one was applied, and tells the local members what changed
// since the last: first who left, then who joined, in join order. A joiner hears of itself first.
func (r *room) apply(v state.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.Version <= r.version {
		return
	}
	old := r.members
	r.version, r.members = v.Version, v.Members
	for _, m := range old {
		if !slices.ContainsFunc(v.Members, m.Is) {
			r.tellLocked(old, v.Members, userLeftFrame(r.id, m.ID, string(reasonOf(v, m))))
		}
	}
	users := make([]string, 0, len(v.Members))
	for i, m := range v.Members {
		users = append(users, m.ID)
		if !slices.ContainsFunc(old, m.Is) {
			r.tellLocked(v.Members[:i+1], v.Members, userJoinedFrame(r.id, m.ID, users))
		}
	}
}

func reasonOf(v state.View, m state.Member) state.Reason {
	for _, d := range v.Left {
		if d.Is(m) {
			return d.Reason
		}
	}
	return state.ReasonLeave
}

// tellLocked queues a frame for the local connections among those members that are both in heard
// and in still.
func (r *room) tellLocked(heard, still []state.Member, frame []byte) {
	for _, m := range heard {
		if c := r.connLocked(m); c != nil && slices.ContainsFunc(still, m.Is) {
			c.send(frame)
		}
	}
}

// connLocked returns the local connection of a member, nil when it is on another node.
func (r *room) connLocked(m state.Member) *conn {
	if c := r.local[m.ID]; c != nil && c.epoch == m.Epoch {
		return c
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

// deliver queues a frame of member from for the local member to, or for all local members but the
// sender when to is empty. It returns the nodes of the receivers that are elsewhere, in no order,
// and whether from and to are members at all.
func (r *room) deliver(from, to string, frame []byte) (nodes []string, ok bool) {
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
		if c := r.connLocked(m); c != nil {
			c.send(frame)
		} else if !slices.Contains(nodes, m.Node) {
			nodes = append(nodes, m.Node)
		}
	}
	return nodes, ok && found
}

package state

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Memory is shared state inside one process: the state of a deployment that is one node. It may have
// several nodes, as in tests; they then share rooms as they would through Redis.
// All methods may be called by any goroutine.
type Memory struct {
	mu sync.Mutex
	// version is the last one given out, over all rooms, so that a room that is born again
	// continues above its former life.
	version uint64
	rooms   map[string][]Member
	nodes   map[string]*MemoryNode // those that have subscribed
}

// NewMemory returns an empty state.
func NewMemory() *Memory {
	return &Memory{rooms: map[string][]Member{}, nodes: map[string]*MemoryNode{}}
}

// Node returns access to the state for a node of an id that no other node has. The others do not
// know it before it subscribes.
func (s *Memory) Node(id string) *MemoryNode {
	return &MemoryNode{id: id, shared: s, info: NodeInfo{ID: id}.speak()}
}

// MemoryNode is one node's access to a Memory. Its events are delivered one after another, after the call
// that causes them.
type MemoryNode struct {
	id     string
	shared *Memory
	events Events   // set before the others know the node, fixed since then
	info   NodeInfo // guarded by the mu of shared
	inbox  inbox
	// answers are those to Send.
	answers inbox
}

// Subscribe makes the node one of the deployment: from now on it is in the directory and hears its
// events. It may be called once.
func (n *MemoryNode) Subscribe(ev Events) {
	n.shared.mu.Lock()
	defer n.shared.mu.Unlock()
	n.events = ev
	n.shared.nodes[n.id] = n
}

// ID returns the id of this node.
func (n *MemoryNode) ID() string { return n.id }

// Ready is nil always: memory cannot be away.
func (n *MemoryNode) Ready() error { return nil }

// Problems is nothing always.
func (n *MemoryNode) Problems() []string { return nil }

// started is closed, since there is nothing to wait for.
var started = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Started is closed always.
func (n *MemoryNode) Started() <-chan struct{} { return started }

// Admits is nil always.
func (n *MemoryNode) Admits() error { return nil }

// Join adds a member of this node to a room of at most limit members and returns the room as it is
// then. A member that is there with an older epoch is replaced, at the end of the join order. It
// fails with ErrRoomFull, or with ErrStale when the same or a newer epoch is there.
func (n *MemoryNode) Join(_ context.Context, room string, m Member, limit int) (View, error) {
	m.Node = n.id
	s := n.shared
	s.mu.Lock()
	m.Joined = s.version + 1
	members := s.rooms[room]
	var left []Departure
	if i := slices.IndexFunc(members, func(o Member) bool { return o.ID == m.ID }); i >= 0 {
		if members[i].Epoch >= m.Epoch {
			s.mu.Unlock()
			return View{}, fmt.Errorf("joining: %w", ErrStale)
		}
		left = []Departure{{Member: members[i], Reason: ReasonDisconnect}}
		members = slices.Delete(slices.Clone(members), i, i+1)
	}
	if len(members) >= limit {
		s.mu.Unlock()
		return View{}, fmt.Errorf("joining: %w", ErrRoomFull)
	}
	view, others := n.changeLocked(room, append(slices.Clip(members), m), left)
	s.mu.Unlock()
	announce(view, others)
	return view, nil
}

// Move puts a member's newer connection, on this node, into the place of the older one, at whatever
// node that is, without a departure. It fails with ErrNotMember when the older one is not there.
func (n *MemoryNode) Move(_ context.Context, room string, old Member, epoch uint64, _ ...Member) (View, error) {
	s := n.shared
	s.mu.Lock()
	members := slices.Clone(s.rooms[room])
	i := slices.IndexFunc(members, old.Is)
	if i < 0 {
		s.mu.Unlock()
		newer := slices.DeleteFunc(members, func(m Member) bool { return m.ID != old.ID || m.Epoch < old.Epoch })
		return View{Room: room, Members: newer}, fmt.Errorf("moving: %w", ErrNotMember)
	}
	from := members[i].Node
	members[i].Node, members[i].Epoch = n.id, epoch
	view, others := n.changeLocked(room, members, nil)
	if left := s.nodes[from]; left != nil && left != n && !slices.Contains(others, left) {
		others = append(others, left)
	}
	s.mu.Unlock()
	announce(view, others)
	return view, nil
}

// Adopt fails with ErrNotMember: what a node held in memory died with it.
func (n *MemoryNode) Adopt(context.Context, string, string, uint64, uint64) (View, error) {
	return View{}, fmt.Errorf("adopting: %w", ErrNotMember)
}

// Leave removes the member with that id and epoch and returns the room as it is then. It fails with
// ErrNotMember when that connection is not in the room.
func (n *MemoryNode) Leave(_ context.Context, room, id string, epoch uint64, why Reason) (View, error) {
	s := n.shared
	s.mu.Lock()
	members := s.rooms[room]
	i := slices.IndexFunc(members, func(o Member) bool { return o.ID == id && o.Epoch == epoch })
	if i < 0 {
		s.mu.Unlock()
		return View{}, fmt.Errorf("leaving: %w", ErrNotMember)
	}
	left := []Departure{{Member: members[i], Reason: why}}
	view, others := n.changeLocked(room, slices.Delete(slices.Clone(members), i, i+1), left)
	s.mu.Unlock()
	announce(view, others)
	return view, nil
}

// changeLocked stores the new members, which it owns from then on, and returns the view of them
// and the other nodes that must be told.
func (n *MemoryNode) changeLocked(room string, members []Member, left []Departure) (View, []*MemoryNode) {
	s := n.shared
	s.version++
	s.rooms[room] = members
	if len(members) == 0 {
		delete(s.rooms, room)
	}
	var others []*MemoryNode
	told := map[string]bool{n.id: true}
	for _, m := range members {
		if other := s.nodes[m.Node]; other != nil && !told[m.Node] {
			told[m.Node] = true
			others = append(others, other)
		}
	}
	return View{Room: room, Version: s.version, Members: members, Left: left}, others
}

func announce(view View, nodes []*MemoryNode) {
	for _, n := range nodes {
		n.inbox.add(func() { n.events.View(view) })
	}
}

// Send hands a message to other nodes, in the order of the calls; see Redis.Send.
func (n *MemoryNode) Send(m Message, copies []Copy, done func([]error)) {
	m.Node = n.id
	errs := make([]error, len(copies))
	for i, c := range copies {
		n.shared.mu.Lock()
		to := n.shared.nodes[c.Node]
		n.shared.mu.Unlock()
		if to == nil {
			errs[i] = fmt.Errorf("sending to node %s: %w", c.Node, ErrNoNode)
			continue
		}
		m.Receivers = c.Receivers
		copied := m
		to.inbox.add(func() { to.events.Message(copied) })
	}
	n.answers.add(func() { done(errs) })
}

// Doubtful reports nothing: what is in one process is not taken for dead.
func (n *MemoryNode) Doubtful(string) bool { return false }

// AwaitTrust returns.
func (n *MemoryNode) AwaitTrust(context.Context, string) {}

// Announce tells the other nodes about this one; the ID is filled in.
func (n *MemoryNode) Announce(info NodeInfo) {
	info.ID = n.id
	n.shared.mu.Lock()
	defer n.shared.mu.Unlock()
	n.info = info.speak()
}

// Nodes returns what the other living nodes announced, in no order.
func (n *MemoryNode) Nodes() []NodeInfo {
	n.shared.mu.Lock()
	defer n.shared.mu.Unlock()
	var out []NodeInfo
	for id, other := range n.shared.nodes {
		if id != n.id {
			out = append(out, other.info)
		}
	}
	return out
}

// Close detaches the node and removes the members it still has, which the other nodes are told
// with ReasonNodeLost.
func (n *MemoryNode) Close(context.Context) error {
	s := n.shared
	s.mu.Lock()
	delete(s.nodes, n.id)
	others := slices.Collect(maps.Values(s.nodes))
	type change struct {
		view   View
		others []*MemoryNode
	}
	var changes []change
	for room, members := range s.rooms {
		var stay []Member
		var left []Departure
		for _, m := range members {
			if m.Node == n.id {
				left = append(left, Departure{Member: m, Reason: ReasonNodeLost})
			} else {
				stay = append(stay, m)
			}
		}
		if len(left) == 0 {
			continue
		}
		view, others := n.changeLocked(room, stay, left)
		changes = append(changes, change{view, others})
	}
	s.mu.Unlock()
	for _, c := range changes {
		announce(c.view, c.others)
	}
	for _, other := range others {
		other.inbox.add(func() { other.events.Died(n.id) })
	}
	return nil
}

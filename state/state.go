// Package state is what the nodes of one deployment share: who is in which room, and a way to
// hand a message to another node. It holds the contract, in this file, and its implementations.
//
// The node, not the room, is the unit of communication: a node is told about the rooms in which
// it has members, and everything it is told arrives in the order in which it happened at the
// sender.
package state

import (
	"errors"
	"slices"
)

// Errors of the contract. Implementations wrap them, callers test with errors.Is.
var (
	// ErrRoomFull says that a join was refused because the room holds its maximum.
	ErrRoomFull = errors.New("room is full")
	// ErrStale says that a newer epoch of the same member is already in the room.
	ErrStale = errors.New("a newer connection of this member is in the room")
	// ErrNotMember says that the member, at that epoch, is not in the room.
	ErrNotMember = errors.New("not a member of the room")
	// ErrNoNode says that the node a message was meant for is gone.
	ErrNoNode = errors.New("no such node")
	// ErrUnavailable says that the shared state cannot be reached now: try again.
	ErrUnavailable = errors.New("shared state is unreachable")
)

// Reason says why a member left a room. Its text is part of the wire contract.
type Reason string

// The reasons for which a member leaves.
const (
	ReasonLeave      Reason = "leave"
	ReasonDisconnect Reason = "disconnect"
	ReasonTimeout    Reason = "timeout"
	ReasonKick       Reason = "kick"
	ReasonNodeLost   Reason = "node_lost"
)

// A Member is one participant of a room.
type Member struct {
	// ID is the user id that the other members see.
	ID string
	// Node is the id of the node that holds the member's connection.
	Node string
	// Epoch grows with every connection of the same ID, so that a newer connection replaces an
	// older one and never the other way round.
	Epoch uint64
}

// Is reports whether both are the same connection of the same participant.
func (m Member) Is(o Member) bool { return m.ID == o.ID && m.Epoch == o.Epoch }

// A Departure is a member that a change removed, and why.
type Departure struct {
	Member
	Reason Reason
}

// A View is a room as it was after one change. A view is complete, so that a receiver that missed
// an earlier one still ends up right; it must ignore a view that is not newer than what it has.
// Views are shared between goroutines and must not be modified.
type View struct {
	Room string
	// Version strictly increases with every change of the room, also when the room was empty
	// and forgotten in between.
	Version uint64
	// Members are in join order.
	Members []Member
	// Left are the members that this change removed.
	Left []Departure
}

// Find returns the member with that user id.
func (v View) Find(id string) (Member, bool) {
	i := slices.IndexFunc(v.Members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return v.Members[i], true
}

// A Message is on its way from a member on one node to a member on another, or, with an empty To,
// to all members that the other node holds in that room.
type Message struct {
	Room string
	From string
	To   string
	// Frame is the complete frame for the receiving client. It must not be modified.
	Frame []byte
}

// Events is how a node hears of what others do. The functions are called in the order in which
// the sending node acted, possibly from several goroutines for several senders. They must return
// soon and must not call back into the state.
type Events struct {
	// View tells of a change that another node made to a room in which this node has members.
	// The node's own changes come back from Join and Leave instead.
	View func(View)
	// Message delivers a message for members of this node.
	Message func(Message)
}

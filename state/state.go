// Package state is what the nodes of one deployment share: who is in which room, and a way to
// hand a message to another node. It holds the contract, in this file, and its implementations. README.md
// tells what Redis holds and what each failure does.
//
// The node, not the room, is the unit of communication: a node is told about the rooms in which
// it has members, and everything it is told arrives in the order in which it happened at the
// sender.
package state

import (
	"errors"
	"slices"
	"time"
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
	// ErrUncertain says that a message may have arrived, or may still. It comes with one of the others.
	ErrUncertain = errors.New("nobody knows whether it arrived")
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
	// older one and never the other way round. A member whose epoch changes in place, without a
	// Departure, has moved to another connection and is the same participant.
	Epoch uint64
	// Joined is the room's version at the join, which gives the join order. Together with the ID it names
	// one stay in the room: it outlives moves, and who leaves and joins again has another.
	Joined uint64
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
	// From is the node that says so, which may be this one. Views and messages of one node come in the order of what happened there, those
	// of two in any. It is empty where all come in one order.
	From string
}

// Find returns the member with that user id.
func (v View) Find(id string) (Member, bool) {
	i := slices.IndexFunc(v.Members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return v.Members[i], true
}

// A Message is on its way from a node to others: a frame for clients, or what nodes say to each other. It
// arrives once and in the order of its sender's calls, or the receiving node hears Events.Lost.
type Message struct {
	// Node is the node that sent it; Send fills it in.
	Node string
	// Op is empty for a frame to clients. Otherwise it names something that the nodes say to each
	// other, which the state does not look into.
	Op   string
	Room string
	// From is the user who sends it, Joined names that user's stay in the room and Epoch the connection, 0 when
	// the node does not say.
	From   string
	Joined uint64
	Epoch  uint64
	// To is the user it is meant for, empty for all of the room. Who gets a frame the Receivers say.
	To string
	// Key stands for what the client called its message, 0 for nothing. The same Key is the same message.
	Key uint64
	// Run tells the numbers that a node gave in one life of its room from those of another.
	Run uint64
	// Receivers are the members of the receiving node that a frame is for. They are empty in an Op, unless
	// that passes a frame on, and in what a node of protocol 1 sends: then To says it.
	Receivers []Receiver
	// Frame is the complete frame for the receiving client, or what the Op needs. It must not be
	// modified. A message with Receivers and no Frame carries numbers alone.
	Frame []byte
}

// A Receiver is a member that a frame is for, and the frame's place among all that one source, a node in
// one Run, has for one stay of that member.
type Receiver struct {
	ID     string
	Joined uint64
	// Number is the frame's own, and Before that of the last one which the receiver must have got.
	Before, Number uint64
}

// A Copy says which node a message goes to, and for whom there.
type Copy struct {
	Node      string
	Receivers []Receiver
}

// NodeInfo is what a node tells the others about itself with its lease.
type NodeInfo struct {
	ID string `json:"id"`
	// TURN are the URLs of the node's TURN server, none when it has no public ones.
	TURN []string `json:"turn,omitempty"`
	// Load is the node's number of connections and allocations.
	Load int `json:"load"`
	// Draining says that the node is about to go away and wants nobody new.
	Draining bool `json:"draining,omitempty"`
	// Protocol is the newest way of speaking between nodes that the node knows and MinProtocol the oldest. The
	// state fills in its own if they are 0; nodes that announce none are of protocol 1.
	Protocol    int `json:"protocol,omitempty"`
	MinProtocol int `json:"min_protocol,omitempty"`
	// Channel is what tells the node's channel from the one that follows from its ID. The state fills it in.
	Channel string `json:"channel,omitempty"`
	// Secrets are fingerprints of the secrets that are valid at the node, by name.
	Secrets map[string][]string `json:"secrets,omitempty"`
}

// Events is how a node hears of what others do, once it has subscribed with them: before that it is in
// no directory and nobody can send to it, so that nothing reaches a node which is not built yet. The
// functions are called in the order in which
// the sending node acted, possibly from several goroutines for several senders. They must return
// soon and must not call back into the state but for Send.
type Events struct {
	// View tells of a change that another node made to a room in which this node has members.
	// The node's own changes come back from Join and Leave instead.
	View func(View)
	// Said tells of a view of another node that came too late to be news. What that node says of its own members comes behind their messages.
	Said func(View)
	// Message delivers a message for members of this node.
	Message func(Message)
	// Lost says that messages of a node to this one may be missing for good. Whatever it sends afterwards
	// is complete again.
	Lost func(node string)
	// Missed says that members of this node had been taken out of a room by other nodes, which took this one for
	// dead, and are in it again: what was said there meanwhile was not sent to them.
	Missed func(room string, users []string)
	// Slept says, before this node acts again, that its process did not run from a time on: what has happened
	// since is old news.
	Slept func(since time.Time)
	// Present reports whether this node has a member, or is handing it to another node, and, if the process did not run for a
	// while, its client was there when it ran again or has come since.
	Present func(room, user string) bool
	// Died says that a node is dead. What it sent before has been delivered, or Lost was called.
	Died func(node string)
}

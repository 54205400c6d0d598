package signal

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"cline-meet/signal/state"
)

// RoomInfo is what a node knows of a room in which it has members.
type RoomInfo struct {
	ID      string
	Version uint64         // grows with every change
	Members []state.Member // of all nodes, in join order
}

// Rooms returns the rooms in which this node has members, by name.
func (s *Server) Rooms() []RoomInfo {
	var all []RoomInfo
	for _, r := range s.allRooms() {
		if info := r.info(); len(info.Members) > 0 {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b RoomInfo) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func (r *room) info() RoomInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return RoomInfo{r.id, r.version, r.members}
}

// Room returns what this node knows of one room; it reports false when it has no member there.
func (s *Server) Room(id string) (RoomInfo, bool) {
	r := s.room(id)
	if r == nil {
		return RoomInfo{}, false
	}
	info := r.info()
	return info, len(info.Members) > 0
}

// ParticipantInfo is what a node knows of one of its participants.
type ParticipantInfo struct {
	User string
	Room string // empty for none
	// Subject is who it is by its token, and Name how that calls it; empty without authentication.
	Subject, Name string
	Client        netip.Addr // of the connection, or the last one
	Secure        bool       // it came by TLS
	Connected     bool       // else its client may come back until then
	Until         time.Time
	Since         time.Time // when it came to this node
	Held          int64     // bytes of memory that wait for it
}

// Participants returns those of this node, by user id.
func (s *Server) Participants() []ParticipantInfo {
	rooms := map[string]string{}
	for _, r := range s.allRooms() {
		r.mu.Lock()
		for user := range r.local {
			rooms[user] = r.id
		}
		r.mu.Unlock()
	}
	var all []ParticipantInfo
	for _, p := range s.everybody() {
		info := p.info()
		info.Room = rooms[p.user]
		all = append(all, info)
	}
	slices.SortFunc(all, func(a, b ParticipantInfo) int { return cmp.Compare(a.User, b.User) })
	return all
}

// info returns all but the room.
func (p *participant) info() ParticipantInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	info := ParticipantInfo{User: p.user, Client: p.addr, Secure: p.secure, Connected: p.conn != nil,
		Since: time.Unix(0, int64(p.epoch)), Held: max(0, p.holding.bytes.Load())}
	if p.conn == nil {
		info.Until = p.until
	}
	if p.claims != nil {
		info.Subject, info.Name = p.claims.Subject, p.claims.Name
	}
	return info
}

// Leaving reports whether the node asks its clients to go to others.
func (s *Server) Leaving() bool { return s.leaving.Load() || s.draining.Load() }

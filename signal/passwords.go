package signal

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"cline-meet/signal/signal/passwords"
	"cline-meet/signal/state"
)

// A TURN server that relays to members of the room alone must know their ICE passwords before it sees a connectivity check. Each node
// reads them in the SDP that it delivers to its members, so it knows what a member may have to prove at this node's own TURN server.
// A member also relays through other nodes: the one that its ICE servers name beside its own, those that it has come from, and
// whichever a balancer or GET /ice has picked.
//
//	passwords         what a member was told, to the node that its ICE servers name, before the client gets the SDP,
//	                  and to nodes that have asked
//	passwords_wanted  from a node whose TURN server was asked for a password that it does not know, to all others: who knows
//	                  what the member was told says so, and goes on to tell
//
// So a message with SDP costs one record to each such node, and one that nobody expected asks once. They are lost with their node; then an
// ICE restart tells new ones, and what is still in use is known where the relay is. All of this is for Config.PeerPasswords alone.
const (
	opPasswords       = "passwords"
	opPasswordsWanted = "passwords_wanted"
)

const (
	// askAgain is how long a node does not ask again for what one session was told, and maxAsks how often a second it asks at all, with as many
	// at once: clients decide what their checks name.
	askAgain = 2 * time.Second
	maxAsks  = 50
	// maxWanted is how many questions wait; with more one is dropped, and the next check asks again.
	maxWanted = 256
	// sweepPause is how often passwords are forgotten that nobody needs.
	sweepPause = time.Minute
	// maxPasswordBytes bounds the passwords of a node, and fewPasswordBytes is what little memory leaves for them.
	maxPasswordBytes = 64 << 20
	fewPasswordBytes = 4 << 20
)

// peerPasswords are those that members were told, and the sessions of which more is to be asked for.
type peerPasswords struct {
	*passwords.Store
	wanted chan string
}

// newPeerPasswords returns nil if nobody will ask for them.
func newPeerPasswords(cfg *Config) *peerPasswords {
	if !cfg.PeerPasswords {
		return nil
	}
	return &peerPasswords{passwords.New(cfg.passwordMemory()), make(chan string, maxWanted)}
}

// count returns how many there are.
func (p *peerPasswords) count() int {
	if p == nil {
		return 0
	}
	return p.Len()
}

// passwordMemory returns how many bytes of passwords the node keeps.
func (c *Config) passwordMemory() int {
	limit := c.limitMemory()
	if limit == 0 {
		return maxPasswordBytes
	}
	return int(min(max(limit/32, fewPasswordBytes), maxPasswordBytes))
}

// MemberPasswords returns the ICE passwords, with that user name fragment, of members that have told them to the user of TURN
// credentials. What is not known it has other nodes asked for, so that a later question finds it. It does not wait; any goroutine may
// call it.
func (s *Server) MemberPasswords(user, ufrag string) [][]byte {
	if s.peers == nil {
		return nil
	}
	found := s.peers.Of(user, ufrag)
	if len(found) == 0 {
		select {
		case s.peers.wanted <- passwords.Session(user):
		default:
		}
	}
	return found
}

// search finds the passwords in a frame once for all its receivers here, under the lock of the room: whoever asks first has them
// looked for, since a frame may be gone through for a millisecond.
type search struct {
	done  bool
	found []passwords.Password
}

// newSearch returns nil if nobody will ask for passwords.
func (s *Server) newSearch() *search {
	if s.peers == nil {
		return nil
	}
	return &search{}
}

// passwords returns those in the frame of a message.
func (h heldMessage) passwords() []passwords.Password {
	if h.search == nil {
		return passwords.Find(h.Frame)
	}
	if !h.search.done {
		h.search.done, h.search.found = true, passwords.Find(h.Frame)
	}
	return h.search.found
}

// learn keeps the passwords in a frame that is about to go to a member, and tells the nodes by which that may relay.
func (l *localMember) learn(h heldMessage) {
	srv, to := l.participant.srv, l.participant.user
	var told []passwords.Told
	for _, p := range h.passwords() {
		told = append(told, passwords.Told{To: to, From: h.From, Room: l.room.id, Password: p})
	}
	if len(told) == 0 {
		return
	}
	srv.keep(told)
	srv.tellPasswords(told, append(srv.peers.Sharing(to), l.participant.relayNodes()...))
}

// relayNodes returns the nodes beside this one whose TURN servers the client was told last.
func (p *participant) relayNodes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.relays
}

// tellPasswords tells those nodes that live.
func (s *Server) tellPasswords(told []passwords.Told, nodes []string) {
	var copies []state.Copy
	for _, info := range s.state.Nodes() {
		if slices.Contains(nodes, info.ID) {
			copies = append(copies, state.Copy{Node: info.ID})
		}
	}
	if len(copies) == 0 || len(told) == 0 {
		return
	}
	frame, _ := json.Marshal(told) // Texts always encode.
	s.state.Send(state.Message{Op: opPasswords, To: told[0].To, Frame: frame}, copies, func([]error) {})
}

// onPasswords hears what a member was told whose relay may be here.
func (s *Server) onPasswords(m state.Message) {
	var told []passwords.Told
	if s.peers == nil || json.Unmarshal(m.Frame, &told) != nil {
		return
	}
	s.keep(told)
}

// keep keeps what members were told.
func (s *Server) keep(told []passwords.Told) {
	for _, t := range told {
		s.peers.Tell(t)
	}
}

// onPasswordsWanted tells a node that relays for a session what that was told, now and later.
func (s *Server) onPasswordsWanted(m state.Message) {
	if s.peers != nil {
		s.tellPasswords(s.peers.Share(m.To, m.Node), []string{m.Node})
	}
}

// keepPasswords asks for those that are wanted and forgets those that are not.
func (s *Server) keepPasswords(ctx context.Context) {
	if s.peers == nil {
		return
	}
	sweep := time.NewTicker(sweepPause)
	defer sweep.Stop()
	asked, rates := map[string]time.Time{}, rate.NewLimiter(maxAsks, maxAsks)
	for {
		select {
		case <-ctx.Done():
			return
		case session := <-s.peers.wanted:
			if time.Since(asked[session]) >= askAgain && rates.Allow() {
				asked[session] = time.Now()
				s.askForPasswords(session)
			}
		case <-sweep.C:
			clear(asked)
			s.peers.Sweep(s.stillNeeded())
		}
	}
}

func (s *Server) askForPasswords(session string) {
	var copies []state.Copy
	for _, info := range s.state.Nodes() {
		copies = append(copies, state.Copy{Node: info.ID})
	}
	if len(copies) > 0 {
		s.state.Send(state.Message{Op: opPasswordsWanted, To: session}, copies, func([]error) {})
	}
}

// stillNeeded returns what says whether a password is needed: if whom it was told to is still in the room here, or has a relay here.
func (s *Server) stillNeeded() func(passwords.Told) bool {
	relaying := map[string]bool{}
	for _, user := range s.cfg.Relaying() {
		relaying[passwords.Session(user)] = true
	}
	return func(t passwords.Told) bool {
		return relaying[passwords.Session(t.To)] || s.localMemberOf(t.Room, t.To) != nil
	}
}

// unpackPasswords keeps what a participant was told that has come from another node.
func (s *Server) unpackPasswords(told []passwords.Told) {
	if s.peers != nil {
		s.keep(told)
	}
}

// packPasswords returns what a participant was told, for the node that it goes to.
func (s *Server) packPasswords(user string) []passwords.Told {
	if s.peers == nil {
		return nil
	}
	return slices.DeleteFunc(s.peers.ToldTo(user), func(t passwords.Told) bool { return t.To != user })
}

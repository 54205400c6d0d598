package signal

import (
	"context"
	"fmt"

	"cline-meet/signal/state"
)

// A participant moves from node A to node B, where its client has shown up:
//
//	B → A  resume     A freezes the participant, whose client it cuts if need be,
//	A → B  handover   and sends it as a snapshot, with its watermarks. B puts it into A's place in the room.
//	A → B  relay      is what still came to A, as it was sent and with its numbers, once the room says that the
//	                  participant is at B. A goes on for a while.
//	A → B  followed   says, behind what members at A have said to the participant until then, that this was all.
//
// Every node C with members in the room hears of the move by the room's view. From then on it sends to B, and
// first the tip: the last number that it sent to A. Whatever way a message takes, B knows by its number
// whether it had it and what is missing before it. What is missing for too long is a gap, and the client is
// told. So nobody needs to wait for anybody, and a participant may move on at any time.
//
// B's side is in incoming_move.go, A's is an outgoingMove. What nodes of protocol 1 need is in protocol1.go.
const (
	opResume   = "resume"
	opHandover = "handover"
	opRelay    = "relay"
	opFollowed = "followed"
)

// moveRequest is what a resume message carries.
type moveRequest struct {
	Ask   string  `json:"ask"`
	Epoch uint64  `json:"epoch"`
	Got   *uint64 `json:"got,omitempty"`
	// Greeting is that of a bearer token.
	Greeting uint64 `json:"greeting,omitempty"`
}

// sendTo sends a message to one node and waits until it has been handed on.
func (s *Server) sendTo(ctx context.Context, node string, m state.Message) error {
	result := make(chan error, 1)
	s.state.Send(m, []state.Copy{{Node: node, Receivers: m.Receivers}}, func(errs []error) { result <- errs[0] })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("sending to node %s: %w", node, state.ErrUnavailable)
	}
}

// onControl handles what another node says to this one. It does not block.
func (s *Server) onControl(m state.Message) {
	switch m.Op {
	case opResume:
		s.tasks.run(func() { s.handOver(m) })
	case opHandover, opReply:
		s.onAnswer(m)
	case opQuestion:
		s.onQuestion(m)
	case opRelay:
		s.onRelay(m)
	case opFollowed:
		s.onFollowed(m)
	case opStrayed:
		s.onStrayed(m)
	case opPasswords:
		s.onPasswords(m)
	case opPasswordsWanted:
		s.onPasswordsWanted(m)
	case opTips, opTipsTold:
		s.onTips(m)
	case opMarker, opForward, opPass, opPassed, opSettled:
		s.onProtocol1(m)
	}
}

// onRelay takes a message that came to a participant's former node. Its numbers are those of the node that sent it.
func (s *Server) onRelay(m state.Message) {
	m.Node, m.Op, m.To = m.To, "", ""
	s.onMessage(m)
}

// onDied hears that a node is dead. Who waits for it waits in vain.
func (s *Server) onDied(node string) {
	for _, move := range s.moves.all() {
		if to, _ := move.target(); to == node && move.hasArrived() {
			move.end() // Nothing can follow it.
		}
	}
	s.giveUpRequests(node, state.ErrNoNode)
	s.giveUpTips(node)
	s.giveUpFollowing(node)
	s.giveUpPassing(node)
}

// onMissed hears that members of this node were shown to others as left for a while. They are told that they have
// missed what was said meanwhile.
func (s *Server) onMissed(id string, users []string) {
	r := s.room(id)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, user := range users {
		if l := r.local[user]; l != nil {
			l.participant.miss("others took this node for dead for a while")
		}
	}
}

// onLost hears that messages of a node that lives may be missing.
func (s *Server) onLost(node string) {
	s.giveUpRequests(node, state.ErrUnavailable)
	if s.isPlain(node) {
		for _, p := range s.sharing(node) {
			p.miss("messages may be missing")
		}
		s.giveUpPassing(node)
		return
	}
	s.exchangeTips(node)
}

package signal

import (
	"slices"
	"time"

	"cline-meet/signal/state"
)

// When messages of a node may be lost, the numbers tell whether they are: this node asks for the tips of all
// lines that lead here, and a watermark that does not come up to its tip is a gap.
const (
	opTips     = "tips"      // asks for the tips
	opTipsTold = "tips_told" // says, behind the tips, that these are all
)

// doubt is that something of a node may be missing. It ends when the node has told its tips.
type doubt struct {
	// sharing are the participants of this node that were in a room with one of that node.
	sharing []*participant
}

// exchangeTips asks a node for its tips, until it has told them, and tells it those of this node: its question may
// have been lost like anything else.
func (s *Server) exchangeTips(node string) {
	sharing := s.sharing(node)
	s.mu.Lock()
	d := s.doubts[node]
	if d == nil {
		d = &doubt{}
		s.doubts[node] = d
	}
	d.sharing = append(d.sharing, sharing...)
	s.mu.Unlock()
	s.askForTips(node, d)
	s.tellTips(node)
}

func (s *Server) askForTips(node string, d *doubt) {
	s.mu.Lock()
	open := s.doubts[node] == d
	s.mu.Unlock()
	if !open || s.ctx.Err() != nil {
		return
	}
	s.state.Send(state.Message{Op: opTips}, []state.Copy{{Node: node}}, func([]error) {})
	time.AfterFunc(2*mendPause, func() { s.askForTips(node, d) })
}

// tellTips tells a node where all lines end that lead there, those of rooms that were left a moment ago too.
func (s *Server) tellTips(node string) {
	s.mu.Lock()
	var rooms []*room
	for _, some := range []map[string]*room{s.rooms, s.retired} {
		for _, r := range some {
			rooms = append(rooms, r)
		}
	}
	s.mu.Unlock()
	for _, r := range rooms {
		r.tellTips(node)
	}
}

func (s *Server) onTips(m state.Message) {
	if m.Op == opTips {
		s.tellTips(m.Node)
		s.state.Send(state.Message{Op: opTipsTold}, []state.Copy{{Node: m.Node}}, func([]error) {})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doubts, m.Node)
}

// giveUpTips takes all as lost that may be, of a node that will not tell any more.
func (s *Server) giveUpTips(node string) {
	s.mu.Lock()
	d := s.doubts[node]
	delete(s.doubts, node)
	s.mu.Unlock()
	if d == nil {
		return
	}
	for _, p := range d.sharing {
		p.miss("messages may be missing")
	}
}

// sharing returns the participants of this node that are in a room with one of another node.
func (s *Server) sharing(node string) (out []*participant) {
	for _, r := range s.allRooms() {
		out = append(out, r.sharing(node)...)
	}
	return out
}

func (r *room) sharing(node string) (out []*participant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.ContainsFunc(r.members, func(m state.Member) bool { return m.Node == node }) {
		return nil
	}
	for _, l := range r.local {
		out = append(out, l.participant)
	}
	return out
}

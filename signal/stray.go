package signal

import (
	"slices"
	"strconv"
	"time"

	"cline-meet/signal/state"
)

// A participant that was adopted is told by its greeting that something may be missing. What others still give to its
// former node after that, because they have not heard of the adoption, is answered as handed on and lost; it is the
// same with what a member says at the former node, when that comes back from the dead. No number shows it, since the
// new node knows none of before. So who learns where the participant is says how long ago it gave the last message to
// the former node that this has taken, and says so again for one of which it turns out later. The new node, which knows when its
// greeting was, tells the client if that was later. What was refused is no gap: its sender knows. The time is that of two nodes'
// clocks that run, not of what they show.
const opStrayed = "strayed"

// strayAfter is how long after a message it may have strayed: longer than a node takes to hear of an adoption.
const strayAfter = lineRetention

// adoption is what a participant that was adopted remembers of it. The participant's lock guards it.
type adoption struct {
	node   string    // the dead one
	warned time.Time // when its client was last greeted with a gap, zero for never
}

func (a *adoption) pack() (node string, warnedAgo int64) {
	if a.node == "" || a.warned.IsZero() {
		return a.node, 0
	}
	return a.node, max(1, time.Since(a.warned).Milliseconds())
}

func (a *adoption) unpack(node string, warnedAgo int64) {
	a.node = node
	if warnedAgo > 0 {
		a.warned = time.Now().Add(-time.Duration(warnedAgo) * time.Millisecond)
	}
}

// tellStrayed tells the node of a participant how long ago this node gave the last message for it to a former node,
// which may be this one.
func (s *Server) tellStrayed(room string, to state.Member, former string, ago time.Duration) {
	if ago > strayAfter || to.Node == s.state.ID() || s.isPlain(to.Node) {
		return
	}
	m := state.Message{Op: opStrayed, Room: room, From: former, Joined: to.Joined, To: to.ID,
		Frame: strconv.AppendInt(nil, ago.Milliseconds(), 10)}
	s.state.Send(m, []state.Copy{{Node: to.Node}}, func([]error) {})
}

// onStrayed hears of a message that went to a participant's former node.
func (s *Server) onStrayed(m state.Message) {
	ms, err := strconv.ParseInt(string(m.Frame), 10, 64)
	r := s.room(m.Room)
	if err != nil || r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.local[m.To]
	if l == nil || !slices.Contains(l.stays, m.Joined) {
		return
	}
	if l.participant.strayed(m.From, time.Duration(ms)*time.Millisecond) {
		s.metrics.gaps.Inc()
		l.participant.miss("a message went to a node that was taken for dead")
	}
}

// strayed reports whether what was given that long ago to a node is lost and the client does not know.
func (p *participant) strayed(node string, ago time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.adopted.node == node && !p.adopted.warned.IsZero() && time.Since(p.adopted.warned) > ago
}

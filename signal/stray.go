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
// greeting was, tells the client if that was later. What was refused is no gap: its sender knows. Nor is what was given when the
// participant had come back to that node, as to any other. The time is that of two nodes' clocks that run, not of what they show.
const opStrayed = "strayed"

// strayAfter is how long after a message it may have strayed: longer than a node takes to hear of an adoption.
const strayAfter = lineRetention

// adoption is what a participant that was adopted remembers of it. The participant's lock guards it.
type adoption struct {
	node   string    // the dead one
	warned time.Time // when its client was last greeted with a gap, zero for never
	back   time.Time // when it came to that node again, zero for not
}

// arrives notes that the participant has come to a node.
func (a *adoption) arrives(node string) {
	if node == a.node && a.back.IsZero() {
		a.back = time.Now()
	}
}

// agoOf returns how many ms ago something was, 0 if it never was, and timeOf the time that was so long ago.
func agoOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, time.Since(t).Milliseconds())
}

func timeOf(ago int64) time.Time {
	if ago == 0 {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ago) * time.Millisecond)
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

// onStrayed hears of a message that went to a participant's former node. Who has moved on since is told there.
func (s *Server) onStrayed(m state.Message) {
	if move := s.moves.of(m.To); move != nil && move.room == m.Room {
		to, _ := move.target()
		s.state.Send(m, []state.Copy{{Node: to}}, func([]error) {})
		return
	}
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
	a, at := p.adopted, time.Now().Add(-ago)
	return a.node == node && !a.warned.IsZero() && a.warned.Before(at) && (a.back.IsZero() || at.Before(a.back))
}

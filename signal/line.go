package signal

import (
	"slices"
	"time"

	"cline-meet/signal/state"
)

// lineRetention is how long the numbers of a stay or of a room are kept that may be over: longer than what was
// sent before can be on its way.
const lineRetention = 30 * time.Second

// mendPause is how long a node waits before it says once more what another did not take.
const mendPause = time.Second

// stay names one stay of a user in a room. It outlives moves.
type stay struct {
	User   string `json:"user"`
	Joined uint64 `json:"joined"`
}

func stayOf(m state.Member) stay { return stay{m.ID, m.Joined} }

// line is what a room has sent for one stay that is, or was, on another node. The frames that the room
// sends are numbered, and each says which one before it the receiver must have, which is the last for that stay
// whose copy was not refused. The room's lock guards it.
type line struct {
	stay
	node  string // where it goes
	plain bool   // that node knows of no numbers: it speaks protocol 1

	// base is the number after which the line began anew.
	base uint64
	// before is the last number that was given and not refused, 0 for none.
	before uint64
	// heard is the highest number of which the receiver is known to hear, so that it misses what lies below.
	heard uint64
	// holes are the numbers that were refused while others were under way behind them.
	holes []hole
	// tip says that the receiver is to be told where the line ends, because it has come to another node.
	tip bool
	// mending says that something is under way that fills holes.
	mending bool
	over    time.Time // when the stay was first seen to be over
	given   [8]given  // the last numbers, in a ring
	turn    int       // how many were given
	taken   given     // the last that a node is known to have taken, number 0 for none
}

// given is a number that was given, and the uptime at which it was.
type given struct {
	number uint64
	at     time.Duration
}

// givenAt returns when a number was given; of one that is not among the last ones, the time before which it was.
func (l *line) givenAt(number uint64) time.Duration {
	for _, g := range l.given {
		if g.number == number {
			return g.at
		}
	}
	return l.given[l.turn%len(l.given)].at
}

// hole is a number that was refused, and the one before it.
type hole struct{ before, number uint64 }

// numberLocked gives a frame of the room's next number, which the caller has taken, to a member.
func (r *room) numberLocked(m state.Member, number uint64) state.Receiver {
	l := r.lines[stayOf(m)]
	if l == nil {
		l = &line{stay: stayOf(m), node: m.Node, plain: r.srv.isPlain(m.Node)}
		r.lines[l.stay] = l
	}
	to := state.Receiver{ID: m.ID, Joined: m.Joined, Before: l.before, Number: number}
	l.before = number
	l.given[l.turn%len(l.given)] = given{number, uptime()}
	l.turn++
	return to
}

// result notes whether a copy was taken. Numbers that were refused are taken back, as far as no other that may
// arrive refers to them; the holes that remain are filled.
func (l *line) result(to state.Receiver, taken bool) {
	switch {
	case to.Number <= l.base:
	case taken:
		l.heard = max(l.heard, to.Number)
		if to.Number > l.taken.number {
			l.taken = given{to.Number, l.givenAt(to.Number)}
		}
	default:
		l.holes = append(l.holes, hole{to.Before, to.Number})
		l.takeBack()
	}
}

func (l *line) takeBack() {
	for l.before > l.heard {
		i := slices.IndexFunc(l.holes, func(h hole) bool { return h.number == l.before })
		if i < 0 {
			return
		}
		l.before = l.holes[i].before
		l.holes = slices.Delete(l.holes, i, i+1)
	}
}

// restart begins the line anew: the next frame needs nothing before it.
func (l *line) restart(number uint64) {
	l.base, l.before, l.heard, l.holes = number, 0, 0, nil
}

// owed returns the numbers without a frame that the receiver needs.
func (l *line) owed() []state.Receiver {
	var owed []state.Receiver
	for _, h := range l.holes {
		if h.number <= l.heard {
			owed = append(owed, state.Receiver{ID: l.User, Joined: l.Joined, Before: h.before, Number: h.number})
		}
	}
	if l.tip && l.before > 0 {
		owed = append(owed, state.Receiver{ID: l.User, Joined: l.Joined, Before: l.before, Number: l.before})
	}
	return owed
}

// alignLocked has the lines follow their members to other nodes, which are told where they end, and forgets
// the lines of stays that have been over for long.
func (r *room) alignLocked() {
	if len(r.lines) == 0 {
		return
	}
	there := make(map[stay]bool, len(r.members))
	for _, m := range r.members {
		there[stayOf(m)] = true
		if l := r.lines[stayOf(m)]; l != nil && l.node != m.Node {
			r.redirectLocked(l, m)
		}
	}
	for id, l := range r.lines {
		switch {
		case there[id]:
			l.over = time.Time{}
		case l.over.IsZero():
			l.over = time.Now()
		case time.Since(l.over) > lineRetention:
			delete(r.lines, id)
		}
	}
}

// redirectLocked sends what is for a stay to another node from now on. What that does not have yet comes by way of
// the former one, and the tip tells how much that is. From a node without numbers nothing comes that has one.
func (r *room) redirectLocked(l *line, m state.Member) {
	if l.taken.number > 0 {
		r.srv.tellStrayed(r.id, m, l.node, uptime()-l.taken.at)
	}
	if l.plain {
		l.restart(r.number)
	}
	l.node, l.plain = m.Node, r.srv.isPlain(m.Node)
	r.tellTipLocked(l)
}

// tellTipLocked tells the receiver where a line ends.
func (r *room) tellTipLocked(l *line) {
	l.tip, l.heard = true, max(l.heard, l.before)
	r.mendLocked(l)
}

// mendLocked gives the receiver of a line the numbers that it needs and that have no frame.
func (r *room) mendLocked(l *line) {
	if l.plain {
		l.holes, l.tip = nil, false
	}
	owed := l.owed()
	if len(owed) == 0 || l.mending {
		return
	}
	m := state.Message{Node: r.node, Room: r.id, To: l.User, Run: r.run}
	if l.node == r.node {
		for _, to := range owed {
			r.handLocked(m, to, nil)
		}
		l.mended(owed)
		return
	}
	l.mending = true
	node := l.node
	r.srv.state.Send(m, []state.Copy{{Node: node, Receivers: owed}}, func(errs []error) {
		r.mended(l, node, owed, errs[0] == nil)
	})
}

// mended notes what became of numbers without a frame. What was refused is tried again later.
func (r *room) mended(l *line, node string, owed []state.Receiver, taken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.mending = false
	if taken {
		tip := l.tip && l.node != node
		l.mended(owed)
		l.tip = tip
		r.mendLocked(l)
		return
	}
	if !r.mending {
		r.mending = true
		time.AfterFunc(mendPause, r.mendAll)
	}
}

// mended forgets the holes that were filled. A tip fills none, although one of its number may have come to be meanwhile.
func (l *line) mended(owed []state.Receiver) {
	l.tip = false
	l.holes = slices.DeleteFunc(l.holes, func(h hole) bool {
		return slices.ContainsFunc(owed, func(to state.Receiver) bool { return hole{to.Before, to.Number} == h })
	})
}

// mendAll tries again what was refused.
func (r *room) mendAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mending = false
	if r.srv.ctx.Err() != nil {
		return
	}
	for _, l := range r.lines {
		r.mendLocked(l)
	}
}

// tellTips tells a node where all lines end that go there.
func (r *room) tellTips(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if l.node == node {
			r.tellTipLocked(l)
		}
	}
}

// retireLocked keeps the numbers of a room that this node has left for a while: what was sent may still be on
// its way, and the room may come back.
func (s *Server) retireLocked(r *room) {
	if len(r.lines) == 0 {
		return
	}
	s.retired[r.id], r.left = r, time.Now()
	time.AfterFunc(lineRetention, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.retired[r.id] != r || time.Since(r.left) < lineRetention {
			return // It has been back.
		}
		delete(s.retired, r.id)
		r.mu.Lock()
		defer r.mu.Unlock()
		clear(r.lines)
	})
}

// reviveLocked returns a room of which nothing is known but its numbers, if it was left a moment ago.
func (s *Server) reviveLocked(id string) *room {
	r := s.retired[id]
	if r == nil {
		return newRoom(id, s)
	}
	delete(s.retired, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version, r.members = 0, nil
	return r
}

package bench

import (
	"context"
	"strconv"
	"time"
)

const (
	candidates = 10 // candidates is how many each side of a call sends.
	perCall    = 2 * (1 + candidates)

	// candidateGap is how long after one candidate the next is found.
	candidateGap = 2 * time.Millisecond
)

// calls measures pairs whose calls begin again and again: one client enters the room of the other
// and offers, the other answers, and both send candidates as they find them.
func calls(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	g, err := newGenerator(ctx, t, s.clients&^1, o.Size)
	if err != nil {
		return result{}, err
	}
	defer g.close()
	stopped := false
	every := time.Duration(len(g.flows)/2*perCall) * time.Second / time.Duration(s.rate)
	start := time.Now()
	var sides []*side
	for i := 0; i < len(g.flows); i += 2 {
		c := newCall(g, g.flows[i], g.flows[i+1])
		sides = append(sides, c.caller, c.callee)
		c.repeat(start.Add(every*time.Duration(i)/time.Duration(len(g.flows))), every, &stopped)
	}
	r, err := g.measure(ctx, o, func() { stopped = true })
	if err != nil {
		return r, err
	}
	acked := func() bool {
		for _, s := range sides {
			if len(s.unacked) > 0 {
				return false
			}
		}
		return true
	}
	err = g.run(ctx, time.Now().Add(drainTime), acked)
	for _, s := range sides {
		r.Acks += uint64(len(s.unacked)) + s.strayAcks
	}
	return r, err
}

// call is a pair of clients.
type call struct {
	g              *generator
	caller, callee *side
	begun          time.Time
	left           int // left is how many messages of this call have not arrived.
}

// side is one client of a call, with the flow of what it sends.
type side struct {
	*flow
	candidates *alarm // candidates sends the next of those that are left.
	left       int
	ids        uint64
	unacked    map[string]struct{}
	strayAcks  uint64
}

func newCall(g *generator, there, back *flow) *call {
	c := &call{g: g, caller: newSide(there), callee: newSide(back)}
	there.from.handle = func(m *message, now time.Time) error { return c.heard(c.caller, back, m, now) }
	back.from.handle = func(m *message, now time.Time) error { return c.heard(c.callee, there, m, now) }
	there.arrived = func(k kind, sent, now time.Time) error {
		c.arrived(sent, now)
		if k == offer {
			return c.callee.speak(answer, now)
		}
		return nil
	}
	back.arrived = func(_ kind, sent, now time.Time) error { c.arrived(sent, now); return nil }
	return c
}

func newSide(f *flow) *side {
	s := &side{flow: f, unacked: map[string]struct{}{}, candidates: new(alarm)}
	s.candidates.do = func(at time.Time) error {
		if s.left--; s.left > 0 {
			f.loop.set(s.candidates, at.Add(candidateGap))
		}
		return s.send(candidate, s.newID(), at)
	}
	return s
}

// newID returns an id whose ack is waited for, none where there are no acks.
func (s *side) newID() string {
	if !s.from.dialect.rooms {
		return ""
	}
	s.ids++
	id := strconv.FormatUint(s.ids, 36)
	s.unacked[id] = struct{}{}
	return id
}

// speak sends an offer or an answer, and begins to send candidates.
func (s *side) speak(k kind, now time.Time) error {
	if s.left > 0 {
		return nil // A call that was given up is not over yet.
	}
	s.left = candidates
	s.loop.set(s.candidates, now.Add(candidateGap))
	return s.send(k, s.newID(), now)
}

// repeat begins a call when it is time, again and again until stopped.
func (c *call) repeat(at time.Time, every time.Duration, stopped *bool) {
	a := new(alarm)
	a.do = func(at time.Time) error {
		if *stopped {
			return nil
		}
		if c.left > 0 && at.Sub(c.begun) < stalled { // The one before is not over.
			c.g.set(a, at.Add(candidateGap))
			return nil
		}
		c.g.set(a, at.Add(every))
		return c.begin(at)
	}
	c.g.set(a, at)
}

// begin lets the caller leave the room and enter it again, where there are rooms: it offers once it
// is there.
func (c *call) begin(now time.Time) error {
	c.begun, c.left = now, perCall
	s := c.caller.from
	if !s.dialect.rooms {
		return c.caller.speak(offer, now)
	}
	if err := c.g.send(s, []byte(`{"type":"leave_room"}`)); err != nil {
		return err
	}
	return c.g.send(s, []byte(joinMessage(s.room, c.caller.newID())))
}

func (c *call) arrived(sent, now time.Time) {
	c.left--
	c.g.sample(sent, now)
}

// heard takes a message for one side, to which the other's flow leads.
func (c *call) heard(s *side, from *flow, m *message, now time.Time) error {
	switch string(m.kind) {
	case "ack":
		if _, waited := s.unacked[string(m.id)]; !waited {
			s.strayAcks++
		}
		delete(s.unacked, string(m.id))
		return nil
	case "user_joined":
		if s == c.caller && string(m.user) == s.from.user {
			return s.speak(offer, now)
		}
		return nil
	}
	return from.receive(m, now)
}

package signal

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"cline-meet/signal/state"
)

// cast is a message of a local member on its way to its receivers.
type cast struct {
	from *participant
	typ  messageType
	to   []byte // empty for everybody else in the room
	id   []byte
	key  uint64 // of the id, 0 for none
	// only are the stays that a message which was sent before has still to reach; nil for everybody.
	only  []stay
	frame []byte
}

// isFor reports whether a member, who is not the sender or is named, is to get the message.
func (c *cast) isFor(m *state.Member) bool {
	switch {
	case c.only != nil:
		return slices.Contains(c.only, stayOf(*m))
	case len(c.to) > 0:
		return m.ID == string(c.to)
	}
	return m.ID != c.from.user
}

// delivery is what has become of a cast.
type delivery int

const (
	notMember delivery = iota // the sender or the receiver is no member
	delivered                 // all have it
	underWay                  // copies are on their way to other nodes: the sender is answered later
)

// deliver hands a message to its receivers: local members get a copy into their send queues at once, what is for
// others goes to their nodes in one Send. That is under the lock, so that the numbers which a member is
// sent are in the order of the sends. For a sender that has a newer connection elsewhere there is nothing to say here.
func (r *room) deliver(c cast) delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	sender := slices.IndexFunc(r.members, func(m state.Member) bool { return m.ID == c.from.user && m.Epoch <= c.from.epoch })
	if sender < 0 {
		return notMember
	}
	h := heldMessage{From: c.from.user, Joined: r.members[sender].Joined, Epoch: c.from.epoch, Key: c.key, Frame: c.frame, search: r.srv.newSearch()}
	doubtful := r.srv.state.Doubtful(r.id)
	var missed []stay
	var space [16]int
	remote, found, reached := space[:0], len(c.to) == 0 || c.only != nil, 0
	if c.only != nil {
		reached = 1 // The others had it before.
	}
	for i := range r.members {
		m := &r.members[i]
		if !c.isFor(m) {
			continue
		}
		found = true
		if l := r.localLocked(*m); l != nil && !l.behind(r.lineLocked(m)) {
			if doubtful && !l.participant.isConnected() {
				missed = append(missed, stayOf(*m))
				continue
			}
			if doubtful {
				l.doubtful = time.Now()
			}
			l.take(source{r.node, r.run}, h)
			reached++
			continue
		}
		remote = append(remote, i)
	}
	switch {
	case !found:
		return notMember
	case len(remote) == 0 && len(missed) == 0:
		return delivered
	}
	return r.castLocked(c, h, remote, reached, missed)
}

func (r *room) lineLocked(m *state.Member) *line {
	if len(r.lines) == 0 {
		return nil
	}
	return r.lines[stayOf(*m)]
}

// castLocked sends a message to members elsewhere, by their place in the room. A member that is known to be
// here and is not has just gone to another node: the message follows it. Others are reached or missed already.
func (r *room) castLocked(c cast, h heldMessage, members []int, reached int, missed []stay) delivery {
	m := state.Message{Node: r.node, Room: r.id, From: h.From, Joined: h.Joined, Epoch: h.Epoch, To: string(c.to), Key: h.Key, Run: r.run, Frame: bytes.Clone(c.frame)}
	r.number++
	var copies []state.Copy
	for _, i := range members {
		to := r.numberLocked(r.members[i], r.number)
		node := r.members[i].Node
		if node == r.node {
			r.handLocked(m, to, h.search)
			r.lines[stayOf(r.members[i])].result(to, true)
			reached++
			continue
		}
		k := slices.IndexFunc(copies, func(o state.Copy) bool { return o.Node == node })
		if k < 0 {
			k = len(copies)
			copies = append(copies, state.Copy{Node: node})
		}
		copies[k].Receivers = append(copies[k].Receivers, to)
	}
	if len(copies) == 0 && len(missed) == 0 {
		return delivered
	}
	from, typ, id, key, size := c.from, c.typ, string(c.id), c.key, len(c.frame)
	from.launch(key, size)
	r.srv.state.Send(m, copies, func(errs []error) {
		refused, others := r.results(copies, errs)
		missed = append(missed, refused...)
		from.landed(key, size, missed, reached+others > 0)
		from.answerCast(typ, id, missed, reached+others > 0)
	})
	return underWay
}

// results notes in the lines what became of copies. It returns the stays that are not known to have got one, and how
// many have or may have.
func (r *room) results(copies []state.Copy, errs []error) (missed []stay, reached int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range copies {
		for _, to := range c.Receivers {
			id := stay{to.ID, to.Joined}
			if errs[i] != nil {
				missed = append(missed, id)
			}
			if errs[i] == nil || errors.Is(errs[i], state.ErrUncertain) {
				reached++
			}
			if l := r.lines[id]; l != nil {
				l.result(to, errs[i] == nil)
				if errs[i] == nil && c.Node != l.node {
					r.srv.tellStrayed(r.id, state.Member{ID: l.User, Node: l.node, Joined: l.Joined}, c.Node, uptime()-l.givenAt(to.Number))
				}
				r.mendLocked(l)
			}
		}
	}
	return missed, reached
}

// receive takes a message of another node, for the members that it names and no others. Who has moved from
// this node a moment ago gets it there.
//
// Both ends must be members. The sender was one for its own node; here the view that names it may come later
// than its message, above all after an outage in which it joined with what its node knew. What a client
// knows decides, see pass.
func (r *room) receive(m state.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	search := r.srv.newSearch()
	for _, to := range m.Receivers {
		r.handLocked(m, to, search)
	}
	if len(m.Receivers) == 0 {
		r.receivePlainLocked(m)
	}
}

// handLocked gives a numbered message to a member of this node, or has it follow one that has left.
func (r *room) handLocked(m state.Message, to state.Receiver, search *search) {
	l := r.local[to.ID]
	h := heldMessage{From: m.From, Joined: m.Joined, Epoch: m.Epoch, Key: m.Key, Before: to.Before, Number: to.Number, Frame: m.Frame, search: search}
	from := source{m.Node, m.Run}
	switch {
	case l != nil && len(l.stays) == 0:
		l.holdUnnamed(namedMessage{from, to.Joined, h})
	case l != nil && slices.Contains(l.stays, to.Joined):
		l.take(from, h)
	default:
		r.srv.moves.forward(m, to)
	}
}

// holdUnnamed keeps a message for a stay that may be the member's.
func (l *localMember) holdUnnamed(m namedMessage) {
	if l.heldMore(len(m.Frame) + heldOverhead); l.heldBytes > l.participant.srv.cfg.MaxQueue {
		l.participant.miss("too much came before the room was known")
		l.heldMore(-len(m.Frame) - heldOverhead)
		return
	}
	m.Frame = bytes.Clone(m.Frame)
	l.unnamed = append(l.unnamed, m)
}

// named notes how others call the member's stay, and takes what came for it before that.
func (l *localMember) named(joined uint64) {
	if slices.Contains(l.stays, joined) {
		return
	}
	l.stays = append(l.stays, joined)
	unnamed := l.unnamed
	l.unnamed = nil
	for _, m := range unnamed {
		l.heldMore(-len(m.Frame) - heldOverhead)
		if m.joined == joined {
			l.take(m.from, m.heldMessage)
		}
	}
}

// take takes a message of a node, unless what that sent before is still on its way by the member's former node.
func (l *localMember) take(from source, h heldMessage) {
	if l.move != nil && l.move.holds(from.Node) {
		l.holdMoving(from, h)
		return
	}
	l.admit(from, h)
}

// admit takes a message whose turn it is as far as nodes of protocol 1 are concerned.
func (l *localMember) admit(from source, h heldMessage) {
	if h.Number == 0 {
		l.pass(h)
		return
	}
	l.receive(from, h)
}

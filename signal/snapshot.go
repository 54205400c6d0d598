package signal

import (
	"cmp"
	"slices"
	"time"

	"cline-meet/signal/signal/passwords"
	"cline-meet/signal/state"
)

// snapshot is a participant on its way from one node to another, the answer to a request to resume:
// all that the new node needs to go on where the former one stopped.
type snapshot struct {
	// Gone says that there is no participant. The rest is empty then, but for the node that has it, and its epoch
	// there, if those are known.
	Gone bool   `json:"gone,omitempty"`
	Node string `json:"node,omitempty"`
	// Epoch is the one that it has, and Former the oldest one that its client may still ask with, 0 for none.
	Epoch  uint64 `json:"epoch,omitempty"`
	Former uint64 `json:"former,omitempty"`
	// Room is empty when it is in none; then what follows about the room is empty too.
	Room string `json:"room,omitempty"`
	// Sent is how many frames that count were sent, ever, and Kept are the last of them.
	Sent uint64   `json:"sent"`
	Kept [][]byte `json:"kept"`
	// Gap says that its client must be told that something is missing.
	Gap bool `json:"gap,omitempty"`
	// Adopted is where it was adopted from, and how many ms ago its client was told and it came back there, 0 for not.
	Adopted   string `json:"adopted,omitempty"`
	WarnedAgo int64  `json:"warned_ago,omitempty"`
	BackAgo   int64  `json:"back_ago,omitempty"`
	// Heard are the ids of what it was sent, and Said those of its own messages.
	Heard remembered `json:"heard,omitzero"`
	Said  remembered `json:"said,omitzero"`
	// Told are the members as the client knows them, and Early the messages of others.
	Told  []state.Member `json:"told"`
	Early []heldMessage  `json:"early,omitempty"`
	// Left are departures that it was not told of.
	Left []state.Departure `json:"left,omitempty"`
	// Voices are the connections by which it has heard others.
	Voices []voice `json:"voices,omitempty"`
	// Stays are what others call its stay in the room, and Marks say how far it has got what each node has for it;
	// nothing is known of nodes that Open leaves out.
	Stays []uint64 `json:"stays,omitempty"`
	Marks []mark   `json:"marks,omitempty"`
	Open  int64    `json:"open_ms,omitempty"` // how long ago it came without them, in ms
	// Passwords are those that others have told it, if TURN servers need to know.
	Passwords []passwords.Told `json:"passwords,omitempty"`
	// Owing are the nodes of which not all has followed it.
	Owing []string `json:"owing,omitempty"`
}

// mark is a watermark in a snapshot.
type mark struct {
	source
	Number uint64        `json:"number"`
	Blind  bool          `json:"blind,omitempty"`
	Guess  uint64        `json:"guess,omitempty"`
	Held   []heldMessage `json:"held,omitempty"`
}

// size is about how many bytes it holds.
func (snap *snapshot) size() int64 {
	n := participantSize
	for _, frame := range snap.Kept {
		n += len(frame)
	}
	for _, m := range snap.Early {
		n += len(m.Frame) + heldOverhead
	}
	for _, mark := range snap.Marks {
		for _, m := range mark.Held {
			n += len(m.Frame) + heldOverhead
		}
	}
	return int64(n)
}

// pack takes a participant, which is the caller's, off this node, with what is kept that the client has
// not got. Whatever comes for it from then on is the outgoing move's. It
// fails with errGone, and the participant stays, when there is no going on with it.
func (s *Server) pack(p *participant, to string, got *uint64) (snapshot, *outgoingMove, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := p.room
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.rewindLocked(got); err != nil {
		return snapshot{}, nil, err
	}
	s.forgetLocked(p)
	snap := snapshot{Epoch: p.epoch, Former: p.former, Sent: p.sent, Kept: p.kept.copies(), Gap: p.gap}
	snap.Heard, snap.Said = p.packHeardLocked(), p.packSaidLocked()
	snap.Adopted, snap.WarnedAgo, snap.BackAgo = p.adopted.node, agoOf(p.adopted.warned), agoOf(p.adopted.back)
	p.kept.drop(p.kept.count)
	if r == nil {
		move := newOutgoingMove(p, &snap, to)
		s.moves.add(move)
		return snap, move, nil
	}
	l := r.local[p.user]
	snap.Room, snap.Told, snap.Left, snap.Early, snap.Voices = r.id, l.told, l.left, l.packEarly(), l.voices
	snap.Stays, snap.Passwords = l.stays, s.packPasswords(p.user)
	if l.marks.isOpen() {
		snap.Open = max(1, time.Since(l.marks.opened).Milliseconds())
	}
	for _, w := range l.marks.all {
		snap.Marks = append(snap.Marks, mark{w.source, w.number, w.blind, w.guess, w.held})
	}
	for _, d := range l.owing {
		snap.Owing = append(snap.Owing, d.node)
	}
	move := newOutgoingMove(p, &snap, to)
	s.moves.add(move)
	s.removeLocalLocked(r, p)
	return snap, move, nil
}

// packEarly returns the early messages with how long they have waited, which goes on at the next node.
func (l *localMember) packEarly() []heldMessage {
	early := slices.Clone(l.early)
	for i := range early {
		early[i].Waited = agoOf(early[i].since)
	}
	return early
}

// unpack makes a snapshot a participant of this node, which is the caller's, under a newer epoch. Its
// place in its room is the second result, nil when it is in none.
func (s *Server) unpack(snap snapshot, t resumeToken) (*participant, *localMember) {
	s.soundSnapshot(&snap)
	p := newParticipant(s, t.User, max(newEpoch(), t.Epoch+1))
	p.former, p.sent, p.gap = cmp.Or(snap.Former, t.Epoch), snap.Sent, snap.Gap
	for _, frame := range snap.Kept {
		p.kept.add(frame)
	}
	p.unpackIDs(snap.Heard, snap.Said)
	p.adopted = adoption{snap.Adopted, timeOf(snap.WarnedAgo), timeOf(snap.BackAgo)}
	p.adopted.arrives(s.state.ID())
	s.unpackPasswords(snap.Passwords)
	if snap.Room == "" {
		return p, nil
	}
	l := &localMember{participant: p, told: snap.Told, left: snap.Left, early: snap.Early, voices: snap.Voices, stays: snap.Stays}
	if snap.Open > 0 {
		l.marks.opened, l.marks.moved = time.Now().Add(-time.Duration(snap.Open)*time.Millisecond), true
	}
	for _, node := range append(snap.Owing, t.Node) {
		if node != s.state.ID() && !s.isPlain(node) {
			l.owing = append(l.owing, debtor{node, time.Now()})
		}
	}
	for _, m := range snap.Marks {
		l.marks.all = append(l.marks.all, watermark{m.source, m.Number, m.Blind, m.Guess, m.Held, time.Now(), time.Now()})
		for _, h := range m.Held {
			l.heldMore(len(h.Frame) + heldOverhead)
		}
	}
	for i := range l.early {
		l.early[i].since = timeOf(max(1, l.early[i].Waited))
		l.earlyMore(len(l.early[i].Frame))
	}
	return p, l
}

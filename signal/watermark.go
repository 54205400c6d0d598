package signal

import (
	"bytes"
	"slices"
	"time"
)

// holeTimeout is how long what is missing may take to come: by way of the nodes where the receiver was before,
// or as a number without a frame when it was refused. After that it is a gap.
const holeTimeout = 5 * time.Second

// source is where numbers come from: a node, in one life of its room.
type source struct {
	Node string `json:"node"`
	Run  uint64 `json:"run"`
}

// After an adoption it takes openTime until every source has told where its lines go on, and blindTime until a source is
// known that has something under way by two ways.
const (
	openTime  = 10 * time.Second
	blindTime = time.Second
)

// watermark is how far a member has got what one source has for it, and what came too early. It moves with the
// member. The room's lock guards it.
type watermark struct {
	source
	number uint64
	// blind says that number is not known: the member was adopted and has moved since, so that what comes first
	// need not be what is next. It waits for a moment, and until the nodes that it has left say that all has followed, and
	// then the least number is next.
	blind bool
	// guess is the number with which it began after that: what comes later with a lower one is missing, and no duplicate.
	guess uint64
	held  []heldMessage // by number
	since time.Time     // when a hole was last seen to open or to shrink
	used  time.Time
}

// watermarks are those of one member, of all sources.
type watermarks struct {
	all []watermark
	// opened is when the member came without its watermarks, because its node had died, zero for never. What a
	// source sends first is what is next, since it tells its tip before anything else.
	opened time.Time
	// moved says that the member has moved since, so that the first may come by either of two ways.
	moved bool
}

func (ws *watermarks) isOpen() bool { return !ws.opened.IsZero() && time.Since(ws.opened) < openTime }

// of returns the watermark of a source, nil when nothing has come from there.
func (ws *watermarks) of(from source) *watermark {
	for i := range ws.all {
		if ws.all[i].source == from {
			return &ws.all[i]
		}
	}
	return nil
}

// begin returns the watermark of a source of which before that number nothing is expected if the member has
// come without its watermarks. It forgets former lives of the node.
func (ws *watermarks) begin(from source, before uint64) *watermark {
	ws.all = slices.DeleteFunc(ws.all, func(w watermark) bool {
		return w.Node == from.Node && len(w.held) == 0 && time.Since(w.used) > 2*lineRetention
	})
	w := watermark{source: from, blind: ws.isOpen() && ws.moved}
	if ws.isOpen() && !ws.moved {
		w.number = before
	}
	ws.all = append(ws.all, w)
	return &ws.all[len(ws.all)-1]
}

// receive takes what one source has for the member. It is what makes a message arrive once and in order: what
// has been there is dropped, what came too early waits for what is before it.
func (l *localMember) receive(from source, h heldMessage) {
	w := l.marks.of(from)
	if w == nil {
		w = l.marks.begin(from, h.Before)
	}
	w.used = time.Now()
	w.blind = w.blind && h.Before > 0
	switch {
	case w.blind:
		l.hold(w, h)
	case h.Number <= w.number && len(h.Frame) == 0:
	case h.Number <= w.guess:
		l.lack(h, "a message came after those that were taken for the first")
	case h.Number <= w.number:
		l.participant.srv.metrics.duplicates.Inc()
	case h.Before <= w.number:
		w.number = h.Number
		l.pass(h)
		l.follow(w)
	default:
		l.hold(w, h)
	}
}

// hold keeps what came too early. When that is too much, what is missing is given up.
func (l *localMember) hold(w *watermark, h heldMessage) {
	h.Frame = bytes.Clone(h.Frame)
	i, _ := slices.BinarySearchFunc(w.held, h, func(a, b heldMessage) int {
		if a.Number != b.Number {
			return int(a.Number - b.Number)
		}
		return len(b.Frame) - len(a.Frame) // A tip comes behind the frame of its number.
	})
	w.held = slices.Insert(w.held, i, h)
	if len(w.held) == 1 {
		w.since = time.Now()
	}
	l.heldMore(len(h.Frame) + heldOverhead)
	if l.heldBytes > l.participant.srv.cfg.MaxQueue {
		l.giveUp(w)
		return
	}
	l.awaitHoles()
}

// heldOverhead is what a held message counts besides its frame.
const heldOverhead = 64

// follow delivers what waited for a number that has come.
func (l *localMember) follow(w *watermark) {
	for {
		i := slices.IndexFunc(w.held, func(h heldMessage) bool { return h.Before <= w.number })
		if i < 0 {
			return
		}
		h := w.held[i]
		w.held, w.since = slices.Delete(w.held, i, i+1), time.Now()
		l.skip(w, h)
	}
}

// skip delivers a held message whatever is missing before it, unless it has been there.
func (l *localMember) skip(w *watermark, h heldMessage) {
	l.heldMore(-len(h.Frame) - heldOverhead)
	if h.Number > w.number {
		w.number = h.Number
		l.pass(h)
	}
}

// giveUp takes what is missing of a source as lost: the client is told, and what waited is delivered.
func (l *localMember) giveUp(w *watermark) {
	w.blind = false
	srv := l.participant.srv
	srv.metrics.gaps.Inc()
	l.participant.log.Debug("messages are missing", "node", w.Node, "after", w.number, "held", len(w.held))
	l.participant.miss("messages may be missing")
	held := w.held
	w.held = nil
	for _, h := range held {
		l.skip(w, h)
	}
}

// see begins with the least number that has come of a source of which nothing was known.
func (l *localMember) see(w *watermark) {
	w.blind = false
	for i, h := range w.held {
		if i == 0 || h.Before < w.number {
			w.number = h.Before
		}
	}
	w.guess = w.number
	l.follow(w)
}

// awaitHoles looks after the holes until they have been filled.
func (l *localMember) awaitHoles() {
	if l.awaiting {
		return
	}
	l.awaiting = true
	r := l.room
	time.AfterFunc(blindTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		l.awaiting = false
		if r.local[l.participant.user] == l {
			l.checkHoles()
		}
	})
}

func (l *localMember) checkHoles() {
	for i := range l.marks.all {
		switch w := &l.marks.all[i]; {
		case len(w.held) == 0:
		case w.blind && time.Since(w.since) >= blindTime && len(l.owing) == 0:
			l.see(w)
		case time.Since(w.since) >= holeTimeout:
			l.giveUp(w)
		}
	}
	if l.hasHoles() {
		l.awaitHoles()
	}
}

func (l *localMember) hasHoles() bool {
	return slices.ContainsFunc(l.marks.all, func(w watermark) bool { return len(w.held) > 0 })
}

// behind reports whether something of this node's own line is still on its way to a member that has come here:
// then what follows must not overtake it.
func (l *localMember) behind(line *line) bool {
	if line == nil {
		return false
	}
	w := l.marks.of(source{l.room.node, l.room.run}) // The tip has made one if there is anything.
	return w != nil && w.number < line.before
}

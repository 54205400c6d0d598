package signal_test

import (
	"slices"
	"time"
)

// record is what all participants of the chaos said, heard and went through, as they know it themselves. The
// account is settled with nothing else.
type record struct {
	grace    time.Duration
	lines    []*utterance
	lives    []*life
	troubles []*trouble
	stalls   []span // stalls are when the participants did not run, for want of a processor.
}

// utterance is one message as its sender knows it. It may be said several times, always under the same id.
type utterance struct {
	from, id, room string
	to             string // to is empty for everybody else in the room.
	attempts       []attempt
	answers        []answer
}

// attempt is a line said once.
type attempt struct {
	number int                  // number is its place among all that its sender ever said, and travels with it.
	source string               // source is the process that the sender said it to.
	view   []string             // view is whom it is for, as far as the sender knows.
	since  map[string]time.Time // since is when the sender was shown each of them.
	at     time.Time
}

// answer is what the sender was told about a line.
type answer struct {
	kind     string // kind is "ack" or the type and code of an error.
	missed   []string
	attempts int // attempts is how many there had been.
	at       time.Time
}

func (a answer) refused() bool { return a.kind != "ack" }

// life is what one user id went through. A participant that loses its id begins another.
type life struct {
	user       string
	older      bool // older says that it met a node of an older version, which promises less.
	stays      []stay
	endings    []ending
	heard      []hearing
	departures []departure
	gaps       []gap
	away       []span
	visits     []visit
	unplaced   []time.Time // unplaced are when it came back and was in its room no more.
	lost       time.Time   // lost is when it was told that its session is gone, zero for never.
}

// stay is the time in a room, from when the user was told so until it gave it up.
type stay struct {
	room string
	span
}

// ending is something that may end a stay: leaving or joining another room. It is over with its answer.
type ending struct {
	room string
	span
}

// hearing is a message that was heard.
type hearing struct {
	from, line string
	number     int
	shown      shown
	at         time.Time
}

// shown is what the receiver of a message was told about its sender before.
type shown int

const (
	present shown = iota
	stranger
	gone
)

// departure is a user_left that was heard.
type departure struct {
	user, room string
	at         time.Time
}

// gap is a time at which a user was told that it missed something: by the close of its connection or, when it
// came back, by a greeting.
type gap struct {
	greeting bool
	at       time.Time
}

// visit is an attempt to connect to a node.
type visit struct {
	node int
	at   time.Time
}

// span is a time. One that does not end has no until.
type span struct{ from, until time.Time }

func (s span) contains(at time.Time) bool {
	return !at.Before(s.from) && (s.until.IsZero() || !at.After(s.until))
}

func (s span) overlaps(o span) bool {
	return (s.until.IsZero() || !o.from.After(s.until)) && (o.until.IsZero() || !s.from.After(o.until))
}

// trouble is a disturbance.
type trouble struct {
	kind string
	node int // node is whom it befell, everybody for all.
	span
}

const everybody = -1

// The disturbances.
const (
	killed        = "kill"
	frozen        = "freeze"
	stopped       = "stop"
	redisFrozen   = "freeze redis"
	redisKilled   = "kill redis"
	flushed       = "flush redis"
	keysDeleted   = "delete room keys"
	clientsKilled = "kill clients of redis"
)

// mayLose reports whether messages may be lost by it.
func (t *trouble) mayLose() bool { return t.kind != flushed && t.kind != keysDeleted }

// forgets reports whether the shared state forgets something by it.
func (t *trouble) forgets() bool {
	return t.kind == flushed || t.kind == keysDeleted || t.kind == redisKilled
}

// stalled returns for how long the participants did not run in a time.
func (r *record) stalled(in span) (all time.Duration) {
	for _, s := range r.stalls {
		if from, until := later(s.from, in.from), earlier(s.until, in.until); from.Before(until) {
			all += until.Sub(from)
		}
	}
	return all
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// silences reports whether Redis may have taken something and not answered by it.
func (t *trouble) silences() bool {
	return t.kind == redisFrozen || t.kind == redisKilled || t.kind == clientsKilled
}

// stayAt returns the stay in a room at that time.
func (f *life) stayAt(room string, at time.Time) (stay, bool) {
	i := slices.IndexFunc(f.stays, func(s stay) bool { return s.room == room && s.contains(at) })
	if i < 0 {
		return stay{}, false
	}
	return f.stays[i], true
}

// returnedBefore reports whether the user left the room of a stay before that stay and after a time, so that
// who was shown it then was shown another stay.
func (f *life) returnedBefore(s stay, shown time.Time) bool {
	return slices.ContainsFunc(f.stays, func(o stay) bool {
		return o.room == s.room && o.from.Before(s.from) && o.until.After(shown)
	})
}

// mayEnd reports whether something may have ended a stay since that time.
func (f *life) mayEnd(s stay, since time.Time) bool {
	return slices.ContainsFunc(f.endings, func(e ending) bool {
		return e.room == s.room && !e.from.Before(s.from) && e.overlaps(span{from: since, until: s.until})
	})
}

// toldSince reports whether the user was told a gap after that time.
func (f *life) toldSince(at time.Time) bool {
	return slices.ContainsFunc(f.gaps, func(g gap) bool { return g.at.After(at) })
}

// unreachable returns when the cluster could not have reached the user: its connection was gone or its node
// stood still. Times that touch are one.
func (r *record) unreachable(f *life) []span {
	all := slices.Clone(f.away)
	for i, v := range f.visits {
		there := span{from: v.at}
		if i+1 < len(f.visits) {
			there.until = f.visits[i+1].at
		}
		for _, t := range r.troubles {
			if t.node == v.node && (t.kind == frozen || t.kind == killed) && t.overlaps(there) {
				all = append(all, t.span)
			}
		}
	}
	slices.SortFunc(all, func(a, b span) int { return a.from.Compare(b.from) })
	var out []span
	for _, s := range all {
		if n := len(out) - 1; n >= 0 && out[n].overlaps(s) {
			if !out[n].until.IsZero() && (s.until.IsZero() || s.until.After(out[n].until)) {
				out[n].until = s.until
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// nodes returns where the session of a user may have been in a time.
func (f *life) nodes(in span) (nodes []int) {
	for i, v := range f.visits {
		there := span{from: v.at}
		if i+1 < len(f.visits) {
			there.until = f.visits[i+1].at
		}
		if there.overlaps(in) {
			nodes = append(nodes, v.node)
		}
	}
	return nodes
}

package signal_test

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// gapDelay is how long after a disturbance a participant may be told that it missed something.
const gapDelay = 45 * time.Second

// margin is what the clocks of a participant and its node may differ in seeing that it is away, when both run.
const margin = time.Second

// account is a record with its indexes. Each method that returns findings is one thing that must never happen.
type account struct {
	*record
	lives map[string]*life
	said  map[spoken]*utterance
	heard map[listening]bool
}

// listening names a line and one who heard it.
type listening struct{ user, from, line string }

// spoken names one attempt of a sender.
type spoken struct {
	from   string
	number int
}

func newAccount(r *record) *account {
	a := &account{record: r, lives: map[string]*life{}, said: map[spoken]*utterance{}, heard: map[listening]bool{}}
	for _, f := range r.lives {
		a.lives[f.user] = f
		for _, h := range f.heard {
			a.heard[listening{f.user, h.from, h.line}] = true
		}
	}
	for _, l := range r.lines {
		for _, t := range l.attempts {
			a.said[spoken{l.from, t.number}] = l
		}
	}
	return a
}

// findings returns all that must not have happened.
func (a *account) findings() (out []string) {
	for _, rule := range []func() []string{a.lostLines, a.doubled, a.reordered, a.deniedButHeard, a.strangers, a.falseDepartures, a.falseGaps, a.lostIDs, a.lostRooms} {
		out = append(out, rule()...)
	}
	return out
}

// bound reports whether all that is promised holds for a user: it never met a node of an older version.
func (a *account) bound(user string) bool { return a.lives[user] != nil && !a.lives[user].older }

// lostLines finds what was acknowledged for a member and did not reach it, although it stayed and was not told
// of a gap.
func (a *account) lostLines() (out []string) {
	for _, l := range a.lines {
		for _, user := range l.promised() {
			if !a.bound(user) || !a.bound(l.from) {
				continue
			}
			if why := a.lacks(a.lives[user], l); why != "" {
				out = append(out, fmt.Sprintf("lost: %s did not hear %s, %s", user, l, why))
			}
		}
	}
	return out
}

// promised returns whom a line reached by what its sender was told.
func (l *utterance) promised() (users []string) {
	denied := 0 // How many attempts, from the first on, reached nobody.
	for _, answer := range l.answers {
		if answer.refused() {
			if denied == answer.attempts-1 {
				denied = answer.attempts
			}
			continue
		}
		for _, user := range l.meant(denied, answer.attempts) {
			if !slices.Contains(answer.missed, user) && !slices.Contains(users, user) {
				users = append(users, user)
			}
		}
	}
	return users
}

// meant returns who was there in all attempts of a range: an id that is said again reaches those of the first time.
func (l *utterance) meant(from, to int) []string {
	if from >= to {
		return nil
	}
	users := slices.Clone(l.attempts[from].view)
	for _, t := range l.attempts[from+1 : to] {
		users = slices.DeleteFunc(users, func(u string) bool { return !slices.Contains(t.view, u) })
	}
	return users
}

// lacks says why a user should have heard a line that it did not, empty if there is nothing to complain about.
func (a *account) lacks(f *life, l *utterance) string {
	if a.heard[listening{f.user, l.from, l.id}] {
		return ""
	}
	first := l.attempts[0]
	s, there := f.stayAt(l.room, first.at)
	if !there || f.returnedBefore(s, first.since[f.user]) || f.mayEnd(s, first.at) || f.toldSince(first.at) {
		return ""
	}
	if s.until.IsZero() && f.lost.IsZero() {
		return "and is still there"
	}
	if later := a.overtaking(f, s, l); later != nil {
		return "which " + later.String() + " overtook"
	}
	return ""
}

// overtaking returns a line that was said after another to the same process and heard in the same stay, nil if
// there is none.
func (a *account) overtaking(f *life, s stay, l *utterance) *utterance {
	last := l.attempts[len(l.attempts)-1]
	for _, t := range l.attempts {
		if t.source != last.source {
			return nil
		}
	}
	for _, h := range f.heard {
		if h.from == l.from && h.number > last.number && s.contains(h.at) && a.source(h) == last.source {
			return a.said[spoken{h.from, h.number}]
		}
	}
	return nil
}

// source returns the process that what was heard was said to.
func (a *account) source(h hearing) string {
	if l := a.said[spoken{h.from, h.number}]; l != nil {
		for _, t := range l.attempts {
			if t.number == h.number {
				return t.source
			}
		}
	}
	return ""
}

// doubled finds what was heard twice, unless the node of the receiver died with what it knew in between.
func (a *account) doubled() (out []string) {
	for _, f := range a.lives {
		first := map[[2]string]hearing{}
		for _, h := range f.heard {
			key := [2]string{h.from, h.line}
			before, again := first[key]
			first[key] = h
			if again && a.bound(f.user) && a.bound(h.from) && !f.forgotBetween(before.at, h.at) {
				out = append(out, fmt.Sprintf("doubled: %s heard line %s of %s twice, as numbers %d at %s and %d at %s",
					f.user, h.line, h.from, before.number, clock(before.at), h.number, clock(h.at)))
			}
		}
	}
	return out
}

// forgotBetween reports whether the user was greeted with a gap between two times.
func (f *life) forgotBetween(from, until time.Time) bool {
	return slices.ContainsFunc(f.gaps, func(g gap) bool { return g.greeting && span{from, until}.contains(g.at) })
}

// reordered finds what was first heard after what its sender said later to the same process, and what nobody said.
func (a *account) reordered() (out []string) {
	for _, f := range a.lives {
		last, known := map[[2]string]int{}, map[[2]string]bool{}
		for _, h := range f.heard {
			if known[[2]string{h.from, h.line}] {
				continue
			}
			known[[2]string{h.from, h.line}] = true
			if a.said[spoken{h.from, h.number}] == nil {
				out = append(out, fmt.Sprintf("reordered: %s heard number %d of %s, who did not say it", f.user, h.number, h.from))
			}
			key := [2]string{h.from, a.source(h)}
			if h.number < last[key] && a.bound(f.user) && a.bound(h.from) {
				out = append(out, fmt.Sprintf("reordered: %s heard number %d of %s after number %d at %s", f.user, h.number, h.from, last[key], clock(h.at)))
			}
			last[key] = max(last[key], h.number)
		}
	}
	return out
}

// deniedButHeard finds what was heard although its sender was told that it was not.
func (a *account) deniedButHeard() (out []string) {
	heard := map[spoken][]string{}
	for _, f := range a.lives {
		for _, h := range f.heard {
			heard[spoken{h.from, h.number}] = append(heard[spoken{h.from, h.number}], f.user)
		}
	}
	for _, l := range a.lines {
		if !a.bound(l.from) {
			continue
		}
		for i, answer := range l.answers {
			number, known := l.about(i)
			if !known {
				continue
			}
			for _, user := range heard[spoken{l.from, number}] {
				missed := slices.Contains(answer.missed, user) && !a.uncertain(l, user, span{l.attempts[0].at, answer.at})
				if a.bound(user) && (answer.refused() || missed) {
					out = append(out, fmt.Sprintf("denied: %s heard number %d, %s", user, number, l))
				}
			}
		}
	}
	return out
}

// uncertain reports whether nobody could know in a time if a line reached a user: there was no answer of Redis, or the node of who
// said it did not run to hear it, and the node that could have been given it once more was dead for the others.
func (a *account) uncertain(l *utterance, user string, in span) bool {
	from, to := a.lives[l.from].nodes(in), a.lives[user].nodes(in)
	silent, dead := false, false
	for _, t := range a.troubles {
		if !t.overlaps(in) {
			continue
		}
		still := t.kind == frozen
		silent = silent || t.silences() || still && slices.Contains(from, t.node)
		dead = dead || (still || t.kind == killed) && slices.Contains(to, t.node)
	}
	return silent && dead
}

// about returns the number of the attempt that the answer with that index is about. Nobody knows it when several
// wait for an answer.
func (l *utterance) about(index int) (number int, known bool) {
	answered := 0
	if index > 0 {
		answered = l.answers[index-1].attempts
	}
	if l.answers[index].attempts != answered+1 {
		return 0, false
	}
	return l.attempts[answered].number, true
}

// strangers finds messages of users whom their receiver was not shown.
func (a *account) strangers() (out []string) {
	for _, f := range a.lives {
		for _, h := range f.heard {
			if h.shown != present && a.bound(f.user) && a.bound(h.from) {
				out = append(out, fmt.Sprintf("stranger: %s heard number %d of %s at %s, who %s", f.user, h.number, h.from, clock(h.at),
					map[shown]string{stranger: "was not shown to it", gone: "was shown as left"}[h.shown]))
			}
		}
	}
	return out
}

// falseDepartures finds users who were shown as left more often than they may have.
func (a *account) falseDepartures() (out []string) {
	for _, f := range a.lives {
		count := map[[2]string]int{}
		for _, d := range f.departures {
			key := [2]string{d.user, d.room}
			count[key]++
			if !a.bound(f.user) || !a.bound(d.user) {
				continue
			}
			if most := a.departuresOf(a.lives[d.user], d.room, d.at); count[key] > most {
				out = append(out, fmt.Sprintf("user_left: %s was told at %s that %s left %s, time %d of at most %d",
					f.user, clock(d.at), d.user, d.room, count[key], most))
			}
		}
	}
	return out
}

// departuresOf returns how often a user may have left a room before a time.
func (a *account) departuresOf(f *life, room string, before time.Time) (count int) {
	for _, e := range f.endings {
		if e.room == room && e.from.Before(before) {
			count++
		}
	}
	for _, s := range a.unreachable(f) {
		if s.until.IsZero() || s.until.After(before) {
			s.until = before
		}
		if a.outlasts(s) || !f.lost.IsZero() && s.contains(f.lost) || a.forgotten(f, s) {
			count++
		}
	}
	return count
}

// falseGaps finds those who were told of a gap though nothing happened to any node on which they were, nor to
// Redis.
func (a *account) falseGaps() (out []string) {
	for _, f := range a.lives {
		for _, g := range f.gaps {
			since := span{g.at.Add(-gapDelay), g.at}
			nodes := f.nodes(since)
			justified := slices.ContainsFunc(a.troubles, func(t *trouble) bool {
				return t.mayLose() && t.overlaps(since) && (t.node == everybody || slices.Contains(nodes, t.node))
			})
			if !justified && a.bound(f.user) {
				out = append(out, fmt.Sprintf("gap: %s was told of one at %s for nothing, on nodes %v", f.user, clock(g.at), nodes))
			}
		}
	}
	return out
}

// lostIDs finds users who lost their session before the grace was over.
func (a *account) lostIDs() (out []string) {
	for _, f := range a.lives {
		if f.lost.IsZero() || !a.bound(f.user) {
			continue
		}
		if away, rightly := a.mayLapse(f, f.lost); !rightly {
			out = append(out, fmt.Sprintf("id: %s lost its session at %s, after %s", f.user, clock(f.lost), away.Round(time.Millisecond)))
		}
	}
	return out
}

// lostRooms finds users who kept their session and were taken out of their room before the grace was over.
func (a *account) lostRooms() (out []string) {
	for _, f := range a.lives {
		for _, at := range f.unplaced {
			if away, rightly := a.mayLapse(f, at); !rightly && a.bound(f.user) {
				out = append(out, fmt.Sprintf("room: %s was in its room no more at %s, after %s", f.user, clock(at), away.Round(time.Millisecond)))
			}
		}
	}
	return out
}

// mayLapse reports how long a user could not be reached until a time, and whether that is reason to take it for gone.
func (a *account) mayLapse(f *life, at time.Time) (away time.Duration, rightly bool) {
	gone := span{at, at}
	for _, s := range a.unreachable(f) {
		if s.contains(at) {
			gone.from = s.from
		}
	}
	away = gone.until.Sub(gone.from)
	return away, a.outlasts(gone) || a.forgotten(f, gone)
}

// outlasts reports whether the grace may be over for a node when it is not for a participant that was away for that time. One that did not
// run may have noticed late that it is.
func (a *account) outlasts(away span) bool {
	return away.until.Sub(away.from)+a.stalled(span{away.from.Add(-a.grace), away.until}) >= a.grace-margin
}

// forgotten reports whether nobody can know a user any more that was unreachable: its node was gone and the shared
// state forgot it.
func (a *account) forgotten(f *life, s span) bool {
	nodes := f.nodes(span{s.from.Add(-margin), s.until})
	died, forgot := false, false
	for _, t := range a.troubles {
		if !t.overlaps(span{s.from.Add(-margin), s.until}) {
			continue
		}
		died = died || slices.Contains(nodes, t.node)
		forgot = forgot || t.forgets()
	}
	return died && forgot
}

func (l *utterance) String() string {
	text := "line " + l.id + " of " + l.from + " in " + l.room + " (" + clock(l.attempts[0].at)
	for _, t := range l.attempts {
		text += " " + strconv.Itoa(t.number) + "@" + t.source
	}
	for _, answer := range l.answers {
		text += " " + answer.kind
		if len(answer.missed) > 0 {
			text += fmt.Sprint(answer.missed)
		}
	}
	return text + ")"
}

func clock(at time.Time) string { return at.Format("05.000") }

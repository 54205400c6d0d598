package signal_test

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// The account is a judge that must be judged itself: each case is a history that one product with one fault
// would make, and what must be found in it.

// at is a time of a history, in seconds.
func at(seconds float64) time.Time {
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

// history is one in which all is well: a and b on node 0 and c on node 1 have been in one room since second 1, and
// node 2, where nobody is, was killed at second 20. At second 10, a said line 1 to all.
func history() *record {
	r := &record{grace: 10 * time.Second}
	for user, node := range map[string]int{"a": 0, "b": 0, "c": 1} {
		r.lives = append(r.lives, &life{user: user, stays: []stay{{"room", span{from: at(1)}}}, visits: []visit{{node, at(0)}}})
	}
	r.troubles = []*trouble{{killed, 2, span{at(20), at(22)}}}
	r.say("1", "", 1, "0.0", 10)
	r.answer("1", "ack", 10.1)
	r.hear("b", 1, 10.1)
	r.hear("c", 1, 10.2)
	return r
}

func (r *record) life(user string) *life {
	for _, f := range r.lives {
		if f.user == user {
			return f
		}
	}
	panic("nobody is called " + user)
}

// line returns a line of a.
func (r *record) line(id string) *utterance {
	for _, l := range r.lines {
		if l.id == id {
			return l
		}
	}
	return nil
}

// say has a say a line, to one user or all, as an attempt with that number.
func (r *record) say(id, to string, number int, source string, seconds float64) {
	l := r.line(id)
	if l == nil {
		l = &utterance{from: "a", id: id, room: "room", to: to}
		r.lines = append(r.lines, l)
	}
	view := []string{"b", "c"}
	if to != "" {
		view = []string{to}
	}
	since := map[string]time.Time{"b": at(1), "c": at(1)}
	l.attempts = append(l.attempts, attempt{number: number, source: source, view: view, since: since, at: at(seconds)})
}

func (r *record) answer(id, kind string, seconds float64, missed ...string) {
	l := r.line(id)
	l.answers = append(l.answers, answer{kind: kind, missed: missed, attempts: len(l.attempts), at: at(seconds)})
}

// hear has a user hear what a said under that number, if it did.
func (r *record) hear(user string, number int, seconds float64) *hearing {
	h := hearing{from: "a", number: number, at: at(seconds)}
	for _, l := range r.lines {
		for _, t := range l.attempts {
			if t.number == number {
				h.line = l.id
			}
		}
	}
	f := r.life(user)
	f.heard = append(f.heard, h)
	return &f.heard[len(f.heard)-1]
}

// deaf takes from a user what it heard.
func (r *record) deaf(user string) { r.life(user).heard = nil }

// returned has a user come back to a node after it was away.
func (r *record) returned(user string, from, until float64, node int) {
	f := r.life(user)
	f.away = append(f.away, span{at(from), at(until)})
	f.visits = append(f.visits, visit{node, at(until)})
}

func (r *record) sawLeave(user, other string, seconds float64) {
	f := r.life(user)
	f.departures = append(f.departures, departure{other, "room", at(seconds)})
}

func (r *record) gap(user string, greeting bool, seconds float64) {
	r.life(user).gaps = append(r.life(user).gaps, gap{greeting, at(seconds)})
}

func (r *record) trouble(kind string, node int, from, until float64) {
	r.troubles = append(r.troubles, &trouble{kind, node, span{at(from), at(until)}})
}

// accountCases are histories by what they are, with how the findings begin, which is empty when there must be none.
var accountCases = []struct {
	name    string
	happens func(r *record)
	found   string
}{
	{"all is well", func(*record) {}, ""},
	// What was acknowledged.
	{"an acknowledged broadcast is lost for one", func(r *record) { r.deaf("c") }, "lost: c"},
	{"an acknowledged message is lost", func(r *record) { r.say("2", "b", 2, "0.0", 11); r.answer("2", "ack", 11) }, "lost: b"},
	{"one that was missed is missing", func(r *record) { r.deaf("c"); r.line("1").answers[0].missed = []string{"c"} }, ""},
	{"one that was missed before is lost the next time", func(r *record) {
		r.deaf("c")
		r.line("1").answers[0].missed = []string{"c"}
		r.say("1", "", 2, "0.0", 12)
		r.answer("1", "ack", 12)
	}, "lost: c"},
	{"one that was missed hears it the next time", func(r *record) {
		r.deaf("c")
		r.line("1").answers[0].missed = []string{"c"}
		r.say("1", "", 2, "0.0", 12)
		r.answer("1", "ack", 12)
		r.hear("c", 2, 12)
	}, ""},
	{"what was not acknowledged is lost", func(r *record) { r.say("2", "b", 2, "0.0", 11) }, ""},
	{"what was refused is said again, acknowledged and lost", func(r *record) {
		r.say("2", "b", 2, "0.0", 11)
		r.answer("2", "error 503", 12)
		r.say("2", "b", 3, "0.0", 13)
		r.answer("2", "ack", 14)
	}, "lost: b"},
	{"who left is missing it", func(r *record) {
		r.deaf("c")
		r.life("c").stays[0].until = at(10.05)
		r.life("c").endings = []ending{{"room", span{at(10.05), at(10.2)}}}
	}, ""},
	{"who left before it and came back is missing it", func(r *record) {
		r.deaf("c")
		r.life("c").stays = []stay{{"room", span{at(1), at(9)}}, {"room", span{from: at(11)}}}
	}, ""},
	{"who left and came back before it, of which the sender did not know, is missing it", func(r *record) {
		r.deaf("c")
		r.life("c").stays = []stay{{"room", span{at(1), at(8)}}, {"room", span{from: at(9)}}}
	}, ""},
	{"who left and came back before it, as the sender knew, is missing it", func(r *record) {
		r.deaf("c")
		r.life("c").stays = []stay{{"room", span{at(1), at(8)}}, {"room", span{from: at(9)}}}
		r.line("1").attempts[0].since["c"] = at(9)
	}, "lost: c"},
	{"who was told of a gap is missing it", func(r *record) {
		r.deaf("c")
		r.trouble(killed, 1, 10, 11)
		r.gap("c", true, 13)
	}, ""},
	{"who was told of a gap before it is missing it", func(r *record) {
		r.deaf("c")
		r.trouble(killed, 1, 5, 6)
		r.gap("c", true, 8)
	}, "lost: c"},
	{"a later line overtakes one that is lost for who left since", func(r *record) {
		r.deaf("b")
		r.say("2", "b", 2, "0.0", 11)
		r.hear("b", 2, 11)
		r.life("b").stays[0].until = at(40)
		r.life("b").endings = []ending{{"room", span{at(40), at(41)}}}
	}, ""},
	{"a later line overtakes one that is lost for whose session ended since", func(r *record) {
		r.deaf("b")
		r.say("2", "b", 2, "0.0", 11)
		r.hear("b", 2, 11)
		r.life("b").stays[0].until = at(40)
		r.life("b").lost = at(40)
		r.returned("b", 15, 40, 0)
	}, "lost: b"},
	// Twice.
	{"a broadcast is doubled", func(r *record) { r.hear("c", 1, 10.3) }, "doubled: c"},
	{"a retry is delivered to who had it", func(r *record) {
		r.say("1", "", 2, "0.0", 12)
		r.answer("1", "ack", 12)
		r.hear("b", 2, 12)
	}, "doubled: b"},
	{"a retry reaches who had it before its node died", func(r *record) {
		r.trouble(killed, 1, 11, 12)
		r.gap("c", true, 13)
		r.say("1", "", 2, "0.0", 14)
		r.answer("1", "ack", 14)
		r.hear("c", 2, 14)
	}, ""},
	// Order.
	{"a later line comes first", func(r *record) {
		r.say("2", "b", 2, "0.0", 10.05)
		r.deaf("b")
		r.hear("b", 2, 10.1)
		r.hear("b", 1, 10.2)
	}, "reordered: b"},
	{"a line by way of another node comes first", func(r *record) {
		r.say("2", "b", 2, "1.0", 10.05)
		r.deaf("b")
		r.hear("b", 2, 10.1)
		r.hear("b", 1, 10.2)
	}, ""},
	{"somebody is heard who said nothing", func(r *record) { r.hear("b", 9, 11) }, "reordered: b"},
	// Denials.
	{"a refused broadcast is delivered", func(r *record) { r.line("1").answers[0].kind = "error 503" }, "denied: "},
	{"a broadcast is delivered that its node gave up while Redis stood still", func(r *record) {
		r.trouble(redisFrozen, everybody, 9, 15.2)
		r.line("1").answers[0] = answer{kind: "error 503", attempts: 1, at: at(15.1)}
	}, "denied: "},
	{"one that was missed has heard it", func(r *record) { r.line("1").answers[0].missed = []string{"c"} }, "denied: c"},
	{"one that was missed has heard it, whose node died then", func(r *record) {
		r.trouble(killed, 1, 10.5, 12)
		r.line("1").answers[0] = answer{kind: "ack", missed: []string{"c"}, attempts: 1, at: at(14)}
	}, "denied: c"},
	{"one whose node died with what Redis had not said to have taken has heard it", func(r *record) {
		r.trouble(redisKilled, everybody, 10.3, 11)
		r.trouble(killed, 1, 10.5, 12)
		r.line("1").answers[0] = answer{kind: "ack", missed: []string{"c"}, attempts: 1, at: at(14)}
	}, ""},
	{"one of two attempts was refused and one is delivered", func(r *record) {
		r.line("1").answers = nil
		r.say("1", "", 2, "1.0", 12)
		r.answer("1", "error 503", 13)
	}, ""},
	// Views.
	{"a message of somebody who was shown as left", func(r *record) {
		r.say("2", "b", 2, "0.0", 11)
		r.hear("b", 2, 11).shown = gone
	}, "stranger: b"},
	{"a message of somebody who was never shown", func(r *record) {
		r.say("2", "b", 2, "0.0", 11)
		r.hear("b", 2, 11).shown = stranger
	}, "stranger: b"},
	{"somebody who is there is shown as left", func(r *record) { r.sawLeave("a", "b", 15) }, "user_left: a"},
	{"somebody who leaves is shown as left", func(r *record) {
		r.life("b").endings = []ending{{"room", span{at(14), at(15)}}}
		r.sawLeave("a", "b", 14.5)
	}, ""},
	{"somebody who left once is shown as left twice", func(r *record) {
		r.life("b").endings = []ending{{"room", span{at(14), at(15)}}}
		r.sawLeave("a", "b", 14.5)
		r.sawLeave("a", "b", 15.5)
	}, "user_left: a"},
	{"somebody who left the room before is shown as left this one", func(r *record) {
		r.life("b").endings = []ending{{"another", span{at(14), at(15)}}}
		r.sawLeave("a", "b", 14.5)
	}, "user_left: a"},
	{"somebody is shown as left who comes back within the grace", func(r *record) {
		r.returned("b", 12, 18, 1)
		r.sawLeave("a", "b", 17)
	}, "user_left: a"},
	{"somebody is shown as left who stays away", func(r *record) {
		r.life("b").away = []span{{from: at(12)}}
		r.sawLeave("a", "b", 22.5)
	}, ""},
	{"somebody is shown as left by a node that saw it go a little before it knew", func(r *record) {
		r.life("b").away = []span{{from: at(12.2)}}
		r.sawLeave("a", "b", 22)
	}, ""},
	{"somebody is shown as left who did not run and noticed late that it was away", func(r *record) {
		r.stalls = []span{{at(12), at(15)}}
		r.life("b").away = []span{{from: at(15)}}
		r.sawLeave("a", "b", 22)
	}, ""},
	{"somebody is shown as left who did not run long before", func(r *record) {
		r.stalls = []span{{at(2), at(5)}, {at(11), at(11.5)}}
		r.life("b").away = []span{{from: at(15)}}
		r.sawLeave("a", "b", 22)
	}, "user_left: a"},
	{"somebody is shown as left whose node stood still for longer than the grace", func(r *record) {
		r.trouble(frozen, 0, 11, 30)
		r.sawLeave("c", "b", 24)
	}, ""},
	{"somebody is shown as left whose node stood still for less than the grace", func(r *record) {
		r.trouble(frozen, 0, 11, 20)
		r.sawLeave("c", "b", 19)
	}, "user_left: c"},
	{"all data is lost, and those who are there are shown as left", func(r *record) {
		r.trouble(flushed, everybody, 14, 14)
		r.sawLeave("c", "a", 14.5)
	}, "user_left: c"},
	// Gaps.
	{"a gap is told for nothing", func(r *record) { r.gap("b", false, 21) }, "gap: b"},
	{"a gap is told to one of another node than the one that died", func(r *record) {
		r.trouble(killed, 1, 11, 12)
		r.gap("b", true, 13)
		r.gap("c", true, 13)
	}, "gap: b"},
	{"a gap is told after the data was lost, of which no message is", func(r *record) {
		r.trouble(flushed, everybody, 11, 11)
		r.gap("b", false, 12)
	}, "gap: b"},
	{"a gap is told after connections to Redis were lost", func(r *record) {
		r.trouble(clientsKilled, everybody, 11, 11)
		r.gap("b", false, 12)
	}, ""},
	// Identity.
	{"an id is lost within the grace", func(r *record) {
		r.returned("b", 12, 15, 1)
		r.life("b").lost = at(15)
	}, "id: b"},
	{"an id is lost as its node dies", func(r *record) {
		r.trouble(killed, 0, 12, 13)
		r.returned("b", 12, 15, 1)
		r.life("b").lost = at(15)
	}, "id: b"},
	{"an id is lost after the grace", func(r *record) {
		r.returned("b", 12, 23, 1)
		r.life("b").lost = at(23)
	}, ""},
	{"an id is lost whose node died and that Redis forgot", func(r *record) {
		r.trouble(killed, 0, 12, 13)
		r.trouble(flushed, everybody, 14, 14)
		r.returned("b", 12, 15, 1)
		r.life("b").lost = at(15)
	}, ""},
	{"an id is lost of a connection that stands", func(r *record) { r.life("b").lost = at(15) }, "id: b"},
	{"a room is lost within the grace", func(r *record) {
		r.returned("b", 12, 15, 1)
		r.life("b").unplaced = []time.Time{at(15)}
	}, "room: b"},
	{"a room is lost after the grace", func(r *record) {
		r.returned("b", 12, 23, 1)
		r.life("b").unplaced = []time.Time{at(23)}
	}, ""},
	{"one with an older node hears all twice", func(r *record) { r.life("c").older = true; r.hear("c", 1, 10.3) }, ""},
}

func TestAccount(t *testing.T) {
	for _, test := range accountCases {
		r := history()
		test.happens(r)
		found := newAccount(r).findings()
		others := slices.DeleteFunc(slices.Clone(found), func(f string) bool { return test.found != "" && strings.HasPrefix(f, test.found) })
		if len(others) > 0 || test.found != "" && len(found) == 0 {
			t.Errorf("%s: %q instead of %q", test.name, found, test.found)
		}
	}
}

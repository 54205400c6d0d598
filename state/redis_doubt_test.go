package state

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"cline-meet/signal/state/redistest"
)

// taken returns two nodes that live and a third that is taken for dead, until comeBack has it return. All have had
// members in room r: a, b and what is given for the third.
func taken(t *testing.T, change func(*RedisConfig), users ...string) (one, two, away *site, comeBack func()) {
	t.Helper()
	redis := redistest.Start(t)
	cfg := graceful(single(redis))
	cfg.Lease = 3 * time.Second
	change(&cfg)
	way := newProxy(t, redis.Addr)
	one, two = newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	away = newSite(t, behind(cfg, way), "n3")
	one.must(one.enter("r", "a"))
	two.must(two.enter("r", "b"))
	for _, user := range users {
		away.must(away.enter("r", user))
	}
	agree(t, "r", append([]string{"a", "b"}, users...), one, two, away)
	if away.Doubtful("r") {
		t.Error("the room is in doubt for nothing")
	}
	way.frozen.Store(true)
	way.cut()
	one.knowsDead("n3")
	two.knowsDead("n3")
	eventually(t, "the node is in doubt", func() bool { return away.Doubtful("r") })
	return one, two, away, func() {
		way.frozen.Store(false)
		way.cut()
		eventually(t, "the doubt is over", func() bool { return !away.Doubtful("r") })
	}
}

// seen fails unless a site saw a user join and leave that often.
func (s *site) seen(t *testing.T, user string, joined, left int) {
	t.Helper()
	key := "r/" + user
	if s.count(s.joined, key) != joined || s.count(s.left, key) != left {
		t.Errorf("%s saw %s join %d times and leave %d times, want %d and %d", s.id, user, s.count(s.joined, key), s.count(s.left, key), joined, left)
	}
}

// pair attaches nodes n1 and n2 to a Redis of their own; no beat comes to help.
func pair(t *testing.T) (redis *redistest.Server, one, two *site) {
	t.Helper()
	redis = redistest.Start(t)
	cfg := quiet(single(redis))
	return redis, newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
}

// hold keeps a room from being asserted until release is called.
func (s *site) hold(room string) (m *mirror, release func()) {
	m, err := s.begin(s.t.Context(), room)
	s.must(err)
	return m, func() { s.end(room, m) }
}

// TestRemovedComeBackWithTheirClients has a node return after the grace of its members. Of those the others have seen leave
// the one without a client does not come back.
func TestRemovedComeBackWithTheirClients(t *testing.T) {
	t.Parallel()
	one, two, away, comeBack := taken(t, func(cfg *RedisConfig) { cfg.Grace = 0 }, "here", "gone")
	agree(t, "r", []string{"a", "b"}, one, two)
	away.mu.Lock()
	away.absent = map[string]bool{"r/gone": true}
	away.mu.Unlock()
	comeBack()
	agree(t, "r", []string{"a", "b", "here"}, one, two, away)
	for _, s := range []*site{one, two} {
		s.seen(t, "here", 2, 1)
		s.seen(t, "gone", 1, 1)
	}
	away.seen(t, "here", 1, 0)
	away.seen(t, "gone", 1, 1)
	if got := away.returned(); !slices.Equal(got, []string{"r/here"}) {
		t.Errorf("%v were told that they are back", got)
	}
	if err := away.exit("r", "gone"); !errors.Is(err, ErrNotMember) {
		t.Errorf("the one that is not there leaves: %v", err)
	}
}

// TestAdoptedAndLeftStaysAway has a member adopted and leave while its former node is taken for dead. That node does not
// bring it back, although it has a connection of its client still.
func TestAdoptedAndLeftStaysAway(t *testing.T) {
	t.Parallel()
	one, two, away, comeBack := taken(t, func(*RedisConfig) {}, "u", "v")
	if _, err := one.adopt("n3", "u", away.epoch("r", "u")); err != nil {
		t.Fatal(err)
	}
	one.must(one.exit("r", "u"))
	agree(t, "r", []string{"a", "b", "v"}, one, two)
	comeBack()
	agree(t, "r", []string{"a", "b", "v"}, one, two, away)
	for _, s := range []*site{one, two, away} {
		s.seen(t, "u", 1, 1)
		s.seen(t, "v", 1, 0)
	}
}

// TestSleeperRestoresNobodyElse has Redis flushed while a node does not run, and before that somebody leave of whom it knows. It does not
// bring that one back, and neither its own who has left at another node since.
func TestSleeperRestoresNobodyElse(t *testing.T) {
	redis, one, asleep := pair(t)
	for _, user := range []string{"a", "left"} {
		one.must(one.enter("r", user))
	}
	for _, user := range []string{"b", "moved"} {
		asleep.must(asleep.enter("r", user))
	}
	agree(t, "r", []string{"a", "b", "left", "moved"}, one, asleep)
	asleep.mu.Lock()
	asleep.absent = map[string]bool{"r/moved": true}
	asleep.mu.Unlock()
	asleep.Redis.mu.Lock()
	known := *asleep.rooms["r"]
	own := map[string]stay{}
	for user, s := range known.own {
		own[user] = s
	}
	asleep.Redis.mu.Unlock()
	one.must(one.exit("r", "left"))
	agree(t, "r", []string{"a", "b", "moved"}, one, asleep)
	one.must(one.move("r", "moved", asleep))
	one.must(one.exit("r", "moved"))
	redis.Do("FLUSHALL")
	one.suspect("r")
	one.assert(t.Context(), "r")

	asleep.Redis.mu.Lock() // It knows what it knew before it slept.
	m := asleep.rooms["r"]
	m.members, m.version, m.founded, m.own = known.members, known.version, known.founded, own
	asleep.Redis.mu.Unlock()
	asleep.pulse.last.Add(-int64(2 * stillness))
	if !asleep.Doubtful("r") {
		t.Error("it does not doubt what it knows when it has just begun to run")
	}
	asleep.feelPulse()
	agree(t, "r", []string{"a", "b"}, one, asleep)
	eventually(t, "the doubt is over", func() bool { return !asleep.Doubtful("r") })
	for _, user := range []string{"left", "moved"} {
		one.seen(t, user, 1, 1)
	}
}

// TestAbsentStaysInALostRoom has Redis lose a room of one whose client has gone for a moment, and another node found it anew first.
func TestAbsentStaysInALostRoom(t *testing.T) {
	redis, one, two := pair(t)
	one.must(one.enter("r", "away"))
	one.mu.Lock()
	one.absent = map[string]bool{"r/away": true}
	one.mu.Unlock()
	_, release := one.hold("r")
	redis.Do("FLUSHALL")
	two.must(two.enter("r", "b"))
	release()
	agree(t, "r", []string{"away", "b"}, one, two)
	one.seen(t, "away", 1, 0)
}

// TestSleeperShowsTheOthers has Redis flushed while a node does not run, which is the first to found a room anew. It restores nobody
// else, and its clients see nobody leave but the one who has.
func TestSleeperShowsTheOthers(t *testing.T) {
	redis, one, asleep := pair(t)
	one.must(one.enter("r", "a"))
	one.must(one.enter("r", "left"))
	asleep.must(asleep.enter("r", "b"))
	agree(t, "r", []string{"a", "b", "left"}, one, asleep)
	asleep.Redis.mu.Lock()
	m := asleep.rooms["r"]
	known := *m
	asleep.Redis.mu.Unlock()
	one.must(one.exit("r", "left"))
	agree(t, "r", []string{"a", "b"}, one, asleep)
	_, release := one.hold("r")
	redis.Do("FLUSHALL")

	asleep.Redis.mu.Lock() // It knows what it knew before it slept.
	m.members, m.version, m.gone, m.stale = known.members, known.version, nil, true
	m.doubts++
	asleep.Redis.mu.Unlock()
	asleep.mu.Lock()
	clear(asleep.left)
	asleep.mu.Unlock()
	eventually(t, "it restores its own alone", func() bool { return slices.Equal(stored(t, asleep.Redis, "r"), []string{"b"}) })
	asleep.Redis.mu.Lock()
	m.guessed = m.guessed.Add(-trustTime)
	asleep.Redis.mu.Unlock()
	redis.Do("FLUSHALL") // Once more, when the others have had their time.
	eventually(t, "it guesses anew", func() bool {
		asleep.Redis.mu.Lock()
		defer asleep.Redis.mu.Unlock()
		return m.stale && time.Since(m.guessed) < trustTime
	})
	release()
	agree(t, "r", []string{"a", "b"}, one, asleep)
	asleep.seen(t, "a", 1, 0)
	eventually(t, "what it knows is true", func() bool {
		asleep.Redis.mu.Lock()
		defer asleep.Redis.mu.Unlock()
		return !m.stale && len(m.members) == 2 && len(asleep.dirty) == 0
	})
	asleep.seen(t, "a", 1, 0)
}

// TestSleeperWaitsForSlowNodes is the same with another node that stands still while the time is over in which it might restore its member.
func TestSleeperWaitsForSlowNodes(t *testing.T) {
	redis := redistest.Start(t)
	way := newProxy(t, redis.Addr)
	cfg := quiet(single(redis))
	slow, asleep := newSite(t, behind(cfg, way), "n1"), newSite(t, cfg, "n2")
	slow.must(slow.enter("r", "a"))
	asleep.must(asleep.enter("r", "b"))
	agree(t, "r", []string{"a", "b"}, slow, asleep)
	way.frozen.Store(true)
	asleep.Redis.mu.Lock()
	m := asleep.rooms["r"]
	m.stale = true
	m.doubts++
	asleep.Redis.mu.Unlock()
	redis.Do("FLUSHALL")
	eventually(t, "it guesses", func() bool {
		asleep.Redis.mu.Lock()
		defer asleep.Redis.mu.Unlock()
		return !m.guessed.IsZero()
	})
	asleep.Redis.mu.Lock()
	m.guessed = m.guessed.Add(-trustTime)
	asleep.Redis.mu.Unlock()
	asleep.suspect("r")
	asleep.assert(t.Context(), "r")
	asleep.seen(t, "a", 1, 0)
	way.frozen.Store(false)
	eventually(t, "all is restored", func() bool { return slices.Equal(stored(t, asleep.Redis, "r"), []string{"a", "b"}) })
	agree(t, "r", []string{"a", "b"}, slow, asleep)
	asleep.seen(t, "a", 1, 0)
}

// TestOlderViewOfAMoverIsNoDeparture has a node restore a room that Redis lost as it was before a member moved. The node where
// that was corrects it, and nobody sees it leave.
func TestOlderViewOfAMoverIsNoDeparture(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, quiet(single(redis)))
	one.must(one.enter("r", "a"))
	one.must(one.enter("r", "u"))
	two.must(two.enter("r", "b"))
	last.must(last.enter("r", "c"))
	agree(t, "r", []string{"a", "b", "c", "u"}, one, two, last)
	last.Redis.mu.Lock()
	before := *last.rooms["r"]
	last.Redis.mu.Unlock()
	two.must(two.move("r", "u", one))
	agree(t, "r", []string{"a", "b", "c", "u"}, one, two, last)
	eventually(t, "all know of the move", func() bool {
		last.Redis.mu.Lock()
		defer last.Redis.mu.Unlock()
		e, _ := find(last.rooms["r"].members, "u")
		return e.Node == "n2"
	})
	last.Redis.mu.Lock()
	m := last.rooms["r"]
	m.members, m.version, m.founded = before.members, before.version, before.founded
	last.Redis.mu.Unlock()
	redis.Do("DEL", one.roomKey("r"))
	for _, s := range []*site{last, one, two, last} {
		s.suspect("r")
		s.assert(t.Context(), "r")
	}
	agree(t, "r", []string{"a", "b", "c", "u"}, one, two, last)
	for _, s := range []*site{one, two, last} {
		s.seen(t, "u", 1, 0)
	}
}

// TestLeaveAfterAnOutage joins and leaves with what a node knows, before Redis has heard that the member left
// another node before.
func TestLeaveAfterAnOutage(t *testing.T) {
	_, one, two := pair(t)
	one.must(one.enter("r", "a"))
	one.must(one.enter("r", "u"))
	two.must(two.enter("r", "b"))
	agree(t, "r", []string{"a", "b", "u"}, one, two)
	m, release := two.hold("r")
	who := Member{ID: "u", Epoch: uint64(time.Now().UnixNano())}
	undo, _ := two.claim(m, who)
	if _, err := two.joinLocally("r", m, who, 10, undo); err != nil {
		t.Fatal(err)
	}
	v, err := two.Leave(t.Context(), "r", "u", who.Epoch, ReasonLeave)
	if _, there := v.Find("u"); err != nil || there {
		t.Errorf("after it has left: %+v, %v", v, err)
	}
	release()
	one.must(one.exit("r", "u"))
	agree(t, "r", []string{"a", "b"}, one, two)
}

// TestAdoptedIsInOneRoom kills a node while a member of it goes from one room to another, which it joins before it leaves the
// former.
func TestAdoptedIsInOneRoom(t *testing.T) {
	redis := redistest.Start(t)
	one, two, dead := three(t, graceful(single(redis)))
	for i := range 5 {
		one.must(one.enter(fmt.Sprint("r", i), "a"))
		v, err := dead.Join(t.Context(), fmt.Sprint("r", i), Member{ID: "u", Epoch: 5}, 10)
		if err != nil || len(v.Members) != 2 {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	dead.crash()
	two.knowsDead("n3")
	if v, err := two.adopt("n3", "u", 5); err != nil || v.Room != "r4" {
		t.Errorf("adopted into %q, %v", v.Room, err)
	}
	agree(t, "r4", []string{"a", "u"}, one, two)
	for i := range 4 {
		agree(t, fmt.Sprint("r", i), []string{"a"}, one)
	}
}

// TestLostAnswerOfABeatIsDoubt has a beat find a lease that this node did not leave, as when it was declared dead, lived
// again by a beat of which it lost the answer, and others acted in between.
func TestLostAnswerOfABeatIsDoubt(t *testing.T) {
	s := newSite(t, quiet(single(redistest.Start(t))), "n1")
	s.must(s.enter("r", "a"))
	s.Redis.mu.Lock()
	s.leaseEnd--
	s.dirty = map[string]struct{}{}
	m := s.rooms["r"]
	s.reassureLocked(lease{now: s.clock(time.Now()), had: s.leaseEnd + 1}, time.Now())
	doubts := m.doubts
	s.Redis.mu.Unlock()
	if doubts != 1 || !s.Doubtful("r") || s.Doubtful("another") {
		t.Errorf("%d doubts", doubts)
	}
	wake(s.work)
	s.AwaitTrust(t.Context(), "r")
	if s.Doubtful("r") {
		t.Error("whoever waited for the end of doubt has not got it")
	}
}

// TestLocalJoinStaysShown has a member join by way of Redis before that has heard of one that joined while it was away.
// Nobody is seen to leave.
func TestLocalJoinStaysShown(t *testing.T) {
	_, one, two := pair(t)
	two.must(two.enter("r", "b"))
	one.must(one.enter("r", "a"))
	m, release := one.hold("r")
	who := Member{ID: "u", Epoch: uint64(time.Now().UnixNano())}
	undo, _ := one.claim(m, who)
	v, err := one.joinLocally("r", m, who, 10, undo)
	one.must(err)
	one.mu.Lock()
	one.applyLocked(v)
	one.mu.Unlock()
	one.must(one.enter("r", "c"))
	release()
	agree(t, "r", []string{"a", "b", "c", "u"}, one, two)
	for _, s := range []*site{one, two} {
		s.seen(t, "u", 1, 0)
	}
}

// TestJoinOfALapsedNodeWaits joins at a node whose lease has just ended, as at the end of an outage, and to which Redis is far.
func TestJoinOfALapsedNodeWaits(t *testing.T) {
	redis := redistest.Start(t)
	way := newProxy(t, redis.Addr)
	one := newSite(t, behind(quiet(single(redis)), way), "n1")
	way.delay.Store(int64(50 * time.Millisecond))
	one.trip(errLapsed)
	one.must(one.enter("r", "a"))
	agree(t, "r", []string{"a"}, one)
	lapsed := time.Now().Add(-one.cfg.Lease)
	one.renewed.Store(&lapsed)
	wake(one.poke)
	one.must(one.enter("r", "b"))
	agree(t, "r", []string{"a", "b"}, one)
}

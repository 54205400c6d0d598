package state

import (
	"slices"
	"testing"
	"time"

	"cline-meet/signal/state/redistest"
)

// TestLeaveIsToldBeforeRedisKnows lets a member leave a room that Redis lost, while its node is kept from comparing the two: the others
// hear of it all the same, since the member or whoever saw it leave may be with them in a moment.
func TestLeaveIsToldBeforeRedisKnows(t *testing.T) {
	redis := redistest.Start(t)
	one, two, _ := three(t, quiet(single(redis)))
	settled(t, 1, one, two)
	_, release := one.hold("r0")
	defer release()
	redis.Do("DEL", one.roomKey("r0"))
	one.must(one.exit("r0", "at-n1"))
	agree(t, "r0", []string{"at-n2"}, two)
}

// TestLeaveOfLostRoom lets a member leave the moment the room is lost: it leaves, once, and nobody else.
func TestLeaveOfLostRoom(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, quiet(single(redis)))
	settled(t, 1, one, two, last)
	redis.Do("DEL", one.roomKey("r0"))
	last.must(last.exit("r0", "at-n3"))
	agree(t, "r0", []string{"at-n1", "at-n2"}, one, two)
	for _, s := range []*site{one, two} {
		s.mu.Lock()
		if s.left["r0/at-n3"] != 1 || len(s.left) != 1 {
			t.Errorf("%s saw leave: %v", s.id, s.left)
		}
		s.mu.Unlock()
	}
}

// severable returns three nodes with a room of theirs, and the third one's way to Redis, which can be frozen and cut.
func severable(t *testing.T) (redis *redistest.Server, way *proxy, one, two, cut *site) {
	t.Helper()
	redis = redistest.Start(t)
	cfg := patiently(single(redis))
	way = newProxy(t, redis.Addr)
	one, two, cut = newSite(t, cfg, "n1"), newSite(t, cfg, "n2"), newSite(t, behind(cfg, way), "n3")
	settled(t, 1, one, two, cut)
	return redis, way, one, two, cut
}

// TestCutOffNodeRestoresWhoLeft has one leave and then Redis lose everything, while a node is cut off. It brings back whom it knew
// when it returns, and nobody sees that one come back and leave again.
func TestCutOffNodeRestoresWhoLeft(t *testing.T) {
	redis, way, one, two, cut := severable(t)
	one.must(one.enter("r0", "x"))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3", "x"}, one, two, cut)
	way.frozen.Store(true)
	one.must(one.exit("r0", "x"))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3"}, one, two)
	redis.Do("FLUSHALL")
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3"}, one, two)
	way.frozen.Store(false)
	way.cut()
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3"}, one, two, cut)
	for _, s := range []*site{one, two, cut} {
		s.mu.Lock()
		if s.joined["r0/x"] > 1 || s.left["r0/x"] != 1 || len(s.left) != 1 {
			t.Errorf("%s saw x enter %d times, and leave: %v", s.id, s.joined["r0/x"], s.left)
		}
		s.mu.Unlock()
	}
	one.must(one.enter("r0", "x"))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3", "x"}, one, two, cut)
}

// TestLastOfNodeLeavesInOutage has the only member of a node leave while Redis is away, which comes back empty: there is nothing to
// put right then, and the others hear of it all the same.
func TestLastOfNodeLeavesInOutage(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := patiently(single(redis))
	ways := []*proxy{newProxy(t, redis.Addr), newProxy(t, redis.Addr)}
	one, two := newSite(t, behind(cfg, ways[0]), "n1"), newSite(t, behind(cfg, ways[1]), "n2")
	settled(t, 1, one, two)
	for i, s := range []*site{one, two} {
		ways[i].frozen.Store(true)
		eventually(t, "the node knows", func() bool { return s.Ready() != nil })
	}
	two.must(two.exit("r0", "at-n2"))
	redis.Do("FLUSHALL")
	ways[1].frozen.Store(false)
	ways[1].cut()
	eventually(t, "the node has seen to the room", func() bool {
		two.Redis.mu.Lock()
		defer two.Redis.mu.Unlock()
		return two.rooms["r0"] == nil
	})
	ways[0].frozen.Store(false)
	ways[0].cut()
	agree(t, "r0", []string{"at-n1"}, one)
	eventually(t, "the other node is told", func() bool {
		one.Redis.mu.Lock()
		defer one.Redis.mu.Unlock()
		_, told := one.rooms["r0"].gone["at-n2"]
		return told
	})
}

// TestWhoLeftIsNotRestored tells a node that somebody has left, by a node that is in the room no more: it neither restores that one
// nor shows it in a room that another node has founded anew, until it enters again.
func TestWhoLeftIsNotRestored(t *testing.T) {
	r := offline(t)
	here, gone := entry{"a", "n1", 7, 3}, entry{"x", "n2", 8, 5}
	m := r.mirrorLocked("r")
	m.version, m.founded, m.members, m.own["a"] = 10, 3, []entry{here, gone}, stay{7, 3, true, true}
	r.update("n2", change{Room: "r", Left: []Departure{{Member: gone.member(), Reason: ReasonLeave}}})
	if _, doubtful := r.dirty["r"]; !doubtful {
		t.Error("the room is not asserted")
	}
	if _, args := r.assertionLocked(m, nil); slices.Contains(args, any("n2")) || !slices.Contains(args, any("x")) {
		t.Errorf("asserted: %v", args)
	}
	v, _ := r.update("n2", change{Room: "r", Version: 20, Founded: 20, Members: []entry{here, gone}})
	if _, there := v.Find("x"); there || len(v.Left) != 1 || v.Left[0].ID != "x" {
		t.Errorf("shown as there: %v, as gone: %v", v.Members, v.Left)
	}
	gone.Joined = 21
	if v, _ := r.update("n2", change{Room: "r", Version: 21, Founded: 20, Members: []entry{here, gone}}); len(v.Members) != 2 {
		t.Errorf("who has entered again is not shown: %v", v.Members)
	}
}

// TestWhoLeavesIsNotShownAgain has a node hear of a room that Redis lost and another founded anew, and then of one that another node has
// completed, while a member of its own leaves: that goes once.
func TestWhoLeavesIsNotShownAgain(t *testing.T) {
	r := offline(t)
	here, leaves, other := entry{"a", r.id, 7, 3}, entry{"b", r.id, 8, 4}, entry{"x", "n2", 9, 5}
	m := r.mirrorLocked("r")
	m.version, m.founded, m.members, m.busy = 10, 3, []entry{here, leaves, other}, 1
	m.own["a"], m.own["b"] = stay{7, 3, true, true}, stay{8, 4, true, true}
	if !r.disown(m, Member{ID: "b", Epoch: 8}, ReasonLeave) {
		t.Fatal("it is none of the node's")
	}
	v, news := r.update("n2", change{Room: "r", Version: 20, Founded: 20, Members: []entry{other}})
	if _, there := v.Find("b"); !news || len(v.Members) != 2 || there {
		t.Errorf("the room has %v", v.Members)
	}
	v, news = r.update("n2", change{Room: "r", Version: 21, Founded: 20, Members: []entry{here, leaves, other}})
	if _, there := v.Find("b"); news && there {
		t.Errorf("who leaves is shown again: %v", v.Members)
	}
}

// TestEntersAgainInOutage has one leave and enter again while Redis is away, which comes back empty, and the others restore
// the stay that they knew: it is there all along.
func TestEntersAgainInOutage(t *testing.T) {
	t.Parallel()
	redis, way, one, two, cut := severable(t)
	cut.must(cut.enter("r0", "x"))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3", "x"}, one, two, cut)
	way.frozen.Store(true)
	eventually(t, "the node knows", func() bool { return cut.Ready() != nil })
	epoch := cut.epoch("r0", "x")
	cut.must(cut.exit("r0", "x"))
	cut.must(cut.enterBy("r0", "x", epoch))
	redis.Do("FLUSHALL")
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3", "x"}, one, two)
	way.frozen.Store(false)
	way.cut()
	eventually(t, "all know of the new stay", func() bool {
		want, _ := cut.view("r0").Find("x")
		for _, s := range []*site{one, two} {
			if m, _ := s.view("r0").Find("x"); m != want {
				return false
			}
		}
		return true
	})
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3", "x"}, one, two, cut)
	nobodyLeft(t, one, two)
	cut.mu.Lock()
	defer cut.mu.Unlock()
	if cut.joined["r0/x"] > 2 || len(cut.left) > 1 {
		t.Errorf("%v entered and %v left", cut.joined, cut.left)
	}
}

// TestWhoEnteredAgainIsRestored has one leave, and enter again while its node is cut off and Redis loses everything, and then Redis
// lose the room once more: the others, who remembered the leave, restore the new stay.
func TestWhoEnteredAgainIsRestored(t *testing.T) {
	t.Parallel()
	redis, way, one, two, cut := severable(t)
	all := []string{"at-n1", "at-n2", "at-n3", "x"}
	cut.must(cut.enter("r0", "x"))
	agree(t, "r0", all, one, two, cut)
	cut.must(cut.exit("r0", "x"))
	agree(t, "r0", all[:3], one, two, cut)
	way.frozen.Store(true)
	eventually(t, "the node knows", func() bool { return cut.Ready() != nil })
	cut.must(cut.enterBy("r0", "x", cut.epoch("r0", "x")))
	redis.Do("FLUSHALL")
	agree(t, "r0", all[:3], one, two)
	way.frozen.Store(false)
	way.cut()
	agree(t, "r0", all, one, two, cut)
	way.frozen.Store(true)
	redis.Do("DEL", one.roomKey("r0"))
	agree(t, "r0", all, one, two)
	for _, s := range []*site{one, two} {
		if s.count(s.left, "r0/x") != 1 {
			t.Errorf("%s saw leave: %v", s.id, s.left)
		}
	}
}

// TestLateNodeRestoresNobodyWhoLeft has one node bring a room back, as it knew it, more than a lease after the others
// did, which somebody has left meanwhile: who has left stays away, and is seen to leave once.
func TestLateNodeRestoresNobodyWhoLeft(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := steady(single(redis))
	one, late, last := three(t, cfg)
	settled(t, 1, one, late, last)
	late.Redis.mu.Lock()
	known, args := late.assertionLocked(late.rooms["r0"], nil)
	late.Redis.mu.Unlock()
	redis.Do("FLUSHALL")
	eventually(t, "the room is back", func() bool { return len(stored(t, one.Redis, "r0")) == 3 })
	last.must(last.exit("r0", "at-n3"))
	agree(t, "r0", []string{"at-n1", "at-n2"}, one, late)
	<-time.After(cfg.Lease + cfg.Lease/2)
	_, err := late.change(t.Context(), "assert", assertScript, "r0", known, args...)
	late.must(err)
	if there := stored(t, one.Redis, "r0"); len(there) != 2 {
		t.Errorf("the room has %v", there)
	}
	for _, s := range []*site{one, late} {
		if n := s.count(s.left, "r0/at-n3"); n != 1 || s.reasons["r0/at-n3"] != ReasonLeave {
			t.Errorf("%s saw it leave %d times, because %q", s.id, n, s.reasons["r0/at-n3"])
		}
	}
}

// TestWhoCameBackIsRestored has somebody leave a young room and enter it again by the same connection. When the key is gone,
// whichever node brings the room back, all are in it, and nobody is seen to leave.
func TestWhoCameBackIsRestored(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, steady(single(redis)))
	settled(t, 1, one, two, last)
	redis.Do("FLUSHALL")
	eventually(t, "the room is back", func() bool { return len(stored(t, one.Redis, "r0")) == 3 })
	last.must(last.exit("r0", "at-n3"))
	agree(t, "r0", []string{"at-n1", "at-n2"}, one, two)
	last.must(last.enterBy("r0", "at-n3", last.epochs["r0/at-n3"]))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3"}, one, two)
	one.Redis.mu.Lock()
	known, args := one.assertionLocked(one.rooms["r0"], nil)
	one.Redis.mu.Unlock()
	redis.Do("DEL", "sig:{r:r0}")
	_, err := one.change(t.Context(), "assert", assertScript, "r0", known, args...)
	one.must(err)
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3"}, one, two)
	for _, s := range []*site{one, two} {
		if n := s.count(s.left, "r0/at-n3"); n != 1 {
			t.Errorf("%s saw it leave %d times", s.id, n)
		}
	}
}

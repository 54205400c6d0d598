package state

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"cline-meet/signal/state/redistest"
)

// TestNodeComesBackInTime cuts a node off for long enough to be taken for dead, and gives it its way back before
// its grace ends: it cannot act meanwhile, nobody sees its members leave, and the one that another node adopted
// is that one's.
func TestNodeComesBackInTime(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := graceful(single(redis))
	cfg.Lease = 3 * time.Second
	way := newProxy(t, redis.Addr)
	one, two := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	cut := newSite(t, behind(cfg, way), "n3")
	for i := range 5 {
		room := fmt.Sprint("r", i)
		one.must(one.enter(room, "a"))
		two.must(two.enter(room, "b"))
		cut.must(cut.enter(room, fmt.Sprint("c", i)))
		agree(t, room, []string{"a", "b", fmt.Sprint("c", i)}, one, two, cut)
	}
	way.frozen.Store(true)
	way.cut()
	one.knowsDead("n3")
	two.knowsDead("n3")
	eventually(t, "the node may not act", func() bool { return cut.Ready() != nil })
	if err := cut.send(one, "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the node that is taken for dead sends: %v", err)
	}
	if _, err := one.adopt("n3", "c0", cut.epoch("r0", "c0")); err != nil {
		t.Fatal(err)
	}
	way.frozen.Store(false)
	way.cut()
	eventually(t, "the node is back", func() bool { return one.send(cut, "x") == nil && two.send(cut, "y") == nil })
	eventually(t, "the node knows who has its member", func() bool {
		cut.mu.Lock()
		defer cut.mu.Unlock()
		m, ok := cut.views["r0"].Find("c0")
		return ok && m.Node == "n1"
	})
	for i := range 5 {
		agree(t, fmt.Sprint("r", i), []string{"a", "b", fmt.Sprint("c", i)}, one, two, cut)
	}
	eventually(t, "the node asks what it missed", func() bool {
		cut.mu.Lock()
		defer cut.mu.Unlock()
		return slices.Contains(cut.lost, "n1") && slices.Contains(cut.lost, "n2")
	})
	for _, s := range []*site{one, two, cut} {
		if s.mu.Lock(); len(s.left) > 0 {
			t.Errorf("%s saw %v leave", s.id, s.left)
		}
		s.mu.Unlock()
	}
}

// TestSubscriptionsVanish breaks all subscriptions again and again, as a Redis does that is restarted or hands
// over: who lives is not taken for dead.
func TestSubscriptionsVanish(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, graceful(single(redis)))
	for range 10 {
		redis.Do("CLIENT", "KILL", "TYPE", "pubsub")
		<-time.After(watchEvery)
	}
	for _, s := range []*site{one, two, last} {
		eventually(t, s.id+" is ready", func() bool { return s.Ready() == nil })
		if s.mu.Lock(); len(s.died) > 0 {
			t.Errorf("%s heard that %v died", s.id, s.died)
		}
		s.mu.Unlock()
	}
}

// TestOrphansOutliveData flushes Redis while a node is dead: its members are brought back by the others, and can
// still be adopted, also by a node that knows nothing of the room.
func TestOrphansOutliveData(t *testing.T) {
	redis := redistest.Start(t)
	one, two, dead := three(t, graceful(single(redis)))
	one.must(one.enter("r", "a"))
	dead.must(dead.enter("r", "b"))
	agree(t, "r", []string{"a", "b"}, one, dead)
	dead.crash()
	one.knowsDead("n3")
	two.knowsDead("n3")
	redis.Do("FLUSHALL")
	eventually(t, "Redis knows the death again", func() bool {
		return one.client.ZScore(t.Context(), directoryKeys(one.cfg.Prefix)[2], "n3").Err() == nil
	})
	agree(t, "r", []string{"a", "b"}, one)
	if v, err := two.adopt("n3", "b", dead.epoch("r", "b")); err != nil || v.Room != "r" {
		t.Fatalf("adopting: %+v, %v", v, err)
	}
	agree(t, "r", []string{"a", "b"}, one, two)
	if one.count(one.left, "r/b") > 0 {
		t.Error("the orphan was seen to leave")
	}
}

// TestNodeDiesWithItsLease has Redis lose all data at the moment at which a node ends: that it had a lease is not known to Redis any more, and
// the others do not wait for the end of it.
func TestNodeDiesWithItsLease(t *testing.T) {
	redis := redistest.Start(t)
	cfg := graceful(single(redis))
	cfg.Lease = time.Hour
	one, two, dead := three(t, cfg)
	one.must(one.enter("r", "a"))
	dead.must(dead.enter("r", "b"))
	agree(t, "r", []string{"a", "b"}, one, dead)
	for _, s := range []*site{one, two} {
		eventually(t, s.id+" knows that n3 lives", func() bool { return len(s.Nodes()) == 2 })
	}
	dead.crash()
	redis.Do("FLUSHALL")
	one.knowsDead("n3")
	two.knowsDead("n3")
	if v, err := two.adopt("n3", "b", dead.epoch("r", "b")); err != nil || v.Room != "r" {
		t.Fatalf("adopting: %+v, %v", v, err)
	}
	agree(t, "r", []string{"a", "b"}, one, two)
	one.seen(t, "b", 1, 0)
	eventually(t, "it is told once that n3 has died", func() bool {
		one.mu.Lock()
		defer one.mu.Unlock()
		return slices.Equal(one.died, []string{"n3"})
	})
}

// commands returns how often commands were called that scripts, searches and reads of rooms are made of.
func commands(s *redistest.Server) int {
	n := 0
	for _, m := range regexp.MustCompile(`cmdstat_(evalsha|eval|scan|hkeys|hgetall):calls=(\d+)`).FindAllStringSubmatch(s.Do("INFO", "commandstats"), -1) {
		calls, _ := strconv.Atoi(m[2])
		n += calls
	}
	return n
}

// asserted returns how many of the commands are of assertions of rooms, which a node that starved does to all of
// its own: one that runs the script, and one of the script's that reads the room.
func asserted(sites ...*site) int {
	n := 0
	for _, s := range sites {
		var m dto.Metric
		if err := s.metrics.trips.WithLabelValues("assert").Write(&m); err != nil {
			s.t.Fatal(err)
		}
		n += 2 * int(m.GetCounter().GetValue())
	}
	return n
}

// TestDeathCostsItsRooms kills a node with one member among many rooms of others: what that costs does not
// depend on them.
func TestDeathCostsItsRooms(t *testing.T) {
	redis := redistest.Start(t)
	cfg := graceful(single(redis))
	cfg.Beat, cfg.Grace = 2*time.Second, spreading+time.Second
	one, two, dead := three(t, cfg)
	const rooms = 1000
	for i := range rooms {
		one.must(one.enter(fmt.Sprint("r", i), "a"))
	}
	dead.must(dead.enter("r0", "b"))
	agree(t, "r0", []string{"a", "b"}, one, dead)
	before := commands(redis) - asserted(one, two)
	dead.crash()
	one.knowsDead("n3")
	two.knowsDead("n3")
	eventually(t, "its member leaves", func() bool { return slices.Equal(one.sees("r0"), []string{"a"}) })
	eventually(t, "the burial is over", func() bool {
		return one.client.Exists(t.Context(), directoryKeys(cfg.Prefix)[2], one.indexKey("n3")).Val() == 0
	})
	cost := commands(redis) - asserted(one, two) - before
	t.Logf("%d commands, %d assertions", cost, asserted(one, two))
	if cost > rooms/5 { // Most of it are beats, should the death be noticed late.
		t.Errorf("the death of a node with one member among %d rooms costs %d commands", rooms, cost)
	}
}

// TestDeathWithoutGrace kills a node whose members have no grace: the other nodes look in turns, and the one that
// finds it sweeps at once, so that the others could miss it until the end of the lease.
func TestDeathWithoutGrace(t *testing.T) {
	cfg := graceful(single(redistest.Start(t)))
	cfg.Grace, cfg.Lease = 0, patience
	one := newSite(t, cfg, "n1")
	<-time.After(watchEvery / 2) // The watches go on with that distance.
	two, dead := newSite(t, cfg, "n2"), newSite(t, cfg, "n3")
	one.must(one.enter("r", "a"))
	two.must(two.enter("r", "b"))
	dead.must(dead.enter("r", "c"))
	agree(t, "r", []string{"a", "b", "c"}, one, two, dead)
	for _, s := range []*site{one, two} {
		eventually(t, s.id+" knows the node", func() bool { return len(s.Nodes()) == 2 })
	}
	dead.crash()
	began := time.Now()
	one.knowsDead("n3")
	two.knowsDead("n3")
	if took := time.Since(began); took > cfg.Lease/2 {
		t.Errorf("all knew after %v", took)
	}
	agree(t, "r", []string{"a", "b"}, one, two)
}

// TestNodeWithoutIndex kills a node of protocol 1, which keeps no index of its rooms.
func TestNodeWithoutIndex(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := graceful(single(redis))
	cfg.Grace = 10 * time.Second
	one, old := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	old.Announce(NodeInfo{Protocol: 1, MinProtocol: 1, Draining: true})
	one.must(one.enter("r", "a"))
	old.must(old.enter("r", "b"))
	old.must(old.enter("r", "c"))
	old.must(old.enter("alone", "d"))
	agree(t, "r", []string{"a", "b", "c"}, one, old)
	eventually(t, "it is known as old", func() bool { nodes := one.Nodes(); return len(nodes) == 1 && nodes[0].Protocol == 1 })
	redis.Do("DEL", one.indexKey("n2"))
	old.crash()
	one.knowsDead("n2")
	if v, err := one.adopt("n2", "d", old.epoch("alone", "d")); err != nil || v.Room != "alone" {
		t.Errorf("adopting: %+v, %v", v, err)
	}
	if _, err := one.adopt("n2", "b", old.epoch("r", "b")); err != nil {
		t.Errorf("adopting: %v", err)
	}
	agree(t, "r", []string{"a", "b"}, one)
	if one.reasons["r/c"] != ReasonNodeLost || one.count(one.left, "r/c") != 1 {
		t.Errorf("saw %v leave: %v", one.left, one.reasons)
	}
}

// TestIndexFollowsRooms compares the index with the rooms that a node has members in, while they come and go.
func TestIndexFollowsRooms(t *testing.T) {
	one := newSite(t, single(redistest.Start(t)), "n1")
	index := func() []string {
		rooms := one.client.HKeys(t.Context(), one.indexKey("n1")).Val()
		slices.Sort(rooms)
		return rooms
	}
	for i := range 6 {
		one.must(one.enter(fmt.Sprint("r", i), "a"))
	}
	if got := index(); len(got) != 6 {
		t.Errorf("the index holds %v", got)
	}
	for i := range 5 {
		one.must(one.exit(fmt.Sprint("r", i), "a"))
	}
	for range 5 { // Rooms that are left and entered again stay.
		one.must(one.exit("r5", "a"))
		one.must(one.enter("r5", "a"))
	}
	eventually(t, "the index holds what is there", func() bool { return slices.Equal(index(), []string{"r5"}) })
	one.must(one.exit("r5", "a"))
	eventually(t, "the index is empty", func() bool { return len(index()) == 0 })
}

// TestSleepIsNoticed has a node that did not run for a while doubt what it knows.
func TestSleepIsNoticed(t *testing.T) {
	cfg := graceful(single(redistest.Start(t)))
	cfg.Beat = 2 * time.Second
	one, two := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	eventually(t, "it knows the other", func() bool { return len(one.Nodes()) == 1 })
	if one.noticeSleep(opTimeout - time.Second) {
		t.Error("a pause shorter than a beat counts as sleep")
	}
	if !one.noticeSleep(opTimeout) {
		t.Error("a pause as long as a beat does not")
	}
	eventually(t, "it asks what it missed", func() bool {
		one.mu.Lock()
		defer one.mu.Unlock()
		return slices.Equal(one.lost, []string{"n2"})
	})
	one.must(one.send(two, "x"))
}

// TestNodeActsWithinItsLease follows a node that cannot renew its lease.
func TestNodeActsWithinItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Redis{cfg: RedisConfig{Lease: 10 * time.Second}}
		now := time.Now()
		r.renewed.Store(&now)
		time.Sleep(time.Minute)
		if err := r.Ready(); err != nil {
			t.Errorf("before it ever had a lease: %v", err)
		}
		now = time.Now()
		r.beats.Store(true)
		time.Sleep(r.cfg.Lease - 1)
		if err := r.Ready(); err != nil {
			t.Errorf("within its lease: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := r.Ready(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after its lease: %v", err)
		}
	})
}

// TestDeadAreReviewed follows a dead node over its grace.
func TestDeadAreReviewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lease, grace = 10 * time.Second, 15 * time.Second
		r := &Redis{cfg: RedisConfig{Lease: lease}, undeclared: map[string]bool{}, estates: map[string]*estate{}}
		r.dead = map[string]*death{"n": {since: time.Now(), until: time.Now().Add(grace), listed: true}}
		named := map[string]bool{"n": true}
		if due := r.reviewDeadLocked(time.Now(), named); time.Until(due) != lease {
			t.Errorf("looks again in %v", time.Until(due))
		}
		time.Sleep(grace - time.Second)
		if due := r.reviewDeadLocked(time.Now(), named); time.Until(due) != time.Second || r.overLocked("n") {
			t.Errorf("looks again in %v, over: %v", time.Until(due), r.overLocked("n"))
		}
		time.Sleep(time.Second)
		if !r.overLocked("n") || len(r.undeclared) > 0 {
			t.Error("the grace does not end, or Redis is told of what it knows")
		}
		r.dead["n"].listed, r.dead["n"].reaped = false, true
		if r.reviewDeadLocked(time.Now(), named); r.undeclared["n"] {
			t.Error("it is declared again while the news of its end is under way")
		}
		time.Sleep(lease + 1)
		if r.reviewDeadLocked(time.Now(), named); !r.undeclared["n"] {
			t.Error("a room still names it, and nobody sweeps again")
		}
		time.Sleep(10 * lease)
		if r.reviewDeadLocked(time.Now(), nil); r.dead["n"] != nil {
			t.Error("it is never forgotten")
		}
	})
}

// TestOnlyWhoEndedIsForgottenWhole has two nodes die, one of which has said that it ends: of that one nothing is left, and the other finds
// its streams as they were.
func TestOnlyWhoEndedIsForgottenWhole(t *testing.T) {
	r := offline(t)
	r.farewell("ended")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dieLocked("silent", time.Now())
	r.dead["silent"].reaped = true
	for _, node := range []string{"ended", "silent"} {
		r.streamLocked(node)
		r.positionLocked(node).seen = 7
		r.tags.Store(node, "0")
		r.strangers[node], r.mismatched[node] = true, true
	}
	r.reviewDeadLocked(time.Now().Add(r.cfg.Grace+11*r.cfg.Lease), nil)
	if len(r.dead) != 0 || len(r.streams) != 1 || len(r.positions) != 1 || len(r.strangers) != 1 || len(r.mismatched) != 1 || r.tag("ended") != "" {
		t.Errorf("dead %v, streams %v, positions %v", r.dead, r.streams, r.positions)
	}
	if r.positionLocked("silent").seen != 7 || r.tag("silent") == "" {
		t.Error("who may come back is forgotten")
	}
}

// TestRingOfNeighbours has every one of many nodes watched by others.
func TestRingOfNeighbours(t *testing.T) {
	peers := map[string]*peer{}
	for i := range 40 {
		peers[fmt.Sprintf("n%02d", i)] = &peer{listed: true}
	}
	watchers := map[string]int{}
	for id := range peers {
		r := &Redis{id: id, peers: peers}
		for _, node := range r.neighbours() {
			watchers[node]++
		}
	}
	for id := range peers {
		if watchers[id] != watched {
			t.Errorf("%s is watched by %d nodes", id, watchers[id])
		}
	}
}

package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// graceful is the config of nodes whose orphans may be adopted for a long time, and whose lease ends so late that
// only the watch can find them dead.
func graceful(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease, cfg.Grace = 400*time.Millisecond, 30*time.Second, time.Minute
	return cfg
}

// knowsDead waits until a node knows that another is dead.
func (s *site) knowsDead(node string) {
	s.t.Helper()
	eventually(s.t, s.id+" knows that "+node+" is dead", func() bool {
		s.Redis.mu.Lock()
		defer s.Redis.mu.Unlock()
		return s.dead[node] != nil
	})
}

// epoch returns the epoch with which a client of this node entered.
func (s *site) epoch(room, id string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epochs[room+"/"+id]
}

// adopt takes over an orphan as signaling does.
func (s *site) adopt(node, id string, old uint64) (View, error) {
	epoch := uint64(time.Now().UnixNano())
	v, err := s.Adopt(s.t.Context(), node, id, old, epoch)
	if err != nil || v.Room == "" {
		return v, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local[v.Room]++
	s.epochs[v.Room+"/"+id] = epoch
	s.applyLocked(v)
	return v, nil
}

// TestOrphansAreAdopted kills a node without a word. The others know soon, see nobody leave, and take over its
// members, each once; the cap counts orphans; what is sent to the dead node fails at once.
func TestOrphansAreAdopted(t *testing.T) { orphansAreAdopted(t, single(redistest.Start(t))) }

func TestOrphansAreAdoptedOnCluster(t *testing.T) {
	t.Parallel()
	masters, _ := redistest.StartCluster(t, false)
	orphansAreAdopted(t, clusterConfig(masters))
}

func TestOrphansAreAdoptedOnSentinel(t *testing.T) {
	t.Parallel()
	_, _, sentinel := redistest.StartSentinel(t)
	orphansAreAdopted(t, sentinelConfig(sentinel))
}

func orphansAreAdopted(t *testing.T, cfg RedisConfig) {
	t.Helper()
	one, two, dead := three(t, graceful(cfg))
	for i := range 10 {
		room := fmt.Sprint("r", i)
		one.must(one.enter(room, "a"))
		dead.must(dead.enter(room, fmt.Sprint("c", i)))
		agree(t, room, []string{"a", fmt.Sprint("c", i)}, one, dead)
	}
	dead.must(dead.enter("alone", "d"))
	if _, err := one.adopt("n3", "d", dead.epoch("alone", "d")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("adopting from a node that lives: %v", err)
	}
	began := time.Now()
	dead.crash()
	one.knowsDead("n3")
	t.Logf("dead after %v", time.Since(began))
	two.knowsDead("n3")
	if err := one.send(dead, "x"); !errors.Is(err, ErrNoNode) {
		t.Errorf("sending to the dead: %v", err)
	}
	if _, err := two.Join(t.Context(), "r0", Member{ID: "late", Epoch: 1}, 2); !errors.Is(err, ErrRoomFull) {
		t.Errorf("joining a room that is full with an orphan: %v", err)
	}
	if _, err := two.adopt("n3", "d", dead.epoch("alone", "d")-1); !errors.Is(err, ErrNotMember) {
		t.Errorf("adopting with an older epoch: %v", err)
	}
	if v, err := two.adopt("n3", "roomless", 1); err != nil || v.Room != "" {
		t.Errorf("adopting one who was in no room: %+v, %v", v, err)
	}
	if v, err := two.adopt("n3", "roomless", 1); err != nil || v.Room != "" {
		t.Errorf("adopting the same one there again: %+v, %v", v, err)
	}
	v, err := one.adopt("n3", "roomless", 1)
	if m, ok := v.Find("roomless"); !errors.Is(err, ErrNotMember) || !ok || m.Node != "n2" || m.Epoch <= 1 {
		t.Errorf("adopting one whom another node has adopted: %+v, %v", v, err)
	}
	if _, err := two.adopt("unheard", "d", 1); !errors.Is(err, ErrNotMember) {
		t.Errorf("adopting from a node that never was: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 10 {
		id, room := fmt.Sprint("c", i), fmt.Sprint("r", i)
		errs := make(chan error, 2)
		for _, s := range []*site{one, two} {
			wg.Go(func() {
				_, err := s.adopt("n3", id, dead.epoch(room, id))
				errs <- err
			})
		}
		wg.Wait()
		if a, b := <-errs, <-errs; (a == nil) == (b == nil) || a != nil && !errors.Is(a, ErrNotMember) || b != nil && !errors.Is(b, ErrNotMember) {
			t.Errorf("two nodes adopt %s: %v, %v", id, a, b)
		}
		agree(t, room, []string{"a", id}, one)
		for _, s := range []*site{one, two} {
			v, err := s.adopt("n3", id, dead.epoch(room, id))
			if m, ok := v.Find(id); !errors.Is(err, ErrNotMember) || !ok || m.Node != "n1" && m.Node != "n2" {
				t.Errorf("adopting %s once more: %+v, %v", id, v, err)
			}
		}
	}
	if v, err := two.adopt("n3", "d", dead.epoch("alone", "d")); err != nil || v.Room != "alone" || v.Members[0].Node != "n2" {
		t.Errorf("adopting one who was alone: %+v, %v", v, err)
	}
	for _, s := range []*site{one, two} {
		s.mu.Lock()
		if len(s.left) > 0 || len(s.lost) > 0 {
			t.Errorf("%s saw %v leave, and lost %v", s.id, s.left, s.lost)
		}
		if !slices.Equal(s.died, []string{"n3"}) {
			t.Errorf("%s heard that %v died", s.id, s.died)
		}
		s.mu.Unlock()
	}
}

// TestOnlyNodeIsKilled leaves nobody to notice: the node that is started next finds its predecessor's lease and
// that nobody listens, and takes over its members.
func TestOnlyNodeIsKilled(t *testing.T) {
	cfg := graceful(single(redistest.Start(t)))
	cfg.Lease = 10 * time.Minute
	first := newSite(t, cfg, "n1")
	first.must(first.enter("r", "a"))
	first.crash()
	began := time.Now()
	next := newSite(t, cfg, "n2")
	systemtest.Until(t, "it adopts", func() error {
		_, err := next.adopt("n1", "a", first.epoch("r", "a"))
		if err != nil && !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		return err
	})
	t.Logf("adopted %v after the start", time.Since(began))
	agree(t, "r", []string{"a"}, next)
}

// TestNodeDiesWithRedis ends a node while Redis is away that comes back empty: another restores its members, for it may
// live, and leaves before anybody knows that it does not. Still they are found when the grace is over.
func TestNodeDiesWithRedis(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, steady(single(redis)))
	one.must(one.enter("r", "a"))
	last.must(last.enter("r", "c"))
	agree(t, "r", []string{"a", "c"}, one, last)
	redis.Kill()
	last.crash()
	redis.Start()
	eventually(t, "the room is restored", func() bool { return len(stored(t, two.Redis, "r")) == 2 })
	one.must(one.exit("r", "a"))
	eventually(t, "nothing is left of the room", func() bool { return len(stored(t, two.Redis, "r")) == 0 })
}

// TestIndexIsLost ends a node soon after Redis lost data, and with it the index of the node's rooms: its members are found
// without.
func TestIndexIsLost(t *testing.T) {
	t.Parallel()
	cfg := graceful(single(redistest.Start(t)))
	cfg.Grace = 3 * time.Second
	one, two, last := three(t, cfg)
	one.must(one.enter("r", "a"))
	last.must(last.enter("r", "c"))
	agree(t, "r", []string{"a", "c"}, one, last)
	one.must(two.client.FlushAll(t.Context()).Err())
	eventually(t, "the room is restored", func() bool { return len(stored(t, two.Redis, "r")) == 2 })
	eventually(t, "all nodes know of the loss", func() bool { return one.suspects() && two.suspects() })
	last.crash()
	one.must(two.client.Del(t.Context(), two.indexKey("n3")).Err())
	one.must(one.exit("r", "a"))
	eventually(t, "nothing is left of the room", func() bool { return len(stored(t, two.Redis, "r")) == 0 })
}

func (s *site) suspects() bool {
	s.Redis.mu.Lock()
	defer s.Redis.mu.Unlock()
	return !s.suspected.IsZero()
}

// TestNodeLeavesOrphans closes a node that has members: they stay for others to adopt at once, and those that
// nobody adopts leave once, when the grace ends.
func TestNodeLeavesOrphans(t *testing.T) {
	t.Parallel()
	cfg := graceful(single(redistest.Start(t)))
	cfg.Grace = 10 * time.Second
	one, two, last := three(t, cfg)
	one.must(one.enter("r", "a"))
	two.must(two.enter("r", "b"))
	two.must(two.enter("r", "c"))
	last.must(last.enter("r", "d"))
	agree(t, "r", []string{"a", "b", "c", "d"}, one, two, last)
	closed := time.Now()
	one.must(two.Close(context.Background()))
	one.knowsDead("n2")
	if v, err := one.adopt("n2", "b", two.epoch("r", "b")); err != nil || len(v.Members) != 4 || len(v.Left) != 0 {
		t.Fatalf("adopting: %+v, %v", v, err)
	}
	agree(t, "r", []string{"a", "b", "d"}, one, last)
	if took := time.Since(closed); took < cfg.Grace {
		t.Errorf("the orphan left after %v", took)
	} else {
		t.Logf("the orphan left %v after the end of the grace", took-cfg.Grace)
	}
	for _, s := range []*site{one, last} {
		if n := s.count(s.left, "r/c"); n != 1 || s.reasons["r/c"] != ReasonNodeLost || s.count(s.left, "r/b") != 0 {
			t.Errorf("%s saw %v leave: %v", s.id, s.left, s.reasons)
		}
	}
	if _, err := one.adopt("n2", "c", two.epoch("r", "c")); !errors.Is(err, ErrNotMember) {
		t.Errorf("adopting after the grace: %v", err)
	}
}

// TestNodeEndsBesideAnAssertion closes a node without a grace that cannot take its members out itself, since one of its rooms is being
// asserted: another node does.
func TestNodeEndsBesideAnAssertion(t *testing.T) {
	t.Parallel()
	cfg := single(redistest.Start(t))
	cfg.Lease = time.Minute // A third of the time that Redis keeps a room is longer than the patience: then its members look at it anyway.
	one, two := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	one.must(one.enter("r", "a"))
	two.must(two.enter("r", "b"))
	agree(t, "r", []string{"a", "b"}, one, two)
	eventually(t, "it is known that the other keeps an index", func() bool { return len(one.Nodes()) == 1 })
	two.Redis.mu.Lock()
	two.rooms["r"].asserting = make(chan struct{})
	two.Redis.mu.Unlock()
	one.must(two.Close(t.Context()))
	agree(t, "r", []string{"a"}, one)
	if n := one.count(one.left, "r/b"); n != 1 || one.reasons["r/b"] != ReasonNodeLost {
		t.Errorf("seen to leave %d times: %s", n, one.reasons["r/b"])
	}
}

// TestAwakenedNodeHasNoOrphans has a node live again of which another has not heard yet, for which its grace is over: who has
// come to it since is not taken for gone.
func TestAwakenedNodeHasNoOrphans(t *testing.T) {
	cfg := graceful(single(redistest.Start(t)))
	one, awakened := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	awakened.must(awakened.enter("r", "b"))
	one.Redis.mu.Lock()
	delete(one.peers, "n2")
	one.dead["n2"] = &death{since: time.Now().Add(time.Hour), until: time.Now(), reaped: true} // No beat is as new.
	one.Redis.mu.Unlock()
	for _, id := range []string{"b", "roomless"} {
		if _, err := one.adopt("n2", id, awakened.epoch("r", "b")); !errors.Is(err, ErrUnavailable) {
			t.Errorf("adopting %s: %v", id, err)
		}
	}
	awakened.crash()
	one.must(one.client.ZRem(t.Context(), directoryKeys(cfg.Prefix)[0], "n2").Err())
	if _, err := one.adopt("n2", "roomless", 1); !errors.Is(err, ErrNotMember) {
		t.Errorf("adopting from one that is dead all the same: %v", err)
	}
}

package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// steady is a lease that a busy machine does not break by accident.
func steady(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease = 400*time.Millisecond, 4*time.Second
	return cfg
}

// three attaches nodes n1, n2 and n3.
func three(t *testing.T, cfg RedisConfig) (one, two, last *site) {
	t.Helper()
	return newSite(t, cfg, "n1"), newSite(t, cfg, "n2"), newSite(t, cfg, "n3")
}

// TestNodeIsKilled ends one of three nodes without a word: everybody sees each of its members leave
// once, nobody else, and nothing of it stays in Redis, not even of rooms that it had alone.
func TestNodeIsKilled(t *testing.T) { nodeIsKilled(t, steady(single(redistest.Start(t)))) }

func TestNodeIsKilledOnCluster(t *testing.T) {
	masters, _ := redistest.StartCluster(t, false)
	nodeIsKilled(t, steady(clusterConfig(masters)))
}

func nodeIsKilled(t *testing.T, cfg RedisConfig) {
	t.Helper()
	slowdown := systemtest.Slowdown(t)
	one, two, dead := three(t, cfg)
	for i := range 20 {
		room := fmt.Sprint("r", i)
		one.must(one.enter(room, "a"))
		two.must(two.enter(room, "b"))
		dead.must(dead.enter(room, "c"))
		dead.must(dead.enter(room, "d"))
	}
	for i := range 20 {
		dead.must(dead.enter(fmt.Sprint("alone", i), "c"))
	}
	eventually(t, "nodes may bury", func() bool {
		one.Redis.mu.Lock()
		defer one.Redis.mu.Unlock()
		return time.Now().After(one.calm)
	})
	began := time.Now()
	dead.crash()
	for i := range 20 {
		agree(t, fmt.Sprint("r", i), []string{"a", "b"}, one, two)
	}
	if took := time.Since(began); took > time.Duration(slowdown())*(cfg.Lease+2*time.Second) {
		t.Errorf("took %v", took)
	}
	for _, s := range []*site{one, two} {
		eventually(t, "the death is told", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return slices.Equal(s.died, []string{"n3"}) })
		for i := range 20 {
			for _, id := range []string{"c", "d"} {
				key := fmt.Sprintf("r%d/%s", i, id)
				if n := s.count(s.left, key); n != 1 || s.reasons[key] != ReasonNodeLost {
					t.Errorf("%s saw %s leave %d times, because %q", s.id, key, n, s.reasons[key])
				}
			}
			if n := s.count(s.left, fmt.Sprintf("r%d/a", i)) + s.count(s.left, fmt.Sprintf("r%d/b", i)); n != 0 {
				t.Errorf("%s saw others leave %d times", s.id, n)
			}
		}
	}
	if err := one.send(dead, "x"); !errors.Is(err, ErrNoNode) {
		t.Errorf("sending to the dead: %v", err)
	}
	eventually(t, "no orphan is left", func() bool {
		rooms, err := one.allRooms(t.Context())
		directory := directoryKeys(cfg.Prefix)
		listed := one.client.HExists(t.Context(), directory[1], "n3").Val() || one.client.ZScore(t.Context(), directory[2], "n3").Err() == nil
		return err == nil && !listed && !slices.ContainsFunc(rooms, func(room string) bool { return strings.HasPrefix(room, "alone") })
	})
}

func keys(s *redistest.Server) []string {
	out, _ := s.Client().Keys(context.Background(), "*").Result()
	return out
}

// TestAllNodesAreKilled leaves nobody to clean up: the next node does.
func TestAllNodesAreKilled(t *testing.T) {
	redis := redistest.Start(t)
	cfg := single(redis)
	first := newSite(t, cfg, "n1")
	for i := range 30 {
		first.must(first.enter(fmt.Sprint("r", i), "a"))
	}
	first.crash()
	next := newSite(t, cfg, "n2")
	next.must(next.enter("r0", "b"))
	agree(t, "r0", []string{"b"}, next)
	eventually(t, "no orphan is left", func() bool {
		return !slices.ContainsFunc(keys(redis), func(k string) bool { return strings.Contains(k, "{r:") && !strings.Contains(k, "{r:r0}") })
	})
	next.must(next.exit("r0", "b"))
	next.must(next.Close(t.Context()))
	eventually(t, "only what tells of a loss stays, for a while", func() bool {
		return !slices.ContainsFunc(keys(redis), func(k string) bool { return k != next.sentinelKey(0) })
	})
}

// outage runs the story of a Redis that goes away under traffic and comes back: lose takes it away,
// back returns it.
func outage(t *testing.T, cfg RedisConfig, lose, back func()) {
	t.Helper()
	one, two, three := three(t, cfg)
	all := []*site{one, two, three}
	for i := range 10 {
		room := fmt.Sprint("r", i)
		one.must(one.enter(room, "a"))
		two.must(two.enter(room, "b"))
		three.must(three.enter(room, "c"))
		three.must(three.enter(room, "d"))
	}
	stop := chatter(one, two, "x")
	slowdown := systemtest.Slowdown(t)
	eventually(t, "traffic flows", func() bool { return len(two.heard()) > 20 })
	lose()
	eventually(t, "all notice", func() bool {
		return !slices.ContainsFunc(all, func(s *site) bool { return s.Ready() == nil })
	})
	began := time.Now()
	if err := one.send(two, "never"); !errors.Is(err, ErrUnavailable) || time.Since(began) > time.Duration(slowdown())*time.Second {
		t.Errorf("sending meanwhile: %v after %v", err, time.Since(began))
	}
	three.must(three.exit("r0", "d"))                                                       // One leaves and one joins while nobody can be told.
	eventually(t, "one more is let in", func() bool { return one.enter("r1", "e") == nil }) // Not before one knows of the outage.
	if got := one.sees("r1"); !slices.Equal(got, []string{"a", "b", "c", "d", "e"}) {
		t.Errorf("the node that let in e sees %v", got)
	}
	back()
	eventually(t, "all are back", func() bool {
		return !slices.ContainsFunc(all, func(s *site) bool { return s.Ready() != nil })
	})
	returned := time.Now()
	agree(t, "r0", []string{"a", "b", "c"}, all...)
	agree(t, "r1", []string{"a", "b", "c", "d", "e"}, all...)
	for i := 2; i < 10; i++ {
		agree(t, fmt.Sprint("r", i), []string{"a", "b", "c", "d"}, all...)
	}
	if took := time.Since(returned); took > time.Duration(slowdown())*5*time.Second {
		t.Errorf("rooms converged after %v", took)
	}
	two.must(two.enter("r2", "f"))
	agree(t, "r2", []string{"a", "b", "c", "d", "f"}, all...)
	acked := stop()
	arrived(t, acked, two)
	for _, s := range all {
		for key, n := range s.left {
			if key != "r0/d" || n != 1 {
				t.Errorf("%s saw %s leave %d times", s.id, key, n)
			}
		}
		if s.reasons["r0/d"] != ReasonLeave {
			t.Errorf("%s saw d leave because %q", s.id, s.reasons["r0/d"])
		}
		if len(s.lost) > 0 {
			t.Errorf("%s lost %v", s.id, s.lost)
		}
		if len(s.died) > 0 {
			t.Errorf("%s heard that %v died", s.id, s.died)
		}
	}
}

// TestRedisRestartsEmpty kills Redis for longer than a lease and brings it back with nothing.
func TestRedisRestartsEmpty(t *testing.T) {
	redis := redistest.Start(t)
	cfg := steady(single(redis))
	outage(t, cfg, redis.Kill, func() {
		<-time.After(cfg.Lease + cfg.Beat)
		redis.Start()
	})
}

// TestRedisHangs stops Redis like a machine that sleeps: no connection breaks, and nothing is lost.
func TestRedisHangs(t *testing.T) {
	redis := redistest.Start(t)
	outage(t, steady(single(redis)), redis.Freeze, redis.Thaw)
}

func TestSentinelFailover(t *testing.T) {
	master, _, sentinel := redistest.StartSentinel(t)
	outage(t, steady(sentinelConfig(sentinel)), master.Kill, func() {})
}

func TestClusterMasterLoss(t *testing.T) {
	t.Parallel()
	masters, _ := redistest.StartCluster(t, true)
	one, two, last := three(t, steady(clusterConfig(masters)))
	all := []*site{one, two, last}
	settled(t, 10, all...)
	stop := chatter(one, two, "x")
	eventually(t, "traffic flows", func() bool { return len(two.heard()) > 20 })
	masters[0].Kill()
	eventually(t, "the loss is noticed", func() bool { return one.Ready() != nil || len(one.Problems()) > 0 })
	last.must(last.exit("r0", "at-n3"))
	one.must(one.enter("r1", "new"))
	for _, s := range all {
		eventually(t, "the replica has taken over for "+s.id, func() bool { return s.Ready() == nil && len(s.Problems()) == 0 })
	}
	agree(t, "r0", []string{"at-n1", "at-n2"}, one, two)
	agree(t, "r1", []string{"at-n1", "at-n2", "at-n3", "new"}, all...)
	for i := 2; i < 10; i++ {
		agree(t, fmt.Sprint("r", i), []string{"at-n1", "at-n2", "at-n3"}, all...)
	}
	arrived(t, stop(), two)
	for _, s := range all {
		s.mu.Lock()
		delete(s.left, "r0/at-n3")
		s.mu.Unlock()
	}
	nobodyLeft(t, all...)
}

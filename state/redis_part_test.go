package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// leased is a config in which a lease is over soon, and not by accident.
func leased(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease, cfg.Outage = 400*time.Millisecond, 8*time.Second, OutageReject
	return cfg
}

// ready checks that all nodes are.
func ready(t *testing.T, sites ...*site) {
	t.Helper()
	for _, s := range sites {
		eventually(t, s.id+" is ready", func() bool { return s.Ready() == nil })
	}
}

// TestMasterIsGone takes one of three masters away that no replica replaces, for longer than a lease: what is not
// there goes on, nobody is taken for dead, and when it is back, empty, all is right. On a busy machine the masters may
// take each other for failed for a moment, and refuse all.
func TestMasterIsGone(t *testing.T) {
	for _, c := range []struct {
		what      string
		directory bool
	}{{"with the directory", true}, {"without the directory", false}} {
		t.Run(c.what, func(t *testing.T) { masterIsGone(t, c.directory) })
	}
}

func masterIsGone(t *testing.T, directory bool) {
	t.Helper()
	slowdown := systemtest.Slowdown(t)
	masters, _ := redistest.StartCluster(t, false)
	for _, m := range masters {
		m.Do("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	cfg := leased(clusterConfig(masters))
	one, two, last := three(t, cfg)
	all := []*site{one, two, last}
	settled(t, 12, all...)
	at, err := one.masterOf(directoryKeys(cfg.Prefix)[0])
	one.must(err)
	i := slices.IndexFunc(masters, func(m *redistest.Server) bool { return (m.Addr == at) == directory })
	gone := masters[i]
	gone.Kill()
	for _, s := range all {
		eventually(t, s.id+" knows", func() bool { return len(s.Problems()) > 0 })
	}
	t.Log(one.Problems())
	ready(t, all...)
	began := time.Now()
	dead, alive, refused := 0, 0, map[int]string{} // by the second
	for time.Since(began) < cfg.Lease+2*time.Second {
		<-time.After(200 * time.Millisecond)
		for k := range 12 {
			room, id := fmt.Sprint("r", k), "guest"
			at, err := one.masterOf(one.roomKey(room))
			one.must(err)
			switch err := one.enter(room, id); {
			case at == gone.Addr && errors.Is(err, ErrUnavailable):
				dead++
			case at == gone.Addr:
				t.Fatalf("joining %s, which is gone: %v", room, err)
			case errors.Is(err, ErrUnavailable):
				refused[int(time.Since(began)/time.Second)] = fmt.Sprintf("%s: %v (%v)", room, err, one.Ready())
			case err != nil:
				t.Fatalf("joining %s, which lives: %v", room, err)
			default:
				alive++
				one.must(one.exit(room, id))
			}
		}
	}
	t.Logf("%d joins where Redis is, %d refused where it is not", alive, dead)
	if most := slowdown() - 1; len(refused) > most || alive == 0 {
		t.Errorf("joins where Redis is were refused in %d seconds, more than %d: %v", len(refused), most, refused)
	}
	ready(t, all...)
	if !directory { // Who listened there listens elsewhere, and the others have heard of it.
		for _, from := range all {
			for _, to := range all {
				if from != to {
					eventually(t, from.id+" reaches "+to.id, func() bool { return from.send(to, "x") == nil })
				}
			}
		}
	}
	gone.Start()
	for _, s := range all {
		eventually(t, s.id+" has no problem", func() bool { return len(s.Problems()) == 0 })
	}
	for k := range 12 {
		agree(t, fmt.Sprint("r", k), []string{"at-n1", "at-n2", "at-n3"}, all...)
	}
	for _, s := range all {
		s.mu.Lock()
		for key, n := range s.left {
			if key[len(key)-len("guest"):] != "guest" {
				t.Errorf("%s saw %s leave %d times, because %q", s.id, key, n, s.reasons[key])
			}
		}
		s.mu.Unlock()
	}
}

// TestClusterIsDown takes one of three masters away for longer than a lease, and all slots are required: nobody can
// join, messages by way of the others arrive, nobody is taken for dead, and afterwards all is right.
func TestClusterIsDown(t *testing.T) {
	masters, _ := redistest.StartCluster(t, false)
	cfg := leased(clusterConfig(masters))
	one, two, last := three(t, cfg)
	all := []*site{one, two, last}
	settled(t, 6, all...)
	at, err := one.masterOf(one.channel("n2"))
	one.must(err)
	gone := masters[slices.IndexFunc(masters, func(m *redistest.Server) bool { return m.Addr != at })]
	gone.Kill()
	for _, s := range all {
		eventually(t, s.id+" knows", func() bool { return s.Ready() != nil })
	}
	eventually(t, "a message arrives", func() bool { return one.send(two, "first") == nil })
	began := time.Now()
	for sent := 0; time.Since(began) < cfg.Lease+2*time.Second; sent++ {
		<-time.After(100 * time.Millisecond)
		if err := one.enter("r0", "late"); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("joining: %v", err)
		}
		one.must(one.send(two, fmt.Sprint("x", sent)))
	}
	t.Log(one.Problems())
	gone.Start()
	ready(t, all...)
	for i := range 6 {
		agree(t, fmt.Sprint("r", i), []string{"at-n1", "at-n2", "at-n3"}, all...)
	}
	nobodyLeft(t, all...)
}

// TestRedisIsFull refuses all writes for longer than a lease: nobody can join, messages arrive, who
// leaves has left, nobody is taken for dead.
func TestRedisIsFull(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := leased(single(redis))
	one, two, last := three(t, cfg)
	all := []*site{one, two, last}
	settled(t, 3, all...)
	redis.Do("CONFIG", "SET", "maxmemory", 1)
	for _, s := range all {
		eventually(t, s.id+" knows", func() bool { return len(s.Problems()) > 0 })
	}
	began := time.Now()
	sent := 0
	for time.Since(began) < cfg.Lease+2*time.Second {
		<-time.After(100 * time.Millisecond)
		if err := one.enter("r0", "late"); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("joining: %v", err)
		}
		one.must(one.send(two, fmt.Sprint("x", sent)))
		sent++
	}
	if err := one.Ready(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
	eventually(t, "all messages arrive", func() bool { return len(two.heard()) == sent })
	last.must(last.exit("r2", "at-n3"))
	redis.Do("CONFIG", "SET", "maxmemory", 0)
	ready(t, all...)
	for i := range 2 {
		agree(t, fmt.Sprint("r", i), []string{"at-n1", "at-n2", "at-n3"}, all...)
	}
	agree(t, "r2", []string{"at-n1", "at-n2"}, one, two)
	for _, s := range all {
		s.mu.Lock()
		delete(s.left, "r2/at-n3")
		s.mu.Unlock()
	}
	nobodyLeft(t, all...)
	one.must(one.enter("r0", "late"))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3", "late"}, all...)
}

// TestRefusals tells an answer that refuses to write from others.
func TestRefusals(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("CONFIG", "SET", "maxmemory", 1)
	c := redis.Client()
	for _, err := range []error{
		c.HSet(context.Background(), "k", "f", "v").Err(),
		c.Eval(context.Background(), "return redis.call('HSET', KEYS[1], 'f', 'v')", []string{"k"}).Err(),
	} {
		if !refusesWrites(err) {
			t.Errorf("%v is not seen to refuse", err)
		}
	}
	if err := c.Do(context.Background(), "HSET").Err(); err == nil || refusesWrites(err) {
		t.Errorf("%v is seen to refuse", err)
	}
}

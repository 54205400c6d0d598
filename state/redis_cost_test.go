package state

import (
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"cline-meet/signal/state/redistest"
)

// calm is a config whose beats do not disturb a count.
func calm(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease = time.Minute, 3*time.Minute
	return cfg
}

// calls returns how often a command was called, by clients or, as zscore can be, by scripts.
func calls(s *redistest.Server) map[string]int {
	out := map[string]int{}
	text := s.Do("INFO", "commandstats")
	for _, m := range regexp.MustCompile(`cmdstat_(evalsha|eval|publish|spublish|zscore|info):calls=(\d+)`).FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(m[2])
		out[m[1]] += n
	}
	return out
}

// TestCommandsCounted counts what joins, departures, messages and idling cost in commands.
func TestCommandsCounted(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, calm(single(redis)))
	one.must(one.enter("warm", "a")) // Loads the scripts.
	one.must(one.exit("warm", "a"))
	two.must(two.enter("r", "b"))
	two.must(two.enter("r", "c"))
	last.must(last.enter("r", "d"))
	agree(t, "r", []string{"b", "c", "d"}, two, last)

	steps := []struct {
		what string
		do   func() error
		want cost
	}{
		{"a join with members on two other nodes", func() error { return one.enter("r", "a") }, cost{1, 2, 0}},
		{"a leave", func() error { return one.exit("r", "a") }, cost{1, 2, 0}},
		{"a join of a room of the node's own", func() error { return one.enter("own", "a") }, cost{1, 0, 0}},
		{"another", func() error { return one.enter("own", "b") }, cost{1, 0, 0}},
		{"a message", func() error { return one.send(two, "x") }, cost{0, 1, 0}},
	}
	least := make([]cost, len(steps))
	for round := range 4 { // The least of several: the nodes' own first beats may come between.
		for i, step := range steps {
			got := costOf(redis, step.do, one, two, last)
			if round == 0 || got.scripts+got.publish < least[i].scripts+least[i].publish {
				least[i] = got
			}
		}
		one.must(one.exit("own", "a"))
		one.must(one.exit("own", "b"))
	}
	for i, step := range steps {
		if least[i] != step.want {
			t.Errorf("%s costs %+v, want %+v", step.what, least[i], step.want)
		}
	}
}

// cost counts commands.
type cost struct{ scripts, publish, zscore int }

// costOf counts what is called until all nodes have told what is to tell.
func costOf(redis *redistest.Server, do func() error, nodes ...*site) cost {
	before := calls(redis)
	nodes[0].must(do())
	for _, s := range nodes {
		s.quiesce()
	}
	after := calls(redis)
	return cost{after["evalsha"] + after["eval"] - before["evalsha"] - before["eval"], after["publish"] - before["publish"], after["zscore"] - before["zscore"]}
}

// quiesce waits until the node has nothing more to tell.
func (s *site) quiesce() {
	s.Redis.mu.Lock()
	var streams []*stream
	for _, one := range s.streams {
		streams = append(streams, one)
	}
	s.Redis.mu.Unlock()
	for _, one := range streams {
		if err := one.drained(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestManyMessagesShareRoundTrips sends 2,000 messages a second between two nodes.
func TestManyMessagesShareRoundTrips(t *testing.T) {
	redis := redistest.Start(t)
	cfg := calm(single(redis))
	one, two := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	before := calls(redis)["publish"]
	const senders, each = 20, 200
	var wg sync.WaitGroup
	began := time.Now()
	for i := range senders {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for j := range each {
				if err := one.send(two, fmt.Sprintf("%d-%d", i, j)); err != nil {
					t.Error(err)
					return
				}
				<-tick.C
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	commands := calls(redis)["publish"] - before
	ratio := float64(commands) / (senders * each)
	t.Logf("%d messages in %v: %.2f commands each", senders*each, took, ratio)
	if ratio >= 0.5 {
		t.Errorf("%.2f commands a message", ratio)
	}
	eventually(t, "all arrive", func() bool { return len(two.heard()) == senders*each })
}

// TestIdleCostsTheSame compares what a beat costs without members and with 500.
func TestIdleCostsTheSame(t *testing.T) {
	redis := redistest.Start(t)
	one := newSite(t, calm(single(redis)), "n1")
	once := func() map[string]int {
		before := calls(redis)
		if _, err := one.beat(); err != nil {
			t.Fatal(err)
		}
		after := calls(redis)
		for name := range after {
			after[name] -= before[name]
		}
		after["info"]-- // The one that counts.
		return after
	}
	beat := func() map[string]int { // The least of several: the node's own first beats may come between.
		least := once()
		for range 4 {
			for name, n := range once() {
				least[name] = min(least[name], n)
			}
		}
		return least
	}
	empty := beat()
	for i := range 500 {
		one.must(one.enter(fmt.Sprint("r", i/5), fmt.Sprint("u", i)))
	}
	full := beat()
	for name, n := range full {
		if empty[name] != n {
			t.Errorf("%s: %d without members, %d with 500", name, empty[name], n)
		}
	}
	t.Logf("a beat: %v", full)
}

package state

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// TestFarRedisKeepsUp lets 36 clients of three nodes say three things a second to all, far from Redis: what they say
// is acknowledged as fast at the end as at the beginning, and nobody takes Redis for away.
func TestFarRedisKeepsUp(t *testing.T) {
	for _, trip := range []time.Duration{300 * time.Millisecond, time.Second} {
		t.Run(trip.String(), func(t *testing.T) { farRedisKeepsUp(t, trip) })
	}
}

func farRedisKeepsUp(t *testing.T, trip time.Duration) {
	t.Helper()
	redis := redistest.Start(t)
	cfg := DefaultRedisConfig()
	cfg.Logger = testLog()
	way := newProxy(t, redis.Addr)
	cfg.URL = way.url()
	sites := []*site{newSite(t, cfg, "n0"), newSite(t, cfg, "n1"), newSite(t, cfg, "n2")}
	way.delay.Store(int64(trip))
	slowdown := systemtest.Slowdown(t)
	const clients, each = 36, 12
	var mu sync.Mutex
	var acks []time.Duration
	var sending, answers sync.WaitGroup
	for i := range clients {
		from := sites[i%3]
		copies := []Copy{{Node: sites[(i+1)%3].id}, {Node: sites[(i+2)%3].id}}
		sending.Go(func() {
			for n := range each {
				began := time.Now()
				answers.Add(1)
				from.Send(Message{Room: "r", Frame: fmt.Append(nil, i, " ", n)}, copies, func(errs []error) {
					mu.Lock()
					defer mu.Unlock()
					acks = append(acks, time.Since(began))
					for _, err := range errs {
						if err != nil {
							t.Error(err)
						}
					}
					answers.Done()
				})
				<-time.After(time.Second / 3)
			}
		})
	}
	sending.Wait()
	answers.Wait()
	for _, s := range sites {
		eventually(t, "all is heard", func() bool { return len(s.heard()) == clients*each*2/3 })
		next := map[string]int{}
		for _, text := range s.heard() {
			var client string
			var n int
			_, _ = fmt.Sscan(text, &client, &n)
			if n != next[client] {
				t.Fatalf("%s heard %q, not %d", s.id, text, next[client])
			}
			next[client]++
		}
		if err := s.Ready(); err != nil {
			t.Errorf("%s: %v", s.id, err)
		}
	}
	way.delay.Store(0)
	slices.Sort(acks)
	p99 := acks[len(acks)*99/100]
	t.Logf("%d broadcasts: acknowledged after %v, p99 %v", len(acks), acks[len(acks)/2], p99)
	if p99 > time.Duration(slowdown())*3*trip {
		t.Errorf("1 %% were acknowledged later than %v", p99)
	}
}

// TestLostOnlyWhenSomethingMayBeMissing lets nodes die of which all was heard, of which something is known to be
// missing, and of which that is not known since this node was deaf.
func TestLostOnlyWhenSomethingMayBeMissing(t *testing.T) {
	s := newSite(t, calm(single(redistest.Start(t))), "n0")
	say := func(node string, before, first uint64, texts ...string) {
		var blobs [][]byte
		for _, text := range texts {
			blobs = append(blobs, encodeRecord(&record{kind: recordMessage, message: Message{Frame: []byte(text)}}))
		}
		s.receive(encodeBatch(node, before, first, false, blobs))
	}
	deaf := func(nodes ...string) {
		s.Redis.mu.Lock()
		for _, node := range nodes {
			s.peers[node] = &peer{alive: true, listed: true, expiry: time.Now().Add(time.Hour)}
		}
		s.Redis.mu.Unlock()
		s.doubtAll()
	}
	for _, step := range []struct {
		node  string
		tell  func(node string)
		lost  int
		heard []string
	}{
		{"never-heard", func(string) {}, 0, nil},
		{"whole", func(n string) { say(n, 0, 1, "a", "b"); say(n, 2, 3, "c") }, 0, []string{"a", "b", "c"}},
		{"late", func(n string) { say(n, 2, 3, "c"); say(n, 0, 1, "a", "b") }, 0, []string{"a", "b", "c"}},
		{"hole", func(n string) { say(n, 0, 1, "a"); say(n, 2, 3, "c"); say(n, 4, 5, "e") }, 1, []string{"a", "c", "e"}},
		{"void", func(n string) { say(n, 2, 3, "c"); say(n, 0, 3) }, 0, []string{"c"}},
		{"deaf", func(n string) { say(n, 0, 1, "a"); deaf(n) }, 1, []string{"a"}},
		{"deaf, never heard", func(n string) { deaf(n) }, 1, nil},
		{"deaf, then told", func(n string) { say(n, 0, 1, "a"); deaf(n); say(n, 1, 2) }, 0, []string{"a"}},
		{"deaf, then told of more", func(n string) { say(n, 0, 1, "a"); deaf(n); say(n, 2, 3) }, 1, []string{"a"}},
	} {
		before := len(s.heard())
		lost := func() (n int) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, node := range s.lost {
				if node == step.node {
					n++
				}
			}
			return n
		}
		step.tell(step.node)
		if n := lost(); n != 0 {
			t.Errorf("%s: %d losses were told while it lived", step.node, n)
		}
		s.lastWords(step.node)
		s.lastWords(step.node) // Who comes back and dies again has nothing new to lose.
		if n := lost(); n != step.lost {
			t.Errorf("%s: %d losses were told, want %d", step.node, n, step.lost)
		}
		if got := s.heard()[before:]; !slices.Equal(got, step.heard) {
			t.Errorf("%s: heard %v, want %v", step.node, got, step.heard)
		}
	}
}

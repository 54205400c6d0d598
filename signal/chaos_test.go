package signal_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

var (
	chaosSeed = flag.Uint64("chaos-seed", 1, "seed of the chaos test; 0 for a new one")
	chaosTime = flag.Duration("chaos-time", 15*time.Second, "how long the chaos test breaks things")
)

// The size of the chaos: how many nodes, rooms and participants.
const (
	chaosNodes        = 4
	chaosRooms        = 24
	chaosParticipants = 200
)

// chaosGrace is how long the nodes of the chaos keep who is away.
const chaosGrace = 10 * time.Second

// mostFindings is how many faults of a kind are told.
const mostFindings = 10

// TestChaos lets participants join, leave, talk and lose their sockets at random while nodes die and stand still,
// and Redis is stopped, emptied and cut off, and then settles the account of what was acknowledged, missed,
// refused and told as a gap against what arrived; see account. In the end every participant sees its
// room as it is and Redis holds nothing else. What is broken, and how, is drawn from the seed; it repeats
// a run as far as chance allows.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: go test ./signal -run '^TestChaos$' -v -chaos-seed %d -chaos-time %v", seed, seed, *chaosTime)
	random := rand.New(rand.NewPCG(seed, 1<<32))
	c := newChaos(t, newPlan(random))
	for i := range chaosParticipants {
		c.people = append(c.people, newParticipant(c, i, rand.New(rand.NewPCG(seed, uint64(i)))))
	}
	breaking, stop := context.WithTimeout(t.Context(), *chaosTime)
	defer stop()
	ctx, calm := context.WithCancel(t.Context())
	var acting sync.WaitGroup
	acting.Go(func() { c.noteStalls(ctx) })
	acting.Go(func() {
		defer calm() // Not before all runs again: meanwhile nobody stays away.
		c.breakThings(breaking, random)
	})
	for _, p := range c.people {
		acting.Go(func() { p.act(ctx) })
	}
	acting.Wait()
	c.calm()
	c.settle()
	c.forget()
}

type chaos struct {
	t      *testing.T
	plan   *plan
	redis  *redistest.Server
	db     *redis.Client
	nodes  []*chaosNode
	people []*participant
	begun  time.Time

	mu     sync.Mutex
	record record
	faults []string       // faults are those that a participant sees by itself.
	counts map[string]int // counts are for the summary.
}

func newChaos(t *testing.T, plan *plan) *chaos {
	shared := redistest.Start(t)
	c := &chaos{t: t, plan: plan, redis: shared, db: shared.Client(), counts: map[string]int{}, record: record{grace: chaosGrace}}
	t.Logf("%s", plan)
	flags := []string{"--resume-grace", chaosGrace.String(), "--drain-settle", "0.2", "--log-level", "debug"}
	var programs []string
	for range chaosNodes {
		programs = append(programs, systemtest.Executable(t))
	}
	if plan.older {
		programs[0] = buildRelease(t, firstRelease)
	}
	for i, n := range startPrograms(t, programs, shared, flags...) {
		c.nodes = append(c.nodes, &chaosNode{Node: n, number: i})
	}
	c.nodes[0].older.Store(plan.older)
	t.Cleanup(c.keepLogs)
	c.begun = time.Now()
	return c
}

// keepLogs writes what the nodes logged to files if the test has failed.
func (c *chaos) keepLogs() {
	if !c.t.Failed() {
		return
	}
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		c.t.Log(err)
		return
	}
	for _, n := range c.nodes {
		_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("node%d.log", n.number)), []byte(n.Log.String()), 0o600)
	}
	c.t.Logf("the nodes' logs are in %s", dir)
}

// noteStalls notes when this process did not run, until ctx ends.
func (c *chaos) noteStalls(ctx context.Context) {
	const every = 50 * time.Millisecond
	for last := time.Now(); ctx.Err() == nil; {
		wait(ctx, every)
		now := time.Now()
		if now.Sub(last) > 4*every {
			c.mu.Lock()
			c.record.stalls = append(c.record.stalls, span{last, now})
			c.mu.Unlock()
		}
		last = now
	}
}

// say logs what happens to whom, with the time since the beginning.
func (c *chaos) say(format string, args ...any) {
	c.t.Logf("%s %5.1fs: %s", clock(time.Now()), time.Since(c.begun).Seconds(), fmt.Sprintf(format, args...))
}

// count is called with the lock held.
func (c *chaos) count(what string) { c.counts[what]++ }

// calm brings every participant back and waits until each is told the truth about its room, and until all hear
// each other.
func (c *chaos) calm() {
	for _, n := range c.nodes {
		n.Ready()
	}
	eventually(c.t, "everybody sees the room as it is", func() error {
		c.everybody((*participant).revive)
		rooms := c.rooms()
		for _, p := range c.people {
			if err := p.sees(rooms); err != nil {
				return err
			}
		}
		return nil
	})
	c.say("everybody sees the room as it is")
	for _, p := range c.people {
		p.pending = nil
	}
	c.everybody(func(p *participant) { p.talk(1, true) })
	eventually(c.t, "everybody hears everybody", func() error {
		for _, p := range c.people {
			if len(p.pending) > 0 {
				waiting := p.pending[0]
				c.everybody(func(p *participant) { p.revive(); p.retry() })
				return fmt.Errorf("%s waits", waiting)
			}
		}
		return nil
	})
	c.say("everybody hears everybody")
}

func (c *chaos) everybody(does func(p *participant)) {
	var all sync.WaitGroup
	for _, p := range c.people {
		all.Go(func() { does(p) })
	}
	all.Wait()
}

// rooms returns who is in which room, sorted, as the participants themselves know.
func (c *chaos) rooms() map[string][]string {
	rooms := map[string][]string{}
	for _, p := range c.people {
		if user, room := p.where(); room != "" {
			rooms[room] = append(rooms[room], user)
		}
	}
	for _, users := range rooms {
		slices.Sort(users)
	}
	return rooms
}

// settle waits for what is still on its way, reports what must never have happened, and compares Redis with the
// truth.
func (c *chaos) settle() {
	c.arrived()
	c.mu.Lock()
	findings := append(newAccount(&c.record).findings(), c.faults...)
	stalled := c.record.stalled(span{c.begun, time.Now()})
	summary := fmt.Sprintf("%d lines, %d users, %v; did not run for %s", len(c.record.lines), len(c.record.lives), c.counts, stalled.Round(time.Millisecond))
	nothing := c.counts["ack"] == 0 || c.counts["resumed"] == 0
	c.mu.Unlock()
	c.t.Log(summary)
	if nothing {
		c.t.Error("nothing was put to the test")
	}
	byKind := map[string][]string{}
	for _, finding := range findings {
		kind, _, _ := strings.Cut(finding, ":")
		byKind[kind] = append(byKind[kind], finding)
	}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		all := byKind[kind]
		c.t.Errorf("%d of %q:\n%s", len(all), kind, strings.Join(all[:min(len(all), mostFindings)], "\n"))
	}
	eventually(c.t, "redis holds the rooms and no others", func() error {
		c.everybody((*participant).revive)
		return c.compare()
	})
}

// arrived waits a while for what was acknowledged. What is lost the account says.
func (c *chaos) arrived() {
	for deadline := time.Now().Add(patience / 4); time.Now().Before(deadline); wait(c.t.Context(), beat) {
		c.mu.Lock()
		lost := newAccount(&c.record).lostLines()
		c.mu.Unlock()
		if len(lost) == 0 {
			return
		}
		c.everybody((*participant).revive)
	}
}

// compare compares what Redis holds with who is in which room.
func (c *chaos) compare() error {
	rooms := c.rooms()
	keys, err := c.db.Keys(c.t.Context(), "sig:{r:*").Result()
	if err != nil {
		return err
	}
	for _, key := range keys {
		room := strings.TrimSuffix(strings.TrimPrefix(key, "sig:{r:"), "}")
		fields, err := c.db.HKeys(c.t.Context(), key).Result()
		if err != nil {
			return err
		}
		var users []string
		for _, field := range fields {
			if user, is := strings.CutPrefix(field, "m:"); is {
				users = append(users, user)
			}
		}
		if slices.Sort(users); !slices.Equal(users, rooms[room]) {
			return fmt.Errorf("%s holds %v, and there are %v", key, users, rooms[room])
		}
	}
	if len(keys) < len(rooms) {
		return fmt.Errorf("%d keys for %d rooms", len(keys), len(rooms))
	}
	return nil
}

// forget kills everything and sees that a node that starts afterwards clears what is left.
func (c *chaos) forget() {
	for _, n := range c.nodes {
		n.Kill()
	}
	for _, p := range c.people {
		p.hangUp()
	}
	c.nodes[0].Start()
	eventually(c.t, "redis forgets the rooms of nodes that are gone", func() error {
		keys, err := c.db.Keys(c.t.Context(), "sig:{r:*").Result()
		if err == nil && len(keys) > 0 {
			err = fmt.Errorf("%d are left, like %s", len(keys), keys[0])
		}
		return err
	})
}

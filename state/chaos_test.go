package state

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/state/redistest"
)

var (
	chaosSeed = flag.Uint64("chaos-seed", 1, "seed of the chaos test; 0 for a new one")
	chaosTime = flag.Duration("chaos-time", 5*time.Second, "how long the chaos test breaks things")
)

// chaos is a deployment that is broken at random, and what must be true of it.
type chaos struct {
	t     *testing.T
	rand  *rand.Rand
	redis *redistest.Server
	ways  []*proxy
	sites []*site
	cfg   RedisConfig
	born  int
	// at is who is where by what the nodes told their clients: "room/id" → site.
	at map[string]*site
	// orphans are those whose node has died and who may still be adopted.
	orphans []orphan
	// ends counts how often who is "room/id" may have left.
	ends map[string]int
	lost time.Time // lost is when Redis last lost data.
	log  *slog.Logger
}

type orphan struct {
	room, id, node string
	epoch          uint64
	died           time.Time
}

func (o orphan) key() string { return o.room + "/" + o.id }

// TestChaos lets four nodes join, leave, lose their way to Redis and die, and Redis restart empty, forget rooms or
// everything, and cut its clients off. Who was at a dead node comes back to another in time, or not. Nobody sees
// anybody leave who did not, and when all that ends, everybody sees the same rooms, with exactly the members
// that are there. A seed whose number is even has no grace.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test ./state -run Chaos -chaos-seed %d -chaos-time %v", seed, seed, *chaosTime)
	redis := redistest.Start(t)
	c := &chaos{t: t, rand: rand.New(rand.NewPCG(seed, 0)), redis: redis, cfg: steady(single(redis)), at: map[string]*site{}, ends: map[string]int{}}
	c.cfg.Grace = time.Duration(seed%2) * 6 * time.Second
	c.keepLog()
	for range 4 {
		c.birth()
	}
	for end := time.Now().Add(*chaosTime); time.Now().Before(end); {
		c.step()
	}
	c.settle()
}

// keepLog has all nodes log to a file, beside what is done to them, and keeps it if the test fails.
func (c *chaos) keepLog() {
	file, err := os.CreateTemp("", "chaos*.log")
	if err != nil {
		c.t.Fatal(err)
	}
	c.log = slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c.cfg.Logger = c.log
	c.t.Cleanup(func() {
		_ = file.Close()
		if !c.t.Failed() {
			_ = os.Remove(file.Name())
			return
		}
		c.t.Logf("the log of the nodes is %s", file.Name())
	})
}

func (c *chaos) birth() {
	way := newProxy(c.t, c.redis.Addr)
	c.born++
	c.ways = append(c.ways, way)
	c.sites = append(c.sites, newSite(c.t, behind(c.cfg, way), fmt.Sprint("n", c.born)))
}

func (c *chaos) step() {
	i := c.rand.IntN(len(c.sites))
	switch n := c.rand.IntN(1000); {
	case n < 480:
		c.enter(c.sites[i])
	case n < 940:
		c.exit()
	case n < 978:
		c.adopt(c.sites[i])
	case n < 988:
		c.log.Info("chaos: cut", "node", c.sites[i].id)
		c.ways[i].cut()
	case n < 990:
		c.freeze(i)
	case n < 992:
		c.log.Info("chaos: kill redis")
		c.redis.Kill()
		<-time.After(time.Duration(c.rand.IntN(3000)) * time.Millisecond)
		c.redis.Start()
		c.lost = time.Now()
	case n < 998:
		c.command(i)
	case n < 999:
		c.kill(i)
	}
}

// command has Redis forget something or cut its clients off.
func (c *chaos) command(i int) {
	command := [][]any{
		{"FLUSHALL"}, {"DEL", c.sites[i].roomKey(fmt.Sprint("r", c.rand.IntN(20)))},
		{"CLIENT", "KILL", "TYPE", "pubsub"}, {"CLIENT", "KILL", "TYPE", "normal"},
	}[c.rand.IntN(4)]
	c.log.Info("chaos: " + fmt.Sprint(command...))
	c.redis.Do(command...)
	if command[0] != "CLIENT" {
		c.lost = time.Now()
	}
}

// freeze lets nothing through between a node and Redis for a while.
func (c *chaos) freeze(i int) {
	pause := time.Duration(c.rand.IntN(3000)) * time.Millisecond
	if c.cfg.Grace == 0 {
		c.leaveAll(c.sites[i]) // It may be taken for dead.
	}
	c.log.Info("chaos: freeze", "node", c.sites[i].id, "for", pause)
	c.ways[i].frozen.Store(true)
	<-time.After(pause)
	c.ways[i].frozen.Store(false)
	c.ways[i].cut()
}

// leaveAll notes that all members of a site may leave.
func (c *chaos) leaveAll(s *site) {
	for key, at := range c.at {
		if at == s {
			c.ends[key]++
		}
	}
}

func (c *chaos) enter(s *site) {
	room := fmt.Sprint("r", c.rand.IntN(20))
	id := fmt.Sprint("u", c.rand.IntN(8), "of", room)
	if c.at[room+"/"+id] != nil || s.enter(room, id) != nil {
		return
	}
	c.at[room+"/"+id] = s
	c.log.Debug("chaos: enter", "node", s.id, "room", room, "user", id)
	c.orphans = slices.DeleteFunc(c.orphans, func(o orphan) bool {
		if o.key() == room+"/"+id {
			c.ends[o.key()]++ // It may have been too late, and joined again.
			return true
		}
		return false
	})
}

func (c *chaos) exit() {
	key := c.any()
	if key == "" {
		return
	}
	room, id, _ := strings.Cut(key, "/")
	c.ends[key]++
	c.log.Debug("chaos: exit", "node", c.at[key].id, "room", room, "user", id)
	if err := c.at[key].exit(room, id); err != nil {
		c.t.Errorf("%s leaves %s at %s: %v", id, room, c.at[key].id, err)
	}
	delete(c.at, key)
}

// any returns somebody who is there, empty for nobody.
func (c *chaos) any() string {
	keys := slices.Sorted(maps.Keys(c.at))
	if len(keys) == 0 {
		return ""
	}
	return keys[c.rand.IntN(len(keys))]
}

// adopt has somebody whose node died come to a site.
func (c *chaos) adopt(s *site) {
	if len(c.orphans) == 0 {
		return
	}
	i := c.rand.IntN(len(c.orphans))
	o := c.orphans[i]
	v, err := s.adopt(o.node, o.id, o.epoch)
	c.log.Debug("chaos: adopt", "node", s.id, "of", o.node, "room", o.room, "user", o.id, "found", v.Room, "error", err)
	switch {
	case errors.Is(err, ErrUnavailable):
		return // It will come back once more.
	case err == nil && v.Room == o.room:
		c.at[o.key()] = s
	default:
		c.ends[o.key()]++
		if time.Since(o.died) < c.cfg.Grace && c.lost.Before(o.died.Add(-c.cfg.Lease)) {
			c.t.Errorf("%s is not adopted by %s %v after %s died: room %q, %v", o.key(), s.id, time.Since(o.died), o.node, v.Room, err)
		}
	}
	c.orphans = slices.Delete(c.orphans, i, i+1)
}

// kill ends a node like a crash and lets another begin.
func (c *chaos) kill(i int) {
	dead := c.sites[i]
	c.log.Info("chaos: kill", "node", dead.id)
	dead.crash()
	c.sites, c.ways = slices.Delete(c.sites, i, i+1), slices.Delete(c.ways, i, i+1)
	for _, key := range slices.Sorted(maps.Keys(c.at)) {
		if c.at[key] != dead {
			continue
		}
		room, id, _ := strings.Cut(key, "/")
		delete(c.at, key)
		if c.cfg.Grace == 0 || c.isUnknown(dead, room, id) {
			c.ends[key]++
			continue
		}
		c.orphans = append(c.orphans, orphan{room, id, dead.id, dead.epoch(room, id), time.Now()})
	}
	c.birth()
}

// isUnknown reports whether a node that is dead had let somebody in during an outage without Redis, of whom nobody else has heard
// since.
func (c *chaos) isUnknown(dead *site, room, id string) bool {
	dead.Redis.mu.Lock()
	lately, m := time.Since(dead.fell) < c.cfg.Lease, dead.rooms[room]
	known := m != nil && m.own[id].known
	dead.Redis.mu.Unlock()
	return lately && !known && !c.redis.Client().HExists(c.t.Context(), dead.roomKey(room), "m:"+id).Val()
}

// settle compares what everybody sees with who is there, and looks for departures that were none.
func (c *chaos) settle() {
	c.t.Logf("%d members, %d nodes were born, %d orphans are left", len(c.at), c.born, len(c.orphans))
	for _, o := range c.orphans {
		c.ends[o.key()]++
	}
	for i := range 20 {
		room := fmt.Sprint("r", i)
		var want []string
		var there []*site
		for key, s := range c.at {
			if r, id, _ := strings.Cut(key, "/"); r == room {
				want = append(want, id)
				there = append(there, s)
			}
		}
		if len(there) > 0 {
			agree(c.t, room, want, there...)
			continue
		}
		eventually(c.t, "nothing is left of "+room, func() bool { return len(stored(c.t, c.sites[0].Redis, room)) == 0 })
	}
	for _, s := range c.sites {
		s.mu.Lock()
		for key, count := range s.left {
			if count > c.ends[key] {
				c.t.Errorf("%s saw %s leave %d times, and it can have been %d", s.id, key, count, c.ends[key])
			}
		}
		s.mu.Unlock()
	}
}

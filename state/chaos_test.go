package state

import (
	"flag"
	"fmt"
	"math/rand/v2"
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
}

// TestChaos lets four nodes join, leave, lose their way to Redis, die, and Redis restart empty. When
// that ends, everybody sees the same rooms, with exactly the members that are there.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test ./state -run Chaos -chaos-seed %d -chaos-time %v", seed, seed, *chaosTime)
	redis := redistest.Start(t)
	c := &chaos{t: t, rand: rand.New(rand.NewPCG(seed, 0)), redis: redis, cfg: steady(single(redis)), at: map[string]*site{}}
	for range 4 {
		c.birth()
	}
	for end := time.Now().Add(*chaosTime); time.Now().Before(end); {
		c.step()
	}
	c.settle()
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
	case n < 500:
		c.enter(c.sites[i])
	case n < 980:
		c.exit()
	case n < 990:
		c.ways[i].cut()
	case n < 993:
		c.ways[i].frozen.Store(true)
		<-time.After(time.Duration(c.rand.IntN(3000)) * time.Millisecond)
		c.ways[i].frozen.Store(false)
		c.ways[i].cut()
	case n < 995:
		c.redis.Kill()
		<-time.After(time.Duration(c.rand.IntN(3000)) * time.Millisecond)
		c.redis.Start()
	case n < 997:
		c.kill(i)
	}
}

func (c *chaos) enter(s *site) {
	room, id := fmt.Sprint("r", c.rand.IntN(20)), fmt.Sprint("u", c.rand.IntN(8))
	if c.at[room+"/"+id] == nil && s.enter(room, id) == nil {
		c.at[room+"/"+id] = s
	}
}

func (c *chaos) exit() {
	var keys []string
	for key := range c.at {
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return
	}
	slices.Sort(keys)
	key := keys[c.rand.IntN(len(keys))]
	room, id, _ := strings.Cut(key, "/")
	if err := c.at[key].exit(room, id); err != nil {
		c.t.Errorf("%s leaves %s at %s: %v", id, room, c.at[key].id, err)
	}
	delete(c.at, key)
}

// kill ends a node like a crash and lets another begin.
func (c *chaos) kill(i int) {
	dead := c.sites[i]
	dead.crash()
	c.sites, c.ways = slices.Delete(c.sites, i, i+1), slices.Delete(c.ways, i, i+1)
	for key, s := range c.at {
		if s == dead {
			delete(c.at, key)
		}
	}
	c.birth()
}

// settle compares what everybody sees with who is there.
func (c *chaos) settle() {
	c.t.Logf("%d members, %d nodes were born", len(c.at), c.born)
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
}

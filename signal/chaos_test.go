package signal_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
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
	chaosSeed = flag.Uint64("chaos-seed", 0, "seed of the chaos test; 0 for a new one")
	chaosTime = flag.Duration("chaos-time", 15*time.Second, "how long the chaos test breaks things")
)

// The size of the chaos: how many nodes, rooms and participants.
const (
	chaosNodes        = 4
	chaosRooms        = 100
	chaosParticipants = 200
)

// TestChaos lets participants join, leave, talk and lose their sockets at random while nodes are
// killed and Redis is restarted empty, and then settles the account: every acknowledged message
// arrived exactly once at a receiver that stayed, nothing came twice or out of order, every
// participant sees its room as it is, and Redis holds nothing else. A seed repeats
// a run as far as chance allows.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: go test ./signal -run Chaos -chaos-seed %d -chaos-time %v", seed, seed, *chaosTime)
	shared := redistest.Start(t)
	c := &chaos{t: t, redis: shared, nodes: startNodes(t, chaosNodes, shared, "--resume-grace", "10")}
	for i := range chaosParticipants {
		c.people = append(c.people, newParticipant(c, i, rand.New(rand.NewPCG(seed, uint64(i)))))
	}
	ctx, stop := context.WithTimeout(t.Context(), *chaosTime)
	defer stop()
	var acting sync.WaitGroup
	random := rand.New(rand.NewPCG(seed, 1<<32))
	acting.Go(func() { c.breakThings(ctx, random) })
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
	redis  *redistest.Server
	nodes  []*systemtest.Node
	people []*participant

	mu   sync.Mutex
	sent []*utterance
	// counted for the summary
	kills, restarts, resumed, refused int
}

// utterance is one message that a participant sent to another.
type utterance struct {
	from, to, room string
	number         int
	at             time.Time
	acknowledged   bool
}

// breakThings kills nodes and restarts Redis until ctx ends, and leaves all of it running.
func (c *chaos) breakThings(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		wait(ctx, time.Duration(2000+random.IntN(6000))*time.Millisecond)
		pause := time.Duration(random.IntN(4000)) * time.Millisecond
		if random.IntN(3) == 0 {
			c.redis.Kill()
			wait(ctx, pause)
			c.redis.Start()
			c.restarts++
			continue
		}
		n := c.nodes[random.IntN(len(c.nodes))]
		n.Kill()
		wait(ctx, pause)
		n.Start()
		c.kills++
	}
	for _, n := range c.nodes {
		n.Ready()
	}
}

// anyNode returns the URL of a node that should be there.
func (c *chaos) anyNode(random *rand.Rand) string {
	for {
		if n := c.nodes[random.IntN(len(c.nodes))]; n.Running() {
			return n.URL
		}
	}
}

// calm brings every participant back and waits until each is told the truth about its room.
func (c *chaos) calm() {
	var reviving sync.WaitGroup
	for _, p := range c.people {
		reviving.Go(p.revive)
	}
	reviving.Wait()
	eventually(c.t, "everybody sees the room as it is", func() error {
		rooms := c.rooms()
		for _, p := range c.people {
			if err := p.sees(rooms); err != nil {
				return err
			}
		}
		return nil
	})
	eventually(c.t, "all that was acknowledged has arrived", c.missing)
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

// missing returns the first acknowledged message that is not where it belongs.
func (c *chaos) missing() error {
	byUser := map[string]*participant{}
	for _, p := range c.people {
		user, _ := p.where()
		byUser[user] = p
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.sent {
		if p := byUser[u.to]; p != nil && u.acknowledged && p.stayedSince(u.room, u.at) && !p.heardOnce(u) {
			return fmt.Errorf("%s did not hear number %d of %s, sent at %s", u.to, u.number, u.from, u.at.Format(time.StampMilli))
		}
	}
	return nil
}

// settle reports what nobody may ever have seen, and compares Redis with the truth.
func (c *chaos) settle() {
	for _, p := range c.people {
		for _, fault := range p.faults {
			c.t.Error(fault)
		}
	}
	acknowledged := 0
	for _, u := range c.sent {
		if u.acknowledged {
			acknowledged++
		}
	}
	c.t.Logf("%d messages, %d acknowledged; %d kills, %d restarts of Redis; %d resumed, %d told to join again",
		len(c.sent), acknowledged, c.kills, c.restarts, c.resumed, c.refused)
	if acknowledged == 0 || c.resumed == 0 {
		c.t.Error("nothing was put to the test")
	}
	db := redis.NewClient(&redis.Options{Addr: c.redis.Addr})
	defer func() { _ = db.Close() }()
	eventually(c.t, "redis holds the rooms and no others", func() error {
		keys, err := db.Keys(c.t.Context(), "sig:{r:*").Result()
		if err != nil {
			return err
		}
		rooms := c.rooms()
		for _, key := range keys {
			room := strings.TrimSuffix(strings.TrimPrefix(key, "sig:{r:"), "}")
			if rooms[room] == nil {
				holds, _ := db.HGetAll(c.t.Context(), key).Result()
				return fmt.Errorf("%s holds %v, and nobody is in that room", key, holds)
			}
		}
		if len(keys) != len(rooms) {
			return fmt.Errorf("%d keys for %d rooms", len(keys), len(rooms))
		}
		return nil
	})
}

// forget kills everything and sees that a node that starts afterwards clears what is left.
func (c *chaos) forget() {
	for _, n := range c.nodes {
		n.Kill()
	}
	for _, p := range c.people {
		p.hangUp()
	}
	db := redis.NewClient(&redis.Options{Addr: c.redis.Addr})
	defer func() { _ = db.Close() }()
	c.nodes[0].Start()
	eventually(c.t, "redis forgets the rooms of nodes that are gone", func() error {
		keys, err := db.Keys(c.t.Context(), "sig:{r:*").Result()
		if err == nil && len(keys) > 0 {
			err = fmt.Errorf("%d are left, like %s", len(keys), keys[0])
		}
		return err
	})
}

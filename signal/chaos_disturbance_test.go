package signal_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// plan is what a seed breaks: everything, a few kinds of things, nodes of which some are spared, or what a cluster with
// a node of an older version must stand.
type plan struct {
	kinds  []disturbance
	spared int  // spared is how many of the nodes nothing happens to.
	older  bool // older says that one node is of an older version, until it is stopped and updated.
}

// disturbance is something that is broken and mended again, within a time that ends early with the chaos.
type disturbance struct {
	kind string
	do   func(c *chaos, ctx context.Context, random *rand.Rand, n *chaosNode)
}

var (
	ofNodes = []disturbance{
		{killed, (*chaos).killNode},
		{killed, (*chaos).killNode},
		{frozen, (*chaos).freezeNode},
		{stopped, (*chaos).stopNode},
	}
	ofRedis = []disturbance{
		{redisKilled, (*chaos).killRedis},
		{redisFrozen, (*chaos).freezeRedis},
		{flushed, (*chaos).flush},
		{keysDeleted, (*chaos).deleteKeys},
		{clientsKilled, (*chaos).killClients},
	}
	ofUpdates = []disturbance{
		{stopped, (*chaos).stopNode},
		{frozen, (*chaos).freezeBriefly},
	}
)

func newPlan(random *rand.Rand) *plan {
	all := slices.Concat(ofNodes, ofRedis)
	switch random.IntN(6) {
	case 0:
		return &plan{kinds: ofUpdates, older: true}
	case 1:
		return &plan{kinds: ofNodes, spared: 1 + random.IntN(2)}
	case 2, 3:
		var some []disturbance
		for range 1 + random.IntN(3) {
			some = append(some, all[random.IntN(len(all))])
		}
		return &plan{kinds: some}
	}
	return &plan{kinds: all}
}

func (p *plan) String() string {
	var kinds []string
	for _, d := range p.kinds {
		if !slices.Contains(kinds, d.kind) {
			kinds = append(kinds, d.kind)
		}
	}
	return fmt.Sprintf("the plan is to %s; spared nodes: %d, a node of an older version: %v", strings.Join(kinds, ", "), p.spared, p.older)
}

// chaosNode is a node that can be killed and started, stopped and let go on.
type chaosNode struct {
	*systemtest.Node
	number int
	older  atomic.Bool // older says that it is of an older version.
	starts atomic.Int32
	still  atomic.Bool // still says that it is frozen.
}

// process names the process that the node is now.
func (n *chaosNode) process() string {
	return strconv.Itoa(n.number) + "." + strconv.Itoa(int(n.starts.Load()))
}

// restart starts the node that has ended.
func (n *chaosNode) restart() {
	n.starts.Add(1)
	n.Start()
}

// breakThings does what is planned until ctx ends, and leaves everything running.
func (c *chaos) breakThings(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		wait(ctx, time.Duration(500+random.IntN(3500))*time.Millisecond)
		d := c.plan.kinds[random.IntN(len(c.plan.kinds))]
		n := c.nodes[c.plan.spared+random.IntN(len(c.nodes)-c.plan.spared)]
		if ctx.Err() == nil {
			d.do(c, ctx, random, n)
		}
	}
}

// trouble notes that something happens to a node or everybody, and returns what notes that it is over.
func (c *chaos) trouble(kind string, node int) (over func()) {
	t := &trouble{kind: kind, node: node, span: span{from: time.Now()}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.troubles = append(c.record.troubles, t)
	c.count(kind)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.until = time.Now()
	}
}

// killNode ends a node as a crash does and starts it again.
func (c *chaos) killNode(ctx context.Context, random *rand.Rand, n *chaosNode) {
	pause := time.Duration(random.IntN(4000)) * time.Millisecond
	c.say("kill node %d, start it after %v", n.number, pause)
	over := c.trouble(killed, n.number)
	n.Kill()
	wait(ctx, pause)
	n.restart()
	over()
}

// stopNode ends a node as a rolling update does and starts it again, as the newest version.
func (c *chaos) stopNode(_ context.Context, _ *rand.Rand, n *chaosNode) {
	c.say("stop node %d", n.number)
	over := c.trouble(stopped, n.number)
	if err := n.End(syscall.SIGTERM); err != nil {
		c.t.Errorf("node %d ended with %v", n.number, err)
	}
	n.Program = systemtest.Executable(c.t)
	n.older.Store(false)
	n.restart()
	over()
	c.say("node %d is stopped and started", n.number)
}

// freezeNode stops a node for less than a lease, for longer, or for longer than the grace. Its participants wait, or
// give up and go to another node.
func (c *chaos) freezeNode(ctx context.Context, random *rand.Rand, n *chaosNode) {
	least := []time.Duration{lease / 10, lease, lease + chaosGrace}[random.IntN(3)]
	c.freezeFor(ctx, random, n, least+time.Duration(random.Int64N(int64(2*lease))))
}

// freezeBriefly stops a node for less than a lease.
func (c *chaos) freezeBriefly(ctx context.Context, random *rand.Rand, n *chaosNode) {
	c.freezeFor(ctx, random, n, time.Duration(random.Int64N(int64(lease/2))))
}

func (c *chaos) freezeFor(ctx context.Context, random *rand.Rand, n *chaosNode, pause time.Duration) {
	c.say("freeze node %d for %v", n.number, pause)
	over := c.trouble(frozen, n.number)
	n.still.Store(true)
	n.Freeze()
	for left := pause; left > 0 && ctx.Err() == nil; left -= time.Second {
		wait(ctx, min(left, time.Second))
		c.despair(random, n)
	}
	n.Thaw()
	n.still.Store(false)
	over()
	c.say("node %d goes on", n.number)
}

// despair has some participants that wait for a frozen node give up.
func (c *chaos) despair(random *rand.Rand, n *chaosNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.people {
		if p.node == n.number && random.IntN(4) == 0 {
			p.giveUp()
		}
	}
}

// killRedis ends Redis and starts it again, empty.
func (c *chaos) killRedis(ctx context.Context, random *rand.Rand, _ *chaosNode) {
	pause := time.Duration(random.IntN(6000)) * time.Millisecond
	c.say("kill Redis, start it after %v", pause)
	over := c.trouble(redisKilled, everybody)
	c.redis.Kill()
	wait(ctx, pause)
	c.redis.Start()
	over()
}

// freezeRedis stops Redis for less than what the nodes wait for an answer, or for longer.
func (c *chaos) freezeRedis(ctx context.Context, random *rand.Rand, _ *chaosNode) {
	pause := time.Duration(200+random.IntN([]int{1500, 8000}[random.IntN(2)])) * time.Millisecond
	c.say("freeze Redis for %v", pause)
	over := c.trouble(redisFrozen, everybody)
	c.redis.Freeze()
	wait(ctx, pause)
	c.redis.Thaw()
	over()
}

func (c *chaos) flush(context.Context, *rand.Rand, *chaosNode) {
	c.say("flush Redis")
	over := c.trouble(flushed, everybody)
	defer over()
	if err := c.db.FlushAll(context.Background()).Err(); err != nil {
		c.t.Errorf("flushing Redis: %v", err)
	}
}

// deleteKeys deletes some rooms, as an eviction does.
func (c *chaos) deleteKeys(_ context.Context, random *rand.Rand, _ *chaosNode) {
	over := c.trouble(keysDeleted, everybody)
	defer over()
	var keys []string
	for range 1 + random.IntN(8) {
		keys = append(keys, "sig:{r:r"+strconv.Itoa(random.IntN(chaosRooms))+"}")
	}
	c.say("delete %v", keys)
	if err := c.db.Del(context.Background(), keys...).Err(); err != nil {
		c.t.Errorf("deleting rooms: %v", err)
	}
}

// killClients cuts the connections of the nodes to Redis, those of one kind or all.
func (c *chaos) killClients(_ context.Context, random *rand.Rand, _ *chaosNode) {
	over := c.trouble(clientsKilled, everybody)
	defer over()
	kinds := [][]string{{"pubsub"}, {"normal"}, {"pubsub", "normal"}}[random.IntN(3)]
	c.say("kill the %v connections to Redis", kinds)
	for _, kind := range kinds {
		if err := c.db.Do(context.Background(), "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes").Err(); err != nil {
			c.t.Errorf("killing connections: %v", err)
		}
	}
}

// anyNode returns a node that a participant tries: one that runs, and rather one that answers.
func (c *chaos) anyNode(p *participant) *chaosNode {
	home := c.nodes[p.number/4%len(c.nodes)]
	for attempt := 0; ; attempt++ {
		n := c.nodes[p.random.IntN(len(c.nodes))]
		if p.loyal() && attempt == 0 {
			n = home
		}
		switch {
		case !n.Running():
			wait(context.Background(), beat)
		case n.older.Load() && !p.tolerant():
		case n.still.Load() && p.random.IntN(4) > 0:
		default:
			return n
		}
	}
}

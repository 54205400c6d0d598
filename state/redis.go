package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// opTimeout bounds one round trip. What is not done by then has an unknown outcome. A Redis that takes a second
	// is slow, not away; one that is dead is found out by the looks at its data after little more than this.
	opTimeout = 4 * time.Second
	// startPatience is how long a node waits for Redis before it works without. As a rule that is there at once, and
	// whom the node lets in without it knows nobody else.
	startPatience = 2 * time.Second
	// usualStart is what that takes as a rule. Nobody who comes meanwhile needs to be turned away.
	usualStart = 250 * time.Millisecond
	// maxScripts bounds the scripts at a time, so that a rush of joins leaves connections for
	// what keeps the node alive, which spareConns are for.
	maxScripts = 24
	spareConns = 8
	// repairers is how many rooms are compared with Redis at a time.
	repairers = 16
	// ttlLeases is how many leases a room outlives its last change: only a backstop, since the
	// rooms of dead nodes are swept.
	ttlLeases = 240
)

var errStarting = errors.New("not connected yet")

// Redis is one node's access to the state that all nodes share through Redis. All methods may be
// called by any goroutine.
//
// It holds a mirror of every room in which it has members, and knows better than Redis about these:
// whenever in doubt it asserts them, which makes the room right. See assert.lua.
type Redis struct {
	// Fixed after construction.
	id      string
	cfg     RedisConfig
	events  Events // fixed by Subscribe, before any goroutine runs
	log     *slog.Logger
	client  redis.UniversalClient
	cluster *redis.ClusterClient // nil unless it is a Cluster
	metrics *redisMetrics
	scripts chan struct{} // holds one element for each script that runs
	// publishes holds one element for each publish that runs.
	publishes chan struct{}
	answers   inbox         // those to Send that are known at once
	distance  distance      // to Redis
	running   atomic.Int32  // streams that are busy
	poke      chan struct{} // wakes the keeper
	work      chan struct{} // wakes the repairer
	reached   chan struct{} // closed once Redis has been there
	reach     func()        // closes reached
	started   time.Time
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	floor   atomic.Uint64 // the highest version that was seen anywhere
	skew    atomic.Int64  // Redis' clock when this node started, µs
	probe   atomic.Uint64 // number of the last probe
	echoed  atomic.Pointer[time.Time]
	renewed atomic.Pointer[time.Time]
	beats   atomic.Bool   // the lease was renewed once
	begun   chan struct{} // closed when the wait for Redis at the start is over
	// patience is startPatience but in tests.
	patience time.Duration
	covered  atomic.Bool // it is known what the Cluster does when a part of it is gone
	// unrenewable says that no node can renew its lease.
	unrenewable atomic.Bool
	pulse       pulse
	doubted     atomic.Pointer[time.Time] // since when others may take this node for dead, nil when they cannot
	doubtful    atomic.Bool               // some rooms are in doubt
	tags        sync.Map                  // node → what its channel has besides its id

	life  sync.Mutex // the innermost lock
	ended bool       // no goroutine may be started any more; guarded by life

	// mu guards what follows. A stream's lock is taken after it, never before.
	mu         sync.Mutex
	down       error         // why the state is not usable, nil when it is
	fell       time.Time     // when that began
	want       uint64        // the probe that must come back to end down
	suspected  time.Time     // when Redis may last have lost something, zero if never
	calm       time.Time     // before it no silent node is buried: it may be as short of Redis as we were
	trust      time.Time     // before it a channel without a subscriber says nothing
	missed     bool          // Lost is to be called for all nodes
	closed     bool          // Close was called
	beaten     bool          // the lease was renewed before
	leaseEnd   int64         // the end of the lease as the last beat left it, ms of Redis' clock
	slept      bool          // the process did not run, and no beat has been answered since
	waking     bool          // the same, and none has failed either
	relief     chan struct{} // closed when there may be less doubt, nil while nobody waits
	sub        *redis.PubSub
	info       NodeInfo
	rooms      map[string]*mirror
	dirty      map[string]struct{} // rooms to compare with Redis
	peers      map[string]*peer    // nodes that are not known to be dead
	dead       map[string]*death
	obits      []obituary
	sweeps     []string           // dead nodes after which this one is to sweep
	estates    map[string]*estate // of dead nodes, during their grace
	undeclared map[string]bool    // dead nodes that Redis does not know as such
	filing     map[string]bool    // rooms to add to this node's index, or to remove
	streams    map[string]*stream
	positions  map[string]*position
	strangers  map[string]bool     // nodes whose protocol is too new, of which was warned
	asks       map[string]bool     // nodes to ask for what this one missed
	secrets    map[string]string   // as Redis has them
	told       map[string][]string // as OnSecret was told
	masters    map[string]master   // the Redis processes that hold data, by address
	data       map[string]sentinel
	broken     map[string]part     // masters that do not work, by address
	share      float64             // of the slots that they have
	evicting   map[string]string   // masters that may evict what nodes write, and their policy
	mismatched map[string]bool     // nodes that have other secrets than this one
	given      map[string][]string // cfg.Configured, until Configure
	turn       []string            // rooms whose turn to be looked at comes before the others
}

// NewRedis returns access to Redis for a node of an id that no other node ever had. The other nodes do
// not know it before it subscribes. Only wrong settings are an error. The node must be closed.
func NewRedis(cfg RedisConfig, id string) (*Redis, error) {
	options, err := cfg.options()
	if err != nil {
		return nil, err
	}
	silence()
	r := &Redis{
		id: id, cfg: cfg, log: cfg.Logger, down: errStarting,
		scripts: make(chan struct{}, maxScripts), publishes: make(chan struct{}, maxPublishes), poke: make(chan struct{}, 1), work: make(chan struct{}, 1), reached: make(chan struct{}), begun: make(chan struct{}),
		rooms: map[string]*mirror{}, dirty: map[string]struct{}{}, peers: map[string]*peer{}, dead: map[string]*death{}, estates: map[string]*estate{}, filing: map[string]bool{}, undeclared: map[string]bool{},
		streams: map[string]*stream{}, positions: map[string]*position{}, strangers: map[string]bool{}, asks: map[string]bool{}, secrets: map[string]string{}, told: map[string][]string{}, masters: map[string]master{}, data: map[string]sentinel{}, broken: map[string]part{}, evicting: map[string]string{}, mismatched: map[string]bool{}, given: map[string][]string{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if options.IsClusterMode {
		of := options.Cluster()
		of.DisableRoutingPolicies = true // All commands of ours name their slot; COMMAND need not be allowed.
		r.cluster = redis.NewClusterClient(of)
		r.client = r.cluster
	} else {
		r.client = redis.NewUniversalClient(options)
	}
	now := time.Now()
	r.started = now
	r.skew.Store(now.UnixMicro()) // Until Redis tells.
	r.echoed.Store(&now)
	r.renewed.Store(&now)
	r.metrics = newRedisMetrics(r, cfg.Registerer)
	r.patience = startPatience
	r.ctx, r.cancel = context.WithCancel(context.Background())
	maps.Copy(r.secrets, cfg.Secrets)
	maps.Copy(r.given, cfg.Configured)
	r.reach = sync.OnceFunc(func() { close(r.reached) })
	r.calm = now.Add(cfg.Lease)
	return r, nil
}

// Subscribe makes the node one of the deployment: from now on it has a lease and hears its events, as soon as Redis is there,
// which it waits a moment for; Started tells. It may be called once, and not after Close.
func (r *Redis) Subscribe(ev Events) {
	r.events = ev
	r.pulse.last.Store(int64(time.Since(r.started)))
	r.wg.Go(r.beatPulse)
	r.wg.Go(r.keep)
	r.wg.Go(r.listen)
	r.wg.Go(r.repair)
	r.wg.Go(r.watchData)
	r.wg.Go(r.watch)
	began := time.Now()
	r.wg.Go(func() { r.awaitFirst(began) })
	select {
	case <-r.begun:
	case <-time.After(usualStart):
	}
}

// awaitFirst waits for Redis, whose absence is no error: without it the node works as during any outage.
func (r *Redis) awaitFirst(began time.Time) {
	defer close(r.begun)
	ctx, cancel := context.WithTimeout(r.ctx, r.patience)
	defer cancel()
	select {
	case <-r.reached:
	case <-ctx.Done():
		return
	}
	if time.Since(began) > usualStart {
		r.awaitSecrets()
	}
}

// Started is closed when a node that has subscribed knows whether Redis is there.
func (r *Redis) Started() <-chan struct{} { return r.begun }

// silence keeps the client from writing to stderr: what matters of it comes back as errors.
var silence = sync.OnceFunc(func() { redis.SetLogger(mute{}) })

type mute struct{}

func (mute) Printf(context.Context, string, ...any) {}

// ID returns the id of this node.
func (r *Redis) ID() string { return r.id }

// Ready is nil while the shared state can be reached: Redis takes commands, for most rooms, and this node hears
// what is published for it. Otherwise it wraps ErrUnavailable. What does not work meanwhile Problems says.
func (r *Redis) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	away := r.awayLocked()
	for _, p := range r.broken {
		if away == nil && r.share >= mostSlots {
			away = p.err
		}
	}
	if away != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, away)
	}
	return nil
}

// Admits is nil while a join is let in, by the policy for outages.
func (r *Redis) Admits() error {
	if r.cfg.Outage == OutageLocal {
		return nil
	}
	return r.Ready()
}

// away says why the state is of no use, or nil.
func (r *Redis) away() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.awayLocked()
}

// usable wraps ErrUnavailable when the state is away, or the part of it that has a key.
func (r *Redis) usable(key string) error {
	err := r.away()
	if err == nil {
		err = r.silent(key)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Announce tells the other nodes about this one with the next beat; the ID is filled in. A node that
// begins to drain is announced at once.
func (r *Redis) Announce(info NodeInfo) {
	info.ID = r.id
	r.mu.Lock()
	urgent := info.Draining != r.info.Draining
	r.info = info
	r.mu.Unlock()
	if urgent {
		wake(r.poke)
	}
}

// Nodes returns what the other living nodes announced, in no order. It does no I/O.
func (r *Redis) Nodes() []NodeInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []NodeInfo
	for id, p := range r.peers {
		if p.alive && id != r.id {
			out = append(out, p.info)
		}
	}
	return out
}

// Close ends the node. The members that it still has are left for other nodes to adopt, or, without a grace,
// leave with ReasonNodeLost; what waits to be sent is sent, the lease ends. It takes no longer than ctx allows;
// what it leaves undone the other nodes do when they find it gone. Its error is what it could not do.
func (r *Redis) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	up := r.awayLocked() == nil
	r.mu.Unlock()
	var err error
	var orphans bool
	if up {
		orphans, err = r.goodbye(ctx)
	}
	r.life.Lock()
	r.ended = true
	r.life.Unlock()
	r.mu.Lock()
	sub := r.sub
	r.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe(ctx) // In Redis' order of things before the end of the lease.
		_ = sub.SUnsubscribe(ctx)
	}
	r.cancel()
	if sub != nil {
		_ = sub.Close()
	}
	r.wg.Wait()
	if up && err == nil {
		err = r.release(ctx, orphans)
	}
	return errors.Join(err, r.client.Close())
}

// goodbye brings this node's rooms in line with Redis, tells the other nodes the end and waits until Redis has
// taken it all. It reports whether members stay behind.
func (r *Redis) goodbye(ctx context.Context) (orphans bool, err error) {
	r.mu.Lock()
	for room, m := range r.rooms {
		if r.cfg.Grace > 0 {
			orphans = orphans || len(m.own) > 0
			continue
		}
		clear(m.own)
		r.dirty[room] = struct{}{}
	}
	r.mu.Unlock()
	r.assertDirty(ctx)
	r.mu.Lock()
	orphans = orphans || len(r.dirty) > 0 // Redis may have members of this node there.
	for id, p := range r.peers {
		if p.alive && id != r.id {
			r.streamLocked(id).push(&record{kind: recordBye})
		}
	}
	streams := make([]*stream, 0, len(r.streams))
	for _, s := range r.streams {
		streams = append(streams, s)
	}
	r.mu.Unlock()
	for _, s := range streams {
		if err := s.drained(ctx); err != nil {
			return orphans, err
		}
	}
	return orphans, nil
}

// trip notes that the shared state is away; from now on operations fail at once until a probe that
// is sent from now on has come back.
func (r *Redis) trip(cause error) {
	r.doubt()
	r.mu.Lock()
	was := r.down
	r.want = r.probe.Load() + 1
	r.down = cause
	if was == nil {
		r.fell = time.Now()
	}
	r.mu.Unlock()
	if (was == nil || errors.Is(was, errStarting)) && r.ctx.Err() == nil {
		r.log.Warn("shared state is away, trying on", "node", r.id, "error", cause, "joins", r.cfg.Outage)
	}
	if was == nil {
		wake(r.poke) // Later ones wait for the keeper, which slows down.
	}
}

// echo notes a probe that came back, which ends an outage.
func (r *Redis) echo(number uint64) {
	now := time.Now()
	r.echoed.Store(&now)
	r.mourn(number)
	r.mu.Lock()
	if r.down == nil || number < r.want {
		r.mu.Unlock()
		return
	}
	if !errors.Is(r.down, errStarting) {
		r.suspected = now
		r.distrustLocked(now)
	}
	r.down = nil
	r.doubtLocked()
	r.relieveLocked()
	r.mu.Unlock()
	r.log.Info("shared state is reachable", "node", r.id)
	r.reach()
	wake(r.work)
}

// doubtLocked has all rooms compared with Redis and gives the other nodes a whole lease to show that
// they live: during an outage nobody could.
func (r *Redis) doubtLocked() {
	for room := range r.rooms {
		r.dirty[room] = struct{}{}
	}
	r.metrics.resyncs.WithLabelValues("recovery").Add(float64(len(r.rooms)))
	grace := time.Now().Add(r.cfg.Lease)
	r.calm = grace
	for id, p := range r.peers {
		r.asks[id] = true
		if p.expiry.Before(grace) {
			p.expiry = grace
		}
	}
	for _, s := range r.streams {
		s.refresh()
	}
}

func (r *Redis) roomTTL() time.Duration { return ttlLeases * r.cfg.Lease }

// remembrance is how long a node remembers who left, which is as long as Redis does while a room is young.
func (r *Redis) remembrance() time.Duration { return 4 * r.cfg.Lease }

// wake makes a goroutine look at what there is to do, now or when it is done with what it does.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// spawn runs f in a goroutine that Close waits for. It reports false when the node has ended.
func (r *Redis) spawn(f func()) bool {
	r.life.Lock()
	defer r.life.Unlock()
	if r.ended {
		return false
	}
	r.wg.Go(f)
	return true
}

// pause waits until a time, or until the node ends, which it reports as false.
func (r *Redis) pause(until time.Time) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

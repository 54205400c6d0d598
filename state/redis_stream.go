package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxBatch and maxBatchBytes bound one publish.
	maxBatch      = 512
	maxBatchBytes = 256 << 10
	// maxQueueBytes bounds what waits for one node; what is more is refused with ErrUnavailable.
	maxQueueBytes = 8 << 20
	// maxWindowBytes bounds what is kept of a stream to send it once more. What has left the window
	// is lost, if it is asked for.
	maxWindowBytes = 4 << 20
	// pace is the least time between two publishes to a node. What comes up meanwhile shares one.
	pace = 2 * time.Millisecond
)

// outbox is the stream of parcels to one other node. They leave in the order in which they came and
// have consecutive numbers. The numbers of what Redis did not take, or may not have taken, are not
// used again, since the receiver may have seen them; it is not made to miss them.
type outbox struct {
	r    *Redis
	node string

	mu      sync.Mutex
	queue   []*parcel
	queued  int // bytes
	running bool
	last    uint64 // the last number that was given out
	tip     uint64 // the last one that Redis took
	hinted  uint64 // the tip that the receiver was told when nothing else followed
	window  []sent
	held    int    // bytes of the window
	again   bool   // what comes after from is to be sent once more
	from    uint64 // see again
	// owed are views that Redis did not take. They go before anything else.
	owed  map[string]*parcel
	retry bool // it is time to try what is owed
}

// sent is a parcel in the window.
type sent struct {
	number uint64
	before uint64 // the parcel that the receiver must have before this one
	blob   []byte
	at     time.Time
}

// batch is one publish.
type batch struct {
	before  uint64
	first   uint64
	lost    bool
	blobs   [][]byte
	parcels []*parcel // nil when it was sent before
}

// outboxLocked returns the stream to a node.
func (r *Redis) outboxLocked(node string) *outbox {
	o := r.outboxes[node]
	if o == nil {
		o = &outbox{r: r, node: node, owed: map[string]*parcel{}}
		r.outboxes[node] = o
	}
	return o
}

// Send hands a message to other nodes, to all at once, and returns when Redis has taken it and those
// nodes were listening. It fails with ErrNoNode when one of them is gone, which was not given the
// message, and with ErrUnavailable when Redis is away or one of them does not listen; then, if Redis did
// not answer in time, that one may have been given the message, once at most, and will not be later.
// The others get it all the same.
func (r *Redis) Send(ctx context.Context, nodes []string, m Message) error {
	m.Node = r.id
	sent := make([]*parcel, len(nodes))
	errs := make([]error, len(nodes))
	for i, node := range nodes {
		sent[i], errs[i] = r.queue(node, m)
	}
	for i, node := range nodes {
		if errs[i] == nil {
			errs[i] = r.await(ctx, node, sent[i])
		}
		if errs[i] != nil {
			errs[i] = fmt.Errorf("sending to node %s: %w", node, errs[i])
		}
	}
	return errors.Join(errs...)
}

// queue gives a message to the stream to a node.
func (r *Redis) queue(node string, m Message) (*parcel, error) {
	p := &parcel{kind: parcelMessage, message: m, done: make(chan error, 1)}
	r.mu.Lock()
	_, dead := r.dead[node]
	down := r.down
	o := r.outboxLocked(node)
	r.mu.Unlock()
	switch {
	case down != nil:
		return nil, ErrUnavailable
	case dead:
		return nil, ErrNoNode
	case !o.push(p):
		return nil, fmt.Errorf("too much is waiting: %w", ErrUnavailable)
	}
	return p, nil
}

// await returns what became of a queued message.
func (r *Redis) await(ctx context.Context, node string, p *parcel) error {
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		r.mu.Lock()
		o := r.outboxLocked(node)
		r.mu.Unlock()
		o.abandon(p)
		return ErrUnavailable
	}
}

// push queues a parcel and sees to it that somebody sends it. It reports false when the queue is
// full, which only messages are subject to.
func (o *outbox) push(p *parcel) bool {
	size := len(p.message.Frame) + 128
	o.mu.Lock()
	if p.kind == parcelMessage && o.queued+size > maxQueueBytes {
		o.mu.Unlock()
		return false
	}
	o.queue = append(o.queue, p)
	o.queued += size
	o.mu.Unlock()
	o.start()
	return true
}

// start makes the outbox run unless it does.
func (o *outbox) start() {
	o.mu.Lock()
	if o.running {
		o.mu.Unlock()
		return
	}
	o.running = true
	o.mu.Unlock()
	if !o.r.spawn(o.run) {
		o.fail()
	}
}

// abandon notes that nobody waits for a parcel any more, so that it is not sent if it was not yet.
func (o *outbox) abandon(p *parcel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p.gone = true
}

// run publishes until nothing is left to publish.
func (o *outbox) run() {
	for {
		began := time.Now()
		b, ok := o.next()
		if !ok {
			return
		}
		o.publish(b)
		if !o.r.pause(began.Add(pace)) {
			o.fail()
			return
		}
	}
}

// next composes the next publish.
func (o *outbox) next() (batch, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.again {
		return o.repeatLocked(), true
	}
	fresh := o.takeLocked()
	if len(fresh) == 0 {
		o.running = false
		return batch{}, false
	}
	b := batch{before: o.tip, first: o.last + 1, parcels: fresh}
	for _, p := range fresh {
		b.blobs = append(b.blobs, encodeParcel(p))
	}
	o.last += uint64(len(fresh))
	return b, true
}

// takeLocked takes parcels from the queue, before them the views that are owed.
func (o *outbox) takeLocked() []*parcel {
	var out []*parcel
	if len(o.queue) > 0 || o.retry {
		for room, p := range o.owed {
			out = append(out, p)
			delete(o.owed, room)
		}
	}
	o.retry = false
	size, n := 0, 0
	for n < len(o.queue) && len(out) < maxBatch && size < maxBatchBytes {
		p := o.queue[n]
		n++
		o.queued -= len(p.message.Frame) + 128
		if p.gone {
			continue
		}
		size += len(p.message.Frame)
		out = append(out, p)
	}
	o.queue = o.queue[n:]
	if len(o.queue) == 0 {
		o.queue = nil
	}
	return out
}

// repeatLocked composes a publish of what the receiver does not have, from the window: a run of
// consecutive numbers. What is not there any more is declared lost.
func (o *outbox) repeatLocked() batch {
	i := 0
	for i < len(o.window) && o.window[i].number <= o.from {
		i++
	}
	if i == len(o.window) {
		o.again = false
		return batch{before: o.tip, first: o.last + 1, lost: o.tip > o.from}
	}
	b := batch{before: o.window[i].before, first: o.window[i].number, lost: o.window[i].before > o.from}
	size := 0
	for ; i < len(o.window) && size < maxBatchBytes; i++ {
		s := o.window[i]
		if s.number != b.first+uint64(len(b.blobs)) {
			break
		}
		b.blobs = append(b.blobs, s.blob)
		size += len(s.blob)
		o.from = s.number
	}
	o.again = i < len(o.window)
	return b
}

// publish hands a batch to Redis and notes what became of it.
func (o *outbox) publish(b batch) {
	kind := "publish"
	if b.parcels == nil {
		kind = "repeat"
	}
	err := o.r.publish(kind, o.node, encodeBatch(o.r.id, b.before, b.first, b.lost, b.blobs))
	if b.parcels == nil {
		return // Who still misses something asks again.
	}
	if err != nil {
		o.refuse(b.parcels, err)
		return
	}
	o.accept(b)
}

// accept moves a batch to the window and tells those who wait.
func (o *outbox) accept(b batch) {
	o.r.metrics.messages.Add(float64(len(b.parcels)))
	now := time.Now()
	o.mu.Lock()
	before := b.before
	for i, blob := range b.blobs {
		number := b.first + uint64(i)
		o.window = append(o.window, sent{number: number, before: before, blob: blob, at: now})
		o.held += len(blob)
		before = number
	}
	o.tip = before
	o.trimLocked(now.Add(-2 * o.r.cfg.Lease))
	o.mu.Unlock()
	for _, p := range b.parcels {
		if p.done != nil {
			p.done <- nil
		}
	}
}

// refresh is for the end of an outage, in which nobody could ask for anything: it keeps the window
// for longer and has the receiver told once more where the stream ends.
func (o *outbox) refresh() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.window {
		o.window[i].at = time.Now()
	}
	o.hinted = 0
}

// trimLocked forgets what is older than a time, and the oldest of what is too much.
func (o *outbox) trimLocked(since time.Time) {
	n := 0
	for n < len(o.window) && (o.held > maxWindowBytes || o.window[n].at.Before(since)) {
		o.held -= len(o.window[n].blob)
		n++
	}
	if o.window = o.window[n:]; len(o.window) == 0 {
		o.window = nil
	}
}

// refuse fails the messages of a batch. The views are kept for later unless the node is known to be
// dead: one without a lease may not have renewed it yet after Redis lost its data.
func (o *outbox) refuse(parcels []*parcel, err error) {
	o.r.mu.Lock()
	_, dead := o.r.dead[o.node]
	o.r.mu.Unlock()
	o.mu.Lock()
	for _, p := range parcels {
		if p.kind == parcelView && !dead {
			if old := o.owed[p.change.Room]; old == nil || old.change.Version < p.change.Version {
				o.owed[p.change.Room] = p
			}
		}
	}
	o.mu.Unlock()
	for _, p := range parcels {
		if p.done != nil {
			p.done <- err
		}
	}
}

// fail ends the run of an outbox whose node has ended.
func (o *outbox) fail() {
	o.mu.Lock()
	o.running = false
	o.mu.Unlock()
	o.drop(ErrUnavailable)
}

// drop throws away what waits and what is kept.
func (o *outbox) drop(err error) {
	o.mu.Lock()
	queue := o.queue
	o.queue, o.queued, o.window, o.held, o.again = nil, 0, nil, 0, false
	clear(o.owed)
	o.mu.Unlock()
	for _, p := range queue {
		if p.done != nil {
			p.done <- err
		}
	}
}

// repeat sends everything after a number once more.
func (o *outbox) repeat(from uint64) {
	o.mu.Lock()
	ask := from < o.tip
	if ask && (!o.again || from < o.from) {
		o.again, o.from = true, from
	}
	o.mu.Unlock()
	if ask {
		o.start()
	}
}

// tend does what a beat brings: it retries what is owed, forgets what nobody will ask for any more
// and, when the stream has fallen silent, tells the receiver where it ends, once.
func (o *outbox) tend() {
	o.mu.Lock()
	o.trimLocked(time.Now().Add(-2 * o.r.cfg.Lease))
	owed := len(o.owed) > 0
	o.retry = owed
	tip := o.tip
	hint := !o.running && o.hinted != tip
	o.hinted = tip
	o.mu.Unlock()
	if owed {
		o.start()
	}
	if hint {
		_ = o.r.publish("hint", o.node, encodeBatch(o.r.id, tip, tip+1, false, nil)) // A node that is gone needs none.
	}
}

// drained waits until nothing is left to send.
func (o *outbox) drained(ctx context.Context) error {
	for {
		o.mu.Lock()
		running := o.running
		o.mu.Unlock()
		if !running {
			return nil
		}
		t := time.NewTimer(pace)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("telling node %s the end: %w", o.node, ctx.Err())
		}
	}
}

// publish hands a packet to a node. It fails with ErrNoNode when the node is gone, with
// ErrUnavailable when it does not listen or Redis does not answer.
func (r *Redis) publish(kind, node string, payload []byte) error {
	ctx, cancel := context.WithTimeout(r.ctx, opTimeout)
	defer cancel()
	r.metrics.trips.WithLabelValues(kind).Inc()
	var cmd *redis.IntCmd
	if r.cluster != nil {
		cmd = r.client.SPublish(ctx, r.channel(node), payload)
	} else {
		cmd = r.client.Publish(ctx, r.channel(node), payload)
	}
	heard, err := cmd.Result()
	if err != nil {
		r.metrics.failures.WithLabelValues("error").Inc()
		return r.failed(ctx, kind, err)
	}
	if heard > 0 {
		return nil
	}
	r.metrics.failures.WithLabelValues("no_receiver").Inc()
	r.metrics.trips.WithLabelValues("lookup").Inc()
	err = r.client.ZScore(ctx, directoryKeys(r.cfg.Prefix)[0], node).Err()
	if errors.Is(err, redis.Nil) {
		return ErrNoNode
	}
	return fmt.Errorf("nobody listens: %w", ErrUnavailable)
}

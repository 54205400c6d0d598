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

// stream carries records to one other node. They leave in the order in which they came and
// have consecutive numbers. The numbers of what Redis did not take, or may not have taken, are not
// used again, since the receiver may have seen them; it is not made to miss them.
type stream struct {
	r    *Redis
	node string

	mu      sync.Mutex
	queue   []*record
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
	owed  map[string]*record
	retry bool // it is time to try what is owed
}

// sent is a record in the window.
type sent struct {
	number uint64
	before uint64 // the record that the receiver must have before this one
	blob   []byte
	at     time.Time
}

// batch is one publish.
type batch struct {
	before  uint64
	first   uint64
	lost    bool
	blobs   [][]byte
	records []*record // nil when it was sent before
}

// streamLocked returns the stream to a node.
func (r *Redis) streamLocked(node string) *stream {
	s := r.streams[node]
	if s == nil {
		s = &stream{r: r, node: node, owed: map[string]*record{}}
		r.streams[node] = s
	}
	return s
}

// Send hands a message to other nodes, to all at once, in the order of the calls, and does not wait: it may
// be called under a lock. It calls done once, from another goroutine, with what became of each copy: nil when
// Redis has taken it and that node was listening, ErrNoNode when the node is gone, which was not given it, and
// ErrUnavailable when Redis is away or the node does not listen; then, if Redis did not answer in time,
// that one may have been given the message, once at most, and will not be later.
func (r *Redis) Send(m Message, copies []Copy, done func([]error)) {
	m.Node = r.id
	sent := make([]*record, len(copies))
	errs := make([]error, len(copies))
	for i, c := range copies {
		m.Receivers = c.Receivers
		sent[i], errs[i] = r.queue(c.Node, m)
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for i, c := range copies {
			if errs[i] == nil {
				errs[i] = r.await(ctx, c.Node, sent[i])
			}
			if errs[i] != nil {
				errs[i] = fmt.Errorf("sending to node %s: %w", c.Node, errs[i])
			}
		}
		done(errs)
	}()
}

// queue gives a message to the stream to a node.
func (r *Redis) queue(node string, m Message) (*record, error) {
	rec := &record{kind: recordMessage, message: m, done: make(chan error, 1)}
	r.mu.Lock()
	_, dead := r.dead[node]
	down := r.down
	s := r.streamLocked(node)
	r.mu.Unlock()
	switch {
	case down != nil:
		return nil, ErrUnavailable
	case dead:
		return nil, ErrNoNode
	case !s.push(rec):
		return nil, fmt.Errorf("too much is waiting: %w", ErrUnavailable)
	}
	return rec, nil
}

// await returns what became of a queued message.
func (r *Redis) await(ctx context.Context, node string, rec *record) error {
	select {
	case err := <-rec.done:
		return err
	case <-ctx.Done():
		r.mu.Lock()
		s := r.streamLocked(node)
		r.mu.Unlock()
		s.abandon(rec)
		return ErrUnavailable
	}
}

// push queues a record and sees to it that somebody sends it. It reports false when the queue is
// full, which only messages are subject to.
func (s *stream) push(rec *record) bool {
	size := len(rec.message.Frame) + 128
	s.mu.Lock()
	if rec.kind == recordMessage && s.queued+size > maxQueueBytes {
		s.mu.Unlock()
		return false
	}
	s.queue = append(s.queue, rec)
	s.queued += size
	s.mu.Unlock()
	s.start()
	return true
}

// start makes the stream run unless it does.
func (s *stream) start() {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return
	}
	s.running = true
	s.mu.Unlock()
	if !s.r.spawn(s.run) {
		s.fail()
	}
}

// abandon notes that nobody waits for a record any more, so that it is not sent if it was not yet.
func (s *stream) abandon(rec *record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec.gone = true
}

// run publishes until nothing is left to publish.
func (s *stream) run() {
	for {
		began := time.Now()
		b, ok := s.next()
		if !ok {
			return
		}
		s.publish(b)
		if !s.r.pause(began.Add(pace)) {
			s.fail()
			return
		}
	}
}

// next composes the next publish.
func (s *stream) next() (batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.again {
		return s.repeatLocked(), true
	}
	fresh := s.dequeueLocked()
	if len(fresh) == 0 {
		s.running = false
		return batch{}, false
	}
	b := batch{before: s.tip, first: s.last + 1, records: fresh}
	for _, rec := range fresh {
		b.blobs = append(b.blobs, encodeRecord(rec))
	}
	s.last += uint64(len(fresh))
	return b, true
}

// dequeueLocked takes records off the queue, before them the views that are owed.
func (s *stream) dequeueLocked() []*record {
	var out []*record
	if len(s.queue) > 0 || s.retry {
		for room, rec := range s.owed {
			out = append(out, rec)
			delete(s.owed, room)
		}
	}
	s.retry = false
	size, n := 0, 0
	for n < len(s.queue) && len(out) < maxBatch && size < maxBatchBytes {
		rec := s.queue[n]
		n++
		s.queued -= len(rec.message.Frame) + 128
		if rec.gone {
			continue
		}
		size += len(rec.message.Frame)
		out = append(out, rec)
	}
	s.queue = s.queue[n:]
	if len(s.queue) == 0 {
		s.queue = nil
	}
	return out
}

// repeatLocked composes a publish of what the receiver does not have, from the window: a run of
// consecutive numbers. What is not there any more is declared lost.
func (s *stream) repeatLocked() batch {
	i := 0
	for i < len(s.window) && s.window[i].number <= s.from {
		i++
	}
	if i == len(s.window) {
		s.again = false
		return batch{before: s.tip, first: s.last + 1, lost: s.tip > s.from}
	}
	b := batch{before: s.window[i].before, first: s.window[i].number, lost: s.window[i].before > s.from}
	size := 0
	for ; i < len(s.window) && size < maxBatchBytes; i++ {
		w := s.window[i]
		if w.number != b.first+uint64(len(b.blobs)) {
			break
		}
		b.blobs = append(b.blobs, w.blob)
		size += len(w.blob)
		s.from = w.number
	}
	s.again = i < len(s.window)
	return b
}

// publish hands a batch to Redis and notes what became of it.
func (s *stream) publish(b batch) {
	kind := "publish"
	if b.records == nil {
		kind = "repeat"
	}
	err := s.r.publish(kind, s.node, encodeBatch(s.r.id, b.before, b.first, b.lost, b.blobs))
	if b.records == nil {
		return // Who still misses something asks again.
	}
	if err != nil {
		s.refuse(b.records, err)
		return
	}
	s.accept(b)
}

// accept moves a batch to the window and tells those who wait.
func (s *stream) accept(b batch) {
	s.r.metrics.messages.Add(float64(len(b.records)))
	now := time.Now()
	s.mu.Lock()
	before := b.before
	for i, blob := range b.blobs {
		number := b.first + uint64(i)
		s.window = append(s.window, sent{number: number, before: before, blob: blob, at: now})
		s.held += len(blob)
		before = number
	}
	s.tip = before
	s.trimLocked(now.Add(-2 * s.r.cfg.Lease))
	s.mu.Unlock()
	for _, rec := range b.records {
		if rec.done != nil {
			rec.done <- nil
		}
	}
}

// refresh is for the end of an outage, in which nobody could ask for anything: it keeps the window
// for longer and has the receiver told once more where the stream ends.
func (s *stream) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.window {
		s.window[i].at = time.Now()
	}
	s.hinted = 0
}

// trimLocked forgets what is older than a time, and the oldest of what is too much.
func (s *stream) trimLocked(since time.Time) {
	n := 0
	for n < len(s.window) && (s.held > maxWindowBytes || s.window[n].at.Before(since)) {
		s.held -= len(s.window[n].blob)
		n++
	}
	if s.window = s.window[n:]; len(s.window) == 0 {
		s.window = nil
	}
}

// refuse fails the messages of a batch. The views are kept for later unless the node is known to be
// dead: one without a lease may not have renewed it yet after Redis lost its data.
func (s *stream) refuse(records []*record, err error) {
	s.r.mu.Lock()
	_, dead := s.r.dead[s.node]
	s.r.mu.Unlock()
	s.mu.Lock()
	for _, rec := range records {
		if rec.kind == recordView && !dead {
			if old := s.owed[rec.change.Room]; old == nil || old.change.Version < rec.change.Version {
				s.owed[rec.change.Room] = rec
			}
		}
	}
	s.mu.Unlock()
	for _, rec := range records {
		if rec.done != nil {
			rec.done <- err
		}
	}
}

// fail ends the run of a stream whose node has ended.
func (s *stream) fail() {
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	s.drop(ErrUnavailable)
}

// drop throws away what waits and what is kept.
func (s *stream) drop(err error) {
	s.mu.Lock()
	queue := s.queue
	s.queue, s.queued, s.window, s.held, s.again = nil, 0, nil, 0, false
	clear(s.owed)
	s.mu.Unlock()
	for _, rec := range queue {
		if rec.done != nil {
			rec.done <- err
		}
	}
}

// repeat sends everything after a number once more.
func (s *stream) repeat(from uint64) {
	s.mu.Lock()
	ask := from < s.tip
	if ask && (!s.again || from < s.from) {
		s.again, s.from = true, from
	}
	s.mu.Unlock()
	if ask {
		s.start()
	}
}

// tend does what a beat brings: it retries what is owed, forgets what nobody will ask for any more
// and, when the stream has fallen silent, tells the receiver where it ends, once.
func (s *stream) tend() {
	s.mu.Lock()
	s.trimLocked(time.Now().Add(-2 * s.r.cfg.Lease))
	owed := len(s.owed) > 0
	s.retry = owed
	tip := s.tip
	hint := !s.running && s.hinted != tip
	s.hinted = tip
	s.mu.Unlock()
	if owed {
		s.start()
	}
	if hint {
		_ = s.r.publish("hint", s.node, encodeBatch(s.r.id, tip, tip+1, false, nil)) // A node that is gone needs none.
	}
}

// drained waits until nothing is left to send.
func (s *stream) drained(ctx context.Context) error {
	for {
		s.mu.Lock()
		running := s.running
		s.mu.Unlock()
		if !running {
			return nil
		}
		t := time.NewTimer(pace)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("telling node %s the end: %w", s.node, ctx.Err())
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

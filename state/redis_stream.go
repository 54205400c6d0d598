package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// maxBatch and maxBatchBytes bound one publish.
	maxBatch      = 512
	maxBatchBytes = 256 << 10
	// maxQueueBytes bounds what waits for one node; what is more is refused with ErrUnavailable.
	maxQueueBytes = 8 << 20
	// maxQueueTime bounds how long a message waits; then it fails with ErrUnavailable and is not sent later.
	maxQueueTime = 5 * time.Second
	// maxFlights bounds the publishes of one stream that are under way, to a node that keeps what comes too early.
	maxFlights = 16
	// insistTime bounds how long a publish is tried again that did not reach its node, and maxInsist how long one of which
	// nobody knows whether it did: no longer than what was sent may be on its way for those who receive it.
	insistTime = 400 * time.Millisecond
	maxInsist  = 25 * time.Second
	// minPace is the least time between two publishes to a node, and maxPace what it may become while Redis is near.
	// What comes up meanwhile shares one.
	minPace = 2 * time.Millisecond
	maxPace = 8 * time.Millisecond
)

// stream carries records to one other node. They leave in the order in which they came and have consecutive
// numbers.
//
// Several publishes are under way at a time, each on a connection of its own, so they may reach the receiver in
// any order: it puts them in order by what each says must come before. A publish that leaves while others are
// under way counts on them. When one of them is refused after all, its numbers are void: they are not used again,
// since a publish without an answer may have been heard, and the receiver, which waits for them, is told by a
// batch without records that fills the hole. Outcomes are therefore taken in the order of the numbers, and until
// that of a publish is known, nothing behind it is in the window.
type stream struct {
	r     *Redis
	node  string
	nudge chan struct{} // wakes the run

	mu      sync.Mutex
	queue   []*record
	queued  int // bytes
	running bool
	waiting bool      // the run waits until there is something to publish
	ready   time.Time // when the next publish may leave
	shared  bool      // the last one carried several records: those that come now are followed by others
	limit   int       // publishes at a time
	flying  int       // publishes under way, those that repeat or fill included
	flights []*batch  // numbered ones whose outcome, or that of one before, is not known, in order
	last    uint64    // the last number that was given out
	tip     uint64    // the last one that Redis took, of those whose outcome is known
	hinted  uint64    // the tip that the receiver was told when nothing else followed
	fills   []*batch  // batches without records, which say where the receiver is to go on
	window  []sent
	held    int    // bytes of the window
	again   bool   // what comes after from is to be sent once more
	from    uint64 // see again
	// owed are views that Redis did not take. They go before anything else.
	owed  map[string]*record
	retry bool // it is time to try what is owed
}

// batch is one publish.
type batch struct {
	kind    string // for the metrics
	before  uint64
	first   uint64
	lost    bool
	blobs   [][]byte
	records []*record // nil when it was sent before
	landed  bool      // what became of it is known:
	err     error
}

// streamLocked returns the stream to a node.
func (r *Redis) streamLocked(node string) *stream {
	s := r.streams[node]
	if s == nil {
		s = &stream{r: r, node: node, nudge: make(chan struct{}, 1), limit: maxFlights, owed: map[string]*record{}}
		r.streams[node] = s
	}
	return s
}

// push queues a record and sees to it that somebody sends it. It reports false when the queue is
// full, which only messages are subject to.
func (s *stream) push(rec *record) bool {
	s.mu.Lock()
	if rec.kind == recordMessage && s.queued+rec.size() > maxQueueBytes {
		s.mu.Unlock()
		return false
	}
	s.queue = append(s.queue, rec)
	s.queued += rec.size()
	s.mu.Unlock()
	s.start()
	return true
}

// start makes the stream run unless it does.
func (s *stream) start() {
	s.mu.Lock()
	if s.running {
		if s.waiting {
			wake(s.nudge)
		}
		s.mu.Unlock()
		return
	}
	s.running = true
	s.mu.Unlock()
	if !s.r.spawn(s.run) {
		s.fail()
	}
}

// run publishes until nothing is left to publish and nothing is under way.
func (s *stream) run() {
	s.r.running.Add(1)
	defer s.r.running.Add(-1)
	for {
		if s.r.ctx.Err() != nil {
			s.fail()
			return
		}
		at, ok := s.look()
		if !ok {
			return
		}
		if time.Until(at) > 0 {
			s.rest(at)
		} else if s.board() {
			s.launch()
		}
	}
}

// look gives up what has waited for too long and returns when to publish, or else to look again. It reports
// false when there is nothing to do any more.
func (s *stream) look() (time.Time, bool) {
	now := time.Now()
	woke := s.r.woke()
	s.mu.Lock()
	late := s.lateLocked(maxTime(now.Add(-maxQueueTime), woke))
	todo := s.todoLocked()
	s.waiting = !todo
	s.running = todo || s.flying > 0
	running, at := s.running, s.ready
	if s.shared && len(s.queue) > 0 {
		at = maxTime(at, s.r.step(s.queue[0].at))
	}
	if !todo || s.flying >= s.limit {
		at = now.Add(maxQueueTime)
		if len(s.queue) > 0 {
			at = maxTime(s.queue[0].at.Add(maxQueueTime), now.Add(minPace))
		}
	}
	s.mu.Unlock()
	s.finish(late, fmt.Errorf("too much is waiting: %w", ErrUnavailable))
	return at, running
}

// todoLocked reports whether there is something to publish.
func (s *stream) todoLocked() bool {
	if s.again && s.from >= s.tip && len(s.flights) == 0 {
		s.again = false // What was asked for was refused, and is void.
	}
	return len(s.fills) > 0 || s.again && s.from < s.tip || len(s.queue) > 0 || s.retry && len(s.owed) > 0
}

// lateLocked takes the messages off the queue that came before a time.
func (s *stream) lateLocked(since time.Time) (late []*record) {
	n := 0
	for n < len(s.queue) && s.queue[n].at.Before(since) {
		n++
	}
	if n == 0 {
		return nil
	}
	var views []*record
	for _, rec := range s.queue[:n] {
		if rec.kind == recordMessage {
			late = append(late, rec)
			s.queued -= rec.size()
		} else {
			views = append(views, rec)
		}
	}
	if len(late) > 0 {
		s.queue = append(views, s.queue[n:]...)
	}
	return late
}

// rest waits until a time, or until there is something to do.
func (s *stream) rest(until time.Time) {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.nudge:
	case <-s.r.ctx.Done():
	}
}

// board waits for a turn among all publishes of the node. It gives up after a while, so that what waits for too
// long is noticed.
func (s *stream) board() bool {
	t := time.NewTimer(maxQueueTime / 10)
	defer t.Stop()
	select {
	case s.r.publishes <- struct{}{}:
		return true
	case <-t.C:
	case <-s.r.ctx.Done():
	}
	return false
}

// launch lets the next publish leave; it has its turn.
func (s *stream) launch() {
	b := s.next()
	if b == nil {
		<-s.r.publishes
		return
	}
	fly := func() {
		began, payload := time.Now(), encodeBatch(s.r.id, b.before, b.first, b.lost, b.blobs)
		err := s.r.publishNow(b.kind, s.node, payload)
		<-s.r.publishes
		if err != nil && b.records != nil {
			err = s.insist(b.kind, payload, began, err)
		}
		s.land(b, err)
	}
	if !s.r.spawn(fly) {
		<-s.r.publishes
		s.land(b, ErrUnavailable)
	}
}

// insist publishes once more what did not reach its node. What nobody heard is refused after a moment, which a living
// node needs to subscribe again, and at once when this node may be taken for dead, or when the publish was to leave before the
// process did not run for a while: its senders may speak elsewhere by now. What may have been heard, because Redis was lost
// under it or stands still, is neither taken nor refused: it is published again when Redis is back, until one or the
// other is known, or nobody will ever know. A receiver that has heard it knows it by its numbers.
func (s *stream) insist(kind string, payload []byte, began time.Time, err error) error {
	failed, uncertain := time.Now(), false
	for errors.Is(err, ErrUnavailable) {
		uncertain = uncertain || errors.Is(err, ErrUncertain)
		hopeless := errors.Is(err, errLapsed) || time.Since(failed) > insistTime || s.r.woke().After(began)
		if uncertain {
			hopeless = time.Since(began) > maxInsist || s.isDead()
		}
		if hopeless || !s.r.pause(time.Now().Add(insistTime/4)) {
			break
		}
		if !uncertain || s.r.away() == nil {
			err = s.r.publish(kind, s.node, payload)
		}
	}
	if err != nil && uncertain {
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return err
}

// isDead reports whether the node that the stream leads to is dead.
func (s *stream) isDead() bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.r.dead[s.node] != nil
}

// next composes the next publish, or nil when there is nothing to publish.
func (s *stream) next() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.todoLocked() {
		return nil
	}
	s.ready = s.r.step(time.Now().Add(minPace / 2))
	s.flying++
	if len(s.fills) > 0 {
		b := s.fills[0]
		s.fills = s.fills[1:]
		return b
	}
	if s.again && s.from < s.tip {
		return s.repeatLocked()
	}
	return s.freshLocked()
}

// freshLocked composes a publish of what is owed and queued.
func (s *stream) freshLocked() *batch {
	b := &batch{kind: "publish", before: s.tip, first: s.last + 1, records: s.dequeueLocked()}
	if len(s.flights) > 0 {
		b.before = s.last // As if all that is under way were taken.
	}
	for _, rec := range b.records {
		b.blobs = append(b.blobs, encodeRecord(rec))
	}
	s.shared = len(b.records) > 1
	s.last += uint64(len(b.records))
	s.flights = append(s.flights, b)
	return b
}

// dequeueLocked takes records off the queue, before them the views that are owed.
func (s *stream) dequeueLocked() []*record {
	var out []*record
	for room, rec := range s.owed {
		out = append(out, rec)
		delete(s.owed, room)
	}
	s.retry = false
	size, n := 0, 0
	for n < len(s.queue) && len(out) < maxBatch && size < maxBatchBytes {
		rec := s.queue[n]
		n++
		s.queued -= rec.size()
		size += rec.size()
		out = append(out, rec)
	}
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return out
}

// step returns the next time at which streams publish. All of a node keep step, so that those who wait for several
// of them, as the senders of broadcasts do, do so at the same time, and the next lines of all share publishes.
func (r *Redis) step(after time.Time) time.Time {
	pace := r.pace()
	return r.started.Add(after.Sub(r.started).Truncate(pace) + pace)
}

// pace is the time between two publishes to a node. It grows with the number of streams that are busy, since a
// broadcast costs a publish in each, and with the way to Redis, so that not more is under way than makes sense.
func (r *Redis) pace() time.Duration {
	trip := r.distance.roundTrip()
	near := min(max(trip, time.Duration(r.running.Load())*minPace), maxPace)
	return max(minPace, near, trip/(maxFlights/2)).Round(minPace)
}

// land notes what became of a publish. Who sent messages that were refused is told at once. Who sent others is told when
// the outcome of all before them is known: the receiver can deliver then what Redis took, and a sender that waits for the
// answer before it does something elsewhere does that behind its messages.
func (s *stream) land(b *batch, err error) {
	dead := s.isDead()
	s.mu.Lock()
	s.flying--
	b.landed, b.err = true, err
	var taken []*batch
	for len(s.flights) > 0 && s.flights[0].landed {
		first := s.flights[0]
		s.flights = s.flights[1:]
		if first.err == nil {
			s.keepLocked(first)
			taken = append(taken, first)
		} else if !dead {
			s.oweLocked(first.records)
		}
	}
	s.mu.Unlock()
	wake(s.nudge)
	if err != nil {
		s.finish(b.records, err)
	} else {
		s.r.metrics.messages.Add(float64(len(b.records)))
	}
	for _, b := range taken {
		s.finish(b.records, nil)
	}
}

// keepLocked moves to the window what Redis took. If what it counted on was refused, the receiver waits for that
// in vain and must be told, and what else was refused, the views, is late already.
func (s *stream) keepLocked(b *batch) {
	if b.before != s.tip {
		s.fills = append(s.fills, &batch{kind: "fill", before: s.tip, first: b.before + 1})
		s.retry = true
	}
	now := time.Now()
	for i, blob := range b.blobs {
		number := b.first + uint64(i)
		s.window = append(s.window, sent{number: number, before: s.tip, blob: blob, at: now})
		s.held += len(blob)
		s.tip = number
	}
	s.trimLocked(now.Add(-2 * s.r.cfg.Lease))
}

// oweLocked keeps the views of a batch that Redis did not take. They are not for a node that is known to be dead;
// one without a lease may not have renewed it yet after Redis lost its data.
func (s *stream) oweLocked(records []*record) {
	for _, rec := range records {
		if rec.kind != recordView {
			continue
		}
		if old := s.owed[rec.change.Room]; old == nil || old.change.Version < rec.change.Version {
			s.owed[rec.change.Room] = rec
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

// drop throws away what waits. What was sent is kept as long as ever: a node that was taken for dead may come back
// and ask for it.
func (s *stream) drop(err error) {
	s.mu.Lock()
	queue := s.queue
	s.queue, s.queued, s.fills, s.again = nil, 0, nil, false
	clear(s.owed)
	s.mu.Unlock()
	if slices.ContainsFunc(queue, func(rec *record) bool { return rec.of != nil }) {
		s.r.answers.add(func() { s.finish(queue, err) }) // The caller may hold a lock.
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
		t := time.NewTimer(minPace)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("telling node %s the end: %w", s.node, ctx.Err())
		}
	}
}

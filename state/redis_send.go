package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// publishTimeout bounds a publish, with the connection that it may need first. What is not answered by
	// then has an unknown outcome, and is tried again.
	publishTimeout = 5 * time.Second
	// maxPublishes bounds the publishes at a time, of all streams together. They have connections of their
	// own in the pool, so that neither they nor the scripts make the other wait.
	maxPublishes = 32
)

// sending is a message on its way to several nodes.
type sending struct {
	left atomic.Int32 // the copies of which it is not known what became, and one while Send runs
	errs []error
	done func([]error)
}

// settle notes what became of a copy. Whoever notes the last one calls done.
func (s *sending) settle(copy int, node string, err error) {
	if err != nil {
		s.errs[copy] = fmt.Errorf("sending to node %s: %w", node, err)
	}
	if s.left.Add(-1) == 0 {
		s.done(s.errs)
	}
}

// Send hands a message to other nodes, to all at once, in the order of the calls, and does not wait: it may
// be called under a lock. It calls done once, from another goroutine, with what became of each copy: nil when
// Redis has taken it and that node was listening, ErrNoNode when the node is gone, which was not given it, and
// ErrUnavailable when Redis is away or the node does not listen, or when too much waits before it, some seconds
// at most; it was not given the message then and will not be. What Redis may have taken when it was lost is answered when it is
// back; see insist. If that cannot be waited for, or the node has died, there is ErrUncertain as well. A sender need not wait
// for done before it sends more.
func (r *Redis) Send(m Message, copies []Copy, done func([]error)) {
	m.Node = r.id
	all := &sending{errs: make([]error, len(copies)), done: done}
	all.left.Store(int32(len(copies)) + 1)
	now := time.Now()
	for i, c := range copies {
		m.Receivers = c.Receivers
		rec := &record{kind: recordMessage, message: m, at: now, of: all, copy: i}
		if err := r.queue(c.Node, rec); err != nil {
			all.settle(i, c.Node, err) // Which is not the last yet.
		}
	}
	if all.left.Add(-1) == 0 {
		r.answers.add(func() { done(all.errs) }) // The caller may hold what done takes.
	}
}

// queue gives a message to the stream to a node.
func (r *Redis) queue(node string, rec *record) error {
	r.mu.Lock()
	dead := r.dead[node] != nil
	hopeless := r.lapsed() != nil || errors.Is(r.down, errLapsed) || r.down != nil && time.Since(r.fell) > insistTime
	s := r.streamLocked(node)
	r.mu.Unlock()
	switch {
	case hopeless:
		return ErrUnavailable
	case dead:
		return ErrNoNode
	case !s.push(rec):
		return fmt.Errorf("too much is waiting: %w", ErrUnavailable)
	}
	return nil
}

// finish tells those who sent the messages among records what became of them. The caller holds no lock.
func (s *stream) finish(records []*record, err error) {
	for _, rec := range records {
		if rec.of != nil {
			rec.of.settle(rec.copy, s.node, err)
		}
	}
}

// publish hands a packet to a node, when it is its turn among all publishes; see publishNow.
func (r *Redis) publish(kind, node string, payload []byte) error {
	select {
	case r.publishes <- struct{}{}:
		defer func() { <-r.publishes }()
	case <-r.ctx.Done():
		return fmt.Errorf("waiting for a turn to publish: %w", ErrUnavailable)
	}
	return r.publishNow(kind, node, payload)
}

// mayHaveArrived reports whether Redis may have got a command that failed with an error: it did not refuse it, and there was a
// connection.
func mayHaveArrived(err error) bool {
	var answer redis.Error
	var broken *net.OpError
	switch {
	case errors.As(err, &answer), errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrClosed):
		return false
	}
	return !errors.As(err, &broken) || broken.Op != "dial"
}

// publishNow hands a packet to a node; the caller has a turn. It fails with ErrNoNode when the node is gone,
// with ErrUnavailable when it does not listen or Redis does not answer.
func (r *Redis) publishNow(kind, node string, payload []byte) error {
	if err := r.lapsed(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := r.silent(r.channel(node)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	ctx, cancel := context.WithTimeout(r.ctx, publishTimeout)
	defer cancel()
	r.metrics.trips.WithLabelValues(kind).Inc()
	began := time.Now()
	var cmd *redis.IntCmd
	if r.cluster != nil {
		cmd = r.client.SPublish(ctx, r.channel(node), payload)
	} else {
		cmd = r.client.Publish(ctx, r.channel(node), payload)
	}
	heard, err := cmd.Result()
	if err != nil {
		r.metrics.failures.WithLabelValues("error").Inc()
		if mayHaveArrived(err) {
			err = fmt.Errorf("%w: %w", ErrUncertain, err)
		}
		return r.failed(ctx, kind, err)
	}
	r.distance.note(time.Since(began))
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

// distance is how long a round trip to Redis takes, smoothed. The zero one is near.
type distance struct{ nanoseconds atomic.Int64 }

func (d *distance) note(took time.Duration) {
	old := d.nanoseconds.Load()
	smoothed := old + (int64(took)-old)/8
	if old == 0 {
		smoothed = int64(took)
	}
	d.nanoseconds.CompareAndSwap(old, smoothed) // Who comes second at a time may as well not count.
}

func (d *distance) roundTrip() time.Duration { return time.Duration(d.nanoseconds.Load()) }

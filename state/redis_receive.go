package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
	// askEvery is the least time between two requests to one node to repeat.
	askEvery = 250 * time.Millisecond
)

// position is what a node knows of the stream from another. It is kept for as long as the process
// lives, since a node that comes back must not be heard twice.
type position struct {
	seen  uint64    // the number of the last record that was delivered
	gap   bool      // records are missing
	asked time.Time // when they were asked for
}

// listen is the goroutine that holds the node's one subscription and rebuilds it when it breaks.
func (r *Redis) listen() {
	wait := minBackoff
	for {
		heard, err := r.hear()
		if r.ctx.Err() != nil {
			return
		}
		r.trip(fmt.Errorf("subscription: %w", err))
		if wait = min(2*wait, maxBackoff); heard {
			wait = minBackoff
		}
		if !r.pause(time.Now().Add(wait)) {
			return
		}
	}
}

// hear subscribes and handles what comes until the subscription breaks or is silent for longer than
// the probes allow. It reports whether there was a subscription.
func (r *Redis) hear() (bool, error) {
	sub := r.subscribe()
	defer func() { _ = sub.Close() }()
	if !r.hold(sub) {
		return false, context.Canceled
	}
	first, err := sub.ReceiveTimeout(r.ctx, opTimeout)
	if err != nil {
		return false, err
	}
	if _, ok := first.(*redis.Subscription); !ok {
		return false, fmt.Errorf("%T before the confirmation", first)
	}
	wake(r.poke) // A probe shows whether it works.
	for {
		next, err := sub.ReceiveTimeout(r.ctx, 2*r.cfg.Beat+opTimeout)
		if err != nil {
			return true, err
		}
		switch m := next.(type) {
		case *redis.Message:
			r.receive([]byte(m.Payload))
		case *redis.Subscription:
			return true, errors.New("it was ended by Redis") // As when a slot moves to another master.
		}
	}
}

func (r *Redis) subscribe() *redis.PubSub {
	if r.cluster != nil {
		return r.cluster.SSubscribe(r.ctx, r.channel(r.id))
	}
	return r.client.Subscribe(r.ctx, r.channel(r.id))
}

// hold lets others close the subscription. It reports false when the node has ended.
func (r *Redis) hold(sub *redis.PubSub) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sub = sub
	return r.ctx.Err() == nil
}

// receive handles one publish for this node.
func (r *Redis) receive(payload []byte) {
	p, err := decodePacket(payload)
	if err != nil {
		r.log.Warn("reading what was published for this node", "node", r.id, "error", err)
		return
	}
	switch p.kind {
	case packetProbe:
		r.echo(p.number)
	case packetAsk:
		r.mu.Lock()
		s := r.streamLocked(p.source)
		r.mu.Unlock()
		s.repeat(p.number)
	case packetBatch:
		r.receiveBatch(p)
	}
}

// receiveBatch delivers what is new in a batch, in order. When something before it is missing, it is
// asked for, and comes again together with what follows; or it is known to be lost.
func (r *Redis) receiveBatch(p packet) {
	r.mu.Lock()
	delete(r.dead, p.source)
	at := r.positions[p.source]
	if at == nil {
		at = &position{}
		r.positions[p.source] = at
	}
	missing := at.seen < p.before
	if missing && !p.lost {
		at.gap = true
		r.mu.Unlock()
		r.askFor(p.source)
		return
	}
	if missing {
		at.seen = p.before
	}
	at.gap = false
	skip := min(uint64(len(p.records)), max(at.seen+1, p.first)-p.first)
	at.seen = max(at.seen, p.first+uint64(len(p.records))-1)
	r.mu.Unlock()
	if missing {
		r.lose(p.source)
	}
	for _, rec := range p.records[skip:] {
		r.deliver(p.source, rec)
	}
}

func (r *Redis) deliver(source string, rec record) {
	switch rec.kind {
	case recordMessage:
		r.events.Message(rec.message)
	case recordView:
		r.log.Debug("room heard of", "node", r.id, "from", source, "room", rec.change.Room, "version", rec.change.Version, "members", len(rec.change.Members))
		if v, news := r.update(rec.change); news {
			r.events.View(v)
		}
	case recordBye:
		r.farewell(source)
	}
}

// lose notes that something a node sent is lost: the rooms it is in are compared.
func (r *Redis) lose(source string) {
	r.log.Warn("what a node sent is lost", "node", r.id, "from", source)
	r.mu.Lock()
	for room, m := range r.rooms {
		for _, e := range m.members {
			if e.Node == source {
				r.dirty[room] = struct{}{}
			}
		}
	}
	r.mu.Unlock()
	r.metrics.resyncs.WithLabelValues("lost").Inc()
	wake(r.work)
	r.events.Lost(source)
}

// farewell notes that a node has ended in good order.
func (r *Redis) farewell(source string) {
	r.mu.Lock()
	if r.peers[source] != nil {
		r.dieLocked(source)
	}
	r.mu.Unlock()
	wake(r.work)
}

// askFor asks a node to repeat what is missing, not too often.
func (r *Redis) askFor(source string) {
	r.mu.Lock()
	at := r.positions[source]
	soon := at != nil && time.Since(at.asked) < askEvery
	var seen uint64
	if at != nil && !soon {
		at.asked = time.Now()
		seen = at.seen
	}
	r.mu.Unlock()
	if soon {
		return
	}
	r.metrics.resyncs.WithLabelValues("gap").Inc()
	r.spawn(func() {
		_ = r.publish("ask", source, encodeNumber(packetAsk, r.id, seen)) // The next beat repeats it.
	})
}

// askAround asks nodes to repeat what this one missed: all after an outage, else those of which
// something is missing. Who cannot be reached is asked again with the next beat.
func (r *Redis) askAround() {
	r.mu.Lock()
	var sources []string
	for id := range r.peers {
		if at := r.positions[id]; id != r.id && (r.asks[id] || at != nil && at.gap) {
			sources = append(sources, id)
		}
	}
	clear(r.asks)
	r.mu.Unlock()
	each(sources, func(id string) {
		r.mu.Lock()
		var seen uint64
		if at := r.positions[id]; at != nil {
			seen = at.seen
		}
		r.mu.Unlock()
		err := r.publish("ask", id, encodeNumber(packetAsk, r.id, seen))
		if err != nil && !errors.Is(err, ErrNoNode) {
			r.mu.Lock()
			r.asks[id] = true
			r.mu.Unlock()
		}
	})
}

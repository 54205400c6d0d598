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
	// minSettle and maxSettle bound how long the receiver waits for what is missing before a batch: about as long
	// as a round trip to Redis takes, since it may be on its way by another connection.
	minSettle = 25 * time.Millisecond
	maxSettle = time.Second
	// askEvery is the least time between two requests to one node to repeat the same.
	askEvery = 250 * time.Millisecond
)

// listen is the goroutine that holds the node's one subscription and rebuilds it when it breaks.
func (r *Redis) listen() {
	wait := minBackoff
	for {
		r.pickChannel()
		heard, err := r.hear()
		if r.ctx.Err() != nil {
			return
		}
		if heard {
			r.doubtAll()
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
		next, err := sub.ReceiveTimeout(r.ctx, r.cfg.Beat+2*opTimeout)
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
	r.metrics.unknown.WithLabelValues("field").Add(float64(p.fields))
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
	default:
		r.metrics.unknown.WithLabelValues("packet").Inc()
	}
}

// receiveBatch delivers what is new in a batch, in order, and what was kept behind it.
func (r *Redis) receiveBatch(p packet) {
	r.mu.Lock()
	if r.dead[p.source] != nil {
		wake(r.poke) // It may live again, or have sent this before.
	}
	at := r.positionLocked(p.source)
	records, lost := at.take(p)
	chase := len(at.early) > 0 && !at.chased
	at.chased = at.chased || chase
	r.mu.Unlock()
	r.hand(p.source, records, lost)
	if chase {
		r.spawn(func() { r.chase(p.source, at) })
	}
}

// hand gives to the node what another sent; lost says that something before it is not there and will not come.
// It is called by the goroutine that delivers.
func (r *Redis) hand(source string, records []record, lost bool) {
	if lost {
		r.lose(source)
	}
	for _, rec := range records {
		r.deliver(source, rec)
	}
}

func (r *Redis) deliver(source string, rec record) {
	switch rec.kind {
	case recordMessage:
		r.events.Message(rec.message)
	case recordView:
		r.log.Debug("room heard of", "node", r.id, "from", source, "room", rec.change.Room, "version", rec.change.Version, "members", len(rec.change.Members))
		if v, news := r.update(source, rec.change); news {
			r.events.View(v)
			return
		}
		r.events.Said(rec.change.view(source))
	case recordBye:
		r.farewell(source)
	case recordBroken:
		r.lose(source)
	default:
		r.metrics.unknown.WithLabelValues("record").Inc()
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

// lastWords delivers, once a node is dead, what was kept behind a hole that nobody will fill, and tells the hole.
// It tells as well when something may be missing of which nothing is known, since this node was deaf meanwhile.
func (r *Redis) lastWords(source string) {
	r.mu.Lock()
	at := r.positionLocked(source)
	lost := at.unsure || len(at.early) > 0
	records := at.skipTo(at.farthest())
	at.unsure = false
	r.mu.Unlock()
	r.hand(source, records, lost)
}

// doubtAll notes that the subscription broke: of no node it is known whether all that it sent was heard, until it
// says where its stream ends.
func (r *Redis) doubtAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for node := range r.peers {
		if node != r.id {
			r.positionLocked(node).unsure = true
		}
	}
}

// chase asks a node to repeat what is missing before what came, unless that comes by itself within about a round
// trip, and asks again, ever more rarely, until it is there.
func (r *Redis) chase(source string, at *position) {
	var missing uint64
	wait := time.Duration(0)
	for {
		r.mu.Lock()
		whole, seen := len(at.early) == 0, at.seen
		at.chased = !whole
		r.mu.Unlock()
		switch {
		case whole:
			return
		case wait == 0 || seen != missing: // Another hole, which may fill by itself.
			missing = seen
			wait = min(max(r.distance.roundTrip(), minSettle), maxSettle)
		default:
			r.ask(source, seen)
			wait = min(max(3*wait, askEvery), r.cfg.Lease)
		}
		if !r.pause(time.Now().Add(wait)) {
			return
		}
	}
}

// ask asks a node for everything after a number.
func (r *Redis) ask(source string, seen uint64) {
	r.metrics.resyncs.WithLabelValues("gap").Inc()
	if err := r.publish("ask", source, encodeNumber(packetAsk, r.id, seen)); err != nil {
		r.log.Debug("asking for what is missing", "node", r.id, "from", source, "error", err)
	}
}

// askAround asks the nodes of which this one may have missed something after an outage. Who cannot be reached is
// asked again with the next beat.
func (r *Redis) askAround() {
	r.mu.Lock()
	var sources []string
	for id := range r.peers {
		if id != r.id && r.asks[id] {
			sources = append(sources, id)
		}
	}
	clear(r.asks)
	r.mu.Unlock()
	each(sources, func(id string) {
		r.mu.Lock()
		seen := r.positionLocked(id).seen
		r.mu.Unlock()
		err := r.publish("ask", id, encodeNumber(packetAsk, r.id, seen))
		if err != nil && !errors.Is(err, ErrNoNode) {
			r.mu.Lock()
			r.asks[id] = true
			r.mu.Unlock()
		}
	})
}

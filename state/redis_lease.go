package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// peer is another node that is not known to be dead, or this one, as the last beat showed it.
type peer struct {
	info   NodeInfo
	alive  bool      // its lease was good then
	listed bool      // it had a lease, if not a good one: nobody has buried it
	expiry time.Time // the end of its lease, or when to take it for dead if it has none
	at     time.Time // when this node heard that
}

// keep is the goroutine that keeps the node alive: it beats, and when a beat fails it tries again
// soon.
func (r *Redis) keep() {
	backoff := minBackoff
	for {
		next := time.Now().Add(r.cfg.Beat)
		due, err := r.beat()
		if err != nil {
			r.trip(err)
		}
		if r.Ready() != nil {
			next = time.Now().Add(backoff)
			backoff = min(2*backoff, maxBackoff)
		} else {
			backoff = minBackoff
			if due.Before(next) {
				next = due
			}
		}
		if !r.rest(next) {
			return
		}
	}
}

// rest waits until a time, or until somebody wants a beat. It reports false when the node ends.
func (r *Redis) rest(until time.Time) bool {
	t := time.NewTimer(max(time.Until(until), time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.poke:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// beat renews the lease, learns how the cluster stands and sends a probe. It costs the same
// whatever the number of rooms and members. It returns when the next lease of another node ends.
func (r *Redis) beat() (due time.Time, err error) {
	masters, err := r.findMasters(r.ctx)
	if err != nil {
		return due, err
	}
	r.feelPulse()
	defer r.awake(time.Now())
	if err := r.lapsed(); err != nil {
		r.trip(err)
	}
	ctx, cancel := context.WithTimeout(r.ctx, opTimeout)
	defer cancel()
	began := time.Now()
	r.metrics.trips.WithLabelValues("beat").Inc()
	raw, err := leaseScript.Run(ctx, r.client, directoryKeys(r.cfg.Prefix), r.leaseArgs()...).Slice()
	if err != nil {
		return r.beatWithoutLease(fmt.Errorf("renewing the lease: %w", err))
	}
	l, err := parseLease(raw)
	if err != nil {
		return due, err
	}
	now := time.Now()
	r.distance.note(now.Sub(began))
	r.renewed.Store(&began) // Not later than Redis began to count.
	r.beats.Store(true)
	r.covered.Store(true) // All masters have been asked.
	r.skew.Store(l.now - began.Add(now.Sub(began)/2).Sub(r.started).Microseconds())
	if r.unrenewable.Swap(false) {
		r.mu.Lock()
		r.doubtLocked() // The others need time to renew theirs.
		r.mu.Unlock()
	}
	r.spreadSecrets(l) // Before the other nodes are: who has heard of one has heard of the secrets that it shares.
	due = r.learn(l, masters, began)
	r.tend()
	wake(r.work)
	return due, r.sendProbe(r.ctx)
}

// beatWithoutLease is a beat of which the lease could not be renewed, for a reason. If that concerns a part of
// Redis alone, the node goes on, and tries again soon.
func (r *Redis) beatWithoutLease(err error) (due time.Time, _ error) {
	if !r.ofPart(err) {
		return due, err
	}
	r.unrenewable.Store(r.nobodyRenews(r.ctx, err))
	r.tend()
	wake(r.work)
	return time.Now().Add(maxBackoff), r.sendProbe(r.ctx)
}

func (r *Redis) leaseArgs() []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.info.ID, r.info.Secrets, r.info.Channel = r.id, r.fingerprintsLocked(), r.tag(r.id)
	info, err := json.Marshal(r.info.speak())
	if err != nil {
		panic(err) // It is made of texts and numbers.
	}
	var until int64
	var bury int
	if now := time.Now(); r.down == nil {
		until = r.clock(now.Add(r.cfg.Beat)) / 1000
		if now.After(r.calm) && now.Sub(*r.renewed.Load()) <= 2*r.cfg.Beat { // Else the others may be as late.
			bury = 1
		}
	}
	args := []any{r.id, r.cfg.Lease.Milliseconds(), info, until, r.roomTTL().Milliseconds(), r.cfg.Grace.Milliseconds(), bury}
	for name, value := range r.secrets {
		args = append(args, name, value, len(r.told[name]) > 0)
	}
	return args
}

func (r *Redis) sendProbe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r.metrics.trips.WithLabelValues("probe").Inc()
	probe := encodeNumber(packetProbe, r.id, r.probe.Add(1))
	var err error
	if r.cluster != nil {
		err = r.client.SPublish(ctx, r.channel(r.id), probe).Err()
	} else {
		err = r.client.Publish(ctx, r.channel(r.id), probe).Err()
	}
	if err != nil && !r.ofPart(err) {
		return fmt.Errorf("sending a probe: %w", err)
	}
	return nil // The subscription moves to a master that works.
}

// lease is the reply of the lease script.
type lease struct {
	now     int64 // Redis' clock, µs
	had     int64 // the end of the lease that the node had before, 0 for none
	buried  bool  // it had been declared dead
	nodes   map[string]int64
	infos   map[string]NodeInfo
	dead    map[string]int64
	sweep   []string
	secrets map[string]string
}

func parseLease(raw []any) (lease, error) {
	if len(raw) != 8 {
		return lease{}, errReply
	}
	now, _ := raw[0].(string)
	had, _ := raw[1].(string)
	buried, _ := raw[2].(int64)
	l := lease{buried: buried == 1, infos: map[string]NodeInfo{}, secrets: pairs(raw[7])}
	var errs [4]error
	l.now, errs[0] = strconv.ParseInt(now, 10, 64)
	l.had, errs[3] = strconv.ParseInt(had, 10, 64)
	l.nodes, errs[1] = parseTimes(raw[3])
	l.dead, errs[2] = parseTimes(raw[5])
	for node, text := range pairs(raw[4]) {
		var info NodeInfo
		if json.Unmarshal([]byte(text), &info) == nil {
			info.ID = node
			l.infos[node] = info
		}
	}
	sweep, _ := raw[6].([]any)
	for _, node := range sweep {
		l.sweep = append(l.sweep, fmt.Sprint(node))
	}
	return l, errors.Join(errs[:]...)
}

// parseTimes reads (node, ms) pairs.
func parseTimes(raw any) (map[string]int64, error) {
	times := map[string]int64{}
	for node, text := range pairs(raw) {
		ms, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, errReply
		}
		times[node] = int64(ms)
	}
	return times, nil
}

func pairs(raw any) map[string]string {
	fields, _ := raw.([]any)
	out := map[string]string{}
	for i := 0; i+1 < len(fields); i += 2 {
		out[fmt.Sprint(fields[i])] = fmt.Sprint(fields[i+1])
	}
	return out
}

// learn takes over how the cluster stood after a beat that began at a time: who lives, who died, and that
// Redis is not what it was, since it is another process or has forgotten this node. It returns when the next
// lease or grace ends.
func (r *Redis) learn(l lease, masters map[string]master, began time.Time) time.Time {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := r.mastersChangedLocked(masters)
	lapsed := l.had == 0
	r.reassureLocked(l, began)
	if r.beaten && lapsed || changed {
		r.log.Info("shared state was lost or this node taken for dead", "node", r.id, "lapsed", lapsed, "buried", l.buried, "other_redis", changed)
		r.suspected = now
		r.doubtLocked()
		r.distrustLocked(now)
	}
	r.missed = r.missed || l.buried // Who took this node for dead sent it nothing.
	r.beaten = true
	if changed && r.sub != nil {
		_ = r.sub.Close() // It may be with the Redis that was.
	}
	for _, p := range r.peers {
		p.alive, p.listed = false, false
	}
	for node, end := range l.nodes {
		if d := r.dead[node]; d != nil && (d.ended || began.Before(d.since)) {
			continue // Its lease ends in a moment, or the reply is older than its death.
		}
		r.reviveLocked(node)
		left := time.Duration(end-l.now/1000) * time.Millisecond
		info := l.infos[node]
		r.heardProtocolLocked(&info)
		r.compareSecretsLocked(info)
		if node != r.id {
			r.tags.Store(node, info.Channel)
		}
		r.peers[node] = &peer{info: info, alive: left > 0, listed: true, expiry: now.Add(left), at: now}
	}
	r.learnDeathsLocked(l.dead, began)
	for node := range l.dead {
		if info, announced := l.infos[node]; announced && r.dead[node] != nil {
			r.dead[node].indexed = info.Protocol >= indexProtocol
		}
	}
	r.sweeps = append(r.sweeps, l.sweep...)
	return r.reviewLocked(now)
}

// reviewLocked finds the nodes whose lease has ended and those that rooms name and that have none, and
// returns when the next lease or grace ends.
func (r *Redis) reviewLocked(now time.Time) (due time.Time) {
	named := map[string]bool{}
	for room, m := range r.rooms {
		if now.Sub(m.touched) > r.roomTTL()/3 {
			r.dirty[room] = struct{}{} // Which makes Redis keep it for longer.
		}
		for _, e := range m.members {
			named[e.Node] = true
			r.rumourLocked(e.Node, now)
		}
	}
	due = now.Add(r.cfg.Lease)
	for node, p := range r.peers {
		switch {
		case node == r.id:
		case !p.listed && !now.Before(p.expiry) && r.down == nil:
			r.dieLocked(node, now.Add(r.cfg.Grace))
		case p.expiry.Before(due):
			due = maxTime(p.expiry, r.calm)
		}
	}
	return minTime(due, r.reviewDeadLocked(now, named)).Add(20 * time.Millisecond)
}

// rumourLocked notes a node that a room names. Without a lease it is dead before long.
func (r *Redis) rumourLocked(node string, now time.Time) {
	if node != r.id && r.peers[node] == nil && r.dead[node] == nil {
		r.peers[node] = &peer{expiry: now.Add(r.cfg.Lease)}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// tend gives every stream what a beat brings.
func (r *Redis) tend() {
	r.mu.Lock()
	if r.down != nil {
		r.mu.Unlock()
		return
	}
	defer r.mu.Unlock()
	for node, s := range r.streams {
		if r.dead[node] != nil {
			s.age()
		} else {
			s.tend(r.flightsLocked(node))
		}
	}
}

// release ends the lease of this node, which stops. If it leaves members behind, they have its grace.
func (r *Redis) release(ctx context.Context, orphans bool) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var grace any = ""
	if orphans {
		grace = r.cfg.Grace.Milliseconds()
	}
	r.metrics.trips.WithLabelValues("release").Inc()
	keys := directoryKeys(r.cfg.Prefix)
	if err := releaseScript.Run(ctx, r.client, keys, r.id, grace, r.roomTTL().Milliseconds()).Err(); err != nil {
		return fmt.Errorf("ending the lease: %w", err)
	}
	if orphans {
		return nil
	}
	if err := r.client.Del(ctx, r.indexKey(r.id)).Err(); err != nil {
		return fmt.Errorf("removing the index of rooms: %w", err)
	}
	return nil
}

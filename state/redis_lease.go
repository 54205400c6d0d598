package state

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// peer is another node, or this one, as the last beat showed it.
type peer struct {
	info   NodeInfo
	alive  bool      // its lease was good then
	listed bool      // it had a lease, if not a good one: nobody has buried it
	expiry time.Time // the end of its lease, or when to take it for dead if it has none
	// rumoured says that only rooms tell of it, none of the leases since Redis may have lost them. When
	// it is dead, nobody else may know that its rooms must be swept.
	rumoured bool
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
			r.settle()
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
	ctx, cancel := context.WithTimeout(r.ctx, opTimeout)
	defer cancel()
	masters, err := r.findMasters(ctx)
	if err != nil {
		return due, err
	}
	began := time.Now()
	r.metrics.trips.WithLabelValues("beat").Inc()
	raw, err := leaseScript.Run(ctx, r.client, directoryKeys(r.cfg.Prefix), r.leaseArgs()...).Slice()
	if err != nil {
		return due, fmt.Errorf("renewing the lease: %w", err)
	}
	l, err := parseLease(raw)
	if err != nil {
		return due, err
	}
	now := time.Now()
	r.distance.note(now.Sub(began))
	r.renewed.Store(&now)
	r.skew.Store(l.now - began.Add(now.Sub(began)/2).Sub(r.started).Microseconds())
	due = r.learn(l, masters)
	r.spreadSecrets(l)
	r.tend()
	wake(r.work)
	r.metrics.trips.WithLabelValues("probe").Inc()
	if err := r.sendProbe(ctx); err != nil {
		return due, fmt.Errorf("sending a probe: %w", err)
	}
	return due, nil
}

func (r *Redis) leaseArgs() []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.info.ID = r.id
	info, err := json.Marshal(r.info.speak())
	if err != nil {
		panic(err) // It is made of texts and numbers.
	}
	var bury int64
	if now := time.Now(); r.down == nil && now.After(r.calm) {
		bury = r.clock(now.Add(r.cfg.Beat)) / 1000
	}
	args := []any{r.id, r.cfg.Lease.Milliseconds(), info, bury, r.roomTTL().Milliseconds()}
	for name, value := range r.secrets {
		args = append(args, name, value)
	}
	return args
}

func (r *Redis) sendProbe(ctx context.Context) error {
	probe := encodeNumber(packetProbe, r.id, r.probe.Add(1))
	if r.cluster != nil {
		return r.client.SPublish(ctx, r.channel(r.id), probe).Err()
	}
	return r.client.Publish(ctx, r.channel(r.id), probe).Err()
}

// lease is the reply of the lease script.
type lease struct {
	now     int64 // Redis' clock, µs
	had     bool  // the node had a lease before
	nodes   map[string]int64
	infos   map[string]NodeInfo
	sweep   []string
	secrets map[string]string
}

func parseLease(raw []any) (lease, error) {
	if len(raw) != 6 {
		return lease{}, errReply
	}
	now, _ := raw[0].(string)
	had, _ := raw[1].(int64)
	l := lease{had: had == 1, nodes: map[string]int64{}, infos: map[string]NodeInfo{}}
	var err error
	if l.now, err = strconv.ParseInt(now, 10, 64); err != nil {
		return lease{}, errReply
	}
	for node, text := range pairs(raw[2]) {
		end, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return lease{}, errReply
		}
		l.nodes[node] = int64(end)
	}
	for node, text := range pairs(raw[3]) {
		var info NodeInfo
		if json.Unmarshal([]byte(text), &info) == nil {
			info.ID = node
			l.infos[node] = info
		}
	}
	sweep, _ := raw[4].([]any)
	for _, node := range sweep {
		l.sweep = append(l.sweep, fmt.Sprint(node))
	}
	l.secrets = pairs(raw[5])
	return l, nil
}

func pairs(raw any) map[string]string {
	fields, _ := raw.([]any)
	out := map[string]string{}
	for i := 0; i+1 < len(fields); i += 2 {
		out[fmt.Sprint(fields[i])] = fmt.Sprint(fields[i+1])
	}
	return out
}

// learn takes over how the cluster stands, notices who died, and that Redis is not what it was: it
// is another process, or has forgotten this node. It returns when the next lease ends.
func (r *Redis) learn(l lease, masters map[string]master) time.Time {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := r.mastersChangedLocked(masters)
	if r.beaten && !l.had || changed {
		r.log.Info("shared state was lost or this node taken for dead", "node", r.id, "lapsed", !l.had, "other_redis", changed)
		r.doubtLocked("recovery")
	}
	r.beaten = true
	if changed && r.sub != nil {
		_ = r.sub.Close() // It may be with the Redis that was.
	}
	for _, p := range r.peers {
		p.alive, p.listed = false, false
	}
	for node, end := range l.nodes {
		left := time.Duration(end-l.now/1000) * time.Millisecond
		info := l.infos[node]
		r.heardProtocolLocked(&info)
		r.peers[node] = &peer{info: info, alive: left > 0, listed: true, expiry: now.Add(left)}
		delete(r.dead, node)
	}
	for _, node := range l.sweep {
		r.sweeps = append(r.sweeps, node)
		if r.peers[node] != nil {
			r.dieLocked(node)
		}
	}
	return r.reviewLocked(now)
}

// reviewLocked finds the nodes whose lease has ended, and those that rooms name and that have none,
// and returns when the next one is due.
func (r *Redis) reviewLocked(now time.Time) (due time.Time) {
	for room, m := range r.rooms {
		if now.Sub(m.touched) > r.roomTTL()/3 {
			r.dirty[room] = struct{}{} // Which makes Redis keep it for longer.
		}
		for _, e := range m.members {
			r.rumourLocked(e.Node, now)
		}
	}
	due = now.Add(r.cfg.Lease)
	for node, p := range r.peers {
		switch {
		case node == r.id:
		case !p.listed && !now.Before(p.expiry) && r.down == nil:
			r.dieLocked(node)
		case p.expiry.Before(due):
			due = maxTime(p.expiry, r.calm)
		}
	}
	maps.DeleteFunc(r.dead, func(_ string, since time.Time) bool { return now.Sub(since) > 10*r.cfg.Lease })
	return due.Add(20 * time.Millisecond)
}

// rumourLocked notes a node that a room names. Without a lease it is dead before long.
func (r *Redis) rumourLocked(node string, now time.Time) {
	if node != r.id && r.peers[node] == nil {
		r.peers[node] = &peer{expiry: now.Add(r.cfg.Lease), rumoured: true}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// dieLocked takes a node for dead.
func (r *Redis) dieLocked(node string) {
	if p := r.peers[node]; p != nil && p.rumoured && !slices.Contains(r.sweeps, node) {
		r.sweeps = append(r.sweeps, node)
	}
	delete(r.peers, node)
	r.dead[node] = time.Now()
	if !slices.Contains(r.graves, node) {
		r.graves = append(r.graves, node)
	}
	if s := r.streams[node]; s != nil {
		s.drop(ErrNoNode)
	}
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
		if _, dead := r.dead[node]; dead {
			s.age()
		} else {
			s.tend(r.flightsLocked(node))
		}
	}
}

// release ends the leases of nodes that ended, or their burial.
func (r *Redis) release(ctx context.Context, nodes ...string) error {
	args := make([]any, len(nodes))
	for i, node := range nodes {
		args[i] = node
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r.metrics.trips.WithLabelValues("release").Inc()
	if err := releaseScript.Run(ctx, r.client, directoryKeys(r.cfg.Prefix), args...).Err(); err != nil {
		return fmt.Errorf("ending a lease: %w", err)
	}
	return nil
}

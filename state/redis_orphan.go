package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Orphans are the members of a dead node. To find them without looking at every room, each node keeps an
// index in Redis: a hash whose fields are the rooms that it has members in (a hash, because an ACL that serves
// for rooms serves for it too). A room is added in the pipeline of the script that brings the first member
// there, before it, and with every assertion, so that the index is restored as rooms are; it is removed
// later, with a beat, when no member of the node is left in it. So it may name too many rooms, never too few.

const (
	// indexProtocol is the first protocol whose nodes keep an index; for others all rooms are looked at.
	indexProtocol = 2
	// readRooms bounds the rooms that one round trip reads.
	readRooms = 256
	// spreading is for how long Redis keeps a death at least, whatever the grace, so that all nodes hear of it with
	// their next look. Who does not would take the node for alive until the end of its lease, and for one that
	// Redis has lost then.
	spreading = opTimeout + watchEvery
)

// indexKey is the index of a node's rooms.
func (r *Redis) indexKey(node string) string { return r.cfg.Prefix + "{i:" + node + "}" }

// runIndexed runs a script on a room, after what it needs in the indexes.
func (r *Redis) runIndexed(ctx context.Context, kind string, script *redis.Script, room string, args []any) (any, error) {
	key := []string{r.roomKey(room)}
	nodes := r.toIndex(kind, room)
	if len(nodes) == 0 {
		return script.Run(ctx, r.client, key, args...).Result()
	}
	pipe := r.client.Pipeline()
	var adds []redis.Cmder
	for _, node := range nodes {
		adds = append(adds, pipe.HSet(ctx, r.indexKey(node), room, ""), pipe.PExpire(ctx, r.indexKey(node), r.roomTTL()))
	}
	cmd := script.EvalSha(ctx, pipe, key, args...)
	_, _ = pipe.Exec(ctx) // Each command has its own error.
	if slices.ContainsFunc(adds, func(c redis.Cmder) bool { return c.Err() != nil }) {
		r.mu.Lock()
		r.filing[room] = true
		r.mu.Unlock()
	}
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		return script.Eval(ctx, r.client, key, args...).Result()
	}
	return cmd.Result()
}

// toIndex returns the nodes to whose indexes a room must be added before a script runs on it.
func (r *Redis) toIndex(kind, room string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.rooms[room]
	if m == nil || len(m.own) == 0 {
		return nil
	}
	var nodes []string
	switch kind {
	case "assert":
		for _, e := range m.members { // They may be restored, and their nodes cannot do it.
			if r.dead[e.Node] != nil && !slices.Contains(nodes, e.Node) {
				nodes = append(nodes, e.Node)
			}
		}
	case "join", "move":
		if m.indexed {
			return nil
		}
	default:
		return nil
	}
	m.indexed = true
	return append(nodes, r.id)
}

// fileRooms brings this node's index in line with its rooms: it removes what this node has left, and adds
// what could not be added.
func (r *Redis) fileRooms(ctx context.Context) {
	r.mu.Lock()
	var add, remove []string
	for room, there := range r.filing {
		m := r.rooms[room]
		switch {
		case there && m != nil:
			add = append(add, room, "")
		case !there && m == nil:
			remove = append(remove, room)
		}
	}
	clear(r.filing)
	r.mu.Unlock()
	var errs []error
	if len(add) > 0 {
		errs = append(errs, r.client.HSet(ctx, r.indexKey(r.id), add).Err())
	}
	if len(remove) > 0 {
		r.metrics.trips.WithLabelValues("index").Inc()
		errs = append(errs, r.client.HDel(ctx, r.indexKey(r.id), remove...).Err())
	}
	r.refile(add, remove, errors.Join(errs...))
}

// refile looks again at what was filed: a room may have come back meanwhile, and then its removal may have
// come after its addition.
func (r *Redis) refile(add, remove []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, room := range remove {
		if r.rooms[room] != nil {
			r.filing[room] = true
		} else if _, again := r.filing[room]; err != nil && !again {
			r.filing[room] = false
		}
	}
	for i := 0; err != nil && i < len(add); i += 2 {
		r.filing[add[i]] = true
	}
}

// estate is what a dead node left behind, by user: whom the rooms of its index hold.
type estate struct {
	read    chan struct{} // closed when the rest is there
	members map[string][]bequest
	err     error
}

// bequest is a member in a room that a dead node was in.
type bequest struct {
	room string
	entry
}

// Adopt moves an orphan, a member that a dead node left behind, to this node, under a newer epoch and without
// a departure. It returns a view without a Room if that node had the user in no room; one node alone can adopt such a one
// as well. It fails with
// ErrNotMember when the grace is over, the node or the user unknown or a newer connection there, which the
// view has then, and with ErrUnavailable when Redis is away or the node is not known as dead, or not yet, or lives again.
func (r *Redis) Adopt(ctx context.Context, node, user string, old, epoch uint64) (View, error) {
	e, err := r.inherit(ctx, node)
	if err != nil {
		return View{}, fmt.Errorf("adopting from node %s: %w", node, err)
	}
	left, known := e.members[user]
	if !known {
		return r.adoptRoomless(ctx, node, user, epoch)
	}
	stays := slices.DeleteFunc(slices.Clone(left), func(b bequest) bool { return b.Node != node || b.Epoch > old })
	if len(stays) == 0 {
		return r.newer(ctx, node, left, old), fmt.Errorf("adopting from node %s: %w", node, ErrNotMember)
	}
	slices.SortFunc(stays, func(a, b bequest) int { return cmp.Compare(b.Joined, a.Joined) })
	v, err := r.move(ctx, stays[0].room, stays[0].member(), epoch, r.cfg.Grace+2*r.cfg.Lease, nil)
	switch {
	case err == nil:
		r.metrics.adoptions.Inc()
		r.leaveFormer(ctx, stays[1:])
	case errors.Is(err, ErrNotMember) && len(v.Members) == 0:
		v = r.newer(ctx, node, stays[:1], old)
	}
	return v, err
}

// adoptRoomless adopts one whom a dead node had in no room. No room says who is first then, so the claim stands beside the dead node's
// index.
func (r *Redis) adoptRoomless(ctx context.Context, node, user string, epoch uint64) (View, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	key := r.indexKey(node) + ":claims"
	var first *redis.StringCmd
	r.metrics.trips.WithLabelValues("claim").Inc()
	_, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSetNX(ctx, key, user, epochText(epoch)+" 0 "+r.id)
		p.PExpire(ctx, key, r.cfg.Grace+2*r.cfg.Lease)
		first = p.HGet(ctx, key, user)
		return nil
	})
	if err != nil {
		return View{}, r.failed(ctx, "claim", err)
	}
	claims, err := parseEntries([]any{user, first.Val()})
	if err != nil {
		return View{}, fmt.Errorf("reading who has adopted: %w", err)
	}
	if claims[0].Node != r.id {
		return View{Members: []Member{claims[0].member()}}, fmt.Errorf("adopting from node %s: another was first: %w", node, ErrNotMember)
	}
	return View{}, nil
}

// leaveFormer takes an orphan out of the rooms that it was leaving for the one in which it was adopted: a node joins the
// new room before it leaves the former.
func (r *Redis) leaveFormer(ctx context.Context, stays []bequest) {
	for _, b := range stays {
		if _, err := r.Leave(ctx, b.room, b.ID, b.Epoch, ReasonLeave); err != nil {
			r.log.Debug("leaving a former room", "node", r.id, "room", b.room, "error", err) // The grace will end it.
		}
	}
}

// newer returns a view that has nobody but a newer connection, at another node, of one whom a node left behind in those
// rooms. It is empty if there is none.
func (r *Redis) newer(ctx context.Context, node string, left []bequest, old uint64) View {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var names []string
	for _, b := range left {
		names = append(names, b.room)
	}
	rooms := map[string][]entry{}
	if err := r.readRooms(ctx, names, rooms); err != nil {
		return View{} // As if there were none: the client joins again.
	}
	for _, b := range left {
		for _, e := range rooms[b.room] {
			if e.ID == b.ID && e.Epoch > old && e.Node != node {
				return View{Room: b.room, Members: []Member{e.member()}}
			}
		}
	}
	return View{}
}

// inherit returns the estate of a dead node, which is read once.
func (r *Redis) inherit(ctx context.Context, node string) (*estate, error) {
	if err := r.usable(directoryKeys(r.cfg.Prefix)[0]); err != nil {
		return nil, err
	}
	r.mu.Lock()
	d, p := r.dead[node], r.peers[node]
	switch {
	case node == r.id:
		r.mu.Unlock()
		return nil, ErrNotMember
	case d != nil && !time.Now().Before(d.until): // A node that stood still may live again, with users that came to it since.
		r.mu.Unlock()
		return nil, r.lookUp(ctx, node, true)
	case p != nil:
		r.mu.Unlock()
		return nil, fmt.Errorf("it is not dead: %w", ErrUnavailable)
	case d == nil:
		r.mu.Unlock()
		return nil, r.lookUp(ctx, node, false)
	}
	e, indexed := r.estates[node], r.hasIndexLocked(d)
	mine := e == nil
	if mine {
		e = &estate{read: make(chan struct{})}
		r.estates[node] = e
	}
	r.mu.Unlock()
	if mine {
		r.readEstate(node, indexed, e)
	}
	select {
	case <-e.read:
		return e, e.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for what it left: %w", ErrUnavailable)
	}
}

// lookUp says why there is nothing to inherit from a node that this one does not know, or whose grace is over for all that it knows.
func (r *Redis) lookUp(ctx context.Context, node string, over bool) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	keys := directoryKeys(r.cfg.Prefix)
	pipe := r.client.Pipeline()
	lives, died := pipe.ZScore(ctx, keys[0], node), pipe.ZScore(ctx, keys[2], node)
	r.metrics.trips.WithLabelValues("lookup").Inc()
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return r.failed(ctx, "lookup", err)
	}
	if lives.Err() == nil || !over && died.Err() == nil {
		wake(r.poke)
		return fmt.Errorf("it is not known yet whether it is dead: %w", ErrUnavailable)
	}
	return ErrNotMember
}

func (r *Redis) readEstate(node string, indexed bool, e *estate) {
	rooms, err := r.roomsOf(r.ctx, node, indexed)
	e.members = map[string][]bequest{}
	for room, members := range rooms {
		for _, m := range members {
			e.members[m.ID] = append(e.members[m.ID], bequest{room, m})
		}
	}
	if err != nil {
		e.err = fmt.Errorf("reading what it left: %w: %w", ErrUnavailable, err)
		r.mu.Lock()
		if r.estates[node] == e {
			delete(r.estates, node)
		}
		r.mu.Unlock()
	}
	close(e.read)
}

// roomsOf reads the rooms in which a node may have members.
func (r *Redis) roomsOf(ctx context.Context, node string, indexed bool) (map[string][]entry, error) {
	var names []string
	var err error
	if indexed {
		r.metrics.trips.WithLabelValues("index").Inc()
		names, err = r.client.HKeys(ctx, r.indexKey(node)).Result()
	} else {
		names, err = r.allRooms(ctx)
	}
	if err != nil {
		return nil, err
	}
	rooms := map[string][]entry{}
	for part := range slices.Chunk(names, readRooms) {
		if err := r.readRooms(ctx, part, rooms); err != nil {
			return nil, err
		}
	}
	return rooms, nil
}

// readRooms reads who is in rooms, in one round trip.
func (r *Redis) readRooms(ctx context.Context, names []string, into map[string][]entry) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	pipe := r.client.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, len(names))
	for i, room := range names {
		cmds[i] = pipe.HGetAll(ctx, r.roomKey(room))
	}
	r.metrics.trips.WithLabelValues("read").Inc()
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	for i, cmd := range cmds {
		var fields []any
		for field, text := range cmd.Val() {
			if id, ok := strings.CutPrefix(field, "m:"); ok {
				fields = append(fields, id, text)
			}
		}
		members, err := parseEntries(fields)
		if err != nil {
			return err
		}
		into[names[i]] = members
	}
	return nil
}

// hasIndexLocked reports whether a dead node's index has all its rooms. What Redis loses it may lose from there as well, and
// the others, who bring the rooms back, do not know it.
func (r *Redis) hasIndexLocked(d *death) bool {
	return d.indexed && r.suspected.Before(d.since.Add(-2*r.cfg.Lease))
}

// sweep removes the members of dead nodes whose grace is over. Redis picks one node for it; see lease.lua.
func (r *Redis) sweep(ctx context.Context) {
	r.mu.Lock()
	dead := map[string]bool{} // node → indexed
	for _, node := range r.sweeps {
		if d := r.dead[node]; d != nil {
			dead[node] = r.hasIndexLocked(d)
		}
	}
	r.sweeps = nil
	r.mu.Unlock()
	for node, indexed := range dead {
		if err := r.clearOut(ctx, node, indexed); err != nil {
			r.log.Debug("sweeping after a dead node", "node", r.id, "dead", node, "error", err) // Somebody tries again after another lease.
		}
	}
}

// clearOut removes the members of one dead node, and then what Redis knows of it.
func (r *Redis) clearOut(ctx context.Context, node string, indexed bool) error {
	rooms, err := r.roomsOf(ctx, node, indexed)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	maps.DeleteFunc(rooms, func(_ string, members []entry) bool {
		return !slices.ContainsFunc(members, func(e entry) bool { return e.Node == node })
	})
	each(slices.Collect(maps.Keys(rooms)), func(room string) {
		err := r.reap(ctx, room, node)
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	})
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !r.isOld(node) {
		return nil // Who sweeps once more, after a lease, forgets it.
	}
	return r.forget(ctx, node)
}

// isOld reports whether a death has been known for long enough to be forgotten, or to everybody.
func (r *Redis) isOld(node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, self := r.peers[r.id]
	alone := len(r.peers) == 0 || self && len(r.peers) == 1
	d := r.dead[node]
	return alone || d == nil || time.Since(d.since) >= spreading
}

// reap removes the members of a dead node from a room and has the others told.
func (r *Redis) reap(ctx context.Context, room, dead string) error {
	rep, err := r.change(ctx, "reap", reapScript, room, 0, dead)
	if err != nil {
		return err
	}
	c := change{Room: room, Version: rep.version, Members: rep.members, Founded: rep.founded}
	for _, e := range rep.left {
		c.Left = append(c.Left, Departure{Member: e.member(), Reason: ReasonNodeLost})
	}
	if rep.changed {
		r.metrics.reaped.Add(float64(len(rep.left)))
		r.mu.Lock()
		r.tellLocked(c)
		r.mu.Unlock()
	}
	if v, news := r.update(r.id, c); news {
		r.events.View(v)
	}
	return nil
}

// forget ends the burial of a node after which nothing is left.
func (r *Redis) forget(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r.metrics.trips.WithLabelValues("release").Inc()
	gone, err := forgetScript.Run(ctx, r.client, directoryKeys(r.cfg.Prefix), node).StringSlice()
	if err != nil {
		return fmt.Errorf("ending the burial: %w", err)
	}
	if len(gone) == 0 {
		return nil // It lives again.
	}
	r.mu.Lock()
	if d := r.dead[node]; d != nil {
		d.listed, d.reaped = false, true
	}
	delete(r.estates, node)
	r.mu.Unlock()
	return r.client.Del(ctx, r.indexKey(node)).Err()
}

// allRooms returns the names of all rooms that Redis holds.
func (r *Redis) allRooms(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	found := map[string]bool{}
	prefix, suffix := r.cfg.Prefix+"{r:", "}"
	scan := func(ctx context.Context, c redis.Cmdable) error {
		var cursor uint64
		for {
			r.metrics.trips.WithLabelValues("scan").Inc()
			keys, next, err := c.Scan(ctx, cursor, prefix+"*"+suffix, 1000).Result()
			if err != nil {
				return err
			}
			mu.Lock()
			for _, key := range keys {
				found[strings.TrimSuffix(strings.TrimPrefix(key, prefix), suffix)] = true
			}
			mu.Unlock()
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	err := r.eachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return scan(ctx, c) }, scan)
	return slices.Collect(maps.Keys(found)), err
}

package state

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis may lose data without a word: its process is another one now, somebody flushed it, it evicted keys. All
// that happens to a master as a whole shows at once and at a cost that does not depend on the rooms: in what the master
// says of itself, and in a sentinel, a key with a random value in each master that whoever misses it
// writes anew: another value than before says that the data before are gone. What happens to one key shows only in
// that key, so the rooms are looked at in turn.

const (
	// dataEvery is the time between two looks at what Redis may have lost.
	dataEvery = 400 * time.Millisecond
	// checkedRooms is how many rooms each look compares, and allEvery the least time between two looks at
	// all of them, which an eviction causes.
	checkedRooms = 64
	allEvery     = 2 * time.Second
	// sentinelSlots bounds the search for a key that falls to a master, by master.
	sentinelSlots = 64
)

// master is what a Redis process that holds data says of itself.
type master struct {
	process string // it changes with a restart, or when another one has taken over
	history string // it changes when the data come from elsewhere
}

// sentinel is what a master says of what it lost.
type sentinel struct {
	value   string // that of the sentinel
	evicted string // how many keys the master has evicted
}

// watchData is the goroutine that finds out when Redis has lost rooms.
func (r *Redis) watchData() {
	tick := time.NewTicker(dataEvery)
	defer tick.Stop()
	var all time.Time
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		if r.away() != nil && r.cluster == nil {
			continue
		}
		evicted := r.inspect(r.ctx)
		rooms := r.roomsInTurn(checkedRooms)
		if evicted && time.Since(all) > allEvery {
			all = time.Now()
			rooms = r.roomsInTurn(0)
		}
		for some := range slices.Chunk(rooms, checkedRooms) {
			r.check(r.ctx, some)
		}
	}
}

// roomsInTurn returns the next rooms to look at, at most that many, or all for 0.
func (r *Redis) roomsInTurn(most int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.turn) == 0 || most == 0 {
		r.turn = slices.Collect(maps.Keys(r.rooms))
	}
	n := len(r.turn)
	if most > 0 {
		n = min(n, most)
	}
	rooms := r.turn[:n:n]
	r.turn = r.turn[n:]
	return rooms
}

// check compares what Redis has of rooms with the mirrors, by one round trip to each master concerned. Rooms
// that are gone, or founded anew, or older than the mirror, are asserted.
func (r *Redis) check(ctx context.Context, rooms []string) {
	known := map[string]mirror{}
	r.mu.Lock()
	for _, room := range rooms {
		if m := r.rooms[room]; m != nil && m.busy == 0 && m.asserting == nil && len(m.own) > 0 {
			known[room] = mirror{version: m.version, founded: m.founded}
		}
	}
	r.mu.Unlock()
	maps.DeleteFunc(known, func(room string, _ mirror) bool { return r.silent(r.roomKey(room)) != nil })
	if len(known) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r.metrics.trips.WithLabelValues("check").Inc()
	found := map[string]*redis.StringCmd{}
	_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error { // Each command has its own error.
		for room := range known {
			found[room] = p.HGet(ctx, r.roomKey(room), "v")
		}
		return nil
	})
	for room, m := range known {
		text, err := found[room].Result()
		version, founded := parseVersion(text)
		if errors.Is(err, redis.Nil) || err == nil && (version < m.version || m.lost(founded)) {
			r.log.Debug("room is lost", "node", r.id, "room", room, "known", m.version, "version", version, "founded", founded)
			r.mu.Lock()
			r.conflictLocked(room)
			r.mu.Unlock()
		}
	}
}

// parseVersion reads the version and the founding of a room; see room.lua.
func parseVersion(text string) (version, founded uint64) {
	whole, rest, _ := strings.Cut(text, ".")
	version, _ = strconv.ParseUint(whole, 10, 64)
	founded, _ = strconv.ParseUint(rest, 10, 64)
	return version, founded
}

// inspect looks whether the data of a master are gone, and reports whether some were evicted.
func (r *Redis) inspect(ctx context.Context) (evicted bool) {
	found, broken := map[string]sentinel{}, map[string]part{}
	var mu sync.Mutex
	err := r.eachData(ctx, func(ctx context.Context, addr, key string, c redis.Cmdable) error {
		s, err := r.sentinel(ctx, key, c)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			found[addr] = s
		case !errors.Is(err, redis.ErrPoolTimeout) && !redis.HasErrorPrefix(err, "MOVED") && !redis.HasErrorPrefix(err, "ASK"):
			broken[addr] = part{err, refusesWrites(err)}
		}
		return nil
	})
	if r.ctx.Err() != nil {
		return false
	}
	if silent := r.replaceBroken(broken); (err != nil || silent >= mostSlots) && r.away() == nil {
		for _, p := range broken {
			err = errors.Join(err, p.err)
		}
		r.trip(err)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := false
	for addr, now := range found {
		old, known := r.data[addr]
		lost = lost || old.value != "" && now.value != "" && old.value != now.value
		evicted = evicted || known && old.evicted != now.evicted
		r.data[addr] = now
	}
	if lost || evicted {
		r.suspected = time.Now()
	}
	if lost && r.down == nil {
		r.log.Warn("Redis lost its data, bringing it back", "node", r.id)
		r.doubtLocked()
		wake(r.work)
		wake(r.poke) // The lease may be gone too.
	}
	return evicted
}

// sentinel returns what a master says of what it lost: the value of its sentinel, which is written when it is
// missing, and how many keys it evicted.
func (r *Redis) sentinel(ctx context.Context, key string, c redis.Cmdable) (sentinel, error) {
	var s sentinel
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r.metrics.trips.WithLabelValues("watch").Inc()
	var info, value *redis.StringCmd
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		info = p.Info(ctx, "stats")
		if key != "" {
			p.HSetNX(ctx, key, "v", rand.Text())
			p.PExpire(ctx, key, r.roomTTL())
			value = p.HGet(ctx, key, "v")
		}
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("looking for lost data: %w", err)
	}
	if value != nil {
		s.value = value.Val()
	}
	s.evicted = infoField(info.Val(), "evicted_keys")
	return s, nil
}

// eachData calls f for every master at once, with its address, a key that falls to it, or none if it has no
// slot, and a connection. A master whose address does not matter, since there is one at a time, has none.
func (r *Redis) eachData(ctx context.Context, f func(ctx context.Context, addr, key string, c redis.Cmdable) error) error {
	if r.cluster == nil {
		return f(ctx, "", r.sentinelKey(0), r.client)
	}
	var mu sync.Mutex
	masters := map[string]*redis.Client{}
	err := r.cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		masters[c.Options().Addr] = c
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for the masters: %w", err)
	}
	keys := r.sentinelKeys(ctx, masters)
	var wg sync.WaitGroup
	for addr, c := range masters {
		wg.Go(func() {
			if failed := f(ctx, addr, keys[addr], c); failed != nil {
				mu.Lock()
				err = errors.Join(err, failed)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return err
}

// sentinelKeys returns a key for each master that has slots.
func (r *Redis) sentinelKeys(ctx context.Context, masters map[string]*redis.Client) map[string]string {
	keys := map[string]string{}
	for i := 0; len(keys) < len(masters) && i < sentinelSlots*len(masters); i++ {
		key := r.sentinelKey(i)
		c, err := r.cluster.MasterForKey(ctx, key)
		if err != nil {
			continue
		}
		if addr := c.Options().Addr; keys[addr] == "" {
			keys[addr] = key
		}
	}
	return keys
}

func (r *Redis) sentinelKey(i int) string {
	return r.cfg.Prefix + "{sentinel:" + strconv.Itoa(i) + "}"
}

// findMasters returns what the Redis processes that hold the data say of themselves.
func (r *Redis) findMasters(ctx context.Context) (map[string]master, error) {
	var mu sync.Mutex
	found := map[string]master{}
	err := r.eachData(ctx, func(ctx context.Context, addr, _ string, c redis.Cmdable) error {
		r.metrics.trips.WithLabelValues("info").Inc()
		ctx, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		var server, replication, memory *redis.StringCmd
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			server, replication, memory = p.Info(ctx, "server"), p.Info(ctx, "replication"), p.Info(ctx, "memory")
			return nil
		})
		if err != nil {
			return fmt.Errorf("asking Redis who it is: %w", err)
		}
		r.warnOfEviction(addr, memory.Val())
		r.warnOfCoverage(ctx, addr, c)
		mu.Lock()
		defer mu.Unlock()
		found[addr] = master{process: infoField(server.Val(), "run_id"), history: infoField(replication.Val(), "master_replid")}
		return nil
	})
	if r.cluster != nil && len(found) > 0 {
		err = nil // The others are a part of Redis.
	}
	return found, err
}

// mastersChangedLocked notes the masters and reports whether data may be gone because one is another process than
// before, or its data come from elsewhere.
func (r *Redis) mastersChangedLocked(found map[string]master) bool {
	changed := false
	for addr, now := range found {
		changed = changed || len(r.masters) > 0 && r.masters[addr] != now
	}
	r.masters = found
	return changed
}

// infoField returns a field of what INFO tells.
func infoField(text, name string) string {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			return value
		}
	}
	return ""
}

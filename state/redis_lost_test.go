package state

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/state/redistest"
)

// nobodyLeft checks that no client of any node saw anybody leave.
func nobodyLeft(t *testing.T, sites ...*site) {
	t.Helper()
	for _, s := range sites {
		s.mu.Lock()
		for key, n := range s.left {
			t.Errorf("%s saw %s leave %d times, because %q", s.id, key, n, s.reasons[key])
		}
		s.mu.Unlock()
	}
}

// settled makes rooms with a member at each of the nodes, which all have seen.
func settled(t *testing.T, rooms int, sites ...*site) {
	t.Helper()
	for i := range rooms {
		var all []string
		for _, s := range sites {
			all = append(all, "at-"+s.id)
			s.must(s.enter(fmt.Sprint("r", i), "at-"+s.id))
		}
		agree(t, fmt.Sprint("r", i), all, sites...)
	}
}

// quiet is a config with which no beat comes to help.
func quiet(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease = time.Hour, 3*time.Hour
	return cfg
}

// patiently is a config with a lease that no load breaks.
func patiently(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease = 400*time.Millisecond, patience
	return cfg
}

// TestRoomKeyIsLost deletes the key of one room, as an eviction does. No beat comes: the look
// at the rooms finds it.
func TestRoomKeyIsLost(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, quiet(single(redis)))
	settled(t, 3, one, two)

	began := time.Now()
	redis.Do("DEL", one.roomKey("r0"))
	agree(t, "r0", []string{"at-n1", "at-n2"}, one, two)
	t.Logf("took %v", time.Since(began))

	began = time.Now()
	redis.Do("DEL", one.roomKey("r1"))
	last.must(last.enter("r1", "new"))
	last.must(last.enter("r1", "newer"))
	agree(t, "r1", []string{"at-n1", "at-n2", "new", "newer"}, one, two, last)
	t.Logf("took %v", time.Since(began))

	redis.Do("DEL", one.roomKey("r2")) // Somebody who knows the room founds it anew.
	one.must(one.enter("r2", "new"))
	if got := one.sees("r2"); !slices.Equal(got, []string{"at-n1", "at-n2", "new"}) {
		t.Errorf("the node that let in another sees %v", got)
	}
	agree(t, "r2", []string{"at-n1", "at-n2", "new"}, one, two)
	nobodyLeft(t, one, two, last)
}

// offline returns a node n1 that never subscribes.
func offline(t *testing.T) *Redis {
	t.Helper()
	cfg := DefaultRedisConfig()
	cfg.Logger = testLog()
	r, err := NewRedis(cfg, "n1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

// TestHeardDuringAssertion has a node hear that somebody joined while it brings back a room that Redis has lost: that one is there.
func TestHeardDuringAssertion(t *testing.T) {
	r := offline(t)
	here, other := entry{"a", "n1", 7, 3}, entry{"x", "n2", 8, 12}
	m := r.mirrorLocked("r")
	m.version, m.founded, m.members, m.own["a"] = 10, 3, []entry{here}, stay{7, 3, true, true}
	r.update("n2", change{Room: "r", Version: 12, Founded: 3, Members: []entry{here, other}})
	v, _ := r.agreeLocked("r", m, reply{version: 20, founded: 20, changed: true, members: []entry{here}}, 10, true)
	if len(v.Members) != 2 || len(v.Left) > 0 {
		t.Errorf("shown as there: %v, as gone: %v", v.Members, v.Left)
	}
	if _, doubtful := r.dirty["r"]; !doubtful || !m.lost(20) {
		t.Error("the room is not asserted again")
	}
}

// TestMovedBeforeLoss has a node hear late that somebody moved, when it has brought back the room that Redis lost. The node which that
// one left finds it there and takes it out.
func TestMovedBeforeLoss(t *testing.T) {
	r := offline(t)
	here, before, after := entry{"a", "n1", 7, 3}, entry{"x", "n2", 8, 5}, entry{"x", "n3", 9, 5}
	m := r.mirrorLocked("r")
	m.version, m.founded, m.members, m.own["a"] = 20, 20, []entry{here, before}, stay{7, 3, true, true}
	r.update("n2", change{Room: "r", Version: 15, Founded: 3, Members: []entry{here, after}})
	v, _ := r.update("n2", change{Room: "r", Version: 21, Founded: 20, Members: []entry{here}, Left: []Departure{{Member: before.member(), Reason: ReasonDisconnect}}})
	if m, _ := v.Find("x"); m != after.member() || len(v.Left) > 0 {
		t.Errorf("shown as there: %v, as gone: %v", v.Members, v.Left)
	}
	if _, doubtful := r.dirty["r"]; !doubtful {
		t.Error("the room is not asserted")
	}
}

// TestFlushedWithNewcomers empties Redis under many rooms while people join everywhere.
func TestFlushedWithNewcomers(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	flushedWithNewcomers(t, patiently(single(redis)), redis)
}

// TestMasterIsFlushed empties one master of a Cluster after another.
func TestMasterIsFlushed(t *testing.T) {
	t.Parallel()
	masters, _ := redistest.StartCluster(t, false)
	flushedWithNewcomers(t, patiently(clusterConfig(masters)), masters...)
}

func flushedWithNewcomers(t *testing.T, cfg RedisConfig, servers ...*redistest.Server) {
	t.Helper()
	one, two, last := three(t, cfg)
	all := []*site{one, two, last}
	settled(t, 20, all...)
	want := []string{"at-n1", "at-n2", "at-n3"}
	for k, redis := range servers {
		redis.Do("FLUSHALL")
		began := time.Now()
		for i := range 20 {
			s := all[(i+k)%3]
			s.must(s.enter(fmt.Sprint("r", i), fmt.Sprint("new", k)))
		}
		want = append(want, fmt.Sprint("new", k))
		for i := range 20 {
			agree(t, fmt.Sprint("r", i), slices.Clone(want), all...)
		}
		t.Logf("took %v", time.Since(began))
	}
	nobodyLeft(t, all...)
}

// TestFlushedQuietly empties Redis under rooms in which nothing happens, more than are looked at at a time.
func TestFlushedQuietly(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	one, two, last := three(t, quiet(single(redis)))
	settled(t, 3*checkedRooms, one, two)
	eventually(t, "the sentinel is known", func() bool {
		one.Redis.mu.Lock()
		defer one.Redis.mu.Unlock()
		return one.data[""].value != ""
	})
	redis.Do("FLUSHALL")
	began := time.Now()
	for i := range 3 * checkedRooms {
		agree(t, fmt.Sprint("r", i), []string{"at-n1", "at-n2"}, one, two)
	}
	t.Logf("took %v", time.Since(began))
	nobodyLeft(t, one, two, last)
}

// TestEvicted has Redis throw away rooms because somebody else needs the memory.
func TestEvicted(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	one, two, _ := three(t, patiently(single(redis)))
	settled(t, 2*checkedRooms, one, two)
	used := func() (n int) {
		_, _ = fmt.Sscan(infoField(redis.Do("INFO", "memory"), "used_memory"), &n)
		return n
	}
	redis.Do("CONFIG", "SET", "maxmemory", used()+8<<20)
	for i := range 300 { // More than there is room for.
		redis.Do("SET", fmt.Sprint("other", i), strings.Repeat("x", 64<<10))
	}
	if infoField(redis.Do("INFO", "stats"), "evicted_keys") == "0" {
		t.Fatal("nothing was evicted")
	}
	redis.Do("CONFIG", "SET", "maxmemory", 0)
	began := time.Now()
	for i := range 2 * checkedRooms {
		agree(t, fmt.Sprint("r", i), []string{"at-n1", "at-n2"}, one, two)
	}
	t.Logf("took %v", time.Since(began))
	nobodyLeft(t, one, two)
}

// TestHalvesOverTheCap lets a second room come to be under the name of a lost one, up to the cap: the halves
// become one room, over the cap, and nobody is thrown out.
func TestHalvesOverTheCap(t *testing.T) {
	redis := redistest.Start(t)
	one, _, last := three(t, quiet(single(redis)))
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprint("old", i))
		one.must(one.enter("r", want[i]))
	}
	redis.Do("DEL", one.roomKey("r"))
	for i := range 10 {
		if id := fmt.Sprint("new", i); last.enter("r", id) == nil {
			want = append(want, id)
		}
	}
	if len(want) == 10 {
		t.Fatal("nobody came in")
	}
	agree(t, "r", want, one, last)
	if err := last.enter("r", "one too many"); err == nil {
		t.Error("another one came in")
	}
	nobodyLeft(t, one, last)
}

// TestRoomOfProtocol1 is one whose version a node of protocol 1 wrote: its founding is not known, which is no
// reason for doubt; when it is lost, that is seen.
func TestRoomOfProtocol1(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, quiet(single(redis)))
	settled(t, 1, one, two)
	key := one.roomKey("r0")
	version, founded := parseVersion(redis.Do("HGET", key, "v"))
	if founded == 0 || founded > version {
		t.Errorf("version %d, founded at %d", version, founded)
	}
	if got := redis.Do("EVAL", "return string.format('%.0f', tonumber(redis.call('HGET', KEYS[1], 'v')))", 1, key); got != fmt.Sprint(version) {
		t.Errorf("protocol 1 reads version %s, want %d", got, version)
	}
	redis.Do("HSET", key, "v", version+1)
	last.must(last.enter("r0", "at-n3"))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3"}, one, two, last)
	if _, founded := parseVersion(redis.Do("HGET", key, "v")); founded != 0 {
		t.Errorf("founded at %d", founded)
	}
	redis.Do("DEL", key)
	two.must(two.enter("r0", "new"))
	agree(t, "r0", []string{"at-n1", "at-n2", "at-n3", "new"}, one, two, last)
	nobodyLeft(t, one, two, last)
}

// move brings a client from another node to this one, as signaling does when it resumes.
func (s *site) move(room, id string, from *site) error {
	from.mu.Lock()
	known := slices.Clone(from.views[room].Members)
	old := Member{ID: id, Node: from.id, Epoch: from.epochs[room+"/"+id]}
	if from.local[room]--; from.local[room] == 0 {
		delete(from.views, room)
	}
	from.mu.Unlock()
	s.mu.Lock()
	s.local[room]++
	s.epochs[room+"/"+id] = uint64(time.Now().UnixNano())
	epoch := s.epochs[room+"/"+id]
	s.mu.Unlock()
	v, err := s.Move(s.t.Context(), room, old, epoch, known...)
	if err != nil {
		return err
	}
	for _, m := range known {
		if _, there := v.Find(m.ID); !there {
			s.t.Errorf("%s does not see %s after the move to %s", id, m.ID, s.id)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applyLocked(v)
	return nil
}

// TestMoveOfLostRoom moves members whose room Redis has lost: alone, with others at the former node and at a third,
// also after somebody has founded the room anew. The session is kept, at once complete, and nobody leaves.
func TestMoveOfLostRoom(t *testing.T) {
	redis := redistest.Start(t)
	one, two, last := three(t, quiet(single(redis)))
	settled(t, 2, one, last)
	one.must(one.enter("r0", "mover"))
	one.must(one.enter("r1", "mover"))
	one.must(one.enter("alone", "mover"))
	for _, room := range []string{"r0", "r1"} {
		agree(t, room, []string{"at-n1", "at-n3", "mover"}, one, last)
	}
	redis.Do("FLUSHALL")
	two.must(two.enter("r1", "new"))
	for _, room := range []string{"r0", "r1", "alone"} {
		two.must(two.move(room, "mover", one))
	}
	agree(t, "r0", []string{"at-n1", "at-n3", "mover"}, one, two, last)
	agree(t, "r1", []string{"at-n1", "at-n3", "mover", "new"}, one, two, last)
	agree(t, "alone", []string{"mover"}, two)
	nobodyLeft(t, one, two, last)
	two.must(two.exit("r0", "mover"))
	agree(t, "r0", []string{"at-n1", "at-n3"}, one, last)
	if err := last.move("r0", "mover", two); err == nil {
		t.Error("who has left was moved")
	}
}

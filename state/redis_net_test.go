package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// behind is the config of a node whose way to Redis the test can break.
func behind(cfg RedisConfig, p *proxy) RedisConfig {
	cfg.URL = p.url()
	return cfg
}

// TestPartition cuts one node off. The others reap its members, and see them join again when it is
// back; its own clients see nothing, and a member that moved meanwhile is not brought back.
func TestPartition(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := steady(single(redis))
	way := newProxy(t, redis.Addr)
	one, two := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	cut := newSite(t, behind(cfg, way), "n3")
	for i := range 10 {
		room := fmt.Sprint("r", i)
		one.must(one.enter(room, "a"))
		two.must(two.enter(room, "b"))
		cut.must(cut.enter(room, "c"))
	}
	for i := 1; i < 10; i++ {
		agree(t, fmt.Sprint("r", i), []string{"a", "b", "c"}, one, two, cut)
	}
	cut.must(cut.enter("r0", "d"))
	agree(t, "r0", []string{"a", "b", "c", "d"}, one, two, cut)
	way.frozen.Store(true)
	for i := range 10 {
		agree(t, fmt.Sprint("r", i), []string{"a", "b"}, one, two)
	}
	if _, err := one.Join(t.Context(), "r0", Member{ID: "d", Epoch: 99}, 10); err != nil { // d has come to n1.
		t.Fatal(err)
	}
	eventually(t, "the node knows", func() bool { return cut.Ready() != nil })
	if got := cut.sees("r1"); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("the node that is cut off sees %v", got)
	}
	way.frozen.Store(false)
	way.cut()
	agree(t, "r0", []string{"a", "b", "c", "d"}, one, two, cut)
	for i := 1; i < 10; i++ {
		agree(t, fmt.Sprint("r", i), []string{"a", "b", "c"}, one, two, cut)
	}
	for _, s := range []*site{one, two} {
		for i := range 10 {
			key := fmt.Sprintf("r%d/c", i)
			if s.count(s.left, key) != 1 || s.count(s.joined, key) < 1 || s.reasons[key] != ReasonNodeLost {
				t.Errorf("%s saw %s leave %d times (%s), join %d times", s.id, key, s.count(s.left, key), s.reasons[key], s.count(s.joined, key))
			}
		}
	}
	if got, want := cut.returned(), []string{"r0/c", "r1/c", "r2/c", "r3/c", "r4/c", "r5/c", "r6/c", "r7/c", "r8/c", "r9/c"}; !slices.Equal(got, want) {
		t.Errorf("missed something: %v, want %v", got, want)
	}
	for key, n := range cut.left {
		t.Errorf("the node that was cut off saw %s leave %d times", key, n)
	}
	stop := chatter(cut, one, "x")
	eventually(t, "it can send again", func() bool { return len(one.heard()) > 10 })
	arrived(t, stop(), one)
}

// TestConnectionsAreCut breaks every connection of a receiver again and again under traffic: what
// was acknowledged arrives once and in order.
func TestConnectionsAreCut(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := steady(single(redis))
	way := newProxy(t, redis.Addr)
	from, to := newSite(t, cfg, "n1"), newSite(t, behind(cfg, way), "n2")
	stop := chatter(from, to, "x")
	for range 8 {
		before := len(to.heard())
		eventually(t, "traffic flows", func() bool { return len(to.heard()) > before+30 })
		way.cut()
	}
	acked := stop()
	arrived(t, acked, to)
	t.Logf("%d messages", len(acked))
	if slices.Contains(to.lost, "n1") {
		t.Error("messages were given up")
	}
}

// TestReceiverIsDeaf lets a receiver's connections go silent without breaking: Redis still counts it as
// a receiver, until the probe finds out. That is before it is taken for dead.
func TestReceiverIsDeaf(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := steady(single(redis))
	cfg.Lease = 10 * time.Second
	way := newProxy(t, redis.Addr)
	from, to := newSite(t, cfg, "n1"), newSite(t, behind(cfg, way), "n2")
	if err := from.send(to, "before"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first arrives", func() bool { return len(to.heard()) == 1 })
	way.frozen.Store(true)
	var acked []string
	for i := range 50 {
		if text := fmt.Sprint("x", i); from.send(to, text) == nil {
			acked = append(acked, text)
		}
	}
	eventually(t, "the receiver knows", func() bool { return to.Ready() != nil })
	way.frozen.Store(false)
	way.cut()
	arrived(t, acked, to)
	t.Logf("%d acknowledged into the void and repeated", len(acked))
}

// TestAnswerIsLost loses Redis when it has taken a message and not answered: the sender does not hear that nobody got it.
// When Redis is back it hears that it arrived, which it did once.
func TestAnswerIsLost(t *testing.T) {
	from, to, result, back := loseAnswer(t)
	eventually(t, "Redis is away for longer than what surely did not arrive is tried again", func() bool {
		from.Redis.mu.Lock()
		defer from.Redis.mu.Unlock()
		return from.down != nil && time.Since(from.fell) > 2*insistTime
	})
	if err := from.send(to, "x2"); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUncertain) {
		t.Errorf("what is sent meanwhile: %v", err)
	}
	select {
	case err := <-result:
		t.Errorf("answered too soon: %v", err)
		return
	default:
	}
	back()
	from.must(<-result)
	eventually(t, "it can send again", func() bool { return from.send(to, "x3") == nil })
	arrived(t, []string{"x0", "x1", "x3"}, to)
}

// TestAnswerIsLostWithTheReceiver has the node die that has taken such a message: nobody can know that it has.
func TestAnswerIsLostWithTheReceiver(t *testing.T) {
	t.Parallel()
	_, to, result, back := loseAnswer(t)
	to.crash()
	back()
	if err := <-result; !errors.Is(err, ErrUncertain) {
		t.Errorf("what a dead node has taken: %v", err)
	}
}

// loseAnswer has Redis take a message, x1, which arrives, and loses it before the answer. What becomes of the message
// is the result.
func loseAnswer(t *testing.T) (from, to *site, result chan error, back func()) {
	t.Helper()
	redis := redistest.Start(t)
	cfg := steady(single(redis))
	cfg.Lease = 10 * time.Second
	way := newProxy(t, redis.Addr)
	from, to = newSite(t, behind(cfg, way), "n1"), newSite(t, cfg, "n2")
	from.must(from.send(to, "x0"))
	from.connectOften(t, way)
	way.mute.Store(true)
	result = make(chan error, 1)
	go func() { result <- from.send(to, "x1") }()
	eventually(t, "it is heard", func() bool { return slices.Contains(to.heard(), "x1") })
	way.frozen.Store(true)
	way.cut()
	return from, to, result, func() {
		way.mute.Store(false)
		way.frozen.Store(false)
		way.cut()
	}
}

// connectOften has a node make more connections than it needs at a time, so that what it does next finds one.
func (s *site) connectOften(t *testing.T, way *proxy) {
	t.Helper()
	way.delay.Store(int64(100 * time.Millisecond))
	var pings sync.WaitGroup
	for range 16 {
		pings.Go(func() {
			if err := s.client.Ping(t.Context()).Err(); err != nil {
				t.Error(err)
			}
		})
	}
	pings.Wait()
	way.delay.Store(0)
}

// TestWindowIsTooSmall asks for what is not kept any more: the receiver is told of the loss once, and
// hears what follows.
func TestWindowIsTooSmall(t *testing.T) {
	redis := redistest.Start(t)
	cfg := steady(single(redis))
	from, to := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	from.must(from.send(to, "x0"))
	eventually(t, "it arrives", func() bool { return len(to.heard()) == 1 })
	for i := 1; i <= 3; i++ {
		from.must(from.send(to, fmt.Sprint("x", i)))
	}
	eventually(t, "they arrive", func() bool { return len(to.heard()) == 4 })
	from.Redis.mu.Lock()
	s := from.streams["n2"]
	from.Redis.mu.Unlock()
	s.mu.Lock()
	s.trimLocked(time.Now().Add(time.Hour))
	s.mu.Unlock()
	to.Redis.mu.Lock()
	to.positions["n1"].seen = 2 // As if two had not come.
	to.Redis.mu.Unlock()
	from.must(from.send(to, "x4"))
	eventually(t, "the loss is told", func() bool { to.mu.Lock(); defer to.mu.Unlock(); return len(to.lost) > 0 })
	eventually(t, "what follows is heard", func() bool { return slices.Contains(to.heard(), "x4") })
	from.must(from.send(to, "x5"))
	eventually(t, "it goes on", func() bool { return slices.Contains(to.heard(), "x5") })
	if len(to.lost) != 1 {
		t.Errorf("lost %v", to.lost)
	}
}

// TestSlowRedis adds 500 ms to every answer: joins take longer, and nothing fails.
func TestSlowRedis(t *testing.T) {
	redis := redistest.Start(t)
	cfg := DefaultRedisConfig()
	cfg.Logger = testLog()
	way := newProxy(t, redis.Addr)
	cfg.URL = way.url()
	one, two := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	one.must(one.enter("r", "a"))
	way.delay.Store(int64(500 * time.Millisecond))
	began := time.Now()
	two.must(two.enter("r", "b"))
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("a join took %v", took)
	}
	agree(t, "r", []string{"a", "b"}, one, two)
	errs := make(chan error)
	for i := range 60 {
		go func() { errs <- two.enter(fmt.Sprint("q", i), "c") }()
	}
	slowdown := systemtest.Slowdown(t)
	began = time.Now()
	for range 100 { // What needs no Redis waits for none.
		_ = two.Nodes()
		if err := two.Ready(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > time.Duration(slowdown())*250*time.Millisecond {
		t.Errorf("looking at the node took %v", took)
	}
	if err := two.send(one, "x"); err != nil {
		t.Errorf("sending during a rush of joins: %v", err)
	}
	for range 60 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	way.delay.Store(0)
}

// TestRedisIsASecondAway adds a second to every answer: that is slow, not away.
func TestRedisIsASecondAway(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := patiently(single(redis))
	way := newProxy(t, redis.Addr)
	cfg = behind(cfg, way)
	one, two := newSite(t, cfg, "n1"), newSite(t, cfg, "n2")
	one.must(one.enter("r", "a"))
	way.delay.Store(int64(time.Second))
	two.must(two.enter("r", "b"))
	agree(t, "r", []string{"a", "b"}, one, two)
	one.must(one.send(two, "x"))
	for range 3 { // Each beat is three round trips.
		for _, s := range []*site{one, two} {
			before := *s.echoed.Load()
			eventually(t, "a probe comes back", func() bool {
				if err := s.Ready(); err != nil {
					t.Fatal(err)
				}
				return s.echoed.Load().After(before)
			})
		}
	}
	two.must(two.exit("r", "b"))
	agree(t, "r", []string{"a"}, one)
	way.delay.Store(0)
}

// TestDeadRedisIsNoticed lets Redis answer no more, without a broken connection, and then refuse connections.
func TestDeadRedisIsNoticed(t *testing.T) {
	redis := redistest.Start(t)
	n := connect(t, quiet(single(redis)), "n1", new(ear).events())
	began := time.Now()
	redis.Freeze()
	eventually(t, "the silence is noticed", func() bool { return n.Ready() != nil })
	t.Logf("silence: %v", time.Since(began))
	redis.Kill()
	redis.Start()
	eventually(t, "it is back", func() bool { return n.Ready() == nil })
	began = time.Now()
	redis.Kill()
	eventually(t, "the end is noticed", func() bool { return n.Ready() != nil })
	t.Logf("end: %v", time.Since(began))
}

// TestOutagePolicies joins while there was never a Redis.
func TestOutagePolicies(t *testing.T) {
	port := systemtest.FreePort(t)
	for _, policy := range []string{OutageLocal, OutageReject} {
		t.Run(policy, func(t *testing.T) {
			cfg := DefaultRedisConfig()
			cfg.Host, cfg.Port, cfg.Outage, cfg.Logger = "127.0.0.1", port, policy, testLog()
			s := emptySite(t)
			var err error
			if s.Redis, err = NewRedis(cfg, "n1"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close(context.Background()) }()
			s.Subscribe(s.events())
			if err := s.Ready(); !errors.Is(err, ErrUnavailable) {
				t.Errorf("ready: %v", err)
			}
			err = s.enter("r", "a")
			if policy == OutageReject {
				if !errors.Is(err, ErrUnavailable) {
					t.Errorf("join: %v", err)
				}
				return
			}
			s.must(err)
			for i := range 9 {
				s.must(s.enter("r", fmt.Sprint("u", i)))
			}
			if err := s.enter("r", "late"); !errors.Is(err, ErrRoomFull) {
				t.Errorf("11th join: %v", err)
			}
			s.must(s.exit("r", "a"))
			if got := s.sees("r"); len(got) != 9 {
				t.Errorf("sees %v", got)
			}
		})
	}
}

// TestSendToManyIsOneRoundTrip sends to one node and to eight through a slow network, and compares.
func TestSendToManyIsOneRoundTrip(t *testing.T) {
	redis := redistest.Start(t)
	cfg := calm(single(redis))
	way := newProxy(t, redis.Addr)
	from := newSite(t, behind(cfg, way), "n0")
	var nodes []string
	for i := range 8 {
		nodes = append(nodes, newSite(t, cfg, fmt.Sprint("n", i+1)).id)
	}
	send := func(nodes ...string) time.Duration {
		began := time.Now()
		if err := sendAndWait(t.Context(), from, nodes, Message{Room: "r", From: "a", Frame: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	send(nodes...) // Opens the connections.
	way.delay.Store(int64(300 * time.Millisecond))
	one, many := send(nodes[0]), send(nodes...)
	t.Logf("to one node %v, to %d %v", one, len(nodes), many)
	if many > 4*one {
		t.Errorf("sending to %d nodes takes %v, to one %v", len(nodes), many, one)
	}
}

// TestChangesDuringABlink has members join and leave while Redis is away for a moment, and others do so before their room has been
// compared with Redis: what they are shown is right.
func TestChangesDuringABlink(t *testing.T) {
	redis := redistest.Start(t)
	n, err := NewRedis(single(redis), "n1") // Without Subscribe nothing is compared before the test says so.
	if err != nil {
		t.Fatal(err)
	}
	n.events = new(ear).events()
	defer func() { _ = n.Close(context.Background()) }()
	away := func(why error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.down = why
	}
	shows := func(v View, err error, want ...string) {
		t.Helper()
		var got []string
		for _, m := range v.Members {
			got = append(got, m.ID)
		}
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("shown are %v, want %v; %v", got, want, err)
		}
	}
	join := func(id string) (View, error) { return n.Join(t.Context(), "r", Member{ID: id, Epoch: 1}, 10) }
	away(nil)
	v, err := join("a")
	shows(v, err, "a")

	t.Log("b joins")
	away(errStarting)
	v, err = join("b")
	shows(v, err, "a", "b")
	away(nil)
	v, err = join("c")
	shows(v, err, "a", "b", "c")
	n.assert(t.Context(), "r")

	t.Log("b leaves")
	away(errStarting)
	v, err = n.Leave(t.Context(), "r", "b", 1, ReasonLeave)
	shows(v, err, "a", "c")
	away(nil)
	v, err = join("d")
	shows(v, err, "a", "c", "d")
	n.assert(t.Context(), "r")
	v, err = join("e")
	shows(v, err, "a", "c", "d", "e")
	if fields := redis.Do("HLEN", "sig:{r:r}"); fields != "5" {
		t.Errorf("Redis holds %v fields", fields)
	}
}

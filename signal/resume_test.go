package signal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/signal/client"
	"cline-meet/signal/state"
)

// startNodes runs nodes over one shared state in memory.
func startNodes(t *testing.T, count int, change ...func(*Config)) []*testServer {
	t.Helper()
	shared := state.NewMemory()
	var nodes []*testServer
	for i := range count {
		at := func(c *Config) {
			c.SessionSecrets, c.Clustered = []string{"a secret of all nodes"}, true
			c.State = shared.Node(fmt.Sprint("n", i))
		}
		nodes = append(nodes, start(t, append([]func(*Config){at}, change...)...))
	}
	return nodes
}

// cookie returns the header with which the peer is known again.
func (p *peer) cookie() http.Header {
	p.t.Helper()
	if p.header == nil {
		cookie := p.Cookies()[0]
		p.header = http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}
	}
	return p.header
}

// back drops the peer's connection, reads what had come, and resumes at a node. It returns what had
// come, the new peer and what the node said first.
func (p *peer) back(at *testServer) (before []client.Message, q *peer, g greeting) {
	p.t.Helper()
	return p.backAs(at, p.cookie())
}

// backAs is back with that header in place of the session's cookie.
func (p *peer) backAs(at *testServer, header http.Header) (before []client.Message, q *peer, g greeting) {
	p.t.Helper()
	p.Cut()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		m, err := p.Next(ctx)
		if err != nil {
			break
		}
		before = append(before, m)
	}
	_ = p.Close()
	c, err := p.Resume(ctx, at.url+"/ws", header)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	q = &peer{Client: c, t: p.t, header: header}
	q.hub = q.expect("stun_config")
	q.user = q.hub.UserID
	if err := q.hub.Document(&g); err != nil {
		p.t.Fatal(err)
	}
	return before, q, g
}

func TestResumeOnOneNode(t *testing.T) {
	s := start(t)
	a, b := s.enter("r"), s.enter("r")
	a.expect("user_joined")
	b.Cut()
	for i := range 3 {
		a.say(fmt.Sprintf(`{"type":"message","id":"%d","target_id":%q,"data":%d}`, i, b.user, i))
		a.expect("ack")
	}
	before, back, g := b.back(s)
	if !g.Resumed || g.Kept+len(before) != 3 || back.user != b.user {
		t.Fatalf("%s had %d messages and came back to %s", b.user, len(before), back.hub.Raw)
	}
	for i := len(before); i < 3; i++ {
		if m := back.expect("message"); string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Raw)
		}
	}
	back.say(`{"type":"message","data":"hello"}`)
	if m := a.expect("message"); m.UserID != b.user { // Nothing else has come: nobody saw it leave.
		t.Errorf("got %s", m.Raw)
	}
	if err := s.ConsistencyCheck(); err != nil {
		t.Error(err)
	}
}

// TestNewestConnectionWins resumes a session whose connection still stands.
func TestNewestConnectionWins(t *testing.T) {
	s := start(t)
	a := s.enter("r")
	c, err := a.Resume(t.Context(), s.url+"/ws", a.cookie())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	back := &peer{Client: c, t: t}
	if m := back.expect("stun_config"); m.UserID != a.user {
		t.Errorf("%s became %s", a.user, m.Raw)
	}
	_ = a.ended()
	back.say(`{"type":"leave_room","id":"x"}`)
	back.expect("ack")
}

func TestNothingToResume(t *testing.T) {
	short := func(c *Config) { c.ResumeGrace, c.MaxQueue = time.Hour, 2*c.MaxFrame }
	for name, lose := range map[string]func(t *testing.T, s *testServer, a, b *peer){
		"said goodbye": func(_ *testing.T, _ *testServer, a, b *peer) { _ = b.Close(); a.expect("user_left") },
		"too much waits": func(t *testing.T, s *testServer, a, b *peer) {
			b.Cut()
			eventually(t, "b is detached", func() bool { return s.detached() == 1 })
			for left, n := false, 0; !left; n++ {
				a.say(fmt.Sprintf(`{"type":"message","id":"%d","data":"`, n) + strings.Repeat("x", 1<<14) + `"}`)
				left = a.expectEither("ack", "user_left").Type == "user_left"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, short)
			a, b := s.enter("r"), s.enter("r")
			a.expect("user_joined")
			lose(t, s, a, b)
			_, back, g := b.back(s)
			if g.Resumed || back.user == b.user {
				t.Fatalf("%s came back to %s", b.user, back.hub.Raw)
			}
			back.expectError(codeGone)
			back.join("r")
		})
	}
}

func (p *peer) expectEither(kinds ...string) client.Message {
	p.t.Helper()
	m := p.next()
	for _, kind := range kinds {
		if m.Type == kind {
			return m
		}
	}
	p.t.Fatalf("%s got %s, want one of %v", p.user, m.Raw, kinds)
	return m
}

func TestGraceEnds(t *testing.T) {
	s := start(t, func(c *Config) { c.ResumeGrace = 50 * time.Millisecond })
	a, b := s.enter("r"), s.enter("r")
	a.expect("user_joined")
	b.Cut()
	if m := a.expect("user_left"); m.UserID != b.user {
		t.Errorf("got %s", m.Raw)
	}
	_, back, g := b.back(s)
	if g.Resumed {
		t.Errorf("came back to %s", back.hub.Raw)
	}
	a.say(`{"type":"message","id":"x","data":1}`)
	a.expect("ack") // It left once.
}

func TestResumeFromANodeThatIsGone(t *testing.T) {
	nodes := startNodes(t, 2)
	a, b := nodes[0].enter("r"), nodes[1].enter("r")
	a.expect("user_joined")
	b.Cut()
	nodes[1].stop()
	if err := nodes[1].state.(*state.MemoryNode).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.expect("user_left")
	_, back, g := b.back(nodes[0])
	if g.Resumed {
		t.Fatalf("came back to %s", back.hub.Raw)
	}
	back.expectError(codeGone)
}

// TestHopping lets one member hop from node to node while members of all nodes talk to it: it gets
// all that was acknowledged, once and in each sender's order, and nobody sees it leave.
func TestHopping(t *testing.T) {
	const hops, senders = 40, 6
	nodes := startNodes(t, 3, func(c *Config) { c.MessageRate, c.MessageBurst = 1e6, 1e6 })
	hopper := nodes[0].dial(nil)
	hopper.join("r")
	talkers := make([]*peer, senders)
	for i := range talkers {
		talkers[i] = nodes[i%3].enter("r")
	}
	stop := make(chan struct{})
	acked, to := make([]int, senders), hopper.user
	var talking sync.WaitGroup
	for i, p := range talkers {
		talking.Go(func() { acked[i] = p.talkTo(to, stop) })
	}
	heard := map[string]int{}
	hear := func(m client.Message) {
		switch m.Type {
		case "message":
			var n int
			if err := m.Document(&n); err != nil || n != heard[m.UserID] {
				t.Errorf("number %s of %s came after %d", m.Data, m.UserID, heard[m.UserID])
			}
			heard[m.UserID]++
		case "user_joined", "stun_config":
		default:
			t.Errorf("the hopper got %s", m.Raw)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range hops {
		for range random.IntN(20) {
			hear(hopper.next())
		}
		before, back, g := hopper.back(nodes[random.IntN(3)])
		for _, m := range before {
			hear(m)
		}
		if !g.Resumed || back.user != hopper.user {
			t.Fatalf("came back to %s", back.hub.Raw)
		}
		hopper = back
	}
	close(stop)
	talking.Wait()
	all := func() bool {
		for i, p := range talkers {
			if heard[p.user] < acked[i] {
				return false
			}
		}
		return true
	}
	for !all() {
		hear(hopper.next())
	}
	t.Logf("%v were acknowledged over %d hops", acked, hops)
	for i, p := range talkers {
		if heard[p.user] != acked[i] || acked[i] == 0 {
			t.Errorf("%d were acknowledged and %d heard of %s", acked[i], heard[p.user], p.user)
		}
	}
}

// talkTo sends numbers to a member until stop, each after the ack of the one before, and returns
// how many were acknowledged.
func (p *peer) talkTo(user string, stop chan struct{}) int {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		if err := p.SendFrame(fmt.Appendf(nil, `{"type":"message","id":"%d","target_id":%q,"data":%d}`, n, user, n)); err != nil {
			p.t.Error(err)
			return n
		}
		for {
			ctx, cancel := context.WithTimeout(p.t.Context(), patience)
			m, err := p.Next(ctx)
			cancel()
			if err != nil || m.Type == "error" || m.Type == "user_left" {
				p.t.Errorf("%s got %s (%v)", p.user, m.Raw, err)
				return n
			}
			if m.Type == "ack" {
				break
			}
		}
	}
}

// TestDrain drains one node of two under talk: its members go on at the other, and nobody notices.
func TestDrain(t *testing.T) {
	nodes := startNodes(t, 2, func(c *Config) { c.DrainSettle = 0 })
	a, b := nodes[0].enter("r"), nodes[1].enter("r")
	a.expect("user_joined")
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		nodes[1].Drain(ctx)
	}()
	var told struct {
		AfterMS *int64 `json:"after_ms"`
		Reason  string
	}
	if m := b.expect("reconnect"); m.Document(&told) != nil || told.AfterMS == nil || told.Reason != "drain" {
		t.Fatalf("got %s", m.Raw)
	}
	if res, body := nodes[1].get("/ready", nil); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
		t.Errorf("ready answers %s %s", res.Status, body)
	}
	a.say(fmt.Sprintf(`{"type":"message","id":"1","target_id":%q,"data":1}`, b.user))
	a.expect("ack")
	before, back, g := b.back(nodes[0])
	if !g.Resumed || back.user != b.user || len(before)+g.Kept != 1 {
		t.Fatalf("came back to %s with %d before", back.hub.Raw, len(before))
	}
	select {
	case <-drained:
	case <-time.After(patience):
		t.Fatal("the drain does not end with the last client")
	}
	nodes[1].stop()
	back.say(`{"type":"message","id":"2","data":2}`)
	if m := a.expect("message"); m.UserID != b.user {
		t.Errorf("got %s", m.Raw)
	}
}

// TestDrainWaitsForOthersForClientsAlone has the only node of a cluster stop: with a client it waits for a node to send it to, unless it
// can hear of none.
func TestDrainWaitsForOthersForClientsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &slowState{}
		s := socketless(t, shared)
		s.cfg.Clustered = true
		drained := func() time.Duration {
			began := time.Now()
			s.Drain(t.Context())
			return time.Since(began)
		}
		if got := drained(); got != s.cfg.DrainSettle {
			t.Errorf("with nobody there it takes %v", got)
		}
		s.place("r", member("a", "near", 1))
		if got := drained(); got < s.cfg.DrainSettle+othersTimeout {
			t.Errorf("with a client it takes %v", got)
		}
		shared.away = state.ErrUnavailable
		if got := drained(); got != s.cfg.DrainSettle {
			t.Errorf("without the shared state it takes %v", got)
		}
	})
}

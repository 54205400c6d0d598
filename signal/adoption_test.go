package signal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/signal/client"
	"cline-meet/signal/state"
)

// mortal is shared state in memory whose nodes may die without leaving their rooms, all of them "r".
type mortal struct {
	*state.MemoryNode
	dead *deaths
}

// deaths tells how a node answers: not at all while it is dying, and then as one that is no more.
type deaths struct {
	mu    sync.Mutex
	dying map[string]int // by node: how often it does not answer before it is known as dead
	// adopted says who was adopted where, by user.
	adopted map[string]state.Member
}

func (d *deaths) kill(node string, unknown int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dying[node] = unknown
}

func (d *deaths) ask(node string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	left, dying := d.dying[node]
	switch {
	case !dying:
		return nil
	case left == 0:
		return state.ErrNoNode
	}
	d.dying[node]--
	return state.ErrUnavailable
}

func (m mortal) Send(message state.Message, copies []state.Copy, done func([]error)) {
	if err := m.dead.ask(copies[0].Node); err != nil {
		go done([]error{err})
		return
	}
	m.MemoryNode.Send(message, copies, done)
}

// Nodes are those that are not known as dead.
func (m mortal) Nodes() []state.NodeInfo {
	m.dead.mu.Lock()
	defer m.dead.mu.Unlock()
	return slices.DeleteFunc(m.MemoryNode.Nodes(), func(n state.NodeInfo) bool {
		left, dying := m.dead.dying[n.ID]
		return dying && left == 0
	})
}

func (m mortal) Adopt(ctx context.Context, _, user string, old, epoch uint64) (state.View, error) {
	view, err := m.Move(ctx, "r", state.Member{ID: user, Epoch: old}, epoch)
	m.dead.mu.Lock()
	defer m.dead.mu.Unlock()
	now, adopted := m.dead.adopted[user]
	switch {
	case err == nil:
		m.dead.adopted[user] = state.Member{ID: user, Node: m.ID(), Epoch: epoch}
	case adopted:
		view = state.View{Room: "r", Members: []state.Member{now}}
	}
	return view, err
}

// startMortals runs nodes that may be killed by their numbers.
func startMortals(t *testing.T, count int, change ...func(*Config)) ([]*testServer, *deaths) {
	t.Helper()
	shared, dead := state.NewMemory(), &deaths{dying: map[string]int{}, adopted: map[string]state.Member{}}
	next := 0
	die := func(c *Config) {
		c.State = mortal{shared.Node(fmt.Sprint("n", next)), dead}
		next++
	}
	return startNodes(t, count, append(change, die)...), dead
}

// resumed is back for a session that has a gap and is in a room of those users.
func (p *peer) resumed(at *testServer, users ...string) *peer {
	p.t.Helper()
	_, q, g := p.back(at)
	if want := (greeting{Resumed: true, Gap: true, Kept: 1}); g != want || q.user != p.user {
		p.t.Fatalf("%s came back to %s", p.user, q.hub.Raw)
	}
	if got := q.entered(); !slices.Equal(got, users) {
		p.t.Fatalf("%s is told of %v, not of %v", p.user, got, users)
	}
	return q
}

// entered reads the peer's own user_joined and returns the users in it.
func (p *peer) entered() []string {
	p.t.Helper()
	m := p.expect("user_joined")
	if m.UserID != p.user {
		p.t.Fatalf("%s got %s", p.user, m.Raw)
	}
	return users(p.t, m)
}

// TestAdoption kills a node while it is asked for a participant. Another adopts that: it is told of a
// gap and of its room, and nobody else is told anything.
func TestAdoption(t *testing.T) {
	nodes, dead := startMortals(t, 2)
	a, b := nodes[0].enter("r"), nodes[1].enter("r")
	a.expect("user_joined")
	dead.kill("n1", 3)
	b = b.resumed(nodes[0], a.user, b.user)
	b.say(`{"type":"message","id":"1","data":1}`)
	if m := a.expect("message"); m.UserID != b.user { // Nothing else has come: nobody saw it leave.
		t.Errorf("got %s", m.Raw)
	}
	b.expect("ack")
	_, b, g := b.back(nodes[0]) // The numbers go on, and the gap is told once.
	if want := (greeting{Resumed: true}); g != want {
		t.Errorf("came back again to %s", b.hub.Raw)
	}
	if err := nodes[0].ConsistencyCheck(); err != nil {
		t.Error(err)
	}
}

// TestGreetingThatDoesNotArrive resumes again with the token of before the adoption: the client did not
// hear of the new one, nor of the gap.
func TestGreetingThatDoesNotArrive(t *testing.T) {
	nodes, dead := startMortals(t, 2)
	b := nodes[1].enter("r")
	dead.kill("n1", 0)
	address := strings.Replace(nodes[0].url, "http", "ws", 1) + "/ws?got=1&resume=" + b.token()
	ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), address, b.cookie())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is adopted", func() bool { return nodes[0].participant(b.user) != nil })
	_ = ws.Close()
	_, q, g := b.back(nodes[0])
	if !g.Resumed || !g.Gap || q.user != b.user {
		t.Fatalf("%s came back to %s", b.user, q.hub.Raw)
	}
	for range g.Kept {
		if got := q.entered(); !slices.Equal(got, []string{b.user}) {
			t.Errorf("%s is told of %v", b.user, got)
		}
	}
}

// TestOneAdoptionWins has two nodes adopt a participant at the same time.
func TestOneAdoptionWins(t *testing.T) {
	nodes, dead := startMortals(t, 3)
	b := nodes[2].enter("r")
	dead.kill("n2", 2)
	header := b.cookie()
	var racing sync.WaitGroup
	var first [2]client.Message
	for i := range first {
		racing.Go(func() {
			c, err := b.Resume(t.Context(), nodes[i].url+"/ws", header)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			if first[i], err = c.Next(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	racing.Wait()
	won := 0
	for _, m := range first {
		var g greeting
		if err := m.Document(&g); err != nil {
			t.Fatal(err)
		}
		if g.Resumed != (m.UserID == b.user) {
			t.Errorf("got %s", m.Raw)
		}
		if g.Resumed {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d of 2 adoptions won", won)
	}
}

// TestAdoptedWhileCutOff has a node live on that the others take for dead. When it sees that a
// participant was adopted, its own ends, and leaves nothing.
func TestAdoptedWhileCutOff(t *testing.T) {
	nodes, dead := startMortals(t, 2)
	a, old := nodes[0].enter("r"), nodes[1].enter("r")
	a.expect("user_joined")
	dead.kill("n1", 0)
	c, err := old.Resume(t.Context(), nodes[0].url+"/ws", old.cookie())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	b := &peer{Client: c, t: t}
	b.hub = b.expect("stun_config")
	if b.user = b.hub.UserID; b.user != old.user {
		t.Fatalf("%s came back to %s", old.user, b.hub.Raw)
	}
	b.entered()
	var closed *websocket.CloseError
	if err := old.ended(); !errors.As(err, &closed) || closed.Code != int(closeReplaced) {
		t.Errorf("the connection at the node that was cut off ended with %v", err)
	}
	eventually(t, "the node that was cut off has nobody", func() bool { return len(nodes[1].everybody()) == 0 && nodes[1].roomCount() == 0 })
	a.say(fmt.Sprintf(`{"type":"message","id":"1","target_id":%q,"data":1}`, b.user))
	a.expect("ack") // It saw nobody leave.
	b.expect("message")
}

// TestViewsDuringAnAdoption has a room change between the adoption of a participant and the moment at
// which its node knows of that.
func TestViewsDuringAnAdoption(t *testing.T) {
	s := start(t)
	s.awaitRoom()
	newer := state.View{Room: "r", Version: 3, Members: []state.Member{{ID: "a"}}}
	for _, v := range []state.View{newer, {Room: "r", Version: 2}, {Room: "other", Version: 9}} {
		s.onView(v)
	}
	if got := s.knowRoom("r"); len(got) != 1 || got[0].Version != 3 {
		t.Errorf("put aside: %+v", got)
	}
	s.onView(newer)
	if len(s.aside) != 0 {
		t.Errorf("%d views are kept for nobody", len(s.aside))
	}
}

// TestStopLeavesMembersBehind ends a node of several with its clients there: they stay in their room, but
// for the one who says goodbye.
func TestStopLeavesMembersBehind(t *testing.T) {
	nodes, dead := startMortals(t, 2)
	a, b, gone := nodes[0].enter("r"), nodes[1].enter("r"), nodes[1].enter("r")
	for _, p := range []*peer{b, gone} {
		if m := a.expect("user_joined"); m.UserID != p.user {
			t.Fatalf("got %s", m.Raw)
		}
	}
	_ = gone.Close()
	if m := a.expect("user_left"); m.UserID != gone.user {
		t.Errorf("got %s", m.Raw)
	}
	nodes[1].stop()
	var closed *websocket.CloseError
	if err := b.ended(); !errors.As(err, &closed) || closed.Code != int(closeGoingAway) {
		t.Errorf("the client of the node that stopped got %v", err)
	}
	dead.kill("n1", 0)
	b = b.resumed(nodes[0], a.user, b.user)
	b.say(`{"type":"message","data":1}`)
	a.expect("message")
}

// TestStopWithoutGrace ends a node whose clients cannot come back.
func TestStopWithoutGrace(t *testing.T) {
	nodes := startNodes(t, 2, func(c *Config) { c.ResumeGrace = 0 })
	a, b := nodes[0].enter("r"), nodes[1].enter("r")
	a.expect("user_joined")
	nodes[1].stop()
	if m := a.expect("user_left"); m.UserID != b.user {
		t.Errorf("got %s", m.Raw)
	}
}

// startAgain runs one server after another, whose state in memory ends with it, with one secret.
func startAgain(t *testing.T, change ...func(*Config)) func() *testServer {
	t.Helper()
	count := 0
	return func() *testServer {
		count++
		return start(t, append([]func(*Config){func(c *Config) {
			c.State = state.NewMemory().Node(fmt.Sprint("process ", count))
			c.SessionSecrets, c.LastingSecret = []string{"the secret of all processes"}, true
		}}, change...)...)
	}
}

// fresh reads the token that follows the change of a room.
func (p *peer) fresh() *peer {
	p.t.Helper()
	if m := p.expect("stun_config"); m.UserID != p.user {
		p.t.Fatalf("got %s", m.Raw)
	}
	return p
}

func TestRevival(t *testing.T) {
	next := startAgain(t, func(c *Config) { c.MaxRoomUsers = 2 })
	s := next()
	a, b := s.enter("r").fresh(), s.enter("r").fresh()
	a.expect("user_joined")
	outside := s.enter("r2").fresh()
	outside.say(`{"type":"leave_room"}`)
	outside.fresh()
	stranger := s.dial(s.dial(nil).cookie())
	s.stop()
	for _, p := range []*peer{a, b} {
		if err := p.ended(); !websocket.IsCloseError(err, int(closeGoingAway)) {
			t.Errorf("%s saw %v", p.user, err) // Nobody saw the other leave.
		}
	}
	s = next()
	b = b.resumed(s, b.user)
	newcomer := s.dial(nil)
	if got := newcomer.join("r"); !slices.Equal(got, []string{b.user, newcomer.user}) {
		t.Errorf("the newcomer sees %v", got)
	}
	newcomer.fresh()
	b.expect("user_joined")
	_, late, g := a.back(s) // Its place is taken.
	if want := (greeting{Resumed: true, Gap: true, Kept: 1}); g != want || late.user != a.user {
		t.Errorf("%s came back to %s", a.user, late.hub.Raw)
	}
	late.expect("room_full")
	_, alone, g := outside.back(s)
	if want := (greeting{Resumed: true, Gap: true}); g != want || alone.user != outside.user {
		t.Errorf("%s came back to %s", outside.user, alone.hub.Raw)
	}
	alone.say(`{"type":"leave_room"}`)
	alone.expectError(codeNoRoom)
	stranger.header = alone.cookie()
	if _, other, g := stranger.back(s); g.Resumed || other.user == stranger.user {
		t.Errorf("%s came back under another cookie to %s", stranger.user, other.hub.Raw)
	}
	if err := s.ConsistencyCheck(); err != nil {
		t.Error(err)
	}
}

// TestNoRevival has tokens of a process before that are worth nothing.
func TestNoRevival(t *testing.T) {
	const grace = 300 * time.Millisecond
	for name, change := range map[string]func(*Config){
		"too late":           func(c *Config) { c.ResumeGrace = grace },
		"a generated secret": func(c *Config) { c.LastingSecret = false },
	} {
		t.Run(name, func(t *testing.T) {
			next := startAgain(t, change)
			s := next()
			a := s.dial(nil)
			s.stop()
			s = next()
			eventually(t, "the grace is over", func() bool { return time.Since(s.begun) > grace })
			_, back, g := a.back(s)
			if g.Resumed || back.user == a.user {
				t.Errorf("%s came back to %s", a.user, back.hub.Raw)
			}
			back.expectError(codeGone)
		})
	}
}

// TestRevivedOnce resumes a session of a former process twice, as a tab that was copied does.
func TestRevivedOnce(t *testing.T) {
	next := startAgain(t)
	s := next()
	a := s.enter("r").fresh()
	header := a.cookie()
	s.stop()
	s = next()
	b := a.resumed(s, a.user)
	eventually(t, "the gap is told", func() bool { return !s.participant(a.user).hasGap() })
	c, err := a.Resume(t.Context(), s.url+"/ws", header)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	again := &peer{Client: c, t: t}
	if m := again.expect("stun_config"); m.UserID == a.user {
		t.Errorf("%s is there twice", m.UserID)
	}
	b.say(`{"type":"leave_room","id":"1"}`)
	b.expect("ack")
}

package signal

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/state"
)

// slowState is a shared state whose sends to some nodes end only when the test lets them. It records
// all sends in the order in which they began.
type slowState struct {
	State
	mu   sync.Mutex
	slow map[string]chan struct{} // by node: closed when its sends may end
	sent []string                 // "nodes op from"
	join func() (state.View, error)
	away error
}

func (s *slowState) Ready() error { return s.away }

func (s *slowState) Join(context.Context, string, state.Member, int) (state.View, error) {
	return s.join()
}

func (s *slowState) ID() string                         { return "near" }
func (s *slowState) Doubtful(string) bool               { return false }
func (s *slowState) AwaitTrust(context.Context, string) {}
func (s *slowState) Nodes() []state.NodeInfo            { return nil }

func (s *slowState) Send(m state.Message, copies []state.Copy, done func([]error)) {
	var nodes []string
	var wait []chan struct{}
	s.mu.Lock()
	for _, c := range copies {
		nodes = append(nodes, c.Node)
		if held := s.slow[c.Node]; held != nil {
			wait = append(wait, held)
		}
	}
	s.sent = append(s.sent, strings.Join(append(slices.Sorted(slices.Values(nodes)), m.Op, m.From), " "))
	s.mu.Unlock()
	go func() {
		for _, held := range wait {
			<-held
		}
		done(make([]error, len(copies)))
	}()
}

// since returns what was sent since it was asked the last time.
func (s *slowState) since() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.sent
	s.sent = nil
	return out
}

// socketless returns a server over a state that serves nothing; what is in its rooms are deaf participants.
func socketless(t testing.TB, shared State) *Server {
	s := &Server{cfg: DefaultConfig(), state: shared, participants: map[string]*participant{}, rooms: map[string]*room{}, retired: map[string]*room{},
		requests: map[string]request{}, doubts: map[string]*doubt{}, resuming: map[string]chan struct{}{}}
	s.cfg.Logger = slog.New(slog.DiscardHandler)
	s.moves.byUser = map[string]*outgoingMove{}
	s.addrs = newAddresses(addressLimits{}, 0)
	s.wheel = newWheel(maxPingInterval, nil)
	s.metrics = newMetrics(s, prometheus.NewRegistry())
	s.ctx, s.cancel = context.WithCancel(t.Context())
	t.Cleanup(s.tasks.end)
	t.Cleanup(s.cancel)
	return s
}

// place puts a deaf participant of the server into a room of it.
func (s *Server) place(room string, m state.Member) *participant {
	p := deaf(m.ID, m.Epoch)
	p.srv, p.conn.srv = s, s
	s.participants[m.ID] = p
	p.room = s.addLocal(room, &localMember{participant: p})
	return p
}

func member(id, node string, epoch uint64) state.Member {
	return state.Member{ID: id, Node: node, Epoch: epoch}
}

// TestPassFollowsMessagesInFlight lets a member move from node far to node new, of which one speaks protocol 1, while
// a message for it is on its way to far. Far hears behind that message that all has passed.
func TestPassFollowsMessagesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := make(chan struct{})
		defer close(way)
		shared := &slowState{slow: map[string]chan struct{}{"far": way}}
		s := socketless(t, shared)
		a, b := s.place("r", member("a", "near", 1)), s.place("r", member("b", "near", 1))
		x := member("x", "far", 1)
		a.room.apply(view(1, member("a", "near", 1), member("b", "near", 1), x))
		later(t, a, appMessage)
		expect(t, shared, "far  a")

		moved := member("x", "new", 2)
		s.onControl(state.Message{Op: opMarker, Node: "new", Room: "r", To: "x", Frame: marker{Via: "far", Epoch: 1, New: moved}.frame()})
		expect(t, shared, "new  ", "far pass ")
		t.Log("what is sent from now on goes to where the member is")
		later(t, b, appMessage)
		expect(t, shared, "new  b")
	})
}

// later has a participant send something to x, who is on another node.
func later(t *testing.T, p *participant, typ messageType) {
	t.Helper()
	if err := p.relay(envelope{Type: typ, TargetID: []byte("x"), Data: json.RawMessage("{}")}); err != errLater {
		t.Error(err)
	}
}

// TestOlderViewDoesNotBringAMemberBack hears of a move by its marker, and then of another change that
// was made before the move: the member stays where it is.
func TestOlderViewDoesNotBringAMemberBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &slowState{}
		s := socketless(t, shared)
		a := s.place("r", member("a", "near", 1))
		x, y := member("x", "far", 1), member("y", "far", 1)
		a.room.apply(view(1, a.asMember(), x))
		moved := member("x", "new", 2)
		s.onControl(state.Message{Op: opMarker, Node: "new", Room: "r", To: "x", Frame: marker{Via: "far", Epoch: 1, New: moved}.frame()})
		expect(t, shared, "far pass ")
		s.onView(view(2, a.asMember(), x, y))
		later(t, a, offer)
		expect(t, shared, "new  a")
		t.Log("but a newer connection of the member is where the view has it, which is told how much went elsewhere")
		s.onView(view(3, a.asMember(), member("x", "newest", 3), y))
		later(t, a, offer)
		expect(t, shared, "newest strayed new", "newest  ", "newest  a")
	})
}

// asMember is the deaf participant as a member.
func (p *participant) asMember() state.Member { return member(p.user, "near", p.epoch) }

func expect(t *testing.T, shared *slowState, want ...string) {
	t.Helper()
	if got := shared.since(); !slices.Equal(got, want) {
		t.Fatalf("sent %q, want %q", got, want)
	}
}

// TestBroadcastIsOneSend sends to a room whose other members are on nine nodes.
func TestBroadcastIsOneSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &slowState{}
		s := socketless(t, shared)
		a := s.place("r", member("a", "near", 1))
		members := []state.Member{a.asMember()}
		for i := range 9 {
			members = append(members, member(fmt.Sprint("x", i), fmt.Sprint("n", i), 1))
		}
		a.room.apply(view(1, members...))
		if err := a.relay(envelope{Type: appMessage, Data: json.RawMessage("1")}); err != errLater {
			t.Fatal(err)
		}
		expect(t, shared, "n0 n1 n2 n3 n4 n5 n6 n7 n8  a")
	})
}

// TestStrangersWait lets messages come ahead of the view that names their sender, and behind the one that
// names its departure.
func TestStrangersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := socketless(t, &slowState{})
		a := s.place("r", member("a", "near", 1))
		x := member("x", "far", 1)
		message := func(from, data string) {
			s.onMessage(state.Message{Node: "far", Room: "r", From: from, To: "a", Frame: []byte(data)})
		}
		hears := func(what string, want ...string) {
			t.Helper()
			if got := heard(a); !slices.Equal(got, want) {
				t.Errorf("%s: a heard %q, want %q", what, got, want)
			}
		}
		message("x", "before a has joined")
		a.room.apply(view(1, a.asMember()))
		hears("alone", string(userJoinedFrame("r", "a", []string{"a"})))
		message("x", "1")
		message("stranger", "!")
		hears("before the view")
		s.onView(view(2, a.asMember(), x))
		message("x", "2")
		hears("after it", string(userJoinedFrame("r", "x", []string{"a", "x"})), "before a has joined", "1", "2")

		gone := view(3, a.asMember())
		gone.Left = []state.Departure{{Member: x, Reason: state.ReasonLeave}}
		s.onView(gone)
		message("x", "late")
		hears("after x has left", string(userLeftFrame("r", "x", "leave")))
		t.Log("what nobody explains in time is not lost: its sender was told that it has been handed on")
		time.Sleep(2 * earlyTimeout)
		synctest.Wait()
		hears("in the end", "!", "late")
	})
}

// TestEarlyMessagesAreBounded lets a stranger send more than may wait: the oldest are heard.
func TestEarlyMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // They do not wait for ever.
		s := socketless(t, &slowState{})
		s.cfg.MaxQueue = 10
		a := s.place("r", member("a", "near", 1))
		for i := range 100 {
			s.onMessage(state.Message{Node: "far", Room: "r", From: "x", Frame: fmt.Appendf(nil, "%05d", i)})
		}
		l := a.room.local["a"]
		if len(l.early) != 2 || l.earlyBytes != 10 || string(l.early[0].Frame) != "00098" {
			t.Errorf("%d messages of %d bytes wait, first %s", len(l.early), l.earlyBytes, l.early[0].Frame)
		}
	})
}

// TestJoinIsToldWhenItIsDone lets a view name a member whose join has not returned: its client hears of it
// once it has, and never of a join that failed after all.
func TestJoinIsToldWhenItIsDone(t *testing.T) {
	a, b := member("a", "near", 1), member("b", "far", 1)
	for _, done := range []bool{true, false} {
		shared := &slowState{}
		s := socketless(t, shared)
		p := deaf("a", 1)
		p.srv = s
		shared.join = func() (state.View, error) {
			s.onView(view(2, a, b))
			if done {
				return view(1, a), nil
			}
			return state.View{}, state.ErrUnavailable
		}
		err := p.joinRoom(envelope{Data: []byte(`{"room_id":"r"}`)})
		var want []string
		if done {
			want = []string{string(userJoinedFrame("r", "a", []string{"a"})), string(userJoinedFrame("r", "b", []string{"a", "b"}))}
		}
		if got := heard(p); (err == nil) != done || !slices.Equal(got, want) || (s.room("r") != nil) != done {
			t.Errorf("a join that is done: %v: %v, heard %q, want %q", done, err, got, want)
		}
	}
}

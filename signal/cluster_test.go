package signal

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"cline-meet/signal/state"
)

// startTwo runs two nodes over one shared state.
func startTwo(t *testing.T) (one, two *testServer) {
	t.Helper()
	shared := state.NewMemory()
	at := func(id string) func(*Config) {
		return func(c *Config) { c.State = shared.Node(id) }
	}
	return start(t, at("n1")), start(t, at("n2"))
}

func TestRoomAcrossNodes(t *testing.T) {
	one, two := startTwo(t)
	a, b := one.enter("r"), two.dial(nil)
	if got := b.join("r"); !slices.Equal(got, []string{a.user, b.user}) {
		t.Fatalf("users %v", got)
	}
	if m := a.expect("user_joined"); m.UserID != b.user {
		t.Fatalf("got %s", m.Raw)
	}
	c := one.enter("r")
	a.expect("user_joined")
	b.expect("user_joined")
	b.say(fmt.Sprintf(`{"type":"offer","id":"1","target_id":%q,"data":"{}"}`, a.user))
	same(t, a.next().Raw, fmt.Sprintf(`{"type":"offer","user_id":%q,"room_id":"r","target_id":%q,"data":"{}"}`, b.user, a.user))
	b.expect("ack")
	b.say(`{"type":"message","data":7}`)
	a.expect("message")
	c.expect("message")
	c.say(`{"type":"message","data":8}`)
	a.expect("message")
	b.expect("message")
	two.stop()
	for _, p := range []*peer{a, c} {
		if m := p.expect("user_left"); m.UserID != b.user {
			t.Errorf("got %s", m.Raw)
		}
	}
	if err := one.ConsistencyCheck(); err != nil {
		t.Error(err)
	}
}

func TestRoomFullAcrossNodes(t *testing.T) {
	one, two := startTwo(t)
	for i := range 10 {
		[]*testServer{one, two}[i%2].enter("r")
	}
	late := two.dial(nil)
	late.say(`{"type":"join_room","data":{"room_id":"r"}}`)
	late.expect("room_full")
}

// hasty is a state that other nodes use within the subscription itself.
type hasty struct {
	*state.MemoryNode
	first func(state.Events)
}

func (h hasty) Subscribe(ev state.Events) {
	h.MemoryNode.Subscribe(ev)
	h.first(ev)
}

// TestEventsComeWithTheSubscription has everything that another node may say arrive before Run, as in a
// rolling restart: the server is whole then, and answers.
func TestEventsComeWithTheSubscription(t *testing.T) {
	shared := state.NewMemory()
	answers := make(chan state.Message, 10)
	asker := shared.Node("n0")
	asker.Subscribe(state.Events{View: func(state.View) {}, Message: func(m state.Message) { answers <- m }, Lost: func(string) {}, Died: func(string) {}, Slept: func(time.Time) {}, Present: func(string, string) bool { return true }})
	question, err := json.Marshal(moveRequest{Ask: "7"})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *Config) {
		c.State = hasty{shared.Node("n1"), func(ev state.Events) {
			ev.View(state.View{Room: "r", Version: 1})
			ev.Died("n2")
			for _, op := range []string{"", opHandover, opMarker, opForward, opPass, opPassed, opSettled, opRelay, opTipsTold} {
				ev.Message(state.Message{Node: "n0", Op: op, Room: "r", From: "a", To: "b", Frame: []byte("{}")})
			}
			ev.Message(state.Message{Node: "n0", Op: opResume, From: "a", Frame: question})
		}}
	})
	select {
	case m := <-answers:
		if m.Node != "n1" || m.Op != opHandover || m.To != "7" {
			t.Errorf("answer %+v", m)
		}
	case <-time.After(patience):
		t.Error("no answer to a question that came with the subscription")
	}
	s.enter("r")
}

package signal

import (
	"fmt"
	"slices"
	"testing"

	"cline-meet/signal/state"
)

// startTwo runs two nodes over one shared state.
func startTwo(t *testing.T) (one, two *testServer) {
	t.Helper()
	shared := state.NewMemory()
	at := func(id string) func(*Config) {
		return func(c *Config) { c.Attach = func(ev state.Events) State { return shared.Attach(id, ev) } }
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

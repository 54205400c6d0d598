package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/turnclient"
)

// TestListsAreOfAllNodes has rooms and users at two nodes and reads them, page by page, from either.
func TestListsAreOfAllNodes(t *testing.T) {
	nodes := startNodes(t, "a", "b")
	one, two, three := nodes[0].enter("blue"), nodes[1].enter("blue"), nodes[1].enter("red")
	for _, n := range nodes {
		systemtest.Eventually(t, "the room is known", func() bool { return len(get[room](n, "/v1/rooms/blue").Members) == 2 })
		rooms := pages[room](n, "/v1/rooms", "")
		if len(rooms) != 2 || rooms[0].ID != "blue" || rooms[1].ID != "red" {
			t.Errorf("rooms of %+v", rooms)
		}
		if m := rooms[0].Members; len(m) != 2 || m[0] != (member{one.user, "a"}) || m[1] != (member{two.user, "b"}) {
			t.Errorf("members of blue are %+v", m)
		}
		users := pages[connection](n, "/v1/connections", "")
		var ids []string
		for _, c := range users {
			ids = append(ids, c.UserID)
			if c.Address != "127.0.0.1" || c.Family != "ipv4" || c.Transport != "ws" || !c.Connected || c.Until != nil || c.Bytes <= 0 || time.Since(c.Since) > time.Hour {
				t.Errorf("connection %+v", c)
			}
		}
		want := []string{one.user, two.user, three.user}
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Errorf("users are %v, not %v", ids, want)
		}
		if of := pages[connection](n, "/v1/connections", "room=red"); len(of) != 1 || of[0].UserID != three.user || of[0].Node != "b" || of[0].Room != "red" {
			t.Errorf("users of red are %+v", of)
		}
		if c := get[connection](n, "/v1/users/"+two.user); c.Node != "b" || c.Room != "blue" {
			t.Errorf("user %+v", c)
		}
		all := get[list[node]](n, "/v1/nodes")
		if len(all.Items) != 2 || all.Items[0].ID != "a" || all.Items[0].Connections != 1 || all.Items[1].Rooms != 2 || !all.Items[1].Ready ||
			all.Items[0].Version != "of the test" || all.Items[0].LogLevel != "info" || all.Items[0].TURN[0] != "turn:x" {
			t.Errorf("nodes are %+v", all)
		}
	}
}

// pages reads a list one item at a time.
func pages[T any](n *testNode, path, query string) (items []T) {
	n.t.Helper()
	after := ""
	for range 100 {
		l := get[list[T]](n, path+"?limit=1&"+query+after)
		if len(l.Items) > 1 || len(l.MissingNodes) > 0 {
			n.t.Fatalf("%s: %+v", path, l)
		}
		items = append(items, l.Items...)
		if l.Next == "" {
			return items
		}
		after = "&after=" + l.Next
	}
	n.t.Fatalf("%s does not end", path)
	return nil
}

// TestKickedUsersAreGone kicks somebody from another node: socket, place, way back and relay end at once.
func TestKickedUsersAreGone(t *testing.T) {
	nodes := startNodes(t, "a", "b")
	stays, leaves := nodes[0].enter("blue"), nodes[1].enter("blue")
	relay := turnclient.New(nodes[1].dialUDP(), false, turnclient.Mint(turnSecret, leaves.user, time.Now(), time.Hour))
	if err := relay.Allocate(); err != nil {
		t.Fatal(err)
	}
	relays := get[list[allocation]](nodes[0], "/v1/allocations?user="+leaves.user).Items
	if len(relays) != 1 || relays[0].Room != "blue" || relays[0].Node != "b" || relays[0].UserID != leaves.user || relays[0].Transport != "udp" {
		t.Errorf("relays are %+v", relays)
	}
	if status, _ := nodes[0].call(writeToken, http.MethodDelete, "/v1/allocations/b.77", ""); status != http.StatusNotFound {
		t.Errorf("ending a relay that is not there: %d", status)
	}
	if status, text := nodes[0].call(writeToken, http.MethodDelete, "/v1/allocations/"+relays[0].ID, ""); status != http.StatusNoContent {
		t.Errorf("ending a relay: %d %s", status, text)
	}
	if err := relay.Allocate(); err != nil {
		t.Errorf("making another relay: %v", err)
	}
	var hub struct {
		Token string `json:"resume_token"`
	}
	if err := leaves.hub.Document(&hub); err != nil {
		t.Fatal(err)
	}
	status, text := nodes[0].call(writeToken, http.MethodPost, "/v1/users/"+leaves.user+"/kick", "")
	var out kicked
	if err := json.Unmarshal([]byte(text), &out); status != http.StatusOK || err != nil || out.Relays != 1 {
		t.Fatalf("kick: %d %s (%v)", status, text, err)
	}
	left := stays.expect("user_left")
	var why struct{ Reason string }
	if err := left.Document(&why); err != nil || left.UserID != leaves.user || why.Reason != "kick" {
		t.Errorf("others are told %s (%v)", left.Raw, err)
	}
	_, err := leaves.Next(t.Context())
	for err == nil {
		_, err = leaves.Next(t.Context())
	}
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 4502 {
		t.Errorf("the socket ended with %v", err)
	}
	for _, n := range nodes {
		if back := n.dial("?resume="+hub.Token, nil); back.user == leaves.user {
			t.Errorf("%s came back", back.user)
		}
	}
	if left := get[list[allocation]](nodes[0], "/v1/allocations").Items; len(left) > 0 {
		t.Errorf("relays are left: %+v", left)
	}
	if err := relay.Allocate(); err == nil {
		t.Error("the old credentials made another relay")
	}
	if status, _ := nodes[1].call(writeToken, http.MethodPost, "/v1/users/"+leaves.user+"/kick", ""); status != http.StatusNotFound {
		t.Errorf("kicked again: %d", status)
	}
}

// TestClosedRoomIsEmpty closes a room with members at two nodes.
func TestClosedRoomIsEmpty(t *testing.T) {
	nodes := startNodes(t, "a", "b")
	nodes[0].enter("blue")
	nodes[1].enter("blue")
	other := nodes[1].enter("red")
	systemtest.Eventually(t, "the room is known", func() bool { return len(get[room](nodes[0], "/v1/rooms/blue").Members) == 2 })
	if status, text := nodes[0].call(writeToken, http.MethodDelete, "/v1/rooms/blue", ""); status != 200 || text != `{"kicked":2,"missing_nodes":[]}`+"\n" {
		t.Fatalf("close: %d %s", status, text)
	}
	systemtest.Eventually(t, "the room is gone", func() bool {
		status, _ := nodes[1].call(readToken, http.MethodGet, "/v1/rooms/blue", "")
		return status == http.StatusNotFound
	})
	if c := get[connection](nodes[0], "/v1/users/"+other.user); c.Room != "red" {
		t.Errorf("somebody else is in room %q", c.Room)
	}
}

// TestOwnerIsHeard sends messages of the owner to a room and to one user.
func TestOwnerIsHeard(t *testing.T) {
	nodes := startNodes(t, "a", "b")
	one, two := nodes[0].enter("blue"), nodes[1].enter("blue")
	if status, text := nodes[1].call(writeToken, http.MethodPost, "/v1/rooms/blue/messages", `{"data":{"text":"good morning"}}`); status != 200 || text != `{"receivers":2}`+"\n" {
		t.Fatalf("%d %s", status, text)
	}
	for _, g := range []*guest{one, two} {
		if m := g.expect("message"); m.UserID != "owner" || m.RoomID != "blue" || string(m.Data) != `{"text":"good morning"}` {
			t.Errorf("got %s", m.Raw)
		}
	}
	if status, text := nodes[1].call(writeToken, http.MethodPost, "/v1/users/"+one.user+"/messages", `{"data":"you"}`); status != 200 || text != `{"receivers":1}`+"\n" {
		t.Fatalf("%d %s", status, text)
	}
	if m := one.expect("message"); string(m.Data) != `"you"` {
		t.Errorf("got %s", m.Raw)
	}
	if status, _ := nodes[0].call(writeToken, http.MethodPost, "/v1/users/user-x/messages", `{"data":1}`); status != http.StatusNotFound {
		t.Errorf("to nobody: %d", status)
	}
}

// TestNodesAreCommanded drains one node and sets the level of the log of the other, each from the other.
func TestNodesAreCommanded(t *testing.T) {
	nodes := startNodes(t, "a", "b")
	if status, text := nodes[0].call(writeToken, http.MethodPut, "/v1/nodes/b/log-level", `{"level":"debug"}`); status != http.StatusNoContent {
		t.Fatalf("level: %d %s", status, text)
	}
	if got := nodes[1].level.Level().String(); got != "DEBUG" {
		t.Errorf("the level of b is %s", got)
	}
	if status, text := nodes[1].call(writeToken, http.MethodPost, "/v1/nodes/a/drain", ""); status != http.StatusNoContent {
		t.Fatalf("drain: %d %s", status, text)
	}
	<-nodes[0].drained
	systemtest.Eventually(t, "the node drains", func() bool { return get[list[node]](nodes[1], "/v1/nodes").Items[0].Draining })
}

// TestSilentNodeIsNamed has a node that does not answer: what it knows is missing, and the answer says so.
func TestSilentNodeIsNamed(t *testing.T) {
	nodes := startNodes(t, "a", "b")
	nodes[1].parts.Signal.Answer(nil)
	if l := get[list[room]](nodes[0], "/v1/rooms"); !slices.Equal(l.MissingNodes, []string{"b"}) {
		t.Errorf("rooms: %+v", l)
	}
	if status, text := nodes[0].call(readToken, http.MethodGet, "/v1/rooms/blue", ""); status != http.StatusServiceUnavailable {
		t.Errorf("a room that b may know: %d %s", status, text)
	}
}

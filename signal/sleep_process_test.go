package signal_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

// guest is a client that a test drives by hand. It keeps what it is told.
type guest struct {
	t      *testing.T
	ctx    context.Context
	conn   *client.Client
	header http.Header
	user   string
	told   []client.Message
}

// call connects to a node and enters a room.
func call(t *testing.T, ctx context.Context, node *systemtest.Node, room string) *guest {
	t.Helper()
	conn, err := client.Dial(ctx, node.URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	cookie := conn.Cookies()[0]
	g := &guest{t: t, ctx: ctx, conn: conn, header: http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}}}
	t.Cleanup(func() { _ = g.conn.Close() })
	g.user = g.hears("its greeting", func(m client.Message) bool { return m.Type == "stun_config" }).UserID
	g.says(client.Message{Type: "join_room", Data: document(map[string]string{"room_id": room})})
	g.hears("that it is in the room", func(m client.Message) bool { return m.Type == "user_joined" && m.UserID == g.user })
	return g
}

// hears reads until a message comes.
func (g *guest) hears(what string, is func(m client.Message) bool) client.Message {
	g.t.Helper()
	for {
		m, err := g.conn.Next(g.ctx)
		if err != nil {
			g.t.Fatalf("waiting for %s: %v", what, err)
		}
		g.told = append(g.told, m)
		if is(m) {
			return m
		}
	}
}

func (g *guest) says(m client.Message) {
	g.t.Helper()
	if err := g.conn.Send(m); err != nil {
		g.t.Fatal(err)
	}
}

// goesTo gives up its connection and resumes at a node as soon as that can.
func (g *guest) goesTo(node *systemtest.Node) {
	g.t.Helper()
	g.conn.Cut()
	for err := error(nil); err == nil; { // What had come is taken in first.
		_, err = g.conn.Next(g.ctx)
	}
	for g.ctx.Err() == nil {
		conn, err := g.conn.Resume(g.ctx, node.URL+"ws", g.header)
		if err == nil {
			m, failed := conn.Next(g.ctx)
			start, _ := m.Greeting()
			if failed == nil && start.Resumed {
				_ = g.conn.Close()
				g.conn = conn
				return
			}
			_ = conn.Close()
		}
		wait(g.ctx, 50*time.Millisecond)
	}
	g.t.Fatal("it cannot resume")
}

// heardOf counts the messages of a type that are of a user.
func (g *guest) heardOf(kind, user string) (count int) {
	for _, m := range g.told {
		if m.Type == kind && m.UserID == user {
			count++
		}
	}
	return count
}

// TestFrozenNodeWakes stops the process of a node for longer than its lease. Meanwhile two of its clients go to another node,
// where one leaves the room, and a third says something, which waits in its connection. When the process runs again, what was
// said is heard where the receiver is, and nobody comes back or leaves for a second time.
func TestFrozenNodeWakes(t *testing.T) {
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis, "--resume-grace", "60s")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	speaker, mover, leaver := call(t, ctx, nodes[0], "r"), call(t, ctx, nodes[0], "r"), call(t, ctx, nodes[0], "r")
	witness := call(t, ctx, nodes[1], "r")
	speaker.hears("that all are there", func(m client.Message) bool { return m.Type == "user_joined" && m.UserID == witness.user })
	nodes[0].Freeze()
	defer nodes[0].Thaw()
	mover.goesTo(nodes[1])
	leaver.goesTo(nodes[1])
	leaver.says(client.Message{Type: "leave_room", ID: "bye"})
	leaver.hears("that it has left", func(m client.Message) bool { return m.Type == "ack" && m.ID == "bye" })
	witness.hears("that one has left", func(m client.Message) bool { return m.Type == "user_left" && m.UserID == leaver.user })
	speaker.says(client.Message{Type: "message", ID: "1", Data: document("1")})
	nodes[0].Thaw()
	for {
		ack := speaker.hears("an answer", func(m client.Message) bool { return m.ID == "1" })
		if ack.Type == "ack" && len(ack.Missed) == 0 {
			break
		}
		speaker.says(client.Message{Type: "message", ID: "1", Data: document("1")})
	}
	said := func(m client.Message) bool { return m.Type == "message" && string(m.Data) == `"1"` }
	mover.hears("what was said", said)
	witness.hears("what was said", said)
	if fields := redis.Client().HKeys(ctx, "sig:{r:r}").Val(); slices.Contains(fields, "m:"+leaver.user) {
		t.Errorf("Redis has the one that has left: %v", fields)
	}
	for _, g := range []*guest{speaker, witness, mover} {
		for _, of := range []*guest{speaker, mover, leaver} {
			want := 0
			if of == leaver {
				want = 1
			}
			if left := g.heardOf("user_left", of.user); left != want && (g != speaker || left > want) {
				t.Errorf("%s was told %d times that %s left", g.user, left, of.user)
			}
		}
	}
	if witness.heardOf("message", speaker.user) != 1 || witness.heardOf("user_joined", leaver.user) > 0 {
		t.Errorf("%s was told %v", witness.user, witness.told)
	}
}

package signal_test

import (
	"context"
	"fmt"
	"testing"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

// native is a program that joins rooms and keeps no cookies.
type native struct {
	t    *testing.T
	conn *client.Client
	user string
}

// enterNatively connects to a node and joins a room.
func enterNatively(t *testing.T, n *systemtest.Node, room string) *native {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := client.Dial(ctx, n.URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &native{t: t, conn: conn}
	first, err := conn.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.user = first.UserID
	if err := conn.Join(room); err != nil {
		t.Fatal(err)
	}
	for m := first; m.Type != "user_joined"; {
		if m, err = conn.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// resume loses the connection and comes back to a node, which may take some time to know that another one is dead.
func (c *native) resume(at *systemtest.Node) (gap bool) {
	c.t.Helper()
	old := c.conn
	old.Cut()
	for range 1000 { // What has come has to be read.
		if _, err := old.Next(c.t.Context()); err != nil {
			break
		}
	}
	_ = old.Close()
	eventually(c.t, "the session is resumed", func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		defer cancel()
		conn, err := old.Resume(ctx, at.URL+"ws", nil)
		if err != nil {
			return err
		}
		c.t.Cleanup(func() { _ = conn.Close() })
		m, err := conn.Next(ctx)
		if err != nil {
			return err
		}
		g, err := m.Greeting()
		if err != nil || !g.Resumed || m.UserID != c.user {
			c.t.Fatalf("%s came back to %s (%v)", c.user, m.Raw, err)
		}
		c.conn, gap = conn, g.Gap
		return nil
	})
	return gap
}

// TestNativeClient has a program without a cookie jar resume at its node, at the other of two, and when its node is killed; the other
// member of its room notices nothing.
func TestNativeClient(t *testing.T) {
	nodes := startNodes(t, 2, redistest.Start(t))
	c, other := enterNatively(t, nodes[0], "r"), enter(t, nodes[1], "r")
	for _, at := range []int{0, 0, 1, 0} {
		if c.resume(nodes[at]) {
			t.Error("something is missing although no node has died")
		}
	}
	nodes[0].Kill()
	if !c.resume(nodes[1]) {
		t.Error("nothing is missing although the node has died")
	}
	c.resume(nodes[1])
	if err := c.conn.Send(client.Message{Type: "message", ID: "1", Data: document("still here")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other hears it", func() error {
		other.mu.Lock()
		defer other.mu.Unlock()
		if len(other.data) == 0 || len(other.left) > 0 {
			return fmt.Errorf("it heard %v and saw %v leave", other.data, other.left)
		}
		return nil
	})
	if err := other.sees([]string{c.user, other.user}); err != nil {
		t.Error(err)
	}
}

// TestNativeClientOfOneNode kills the only node, which has its state in memory, and starts it again.
func TestNativeClientOfOneNode(t *testing.T) {
	n := systemtest.StartNode(t, "--session-secret", "a secret of both processes")
	c := enterNatively(t, n, "r")
	c.resume(n)
	n.Kill()
	n.Start()
	n.Ready()
	if !c.resume(n) {
		t.Error("nothing is missing although the node has died")
	}
	c.resume(n)
}

package signal

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gorilla/websocket"
)

// abandon resumes at a node with the token that the peer has, and is gone before it has read the greeting. The peer
// gave up its connection before.
func (p *peer) abandon(at *testServer) {
	p.t.Helper()
	p.Cut()
	address := strings.Replace(at.url, "http", "ws", 1) + "/ws?resume=" + p.token()
	ws, _, err := websocket.DefaultDialer.DialContext(p.t.Context(), address, p.cookie())
	if err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "somebody is there", func() bool { return at.participant(p.user) != nil })
	_ = ws.Close()
}

// TestAbandonedResumes has a participant taken by one node after the other for connections that are dead. Its client has
// the first token all the time, comes back with it, and is itself to the others.
func TestAbandonedResumes(t *testing.T) {
	nodes := startNodes(t, 5)
	a, b := nodes[4].enter("r"), nodes[0].enter("r")
	a.expect("user_joined")
	for _, i := range []int{1, 2, 3} {
		b.abandon(nodes[i])
	}
	_, b, g := b.back(nodes[4])
	if !g.Resumed || g.Gap {
		t.Fatalf("came back to %s", b.hub.Raw)
	}
	b.say(`{"type":"message","id":"1","data":1}`)
	if m := a.expect("message"); m.UserID != b.user { // Nothing else has come: nobody saw it leave.
		t.Errorf("got %s", m.Raw)
	}
	for i := range nodes {
		if err := nodes[i].ConsistencyCheck(); err != nil {
			t.Error(err)
		}
	}
}

// TestAbandonedResumeHere has the client come back to the node whose token it has.
func TestAbandonedResumeHere(t *testing.T) {
	nodes := startNodes(t, 2)
	b := nodes[0].enter("r")
	b.abandon(nodes[1])
	if _, q, g := b.back(nodes[0]); !g.Resumed || g.Gap || q.user != b.user {
		t.Fatalf("came back to %s", q.hub.Raw)
	}
}

// TestAbandonedAdoption kills the node whose token the client has, and the one that has the participant in the end.
func TestAbandonedAdoption(t *testing.T) {
	nodes, dead := startMortals(t, 4)
	a, b := nodes[3].enter("r"), nodes[0].enter("r")
	a.expect("user_joined")
	dead.kill("n0", 0)
	b.abandon(nodes[1])
	b.abandon(nodes[2])
	dead.kill("n2", 0)
	if _, q, g := b.back(nodes[3]); !g.Resumed || !g.Gap || q.user != b.user {
		t.Fatalf("came back to %s", q.hub.Raw)
	}
}

// TestLateRequestByAFormerToken leaves a client alone that has proved to be there, and takes a participant from one that
// proves nothing.
func TestLateRequestByAFormerToken(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		b := g.nodes["B"].srv
		former := g.x.epoch
		g.x = g.hop(g.x, "B")
		go func() {
			synctest.Wait()
			g.x.confirmed(g.x.conn, "0")
		}()
		_, _, err := b.release(t.Context(), "x", "C", moveRequest{Epoch: former})
		if !errors.Is(err, errGone) || b.participant("x") != g.x || g.x.conn.isClosing() {
			t.Errorf("%v; x is closing: %v", err, g.x.conn.isClosing())
		}
	})
}

// TestLateRequestHere does the same at the node where the client is.
func TestLateRequestHere(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		b := g.nodes["B"].srv
		former := resumeToken{User: "x", Epoch: g.x.epoch, Node: "A"}
		g.x = g.hop(g.x, "B")
		g.x.conn.number, g.x.conn.released = 2, make(chan struct{})
		asks := func(number uint64, t resumeToken, got *uint64) (*participant, error) {
			p, _, err := b.fetch(b.ctx, &conn{number: number, visitor: visitor{bound: binding{session: "session"}}}, t, got)
			return p, err
		}
		stays := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, errGone) || b.participant("x") != g.x || g.x.conn.isClosing() {
				t.Errorf("%s: %v; x is closing: %v", what, err, g.x.conn.isClosing())
			}
		}
		newest := resumeToken{User: "x", Epoch: g.x.epoch, Node: "B"}
		_, err := asks(1, newest, nil)
		stays("a request from before", err)
		g.x.send([]byte("1"))
		g.x.confirmed(nil, strconv.FormatUint(g.x.sent, 10))
		late := g.x.sent - 1
		_, err = asks(3, newest, &late)
		stays("a client that got less", err)

		t.Log("by the former token")
		go func() {
			synctest.Wait()
			g.x.detach(g.x.conn, true)
		}()
		if p, err := asks(3, former, nil); p != g.x || err != nil {
			t.Fatalf("who is there no more is still %v: %v", p, err)
		}
		g.x.owner, g.x.conn = ownerConn, deaf("x", 2).conn
		go func() {
			synctest.Wait()
			g.x.confirmed(g.x.conn, strconv.FormatUint(g.x.sent, 10))
		}()
		_, err = asks(4, former, nil)
		stays("a client that has proved that it is there", err)
	})
}

package signal

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/state"
)

// resumes is back with that header for a session that must be there.
func (p *peer) resumes(at *testServer, header http.Header) *peer {
	p.t.Helper()
	_, q, g := p.backAs(at, header)
	if !g.Resumed || q.user != p.user {
		p.t.Fatalf("%s came back to %s", p.user, q.hub.Raw)
	}
	return q
}

// TestResumeWithoutACookie has a client that keeps no cookies come back to its node, to another and again, and once with a cookie:
// the one that it was offered, or one of another session, which a browser has that opened two tabs at once.
func TestResumeWithoutACookie(t *testing.T) {
	nodes := startNodes(t, 2)
	a, b := nodes[0].enter("r"), nodes[0].enter("r")
	a.expect("user_joined")
	offered := b.cookie()
	for _, at := range []int{0, 0, 1, 1, 0} {
		b = b.resumes(nodes[at], nil)
	}
	b = b.resumes(nodes[1], offered)
	b = b.resumes(nodes[0], offered)
	b.say(`{"type":"message","id":"1","data":1}`)
	if m := a.expect("message"); m.UserID != b.user { // Nothing else has come: nobody saw it leave.
		t.Errorf("got %s", m.Raw)
	}
	c := nodes[0].enter("s")
	c.resumes(nodes[1], nodes[0].dial(nil).cookie()).say(`{"type":"leave_room"}`)
}

// TestAdoptionWithoutACookie kills the node of a client that keeps no cookies.
func TestAdoptionWithoutACookie(t *testing.T) {
	nodes, dead := startMortals(t, 3)
	a, b := nodes[0].enter("r"), nodes[1].enter("r")
	a.expect("user_joined")
	dead.kill("n1", 0)
	_, b, g := b.backAs(nodes[2], nil)
	if !g.Resumed || !g.Gap {
		t.Fatalf("came back to %s", b.hub.Raw)
	}
	b.resumes(nodes[0], nil)
}

// TestRevivalWithoutACookie restarts a node with state in memory.
func TestRevivalWithoutACookie(t *testing.T) {
	lasting := func(c *Config) {
		c.SessionSecrets, c.LastingSecret = []string{"a secret of two processes"}, true
		c.State = state.NewMemory().Node(state.NewNodeID())
	}
	s := start(t, lasting)
	b := s.enter("r")
	b.hub = b.expect("stun_config") // Its token names the room.
	s.stop()
	_, b, g := b.backAs(start(t, lasting), nil)
	if !g.Resumed || !g.Gap {
		t.Fatalf("came back to %s", b.hub.Raw)
	}
}

// TestShownCookieIsNeeded has somebody come with the token of a client that has shown its cookie.
func TestShownCookieIsNeeded(t *testing.T) {
	nodes := startNodes(t, 2)
	known := nodes[0].dial(nil).cookie()
	for name, header := range map[string]http.Header{
		"none": nil, "another": nodes[0].dial(nil).cookie(), "a false one": {"Cookie": {"signal_session=x.y"}},
	} {
		for i, at := range nodes {
			b := nodes[0].dial(known)
			if _, q, g := b.backAs(at, header); g.Resumed || q.user == b.user {
				t.Errorf("%s: came back to node %d: %s", name, i, q.hub.Raw)
			} else {
				q.expectError(codeGone)
			}
		}
	}
}

// steal asks at a node for the session of a token that somebody else has, and returns the code of the answer.
func (s *testServer) steal(token string) (resumed bool) {
	s.t.Helper()
	ws, _, err := websocket.DefaultDialer.DialContext(s.t.Context(), strings.Replace(s.url, "http", "ws", 1)+"/ws?resume="+token, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	_, frame, err := ws.ReadMessage()
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Contains(string(frame), `"resumed":true`)
}

// TestUsedTokenIsVoid comes with a token that was used, as somebody may who reads the log of a proxy.
func TestUsedTokenIsVoid(t *testing.T) {
	nodes := startNodes(t, 3)
	b := nodes[0].enter("r")
	var used []string
	for _, at := range []int{0, 0, 1, 1} {
		used = append(used, b.token())
		b = b.resumes(nodes[at], nil)
		p := nodes[at].participant(b.user)
		eventually(t, "the greeting is confirmed", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.proved == p.greetings && p.former == 0
		})
	}
	for i, token := range used {
		for _, n := range nodes {
			if n.isBack("", token) || n.steal(token) {
				t.Fatalf("token %d is good at node %s", i, n.state.ID())
			}
		}
	}
	b.say(`{"type":"leave_room","id":"x"}`)
	b.expect("ack")
}

// TestLostGreeting has a client come with a token that was used once more, because the next one did not arrive.
func TestLostGreeting(t *testing.T) {
	nodes := startNodes(t, 2)
	for i, at := range nodes {
		b := nodes[0].enter("r")
		b.header = http.Header{}
		b.abandon(at)
		if _, q, g := b.backAs(nodes[1-i], nil); !g.Resumed || q.user != b.user {
			t.Errorf("came back to %s", q.hub.Raw)
		}
	}
}

// TestUsedTokenOfWhoHasMoved asks for a participant that is on its way to another node.
func TestUsedTokenOfWhoHasMoved(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x.greetings, g.x.proved = 3, 3
		epoch := g.x.epoch
		g.hop(g.x, "B")
		move := g.nodes["A"].srv.moves.of("x")
		for greeting, want := range map[uint64]bool{0: true, 2: false, 3: true} {
			if move.isOf(epoch, greeting) != want {
				t.Errorf("greeting %d: %v", greeting, !want)
			}
		}
	})
}

// TestBearerTokensExpire lets time pass: a client that is there has a fresh token in time, and an old one opens nothing.
func TestBearerTokensExpire(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		s := g.x.srv
		s.sessions, s.cfg.ResumeGrace = newSessions(nil), 15*time.Second
		g.x.conn.bound = binding{session: "session"}
		frame := func() string {
			g.x.mu.Lock()
			defer g.x.mu.Unlock()
			g.x.iceFrameLocked(ICEConfig{}, greeting{})
			return g.x.tokenLocked()
		}
		token := frame()
		if left := time.Until(g.x.iceRefresh); left <= 0 || left > bearerLife/2 {
			t.Errorf("the next token comes after %v", left)
		}
		time.Sleep(s.cfg.ResumeGrace + bearerLife - time.Second)
		if _, err := s.readToken("", token); err != nil {
			t.Errorf("before its end: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := s.readToken("", token); !errors.Is(err, errGone) {
			t.Errorf("after its end: %v", err)
		}
		g.x.conn.bound = binding{"session", true}
		token = frame()
		time.Sleep(100 * bearerLife)
		if _, err := s.readToken("session", token); err != nil || !g.x.iceRefresh.IsZero() {
			t.Errorf("bound to a cookie: %v", err)
		}
	})
}

// TestICEForBearers fetches ICE servers with the token of a WebSocket.
func TestICEForBearers(t *testing.T) {
	s := start(t)
	b := s.dial(nil)
	known := s.dial(s.dial(nil).cookie())
	for _, test := range []struct {
		name, authorization string
		status              int
	}{
		{"a bearer token", "Bearer " + b.token(), 200},
		{"in lower case", "bearer " + b.token(), 200},
		{"a token that is bound to a cookie", "Bearer " + known.token(), 401},
		{"a token that was changed", "Bearer x" + b.token(), 401},
		{"another scheme", "Basic " + b.token(), 401},
		{"nothing", "", 401},
	} {
		res, body := s.get("/ice", http.Header{"Authorization": {test.authorization}})
		if res.StatusCode != test.status || test.status == 200 && !strings.Contains(body, `"`+b.user+`"`) {
			t.Errorf("%s: %s %s", test.name, res.Status, body)
		}
	}
}

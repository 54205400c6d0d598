package signal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// backend is an owner's backend, which says what the test wants and remembers the kinds of questions.
type backend struct {
	*httptest.Server
	mu    sync.Mutex
	says  map[string]func(w http.ResponseWriter)
	kinds []string
}

func newBackend(t *testing.T) *backend {
	b := &backend{says: map[string]func(http.ResponseWriter){}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Kind, Room string }
		_ = json.NewDecoder(r.Body).Decode(&q)
		b.mu.Lock()
		b.kinds = append(b.kinds, strings.TrimSpace(q.Kind+" "+q.Room+" "+r.Header.Get("Cookie")))
		say := b.says[q.Kind]
		b.mu.Unlock()
		say(w)
	}))
	t.Cleanup(b.Close)
	return b
}

// say makes the backend answer a kind of question.
func (b *backend) say(kind string, status int, body string) {
	b.sayBy(kind, func(w http.ResponseWriter) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func (b *backend) sayBy(kind string, answer func(http.ResponseWriter)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.says[kind] = answer
}

func (b *backend) asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.kinds)
}

func TestHookDecides(t *testing.T) {
	b := newBackend(t)
	s := start(t, func(c *Config) { c.Auth.URL, c.ResumeGrace = b.URL, time.Hour })
	cookie := http.Header{"Cookie": {"sid=7"}}
	b.say("connect", 200, `{"sub":"ann"}`)
	b.say("join", 204, "")
	p := s.dial(cookie)
	if _, credentials := offeredTo(t, p.hub); credentials {
		t.Errorf("who may not relay got %s", p.hub.Raw)
	}
	p.join("r")
	p.join("r") // It is there already: nobody is asked.
	b.say("join", 403, "")
	p.say(`{"type":"join_room","id":"1","data":{"room_id":"x"}}`)
	p.expectError(403)
	b.say("join", 500, "")
	p.say(`{"type":"join_room","id":"2","data":{"room_id":"x"}}`)
	p.expectError(503)
	b.say("join", 200, `{"relay":true}`)
	p.say(`{"type":"join_room","id":"3","data":{"room_id":"x"}}`)
	p.say(`{"type":"message","id":"4","data":"the order of one's messages is kept"}`)
	p.expect("user_joined")
	if _, credentials := offeredTo(t, p.expect("stun_config")); !credentials {
		t.Error("the grant of the room is not there")
	}
	for _, want := range []string{"3", "4"} {
		if m := p.expect("ack"); m.ID != want {
			t.Errorf("the answer to %s came before that to %s", m.ID, want)
		}
	}
	p.say(`{"type":"leave_room","id":"5"}`)
	if _, credentials := offeredTo(t, p.expect("stun_config")); credentials {
		t.Error("the grant of the room has outlived it")
	}
	p.expect("ack")
	if got, want := b.asked(), []string{"connect  sid=7", "join r sid=7", "join x sid=7", "join x sid=7", "join x sid=7"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}

	for status, want := range map[int]int{401: 401, 403: 403, 404: 503, 302: 503, 200: 503} {
		b.say("connect", status, "")
		b.say("ice", status, "")
		if got, _, body := knockAt(t, s, "", nil); got != want {
			t.Errorf("the backend says %d: %d %s, want %d", status, got, body, want)
		}
		if res, body := s.get("/ice", nil); res.StatusCode != want || strings.Contains(body, "urls") {
			t.Errorf("the backend says %d: ICE servers %s %s, want %d", status, res.Status, body, want)
		}
	}
	b.say("ice", 200, `{"sub":"ann","relay":true}`)
	if res, body := s.get("/ice", cookie); res.StatusCode != 200 || !strings.Contains(body, "turn:") {
		t.Errorf("ICE servers: %s %s", res.Status, body)
	}
}

// TestHookIsAskedAgainForAResume loses connections whose users may, may not, and perhaps may come back.
func TestHookIsAskedAgainForAResume(t *testing.T) {
	b := newBackend(t)
	nodes := startNodes(t, 2, func(c *Config) { c.Auth.URL, c.ResumeGrace = b.URL, time.Hour })
	b.say("connect", 200, `{"sub":"ann"}`)
	b.say("join", 204, "")
	p := nodes[0].dial(nil)
	p.join("r")

	p.Cut()
	_ = p.ended()
	b.say("join", 500, "")
	resume := func(p *peer, at *testServer) *peer {
		c, err := p.Resume(t.Context(), at.url+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return &peer{Client: c, t: t, user: p.user}
	}
	var closed *websocket.CloseError
	if err := resume(p, nodes[1]).ended(); !errors.As(err, &closed) || closed.Code != int(closeUnavailable) {
		t.Errorf("with the backend away the resume ended with %v", err)
	}
	b.say("join", 200, `{"relay":true}`)
	q := resume(p, nodes[1])
	q.hub = q.expect("stun_config")
	if _, credentials := offeredTo(t, q.hub); q.hub.UserID != p.user || !credentials {
		t.Errorf("%s got %s", p.user, q.hub.Raw)
	}
	q.Cut()
	_ = q.ended()
	b.say("join", 403, "")
	last := resume(q, nodes[0])
	if last.hub = last.expect("stun_config"); last.hub.UserID == p.user {
		t.Errorf("who may not be in the room got %s", last.hub.Raw)
	}
	last.expectError(410)
}

// TestSlowHookHoldsUpNobody has a backend that does not answer one client: others go on, and the one hears 503.
func TestSlowHookHoldsUpNobody(t *testing.T) {
	b := newBackend(t)
	s := start(t, func(c *Config) { c.Auth.URL, c.Auth.Timeout, c.Auth.Requests = b.URL, 2*time.Second, 1000 })
	b.say("connect", 200, `{"sub":"ann"}`)
	b.say("join", 204, "")
	p, q := s.dial(nil), s.dial(nil)
	p.join("r")
	q.join("r")
	p.expect("user_joined")
	hang := make(chan struct{})
	b.sayBy("join", func(http.ResponseWriter) { <-hang })
	defer close(hang)
	var slow []*peer
	for range 8 { // More than there are pollers.
		slow = append(slow, s.dial(nil))
	}
	for _, p := range slow {
		p.say(`{"type":"join_room","id":"1","data":{"room_id":"x"}}`)
	}
	for i := range 20 {
		p.say(fmt.Sprintf(`{"type":"message","id":"%d","data":%d}`, i, i))
		p.expect("ack")
		q.expect("message")
	}
	for _, p := range slow {
		p.expectError(503)
	}
}

// TestStrangersDoNotFloodTheBackend asks for ICE servers without end: the backend hears no more of it than the address may ask.
func TestStrangersDoNotFloodTheBackend(t *testing.T) {
	b := newBackend(t)
	s := start(t, func(c *Config) { c.Auth.URL, c.AddrCredits = b.URL, 0.001 })
	b.say("ice", 401, "")
	for i, want := range []int{401, 429, 429} {
		if res, body := s.get("/ice", nil); res.StatusCode != want || strings.Contains(body, "urls") {
			t.Errorf("request %d: %s %s, want %d", i, res.Status, body, want)
		}
	}
	if asked := b.asked(); len(asked) != 1 {
		t.Errorf("it was asked %q", asked)
	}
}

// TestCrowdedBackendIsCounted asks a backend that does not answer more than may be under way.
func TestCrowdedBackendIsCounted(t *testing.T) {
	hang := make(chan struct{})
	b := newBackend(t)
	defer close(hang)
	b.sayBy("connect", func(http.ResponseWriter) { <-hang })
	s := start(t, func(c *Config) { c.Auth.URL, c.Auth.Timeout, c.Auth.Requests = b.URL, 50*time.Millisecond, 1 })
	if high := count(s, "signal_limit", "auth-requests"); high != 1 {
		t.Errorf("the limit is %v, want 1", high)
	}
	eventually(t, "there is no place for a question", func() bool {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if status, _, body := knockAt(t, s, "", nil); status != http.StatusServiceUnavailable {
					t.Errorf("it answers %d: %s", status, body)
				}
			})
		}
		wg.Wait()
		return count(s, "signal_limit_reached_total", "auth-requests") > 0
	})
}

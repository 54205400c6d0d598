package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/signal/bench/measure"
)

// relayServer is a signaling server for rooms of two that does one thing wrong: deliver gets a message
// for the partner, stamped, and hands on what the server makes of it.
type relayServer struct {
	deliver func(text []byte, to func([]byte)) // deliver is called with mu held.
	acks    int                                // acks is how often it acks what has an id.

	mu    sync.Mutex
	rooms map[string][]*relayClient
	users int
}

// relayClient is one client of a relayServer; its writes are guarded by the server's mu.
type relayClient struct {
	user, room string
	ws         *websocket.Conn
}

// startRelay runs a server that does one thing wrong, nothing where deliver is nil.
func startRelay(t *testing.T, deliver func(text []byte, to func([]byte))) *target {
	t.Helper()
	if deliver == nil {
		deliver = func(text []byte, to func([]byte)) { to(text) }
	}
	return serveRelay(t, &relayServer{deliver: deliver, acks: 1, rooms: map[string][]*relayClient{}})
}

func serveRelay(t *testing.T, s *relayServer) *target {
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	return &target{dialect: signalDialect, Server: measure.Server{Name: "relay", Address: address, PID: os.Getpid()}}
}

func (s *relayServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.Close() }()
	c := &relayClient{ws: ws}
	for {
		_, text, err := ws.ReadMessage()
		if err != nil {
			return
		}
		s.handle(c, text)
	}
}

func (s *relayServer) handle(c *relayClient, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	send := func(to *relayClient, text []byte) { _ = to.ws.WriteMessage(websocket.TextMessage, text) } // Who is gone hears nothing.
	if id := regexp.MustCompile(`"id":"[^"]*"`).Find(text); id != nil {
		defer func() {
			for range s.acks {
				send(c, []byte(`{"type":"ack",`+string(id)+`}`))
			}
		}()
	}
	room := regexp.MustCompile(`"join_room".*room_id\\":\\"([^\\]*)`).FindSubmatch(text)
	switch {
	case room != nil:
		c.room = string(room[1])
		if c.user == "" {
			s.users++
			c.user = fmt.Sprintf("user-%d", 1000+s.users) // None is the beginning of another.
		}
		s.rooms[c.room] = append(s.rooms[c.room], c)
		for _, member := range s.rooms[c.room] {
			send(member, []byte(`{"type":"user_joined","user_id":"`+c.user+`","room_id":"`+c.room+`","data":{"users":[]}}`))
		}
		return
	case bytes.Contains(text, []byte(`"leave_room"`)):
		s.rooms[c.room] = slices.DeleteFunc(s.rooms[c.room], func(member *relayClient) bool { return member == c })
		return
	}
	stamped := append([]byte(`{"user_id":"`+c.user+`",`), text[1:]...)
	for _, member := range s.rooms[c.room] {
		if bytes.Contains(text, []byte(`"target_id":"`+member.user+`"`)) {
			s.deliver(stamped, func(text []byte) { send(member, text) })
		}
	}
}

// TestBrokenServersAreFoundOut runs traffic through servers that are wrong in one way each.
func TestBrokenServersAreFoundOut(t *testing.T) {
	every := func(n int) func() bool { // Every nth call is true.
		calls := 0
		return func() bool { calls++; return calls%n == 0 }
	}
	tests := []struct {
		name    string
		faulty  func() func(text []byte, to func([]byte))
		counted func(r *result) uint64
	}{
		{"doubles", func() func([]byte, func([]byte)) {
			now := every(50)
			return func(text []byte, to func([]byte)) {
				to(text)
				if now() {
					to(text)
				}
			}
		}, func(r *result) uint64 { return r.Doubled }},
		{"drops", func() func([]byte, func([]byte)) {
			now := every(50)
			return func(text []byte, to func([]byte)) {
				if !now() {
					to(text)
				}
			}
		}, func(r *result) uint64 { return r.Lost }},
		{"reorders", func() func([]byte, func([]byte)) {
			now := every(50)
			var late []byte
			var lateTo string
			target := regexp.MustCompile(`"target_id":"[^"]*"`)
			return func(text []byte, to func([]byte)) {
				here := string(target.Find(text))
				switch {
				case late == nil && now():
					late, lateTo = text, here
				case late != nil && here == lateTo:
					to(text)
					to(late)
					late = nil
				default:
					to(text)
				}
			}
		}, func(r *result) uint64 { return r.Reordered }},
		{"stamps the wrong sender", func() func([]byte, func([]byte)) {
			now := every(50)
			return func(text []byte, to func([]byte)) {
				if now() {
					text = bytes.Replace(text, []byte(`"user_id":"user-`), []byte(`"user_id":"user+`), 1)
				}
				to(text)
			}
		}, func(r *result) uint64 { return r.Forged }},
		{"changes a byte", func() func([]byte, func([]byte)) {
			now := every(50)
			return func(text []byte, to func([]byte)) {
				if now() {
					text[len(text)-20] ^= 1
				}
				to(text)
			}
		}, func(r *result) uint64 { return r.Corrupt }},
		{"refuses", func() func([]byte, func([]byte)) {
			now := every(50)
			return func(text []byte, to func([]byte)) {
				to(text)
				if now() {
					to([]byte(`{"type":"error","data":"{\"code\":429}"}`))
				}
			}
		}, func(r *result) uint64 { return r.Errors }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{paced, saturated} {
				s := tiny(t, name)
				r, err := run(t.Context(), s, startRelay(t, test.faulty()), briefly(500*time.Millisecond))
				if err != nil {
					t.Fatal(err)
				}
				if test.counted(&r) == 0 || r.Delivered == 0 {
					t.Errorf("%s: not found out: %+v", name, r)
				}
				report := Report{Results: []result{r}, Servers: []string{r.Server}}
				if err := report.Verified(); !errors.Is(err, ErrVerify) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// TestSoundRelayPassesVerify shows that it is the faults that are found out, not the server which has
// them.
func TestSoundRelayPassesVerify(t *testing.T) {
	for _, name := range []string{paced, saturated, trickle} {
		r, err := run(t.Context(), tiny(t, name), startRelay(t, nil), briefly(500*time.Millisecond))
		if err != nil || r.Delivered == 0 || !r.verified() {
			t.Errorf("%s: delivered %d, %s, %v", name, r.Delivered, r.faultText(), err)
		}
	}
}

// TestAcksAreCounted lets servers ack never and twice.
func TestAcksAreCounted(t *testing.T) {
	for _, acks := range []int{0, 2} {
		s := &relayServer{deliver: func(text []byte, to func([]byte)) { to(text) }, acks: acks, rooms: map[string][]*relayClient{}}
		r, err := run(t.Context(), tiny(t, trickle), serveRelay(t, s), briefly(300*time.Millisecond))
		if err != nil || r.Delivered == 0 || r.Acks == 0 || r.Lost+r.Doubled+r.Reordered+r.Corrupt+r.Forged > 0 {
			t.Errorf("%d acks: %+v, %v", acks, r, err)
		}
	}
}

// TestServerThatHangsUp tests that a run fails when the server closes connections.
func TestServerThatHangsUp(t *testing.T) {
	server := startRelay(t, func([]byte, func([]byte)) {})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := openLoop(ctx, server, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	// A frame that breaks the protocol.
	if err := l.write(l.sockets[0], []byte{finalBit | 3, maskedBit, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := l.run(ctx, time.Now().Add(patience), nil); err == nil || !strings.Contains(err.Error(), "closed its connection") {
		t.Errorf("got %v", err)
	}
}

// TestChurnSeesFaults tells a ledger of one fault each.
func TestChurnSeesFaults(t *testing.T) {
	tests := map[string]struct {
		story func(l *ledger)
		want  func(r *result) uint64
	}{
		"lost":          {func(l *ledger) { l.answered("1", true) }, func(r *result) uint64 { return r.Lost }},
		"doubled":       {func(l *ledger) { l.got("1", "a", "b"); l.got("1", "a", "b") }, func(r *result) uint64 { return r.Doubled }},
		"reordered":     {func(l *ledger) { l.got("2", "a", "b"); l.got("1", "a", "b") }, func(r *result) uint64 { return r.Reordered }},
		"forged":        {func(l *ledger) { l.got("1", "c", "b") }, func(r *result) uint64 { return r.Forged }},
		"misdelivered":  {func(l *ledger) { l.got("1", "a", "c") }, func(r *result) uint64 { return r.Corrupt }},
		"acked twice":   {func(l *ledger) { l.answered("1", true); l.got("1", "a", "b"); l.answered("1", true) }, func(r *result) uint64 { return r.Acks }},
		"refused, came": {func(l *ledger) { l.answered("1", false); l.got("1", "a", "b") }, func(r *result) uint64 { return r.Acks }},
	}
	begin := func() *ledger {
		l := newLedger()
		l.moved("b", "room")
		l.sent("1", entry{from: "a", to: "b", number: 1})
		l.sent("2", entry{from: "a", to: "b", number: 2})
		return l
	}
	for name, test := range tests {
		l := begin()
		test.story(l)
		if r := l.result(); test.want(&r) != 1 || r.verified() {
			t.Errorf("%s: %+v", name, r)
		}
	}
	l := begin()
	l.answered("1", true)
	l.got("1", "a", "b")
	l.answered("2", true)
	l.gone("b")
	if r := l.result(); !r.verified() {
		t.Errorf("what was on the way to a user who ended counts: %s", r.faultText())
	}
	l.moved("a", "room")
	l.moved("c", "room")
	if !l.sees("a", "room", []string{"c", "a"}) || l.sees("a", "room", []string{"a"}) || l.sees("a", "room", []string{"a", "b", "c"}) {
		t.Error("views are judged wrongly")
	}
}

// TestStormSeesWrongViews tests the judgement of what the clients of a storm see.
func TestStormSeesWrongViews(t *testing.T) {
	see := func(user, list string) *member {
		return &member{socket: &socket{room: "r", user: user}, data: []byte(list)}
	}
	good := []*member{see("a", `{"users":["a","b"]}`), see("b", `"{\"users\":[\"b\",\"a\"]}"`)}
	if n := wrongViews(good, 2); n != 0 {
		t.Errorf("%d of two right views are wrong", n)
	}
	bad := []*member{see("a", `{"users":["a","c"]}`), see("b", `"{\"users\":[\"a\"]}"`)}
	if n := wrongViews(bad, 2); n != 2 {
		t.Errorf("%d of two wrong views are wrong", n)
	}
	for list, want := range map[string]int{`{"users":["a","b"]}`: 2, `"{\"user_id\":\"a\",\"users\":[\"a\"]}"`: 1, `{}`: 0} {
		if n := countUsers([]byte(list)); n != want {
			t.Errorf("%s has %d users", list, n)
		}
	}
}

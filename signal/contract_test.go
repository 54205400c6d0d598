package signal

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// frame is what a client reads that knows the fixed part of the contract alone: it ignores all other fields.
type frame struct {
	Type   string
	UserID string `json:"user_id"`
	RoomID string `json:"room_id"`
	Data   json.RawMessage
}

// plainClient is a client of the fixed part of the contract: it has no ids, resumes nothing, and sends what a program would that was
// written for it.
type plainClient struct {
	t      *testing.T
	ws     *websocket.Conn
	frames chan frame
	user   string // as its own user_joined says
}

func newPlainClient(t *testing.T, ws *websocket.Conn) *plainClient {
	c := &plainClient{t: t, ws: ws, frames: make(chan frame, 1000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(c.frames)
		for {
			var f frame
			if ws.ReadJSON(&f) != nil {
				return
			}
			c.frames <- f
		}
	}()
	t.Cleanup(func() {
		_ = ws.Close()
		<-read
	})
	return c
}

func (c *plainClient) say(format string, args ...any) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

// hear returns the next frame of that type. Fresh ICE servers come at any time, all else in the order of the contract.
func (c *plainClient) hear(kind string) frame {
	c.t.Helper()
	for {
		select {
		case f, open := <-c.frames:
			switch {
			case f.Type == kind:
				return f
			case !open || f.Type != typeSTUNConfig:
				c.t.Fatalf("%s waits for a %s and got %+v", c.user, kind, f)
			}
		case <-time.After(patience):
			c.t.Fatalf("%s waits for a %s", c.user, kind)
		}
	}
}

// text reads data that is a document encoded as a string.
func (c *plainClient) text(f frame, doc any) {
	c.t.Helper()
	var text string
	if err := json.Unmarshal(f.Data, &text); err != nil {
		c.t.Fatalf("the data of %s is %s: %v", f.Type, f.Data, err)
	}
	if err := json.Unmarshal([]byte(text), doc); err != nil {
		c.t.Fatalf("the data of %s is %s: %v", f.Type, text, err)
	}
}

// hearJoined expects a user_joined of somebody and returns who is in the room then.
func (c *plainClient) hearJoined(room, user string) (users []string) {
	c.t.Helper()
	f := c.hear("user_joined")
	var doc struct {
		UserID string `json:"user_id"`
		Users  []string
	}
	c.text(f, &doc)
	if user == "" {
		user, c.user = f.UserID, f.UserID
	}
	if f.RoomID != room || f.UserID != user || doc.UserID != user {
		c.t.Fatalf("%s got %+v, want that %s is in %s", c.user, f, user, room)
	}
	return doc.Users
}

// join enters a room and returns who is there.
func (c *plainClient) join(room string) (users []string) {
	c.t.Helper()
	c.say(`{"type":"join_room","data":"{\"room_id\": \"%s\"}"}`, room)
	return c.hearJoined(room, c.user)
}

func (c *plainClient) hearLeft(room, user string) {
	c.t.Helper()
	if f := c.hear("user_left"); f.RoomID != room || f.UserID != user {
		c.t.Fatalf("%s got %+v, want that %s has left %s", c.user, f, user, room)
	}
}

func (c *plainClient) hearError(code int) {
	c.t.Helper()
	var doc struct {
		Code    int
		Message string
	}
	if c.text(c.hear("error"), &doc); doc.Code != code || doc.Message == "" {
		c.t.Fatalf("%s got an error %+v, want %d", c.user, doc, code)
	}
}

// hearServers expects ICE servers: STUN, and TURN with credentials.
func (c *plainClient) hearServers() {
	c.t.Helper()
	f := c.hear(typeSTUNConfig)
	var doc struct {
		ICEServers []struct {
			URLs                 []string
			Username, Credential string
		} `json:"iceServers"`
	}
	if err := json.Unmarshal(f.Data, &doc); err != nil || len(doc.ICEServers) != 2 {
		c.t.Fatalf("ICE servers %s: %v", f.Data, err)
	}
	stun, turn := doc.ICEServers[0], doc.ICEServers[1]
	if !strings.HasPrefix(stun.URLs[0], "stun:") || stun.Username+stun.Credential != "" ||
		!strings.HasPrefix(turn.URLs[0], "turn:") || turn.Username == "" || turn.Credential == "" {
		c.t.Fatalf("ICE servers %s", f.Data)
	}
}

// cookieBackend lets in who has a cookie of its sessions, to every room but one.
func cookieBackend(t *testing.T) string {
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie("sid")
		var question struct{ Kind, Room string }
		switch malformed := json.NewDecoder(r.Body).Decode(&question); {
		case malformed != nil:
			w.WriteHeader(http.StatusBadRequest)
		case err != nil || cookie.Value == "":
			w.WriteHeader(http.StatusUnauthorized)
		case question.Room == forbiddenRoom:
			w.WriteHeader(http.StatusForbidden)
		default:
			_, _ = fmt.Fprintf(w, `{"sub":%q,"relay":true}`, cookie.Value)
		}
	}))
	t.Cleanup(b.Close)
	return b.URL
}

// forbiddenRoom is where nobody may be.
const forbiddenRoom = "private"

// TestContractBehindADoor has clients that know the fixed part of the contract alone do all that it has, on servers that let in only who
// shows a cookie of the owner's, or a token in the address.
func TestContractBehindADoor(t *testing.T) {
	for name, door := range map[string]struct {
		open func(*Config)
		show func(who string) (query string, header http.Header)
	}{
		"a cookie, by the hook": {
			func(c *Config) { c.Auth.URL = cookieBackend(t) },
			func(who string) (string, http.Header) { return "", http.Header{"Cookie": {"sid=" + who}} },
		},
		"a token in the query": {
			withTokens,
			func(who string) (string, http.Header) {
				return "?access_token=" + url.QueryEscape(token(t, map[string]any{"sub": who, "rooms": []string{"room-*"}})), nil
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // It waits until credentials are renewed.
			s := start(t, door.open, func(c *Config) {
				c.ReadTimeout = 10 * time.Second // Every four seconds somebody looks for credentials that expire.
				c.ICE = func(host, user string) ICEConfig {
					return ICEConfig{Servers: []ICEServer{{URLs: []string{"stun:" + host}},
						{URLs: []string{"turn:" + host}, Username: user, Credential: "c"}}, TTL: 5 * time.Second}
				}
			})
			address := strings.Replace(s.url, "http", "ws", 1) + "/ws"
			dial := func(who string) *plainClient {
				query, header := door.show(who)
				ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), address+query, header)
				if err != nil {
					t.Fatal(err)
				}
				c := newPlainClient(t, ws)
				c.hearServers() // The first message.
				return c
			}
			if _, response, err := websocket.DefaultDialer.DialContext(t.Context(), address, nil); err == nil || response.StatusCode != http.StatusUnauthorized {
				t.Fatalf("a stranger got %v", response)
			}
			walkContract(t, dial)
		})
	}
}

// walkContract goes through the rows of the contract's two tables.
func walkContract(t *testing.T, dial func(who string) *plainClient) {
	const room, other = "room-456", "room-other"
	same := func(what string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
	ann, bob := dial("ann"), dial("bob")
	ann.say(`{"type":"leave_room"}`)
	ann.hearError(409)
	same("alone", ann.join(room), []string{ann.user})
	same("together", bob.join(room), []string{ann.user, bob.user})
	same("told", ann.hearJoined(room, bob.user), []string{ann.user, bob.user})

	relayed := func(kind, data string) {
		t.Helper()
		bob.say(`{"type":%q,"user_id":"user-forged","room_id":"forged","target_id":%q,"data":%s}`, kind, ann.user, data)
		if f := ann.hear(kind); f.UserID != bob.user || f.RoomID != room || string(f.Data) != data {
			t.Fatalf("%s of %s arrived as %+v with %s", data, bob.user, f, f.Data)
		}
	}
	for _, kind := range []string{"offer", "answer"} {
		relayed(kind, `"{\"sdp\": \"v=0\\r\\n\", \"type\": \"`+kind+`\"}"`)
		relayed(kind, `{"sdp": "v=0\r\n",  "type": "`+kind+`"}`)
	}
	relayed("ice_candidate", `"{\"candidate\": \"candidate:1 1 UDP 1 192.0.2.1 9 typ host\", \"sdpMid\": \"0\", \"sdpMLineIndex\": 0}"`)
	relayed("ice_candidate", `{"candidate": "", "sdpMid": "0", "sdpMLineIndex": 0}`)

	for _, wrong := range []struct {
		frame string
		code  int
	}{
		{`no JSON`, 400}, {`{"type":"fly"}`, 400}, {`{"type":"join_room"}`, 400}, {`{"type":"join_room","data":"{\"room_id\":\"\"}"}`, 400},
		{`{"type":"offer","data":"{}"}`, 400}, {`{"type":"offer","target_id":"` + ann.user + `"}`, 400},
		{`{"type":"answer","target_id":"user-nobody","data":"{}"}`, 404},
		{`{"type":"join_room","data":"{\"room_id\":\"` + forbiddenRoom + `\"}"}`, 403},
		{`{"type":"offer","target_id":"` + ann.user + `","data":"` + strings.Repeat("x", 70<<10) + `"}`, 413},
	} {
		bob.say("%s", wrong.frame)
		bob.hearError(wrong.code)
	}

	same("another room", bob.join(other), []string{bob.user})
	ann.hearLeft(room, bob.user)
	same("back", bob.join(room), []string{ann.user, bob.user})
	ann.hearJoined(room, bob.user)
	bob.say(`{"type":"leave_room"}`)
	ann.hearLeft(room, bob.user)
	_ = bob.ws.Close() // Nobody sees it again.

	members := []*plainClient{ann}
	for len(members) < 10 {
		c := dial("ann") // One user may have several tabs.
		c.join(room)
		for _, m := range members {
			m.hearJoined(room, c.user)
		}
		members = append(members, c)
	}
	late := dial("late")
	late.say(`{"type":"join_room","data":"{\"room_id\": \"%s\"}"}`, room)
	if f := late.hear("room_full"); f.RoomID != room {
		t.Errorf("got %+v", f)
	}
	const burst, rate, joins = 200, 50, 2 * 200 // As README.md has them.
	began := time.Now()
	for range joins {
		late.say(`{"type":"join_room","data":"{\"room_id\": \"%s\"}"}`, other)
	}
	allowed := 0
	for allowed < joins && (<-late.frames).Type != "error" { // It is told once more who is there.
		allowed++
	}
	if most := burst + time.Since(began).Seconds()*rate; allowed < burst-10 || float64(allowed) > most { // It has said something before.
		t.Errorf("%d joins in a row were allowed, want %.0f at most", allowed, most)
	}
	last := members[9]
	_ = last.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(patience))
	for _, m := range members[:9] {
		m.hearLeft(room, last.user)
	}
	ann.hearServers() // Before the credentials expire.
}

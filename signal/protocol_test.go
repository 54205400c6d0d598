package signal

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// same fails unless the frame is that JSON: same fields, same values, nothing more.
func same(t *testing.T, frame []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(frame, &g); err != nil {
		t.Fatalf("frame %s: %v", frame, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("test's own JSON %s: %v", want, err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Fatalf("\n got %s\nwant %s", frame, want)
	}
}

func TestSTUNConfigIsFirst(t *testing.T) {
	s := start(t)
	p := s.dial(nil)
	host := s.Addr().String()
	want := fmt.Sprintf(`{"type":"stun_config","user_id":%q,"data":{"iceServers":[{"urls":["stun:%s"]},`+
		`{"urls":["turn:%s"],"username":%q,"credential":"c"}],"ttl":3600,"resume_token":%q,"resumed":false,`+
		`"max_room_users":10,"ping_interval_ms":24000,"max_message_bytes":65536,"message_rate":50,"message_burst":200}}`, p.user, host, host, p.user, p.token())
	same(t, p.hub.Raw, want)
	if !regexp.MustCompile(`^user-[a-z2-7]{8}-[a-z2-7]{4}$`).MatchString(p.user) {
		t.Errorf("user id %q", p.user)
	}
	p.say(`{"type":"stun_config","id":"x"}`)
	same(t, p.expect("stun_config").Raw, want)
	same(t, p.expect("ack").Raw, `{"type":"ack","id":"x"}`)
}

func TestJoinAndLeave(t *testing.T) {
	for name, join := range map[string]string{
		"string": `{"type":"join_room","data":"{\"room_id\": \"room-456\"}"}`,
		"plain":  `{"type":"join_room","data":{"room_id":"room-456"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			a, b := s.dial(nil), s.dial(nil)
			joined := func(who string, users ...string) string {
				doc, _ := json.Marshal(map[string]any{"user_id": who, "users": users})
				return fmt.Sprintf(`{"type":"user_joined","user_id":%q,"room_id":"room-456","data":%q}`, who, doc)
			}
			a.say(join)
			same(t, a.next().Raw, joined(a.user, a.user))
			b.say(join)
			same(t, b.next().Raw, joined(b.user, a.user, b.user))
			same(t, a.next().Raw, joined(b.user, a.user, b.user))
			b.say(`{"type":"leave_room"}`)
			same(t, a.next().Raw, fmt.Sprintf(`{"type":"user_left","user_id":%q,"room_id":"room-456","data":"{\"reason\":\"leave\"}"}`, b.user))
			b.say(`{"type":"leave_room","id":"again"}`)
			if id, _ := b.expectError(409); id != "again" {
				t.Errorf("error has id %q", id)
			}
		})
	}
}

func TestJoinMovesBetweenRooms(t *testing.T) {
	s := start(t)
	a, b := s.enter("one"), s.enter("two")
	c := s.enter("one")
	a.expect("user_joined")
	if got := c.join("two"); !slices.Equal(got, []string{b.user, c.user}) {
		t.Errorf("users %v", got)
	}
	if m := a.expect("user_left"); m.UserID != c.user || m.RoomID != "one" {
		t.Errorf("got %s", m.Raw)
	}
	b.expect("user_joined")
	if got := c.join("two"); !slices.Equal(got, []string{b.user, c.user}) {
		t.Errorf("joining the same room again: users %v", got)
	}
	b.say(`{"type":"stun_config"}`)
	b.expect("stun_config") // and no second user_joined before it
	if err := s.ConsistencyCheck(); err != nil {
		t.Error(err)
	}
}

func TestRoomFull(t *testing.T) {
	s := start(t)
	var in []*peer
	for range 10 {
		in = append(in, s.enter("r"))
	}
	late := s.enter("waiting")
	late.say(`{"type":"join_room","data":"{\"room_id\":\"r\"}"}`)
	same(t, late.next().Raw, `{"type":"room_full","room_id":"r"}`)
	late.say(`{"type":"join_room","id":"7","data":{"room_id":"r"}}`)
	same(t, late.next().Raw, `{"type":"room_full","id":"7","room_id":"r"}`)
	if got := late.join("waiting"); len(got) != 1 {
		t.Errorf("refused joiner lost its room: %v", got)
	}
	in[0].say(`{"type":"leave_room"}`)
	in[1].expectUntil("user_left")
	if got := late.join("r"); len(got) != 10 || got[9] != late.user {
		t.Errorf("users %v", got)
	}
}

// expectUntil skips messages until one of that type.
func (p *peer) expectUntil(kind string) {
	p.t.Helper()
	for p.next().Type != kind {
	}
}

func TestRelay(t *testing.T) {
	s := start(t)
	a, b, c := s.enter("r"), s.enter("r"), s.enter("r")
	a.expect("user_joined")
	a.expect("user_joined")
	b.expect("user_joined")
	data := []string{
		`"{\"sdp\": \"v=0\\r\\n<&>é\", \"type\": \"offer\"}"`,
		`{ "sdp" : "v=0\r\n<&>\u00e9" , "type":"offer" }`,
		`{"candidate":"candidate:1 1 udp 1 ::1 9 typ host","sdpMid":"0","sdpMLineIndex":0}`,
	}
	for _, kind := range []string{"offer", "answer", "ice_candidate", "message"} {
		for i, d := range data {
			id := fmt.Sprint(kind, i)
			a.say(fmt.Sprintf(`{"type":%q,"target_id":%q,"id":%q,"user_id":"user-forged","room_id":"forged","data":%s}`, kind, b.user, id, d))
			got := b.expect(kind)
			same(t, got.Raw, fmt.Sprintf(`{"type":%q,"user_id":%q,"room_id":"r","target_id":%q,"data":%s}`, kind, a.user, b.user, d))
			if !strings.Contains(string(got.Raw), `"data":`+d+`}`) {
				t.Errorf("data is not byte for byte: %s", got.Raw)
			}
			same(t, a.next().Raw, fmt.Sprintf(`{"type":"ack","id":%q}`, id))
		}
	}
	a.say(`{"type":"message","data":[1,null,"x"]}`)
	for _, p := range []*peer{b, c} {
		same(t, p.next().Raw, fmt.Sprintf(`{"type":"message","user_id":%q,"room_id":"r","data":[1,null,"x"]}`, a.user))
	}
	a.say(`{"type":"stun_config"}`)
	a.expect("stun_config") // its own message did not come back
}

func TestBadMessages(t *testing.T) {
	s := start(t)
	a, b := s.enter("r"), s.enter("elsewhere")
	long := strings.Repeat("x", 129)
	for _, test := range []struct {
		frame string
		code  int
		names string
		id    string
	}{
		{`garbage`, 400, "JSON", ""},
		{``, 400, "JSON", ""},
		{`[]`, 400, "JSON", ""},
		{`{}`, 400, "type", ""},
		{`{"type":7,"id":"i"}`, 400, "type", "i"},
		{`{"type":"fly","id":"i"}`, 400, "type", "i"},
		{`{"type":"user_joined"}`, 400, "type", ""},
		{`{"type":"leave_room","id":7}`, 400, "id", ""},
		{`{"type":"leave_room","id":"` + long + `"}`, 400, "id", ""},
		{`{"type":"join_room"}`, 400, "data", ""},
		{`{"type":"join_room","data":"nonsense"}`, 400, "data", ""},
		{`{"type":"join_room","data":7}`, 400, "data", ""},
		{`{"type":"join_room","data":{}}`, 400, "room_id", ""},
		{`{"type":"join_room","data":{"room_id":""}}`, 400, "room_id", ""},
		{`{"type":"join_room","data":{"room_id":7}}`, 400, "room_id: must be a string", ""},
		{`{"type":"join_room","data":{"ROOM_ID":"x"}}`, 400, "room_id: missing", ""},
		{`{"TYPE":"join_room","data":{"room_id":"x"}}`, 400, "type: missing", ""},
		{`{"type":"join_room","id":"i","data":"{\"room_id\":\"x\",\"room_id\":\"y\"}"}`, 400, `"room_id" is there twice`, "i"},
		{`{"type":"join_room","id":"i","data":{"room_id":"x","more":{"a":1,"\u0061":2}}}`, 400, `"a" is there twice`, "i"},
		{`{"type":"join_room","data":{"room_id":"a b"}}`, 400, "room_id", ""},
		{`{"type":"join_room","data":{"room_id":"ä"}}`, 400, "room_id", ""},
		{`{"type":"join_room","data":{"room_id":"` + long + `"}}`, 400, "room_id", ""},
		{`{"type":"offer","data":"{}","id":"i"}`, 400, "target_id", "i"},
		{`{"type":"offer","target_id":5,"data":"{}"}`, 400, "target_id", ""},
		{`{"type":"offer","target_id":"user-x"}`, 400, "data", ""},
		{`{"type":"offer","target_id":"user-x","data":5}`, 400, "data", ""},
		{`{"type":"message"}`, 400, "data", ""},
		{`{"type":"offer","target_id":"user-nobody","data":"{}","id":"i"}`, 404, "target_id", "i"},
		{`{"type":"offer","target_id":"` + b.user + `","data":"{}"}`, 404, "target_id", ""},
		{`{"type":"message","target_id":"` + b.user + `","data":1}`, 404, "target_id", ""},
	} {
		a.say(test.frame)
		id, text := a.expectError(test.code)
		if id != test.id || !strings.Contains(text, test.names) {
			t.Errorf("%s: error %q with id %q", test.frame, text, id)
		}
	}
	if err := a.WebSocket().WriteMessage(websocket.BinaryMessage, []byte("x")); err != nil {
		t.Fatal(err)
	}
	a.expectError(400)
	alive := strings.Repeat("ä", 64) // Characters, not bytes.
	a.say(`{"type":"leave_room","id":"` + alive + `"}`)
	same(t, a.next().Raw, `{"type":"ack","id":"`+alive+`"}`)
	a.say(`{"type":"offer","target_id":"` + b.user + `","data":"{}"}`)
	a.expectError(409)
}

func TestRoomIDBounds(t *testing.T) {
	s := start(t)
	p := s.dial(nil)
	for _, room := range []string{"A-Za-z0-9._~:@+-", strings.Repeat("r", 128)} {
		if got := p.join(room); len(got) != 1 {
			t.Errorf("users %v", got)
		}
	}
}

func TestRateLimit(t *testing.T) {
	s := start(t, func(c *Config) { c.MessageRate, c.MessageBurst = 0.001, 3 })
	p := s.dial(nil)
	for range 3 {
		p.say(`{"type":"stun_config"}`)
		p.expect("stun_config")
	}
	p.say(`{"type":"stun_config","id":"late"}`)
	id, text := p.expectError(429)
	if id != "late" || !regexp.MustCompile(`wait \d+ ms`).MatchString(text) {
		t.Errorf("error %q with id %q", text, id)
	}
	for range 2 * faultBurst {
		if p.SendFrame([]byte(`x`)) != nil {
			break
		}
	}
	if err := p.ended(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Fatalf("abuse ended with %v", err)
	}
}

func TestTabsOfOneBrowser(t *testing.T) {
	s := start(t)
	first := s.dial(nil)
	cookies := first.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "signal_session" || !cookies[0].HttpOnly ||
		cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Path != "/" || cookies[0].Secure {
		t.Fatalf("cookies %v", cookies)
	}
	header := http.Header{"Cookie": {cookies[0].Name + "=" + cookies[0].Value}}
	second, third := s.dial(header), s.dial(header)
	if len(second.Cookies()) != 0 {
		t.Error("a good cookie was replaced")
	}
	part := func(p *peer) string { return p.user[:len("user-12345678")] }
	if part(first) != part(second) || part(second) != part(third) {
		t.Errorf("session parts of %s %s %s differ", first.user, second.user, third.user)
	}
	if first.user == second.user || second.user == third.user || first.user == third.user {
		t.Errorf("%s %s %s are not distinct", first.user, second.user, third.user)
	}
	forged := s.dial(http.Header{"Cookie": {"signal_session=abc.def"}})
	if len(forged.Cookies()) != 1 || part(forged) == part(first) {
		t.Error("a forged cookie was believed")
	}
}

func TestSecretRotation(t *testing.T) {
	oldest, newest := strings.Repeat("o", 16), strings.Repeat("n", 16)
	before := start(t, func(c *Config) { c.SessionSecrets = []string{oldest} })
	p := before.dial(nil)
	cookie := p.Cookies()[0]
	after := start(t, func(c *Config) { c.SessionSecrets = []string{newest, oldest} })
	q := after.dial(http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}})
	if p.user[:13] != q.user[:13] {
		t.Errorf("%s became %s", p.user, q.user)
	}
	if len(q.Cookies()) != 1 {
		t.Error("a cookie of the old secret was not signed anew")
	}
}

func TestUserLeftReasons(t *testing.T) {
	t.Parallel() // It waits for the read timeout, which is long lest a busy machine ends what it must not end.
	s := start(t, func(c *Config) { c.ReadTimeout, c.ResumeGrace = 4*time.Second, 50*time.Millisecond })
	watch := s.enter("r")
	closing, cut, deaf := s.enter("r"), s.enter("r"), s.enter("r")
	for range 3 {
		watch.expect("user_joined")
	}
	left := func(p *peer, reason string) {
		t.Helper()
		m := watch.expect("user_left")
		if m.UserID != p.user || !strings.Contains(string(m.Data), `\"`+reason+`\"`) {
			t.Fatalf("got %s, want %s of %s", m.Raw, reason, p.user)
		}
	}
	deaf.WebSocket().SetPingHandler(func(string) error { return nil })
	_ = closing.Close()
	left(closing, "disconnect")
	_ = cut.WebSocket().NetConn().Close()
	left(cut, "disconnect") // When its grace is over.
	since := time.Now()
	left(deaf, "timeout")
	if err := deaf.ended(); !websocket.IsCloseError(err, int(closeTimeout)) {
		t.Errorf("deaf client ended after %v with %v", time.Since(since), err)
	}
	watch.say(`{"type":"leave_room","id":"alive"}`) // Its pongs have kept it.
	watch.expect("ack")
}

func TestNineOthersSeeATabClose(t *testing.T) {
	s := start(t)
	var all []*peer
	for range 10 {
		all = append(all, s.enter("r"))
	}
	closing, others := all[9], all[:9]
	began := time.Now()
	bye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "") // As a browser says when a tab is closed.
	if err := closing.WebSocket().WriteControl(websocket.CloseMessage, bye, time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for _, p := range others {
		m := p.next()
		for m.Type == "user_joined" {
			m = p.next()
		}
		same(t, m.Raw, fmt.Sprintf(`{"type":"user_left","user_id":%q,"room_id":"r","data":"{\"reason\":\"disconnect\"}"}`, closing.user))
	}
	t.Logf("all nine knew after %v", time.Since(began))
}

func TestICEIsRenewed(t *testing.T) {
	s := start(t, func(c *Config) {
		c.ReadTimeout = 5 * time.Second
		c.ICE = func(string, string) ICEConfig { return ICEConfig{TTL: time.Second} }
	})
	p := s.dial(s.dial(nil).cookie())
	same(t, p.expect("stun_config").Raw, fmt.Sprintf(`{"type":"stun_config","user_id":%q,"data":{"iceServers":[],"ttl":1,`+
		`"resume_token":%q,"resumed":false,"max_room_users":10,"ping_interval_ms":2000,`+
		`"max_message_bytes":65536,"message_rate":50,"message_burst":200}}`, p.user, p.token()))
}

func TestSlowClientIsDisconnected(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxFrame, c.MaxQueue, c.MessageBurst = 64<<10, 128<<10, 1e6 })
	fast, slow := s.enter("r"), s.enter("r")
	fast.expect("user_joined")
	frame := fmt.Sprintf(`{"type":"message","data":%q}`, strings.Repeat("x", 60<<10))
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if m, err := fast.Next(t.Context()); err != nil || m.Type == "user_left" {
				return
			}
		}
	}()
	for sending := true; sending; {
		select {
		case <-gone:
			sending = false
		default:
			fast.say(frame)
		}
	}
	err := slow.ended()
	var closed *websocket.CloseError
	if errors.As(err, &closed) && closed.Code != int(closeSlow) && closed.Code != websocket.CloseAbnormalClosure {
		t.Errorf("ended with %v", err)
	}
	if _, ok := s.value("signal_queue_overflows_total"); !ok {
		t.Error("no overflow was counted")
	}
}

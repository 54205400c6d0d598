package signal

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/state"
)

// closedWith waits for the peer's end, which must have that code.
func (p *peer) closedWith(code closeCode) {
	p.t.Helper()
	if err := p.ended(); !websocket.IsCloseError(err, int(code)) {
		p.t.Errorf("%s ended with %v, want %d", p.user, err, code)
	}
}

// TestTextThatIsNotUTF8EndsItsSender sends it in each field, and before the rate is exceeded and after that: nobody hears it,
// and the sender is gone at once.
func TestTextThatIsNotUTF8EndsItsSender(t *testing.T) {
	s := start(t, func(c *Config) { c.MessageRate, c.MessageBurst = 0.001, 4 })
	honest := s.enter("r")
	for _, format := range []string{
		`{"type":"message","data":"%s"}`, `{"type":"message","data":{"a":["%s"]}}`, `{"type":"message","data":{"%s":1}}`,
		`{"type":"offer","target_id":"` + honest.user + `","data":"{\"sdp\":\"%s\"}"}`, `{"type":"message","target_id":"%s","data":1}`,
		`{"type":"message","id":"%s","data":1}`, `{"type":"%s","data":1}`, `{"type":"message","%s":0,"data":1}`,
		`{"type":"join_room","data":{"room_id":"%s"}}`, `%s`,
	} {
		for _, tooFast := range []bool{false, true} {
			p := s.enter("r")
			honest.expect("user_joined")
			for range 4 {
				if tooFast {
					p.say(`{"type":"stun_config","id":"1"}`)
				}
			}
			p.say(fmt.Sprintf(format, "\xff"))
			p.closedWith(closeNotUTF8)
			if m := honest.expect("user_left"); m.UserID != p.user || !strings.Contains(string(m.Raw), "disconnect") {
				t.Fatalf("after %s: %s", format, m.Raw)
			}
			if tooFast {
				continue
			}
			if _, _, g := p.back(s); g.Resumed {
				t.Errorf("after %s the session was resumed", format)
			}
		}
	}
	if n := s.sum("signal_messages_total", "outcome", "400"); n != 20 {
		t.Errorf("%v texts were counted, not 20", n)
	}
}

// sum adds up the values of a metric that have a label.
func (s *testServer) sum(name, label, value string) (sum float64) {
	s.t.Helper()
	families, err := s.cfg.Registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetName() == label && l.GetValue() == value {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// TestWhatIsDecodedStaysUTF8 sends half a surrogate pair, which is UTF-8 as an escape: what is relayed stays as it is, and what the
// server writes itself is UTF-8.
func TestWhatIsDecodedStaysUTF8(t *testing.T) {
	s := start(t)
	a, b := s.enter("r"), s.enter("r")
	a.expect("user_joined")
	a.say(`{"type":"message","id":"\ud800","data":{"\udfff":"\ud800"}}`)
	same(t, b.next().Raw, fmt.Sprintf(`{"type":"message","user_id":%q,"room_id":"r","data":{"\udfff":"\ud800"}}`, a.user))
	same(t, a.next().Raw, `{"type":"ack","id":"`+"\ufffd"+`"}`)
	for frame, id := range map[string]string{
		`{"type":"\ud800","id":"x\udfff"}`:                                 "x\ufffd",
		`{"type":"message","id":"1","target_id":"\udc00","data":1}`:        "1",
		`{"type":"message","id":"2","\ud800":1,"\ud800":2}`:                "2",
		`{"type":"join_room","id":"3","data":"{\"room_id\":\"\\ud800\"}"}`: "3",
		`{"type":"` + strings.Repeat("é", 39) + `","id":"4"}`:              "4", // It is cut in the middle of a character.
		`{"type":"x` + strings.Repeat("é", 39) + `","id":"5"}`:             "5",
	} {
		a.say(frame)
		m := a.expect("error")
		if !json.Valid(m.Raw) || m.ID != id || strings.ToValidUTF8(string(m.Raw), "") != string(m.Raw) {
			t.Errorf("%s: %q", frame, m.Raw)
		}
	}
}

// TestTooLargeIsRefusedAlone sends messages that are too large and goes on.
func TestTooLargeIsRefusedAlone(t *testing.T) {
	s := start(t)
	a, b := s.enter("r"), s.enter("r")
	a.expect("user_joined")
	long := strings.Repeat("x", 70<<10)
	for i, test := range []struct{ frame, id string }{
		{`{"type":"message","id":"1","data":"` + long + `"}`, "1"},
		{`{"data":{"a":[0,"b"]},"id":"2","type":"offer","target_id":"` + b.user + `","more":"` + long + `"}`, "2"},
		{`{"type":"message","data":"` + long + `","id":"3"}`, ""}, // Nobody reads as far.
		{long, ""},
	} {
		for _, fragmented := range []bool{false, true} {
			a.sayAs(fragmented, test.frame)
			if id, text := a.expectError(413); id != test.id || text != "message too large: at most 65536 bytes" {
				t.Errorf("%.40s: error %q with id %q", test.frame, text, id)
			}
			next := fmt.Sprint("next ", i, fragmented)
			a.say(fmt.Sprintf(`{"type":"message","id":%q,"data":%d}`, next, i))
			b.expect("message")
			if m := a.expect("ack"); m.ID != next {
				t.Errorf("got %s", m.Raw)
			}
		}
	}
	for i, fragmented := range []bool{false, true} {
		exact := fmt.Sprintf(`{"type":"message","id":"exact %d","data":"%s`, i, long)
		a.sayAs(fragmented, exact[:64<<10-2]+`"}`)
		b.expect("message")
		a.expect("ack")
	}
}

// sayAs sends a frame, whole or in fragments, as gorilla/websocket writes what is longer than its buffer.
func (p *peer) sayAs(fragmented bool, frame string) {
	p.t.Helper()
	if fragmented {
		p.say(frame)
		return
	}
	if _, err := p.WebSocket().NetConn().Write(clientFrame(0x81, frame)); err != nil {
		p.t.Fatal(err)
	}
}

// TestTooFastIsRefusedAlone says 500 lines at once, and again those that were refused, when they say it is time: each is heard
// once.
func TestTooFastIsRefusedAlone(t *testing.T) {
	const lines = 500
	s := start(t, func(c *Config) { c.MessageRate = 400 })
	a, b := s.enter("r"), s.enter("r")
	a.expect("user_joined")
	began := time.Now()
	say := func(id string) { a.say(fmt.Sprintf(`{"type":"message","id":%q,"data":%s}`, id, id)) }
	for i := range lines {
		say(strconv.Itoa(i))
	}
	refused := 0
	for acked := 0; acked < lines; {
		m := a.next()
		if m.Type == "ack" {
			acked++
			continue
		}
		refused++
		var doc struct{ Message string }
		var wait int
		if err := m.Document(&doc); err != nil || m.Type != "error" {
			t.Fatalf("got %s, %v", m.Raw, err)
		}
		if _, err := fmt.Sscanf(doc.Message, "rate limit: wait %d ms", &wait); err != nil {
			t.Fatalf("%q: %v", doc.Message, err)
		}
		<-time.After(time.Duration(wait) * time.Millisecond)
		say(m.ID)
	}
	if allowed := float64(s.cfg.MessageBurst) + time.Since(began).Seconds()*s.cfg.MessageRate; refused == 0 && allowed < lines {
		t.Error("nothing was refused")
	}
	heard := map[string]bool{}
	for range lines {
		heard[string(b.expect("message").Data)] = true
	}
	if len(heard) != lines {
		t.Errorf("%d of %d lines were heard", len(heard), lines)
	}
}

// TestAbuseEnds goes on with each kind of message that is refused, until the connection is closed.
func TestAbuseEnds(t *testing.T) {
	for name, test := range map[string]struct {
		frame string
		code  closeCode
	}{
		"bad":       {"x", closePolicy},
		"too fast":  {`{"type":"stun_config"}`, closePolicy},
		"too large": {strings.Repeat("x", 70<<10), closeTooLarge},
		"huge":      {strings.Repeat("x", 17*64<<10), closeTooLarge},
		"absent":    {`{"type":"message","target_id":"user-x","data":1}`, closePolicy},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(c *Config) { c.ICE = func(string, string) ICEConfig { return ICEConfig{} } })
			honest, p := s.enter("r"), s.enter("r")
			honest.expect("user_joined")
			go func() {
				for err := error(nil); err == nil; {
					_, err = p.WebSocket().NetConn().Write(clientFrame(0x81, test.frame))
				}
			}()
			p.closedWith(test.code)
			honest.expect("user_left")
			if n := s.sum("signal_messages_total", "type", "unknown"); name == "bad" && n > 200 {
				t.Errorf("%v messages were read", n)
			}
		})
	}
}

// TestForeignFrames has another node send what is not UTF-8, past its sockets: it is dropped, and what comes
// before and after it is heard.
func TestForeignFrames(t *testing.T) {
	nodes := startNodes(t, 2)
	a, b := nodes[0].enter("r"), nodes[1].enter("r")
	a.expect("user_joined")
	for i := range 3 {
		for _, data := range []string{"\"\xff\"", `"fine"`} {
			env := envelope{Type: appMessage, Data: []byte(data)}
			p := nodes[0].participant(a.user)
			frame := appendRelay(nil, env, a.user, "r")
			if got := nodes[0].room("r").deliver(cast{from: p, typ: appMessage, frame: frame}); got != underWay {
				t.Fatalf("delivery %d of %q", got, data)
			}
		}
		if m := b.expect("message"); string(m.Data) != `"fine"` {
			t.Fatalf("got %q", m.Raw)
		}
		if n, _ := nodes[1].value("signal_invalid_frames_total"); n != float64(i+1) {
			t.Errorf("%v frames are counted", n)
		}
	}
	if n, _ := nodes[1].value("signal_gaps_total"); n != 0 {
		t.Errorf("%v gaps", n)
	}
}

// TestForeignSnapshot takes over a participant for which another node has kept what is not UTF-8.
func TestForeignSnapshot(t *testing.T) {
	s := socketless(t, &slowState{})
	bad, good := []byte("bad \xff"), []byte("good")
	snap := snapshot{Room: "r", Sent: 2, Kept: [][]byte{good, bad},
		Early: []heldMessage{{From: "x", Frame: bad}, {From: "x", Frame: good}},
		Marks: []mark{{Held: []heldMessage{{Before: 1, Number: 2, Frame: bad}, {Before: 2, Number: 3, Frame: good}}}}}
	p, l := s.unpack(snap, resumeToken{User: "a", Epoch: 1})
	if kept := p.kept.copies(); len(kept) != 2 || string(kept[0]) != "good" || string(kept[1]) != "bad \ufffd" {
		t.Errorf("kept %q", kept)
	}
	if len(l.early) != 1 || string(l.early[0].Frame) != "good" {
		t.Errorf("early %v", l.early)
	}
	p.conn = deaf("a", 0).conn
	s.addLocal("r", l).apply(view(1, p.member(), state.Member{ID: "x", Joined: 1}))
	l.follow(&l.marks.all[0])
	if h := l.marks.all[0].held; len(h) != 2 || len(h[0].Frame) != 0 || string(h[1].Frame) != "good" {
		t.Errorf("held %v", h)
	}
	if got := heard(p); !slices.Contains(got, "good") || strings.Contains(strings.Join(got, ""), "\xff") {
		t.Errorf("heard %q", got)
	}
}

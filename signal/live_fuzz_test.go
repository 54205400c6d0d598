package signal

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cline-meet/signal/signal/client"
)

// maxPortions bounds how many portions a stranger writes, lest an input takes for ever.
const maxPortions = 500

// FuzzLiveSocket lets strangers write to WebSockets of a server, as bytes or as frames of a payload for each line. They are in a room
// with a witness, who must hear nothing but messages of the contract, and beside a room whose members hear what they say to each other
// and nothing else.
func FuzzLiveSocket(f *testing.F) {
	long := strings.Repeat("x", 70<<10)
	for _, lines := range []string{
		`{"type":"message","id":"1","data":"\ud800"}`, `{"type":"leave_room"}` + "\n" + `{"type":"join_room","data":{"room_id":"fuzz"}}`,
		`{"type":"offer","target_id":"user-a","data":"{\"sdp\":\"v=0\"}"}`, `{"type":"stun_config","id":"é"}`, "\xff", `{"type":"message","data":"` + "\xed\xa0\x80" + `"}`,
		`{"type":"message","id":1,"data":{"a":[1,{"b":null}],"a":2}}`, `{"type":"message","id":"9","data":"` + long + `"}`, long, "\x00\n\n[]\n{",
	} {
		f.Add([]byte(lines), byte(0x81), 0)
		f.Add([]byte(lines), byte(0x01), 3)
		f.Add([]byte(lines), byte(0x82), 1000)
	}
	for _, frames := range [][]byte{
		clientFrame(0x89, "ping"), clientFrame(0x8a, "1"), clientFrame(0x88, "\x03\xe8bye"), clientFrame(0x88, "\x03\xe8\xff"), clientFrame(0x80, "x"),
		append(clientFrame(0x01, `{"type":"message","data":`), clientFrame(0x80, `1}`)...), {0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 'x'},
	} {
		f.Add(frames, byte(0), 0)
		f.Add(frames, byte(0), 1)
	}
	s := start(f, func(c *Config) {
		c.AddrConns, c.AddrUpgrades, c.AddrMessages, c.AddrCredits, c.MaxConns = 0, 0, 0, 0, 0
		c.MessageRate = 1000                 // More than the room beside says.
		c.ResumeGrace = 5 * time.Millisecond // For those whose goodbye is not understood.
	})
	private := rand.Text()
	a, b, witness := s.enter(private), s.enter(private), s.enter("fuzz")
	a.expect("user_joined")
	said := 0
	f.Fuzz(func(t *testing.T, stream []byte, first byte, size int) {
		if size < 0 {
			return
		}
		s.t, a.t, b.t, witness.t = t, t, t, t
		stranger := s.enter("fuzz")
		if first != 0 {
			stream = framesOf(stream, first)
		}
		write(stranger, stream, max(size, len(stream)/maxPortions))
		if err := stranger.ended(); strings.Contains(err.Error(), "decoding a frame") {
			t.Errorf("what the server says is no JSON: %v", err)
		}
		_ = stranger.Close()
		witness.sees(stranger)
		said++
		a.say(fmt.Sprintf(`{"type":"message","id":"%[1]d","data":%[1]d}`, said))
		if m := b.hears(); m.Type != "message" || string(m.Data) != fmt.Sprint(said) || m.UserID != a.user {
			t.Errorf("the room beside heard %s", m.Raw)
		}
		if m := a.hears(); m.Type != "ack" || m.ID != fmt.Sprint(said) {
			t.Errorf("the room beside heard %s", m.Raw)
		}
	})
}

// framesOf returns a frame for each line of a payload.
func framesOf(payload []byte, first byte) (frames []byte) {
	for line := range strings.Lines(string(payload)) {
		frames = append(frames, clientFrame(first, line)...)
	}
	return frames
}

// write sends bytes in portions, a goodbye and the end.
func write(p *peer, stream []byte, size int) {
	conn := p.WebSocket().NetConn().(*net.TCPConn)
	for _, portion := range append(portions(stream, size), clientFrame(0x88, "\x03\xe8")) {
		if _, err := conn.Write(portion); err != nil {
			return // It was closed meanwhile.
		}
	}
	_ = conn.CloseWrite()
}

// sees reads what a stranger's stay caused, up to its end: each message must be one of the contract.
func (p *peer) sees(stranger *peer) {
	p.t.Helper()
	for {
		m := p.hears()
		if !utf8.Valid(m.Raw) || !json.Valid(m.Raw) || m.RoomID != "fuzz" {
			p.t.Fatalf("the witness heard %q", m.Raw)
		}
		switch m.Type {
		case "user_left":
			if m.UserID == stranger.user {
				return
			}
		case "user_joined", "offer", "answer", "ice_candidate", "message":
		default:
			p.t.Fatalf("the witness heard %s", m.Raw)
		}
	}
}

// hears returns the next message that is not about ICE servers, which come when it is time.
func (p *peer) hears() client.Message {
	p.t.Helper()
	for {
		if m := p.next(); m.Type != "stun_config" {
			return m
		}
	}
}

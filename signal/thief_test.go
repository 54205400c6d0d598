package signal

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cline-meet/signal/signal/client"
)

// altered returns a resume token whose payload says something else, under the signature that it had.
func altered(t *testing.T, token string, change func(*resumeToken)) string {
	t.Helper()
	payload, mac, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var r resumeToken
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	change(&r)
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text) + "." + mac
}

// TestAlteredTokensResumeNobody changes a token in every part, and shows that of another deployment. The member whose it was does not notice.
func TestAlteredTokensResumeNobody(t *testing.T) {
	lasting := func(secret string) func(*Config) {
		return func(c *Config) { c.SessionSecrets = []string{secret} }
	}
	s, elsewhere := start(t, lasting("a secret of this deployment")), start(t, lasting("a secret of another one"))
	a, b := s.enter("r"), s.enter("r")
	a.expect("user_joined")
	token := b.token()
	payload, mac, _ := strings.Cut(token, ".")
	for name, forged := range map[string]string{
		"no signature":           payload,
		"an empty signature":     payload + ".",
		"half a signature":       payload + "." + mac[:len(mac)/2],
		"a longer signature":     token + "A",
		"another signature":      payload + "." + strings.Repeat("A", len(mac)),
		"that of another token":  payload + "." + strings.Split(a.token(), ".")[1],
		"three parts":            token + "." + mac,
		"another user":           altered(t, token, func(r *resumeToken) { r.User = a.user }),
		"another room":           altered(t, token, func(r *resumeToken) { r.Room = "other" }),
		"another epoch":          altered(t, token, func(r *resumeToken) { r.Epoch++ }),
		"another node":           altered(t, token, func(r *resumeToken) { r.Node = "x" }),
		"a longer life":          altered(t, token, func(r *resumeToken) { r.Expires += 1000 }),
		"a later greeting":       altered(t, token, func(r *resumeToken) { r.Greeting++ }),
		"another session":        altered(t, token, func(r *resumeToken) { r.Session = "x" }),
		"no session":             altered(t, token, func(r *resumeToken) { r.Session = "" }),
		"of another deployment":  elsewhere.enter("r").token(),
		"padding":                payload + "==." + mac,
		"a space":                token + " ",
		"a NUL":                  token + "\x00",
		"signed as a cookie":     payload + "." + sign([]byte("a secret of this deployment"), payload),
		"by no secret":           payload + "." + signToken(nil, "", payload),
		"by another session":     payload + "." + s.sessions.signToken("x", payload),
		"no JSON":                "AAAA." + s.sessions.signToken("", "AAAA"),
		"nothing":                ".",
		"much":                   strings.Repeat("A", 8<<10) + "." + mac,
		"deep":                   base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("[", 4<<10))) + "." + mac,
		"another case":           strings.ToLower(token),
		"of somebody else alive": altered(t, token, func(r *resumeToken) { *r = resumeToken{User: a.user} }),
	} {
		if s.steal(url.QueryEscape(forged)) {
			t.Errorf("%s: resumed", name)
		}
	}
	b.say(`{"type":"message","id":"1","data":1}`)
	b.expect("ack")
	if m := a.expect("message"); m.UserID != b.user { // Nothing else has come.
		t.Errorf("heard %s", m.Raw)
	}
	if !s.steal(token) {
		t.Error("the token itself is not good")
	}
}

// TestWhoWasThrownOutDoesNotResume is back with the token after the server has ended the participant, or its claims.
func TestWhoWasThrownOutDoesNotResume(t *testing.T) {
	s := start(t, func(c *Config) { c.ResumeGrace = time.Hour })
	abuser := s.enter("r")
	for abuser.SendFrame([]byte("x")) == nil { // It fails from when the client has heard that it is thrown out.
	}
	abuser.closedWith(closePolicy)
	eventually(t, "it is gone", func() bool { return len(s.everybody()) == 0 })
	if s.steal(abuser.token()) {
		t.Error("resumed after a 1008")
	}

	guarded := start(t, withTokens, func(c *Config) { c.ResumeGrace = time.Hour })
	p := guarded.dial(bearer(token(t, nil)))
	p.join("r")
	old := p.token()
	guarded.expire(p)
	if err := p.ended(); !errors.Is(err, client.ErrTokenExpired) {
		t.Errorf("ended with %v", err)
	}
	for name, header := range map[string]http.Header{
		"nothing": nil, "the resume token": bearer(old), "the token of then": bearer(token(t, jwt.MapClaims{"exp": time.Now().Add(-time.Second).Unix()})),
		"the cookie of another node": s.dial(nil).cookie(),
	} {
		if status, _, body := knockAt(t, guarded, "?resume="+old, header); status != http.StatusUnauthorized {
			t.Errorf("with %s: %d %s", name, status, body)
		}
		if res, body := guarded.get("/ice", header); res.StatusCode != http.StatusUnauthorized || strings.Contains(body, "urls") {
			t.Errorf("ICE servers with %s: %s %s", name, res.Status, body)
		}
	}
}

// TestReceiverSaysNothing has who may not publish try all that a client can say to make others hear something, also after a resume and with a
// fresh token, and its fresh token of somebody else changes nothing.
func TestReceiverSaysNothing(t *testing.T) {
	s := start(t, withTokens, func(c *Config) { c.ResumeGrace = time.Hour })
	free := s.dial(bearer(token(t, jwt.MapClaims{"sub": "bob"})))
	free.join("r")
	mute := jwt.MapClaims{"publish": false, "relay": false}
	p := s.dial(bearer(token(t, mute)))
	p.join("r")
	free.expect("user_joined")
	tries := func(p *peer) {
		t.Helper()
		target := `"target_id":"` + free.user + `"`
		for _, frame := range []string{
			`{"type":"message","id":"x","data":"hello"}`,
			`{"type":"message","id":"x",` + target + `,"data":{"sdp":"v=0"}}`,
			`{"type":"offer","id":"x",` + target + `,"data":{"sdp":"m=audio 9 X 0\n"}}`,
			`{"type":"offer","id":"x",` + target + `,"data":"{\"sdp\":\"m=video 9 X 0\\r\\na=recvonly\\r\\na=sendrecv \"}"}`,
			`{"type":"answer","id":"x",` + target + `,"data":{}}`,
			`{"type":"answer","id":"x",` + target + `,"data":{"sdp":"v=0","type":"answer","\u0073dp":"m=audio 9 X 0"}}`,
			`{"type":"ice_candidate","id":"x",` + target + `,"data":{"type":"offer","sdp":"m=audio 9 X 0"}}`,
		} {
			p.say(frame)
			if m := p.expect("error"); m.ID != "x" || !strings.Contains(string(m.Raw), "403") && !strings.Contains(string(m.Raw), "400") {
				t.Errorf("%s: %s", frame, m.Raw)
			}
		}
		p.say(`{"type":"stun_config"}`)
		if m := p.expect("stun_config"); strings.Contains(string(m.Raw), "credential") {
			t.Errorf("got %s", m.Raw)
		}
	}
	tries(p)
	for _, other := range []jwt.MapClaims{{"sub": "bob"}, {"sub": "Ann"}, {"sub": "ann "}, {"rooms": []string{}}, {"exp": 1}, {"sub": ""}} {
		raw, err := json.Marshal(map[string]any{"type": "auth", "id": "y", "data": map[string]string{"token": token(t, other)}})
		if err != nil {
			t.Fatal(err)
		}
		p.say(string(raw))
		if m := p.expect("error"); m.ID != "y" {
			t.Errorf("%v: %s", other, m.Raw)
		}
	}
	tries(p)
	p.Cut()
	_ = p.ended()
	p = p.resumes(s, bearer(token(t, mute)))
	tries(p)
	if all := s.sum("signal_messages_total", "outcome", "ok"); all == 0 {
		t.Error("nothing is counted")
	}
	p.say(`{"type":"leave_room"}`)
	if m := free.next(); m.Type != "user_left" || m.UserID != p.user {
		t.Errorf("heard %s", m.Raw)
	}
}

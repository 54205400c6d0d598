package signal

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
)

// knockAt asks for a WebSocket and returns the status of the answer, the subprotocol and the body.
func knockAt(t testing.TB, s *testServer, query string, header http.Header) (status int, protocol, body string) {
	t.Helper()
	ws, response, err := websocket.DefaultDialer.DialContext(t.Context(), strings.Replace(s.url, "http", "ws", 1)+"/ws"+query, header)
	if response == nil {
		t.Fatal(err)
	}
	if err == nil {
		_ = ws.Close()
		return response.StatusCode, ws.Subprotocol(), ""
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, "", string(text)
}

// TestAuthMatrix asks for a WebSocket and for ICE servers with every kind of token in every way.
func TestAuthMatrix(t *testing.T) {
	keys, others := newKeyPair(t), newKeyPair(t)
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, keys.set, 0o600); err != nil {
		t.Fatal(err)
	}
	both := start(t, withTokens, func(c *Config) { c.Auth.JWKS, c.Auth.Audiences = file, []string{"calls"} })
	away := start(t, withTokens, func(c *Config) {
		c.Auth.Secrets, c.Auth.JWKS, c.Auth.Timeout = nil, "http://127.0.0.1:1/keys", 50*time.Millisecond
	})
	ours := func(more jwt.MapClaims) jwt.MapClaims {
		c := jwt.MapClaims{"aud": "calls"}
		maps.Copy(c, more)
		return c
	}
	inKeySet := func(k keyPair) string {
		made := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "aud": "calls"})
		made.Header["kid"] = "1"
		text, err := made.SignedString(k.private)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, tt := range map[string]struct {
		s      *testServer
		token  string
		status int // of a request for ICE servers, 200 for a good one
		reason string
	}{
		"good":                         {both, token(t, ours(nil)), 200, ""},
		"by the key before":            {both, tokenBy(t, rotatedSecret, ours(nil)), 200, ""},
		"by a key of the set":          {both, inKeySet(keys), 200, ""},
		"none":                         {both, "", 401, "missing"},
		"no JWT":                       {both, "nonsense", 401, "malformed"},
		"expired":                      {both, token(t, ours(jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()})), 401, "expired"},
		"a wrong key":                  {both, tokenBy(t, "a secret that nobody has told us", ours(nil)), 401, "signature"},
		"a wrong key of that id":       {both, inKeySet(others), 401, "signature"},
		"another audience":             {both, token(t, jwt.MapClaims{"aud": "mail"}), 401, "claims"},
		"the keys cannot be had":       {away, inKeySet(keys), 503, "unavailable"},
		"none, the keys being away":    {away, "", 401, "missing"},
		"HS256, the keys being public": {away, token(t, nil), 401, "algorithm"},
	} {
		for way, by := range ways {
			query, header := by(tt.token)
			before := count(tt.s, "signal_auth_refusals_total", tt.reason)
			status, protocol, body := knockAt(t, tt.s, query, header)
			want := tt.status
			if want == 200 {
				want = http.StatusSwitchingProtocols
			}
			if status != want {
				t.Errorf("%s by %s: %d %s, want %d", name, way, status, body, want)
			}
			if status == http.StatusSwitchingProtocols && way == "subprotocol" && protocol != "signal.v1" {
				t.Errorf("%s: the subprotocol is %q", name, protocol)
			}
			if way == "subprotocol" {
				continue
			}
			res, body := tt.s.get("/ice"+query, header)
			if res.StatusCode != tt.status || tt.status == 401 && res.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s by %s: ICE servers %s %s", name, way, res.Status, body)
			}
			if tt.status != 200 && (strings.Contains(body, "urls") || !strings.Contains(body, `"error"`) || !strings.Contains(body, `"reason":"`+tt.reason+`"`)) {
				t.Errorf("%s by %s: ICE servers %s", name, way, body)
			}
			if after := count(tt.s, "signal_auth_refusals_total", tt.reason); tt.reason != "" && after != before+2 {
				t.Errorf("%s by %s: %v refusals were counted as %s, want 2", name, way, after-before, tt.reason)
			}
		}
	}
	if res, body := away.get("/ready", nil); res.StatusCode != 503 || !strings.Contains(body, `"auth"`) {
		t.Errorf("without keys /ready is %s %s", res.Status, body)
	}
	if res, body := both.get("/ready", nil); res.StatusCode != 200 {
		t.Errorf("with keys /ready is %s %s", res.Status, body)
	}
	closed := start(t, func(c *Config) { c.Auth.Secrets = []string{authSecret} })
	if status, _, _ := knockAt(t, closed, "?access_token="+token(t, nil), nil); status != 401 {
		t.Errorf("in a query that is not allowed: %d", status)
	}
}

// count returns a counter or gauge by the value of its only label.
func count(s *testServer, name, label string) float64 {
	families, err := s.cfg.Registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// offeredTo returns the URLs in the ICE servers of a stun_config, and whether one has credentials.
func offeredTo(t *testing.T, m client.Message) (all []string, credentials bool) {
	t.Helper()
	var doc struct {
		ICEServers []ICEServer `json:"iceServers"`
	}
	if err := m.Document(&doc); err != nil {
		t.Fatal(err)
	}
	for _, s := range doc.ICEServers {
		all, credentials = append(all, s.URLs...), credentials || s.Credential != ""
	}
	return all, credentials
}

// TestClaimsDecide joins, relays and speaks with tokens that do not allow it.
func TestClaimsDecide(t *testing.T) {
	s := start(t, withTokens, func(c *Config) { c.MessageRate, c.MessageBurst = 1000, 1000 })
	free := s.dial(bearer(token(t, jwt.MapClaims{"sub": "bob"})))
	if _, credentials := offeredTo(t, free.hub); !credentials {
		t.Errorf("who may relay got %s", free.hub.Raw)
	}
	free.join("team-1")

	bound := s.dial(bearer(token(t, jwt.MapClaims{"rooms": []string{"hall", "team-*"}, "relay": nil, "publish": false,
		"limits": map[string]any{"max_message_bytes": 300}})))
	if all, credentials := offeredTo(t, bound.hub); credentials || len(all) != 1 || !strings.HasPrefix(all[0], "stun:") {
		t.Errorf("who may not relay got %s", bound.hub.Raw)
	}
	bound.say(`{"type":"join_room","id":"1","data":{"room_id":"other"}}`)
	if id, text := bound.expectError(403); id != "1" || !strings.Contains(text, "rooms") {
		t.Errorf("%s, %s", id, text)
	}
	bound.join("team-1")
	free.expect("user_joined")
	bound.say(`{"type":"message","id":"2","data":"x"}`)
	if id, _ := bound.expectError(403); id != "2" {
		t.Errorf("answer to %s", id)
	}
	answer := func(id, direction string) string {
		return fmt.Sprintf(`{"type":"answer","id":%q,"target_id":%q,"data":{"sdp":"m=audio 9 X 0\na=%s\n"}}`, id, free.user, direction)
	}
	bound.say(answer("4", "sendrecv"))
	if id, _ := bound.expectError(403); id != "4" {
		t.Errorf("answer to %s", id)
	}
	bound.say(answer("5", "recvonly"))
	bound.expect("ack")
	free.expect("answer")
	bound.say(fmt.Sprintf(`{"type":"stun_config","id":"3","data":%q}`, strings.Repeat("x", 300)))
	if id, text := bound.expectError(413); id != "3" || !strings.Contains(text, "300") {
		t.Errorf("%s, %s", id, text)
	}
	free.say(`{"type":"message","data":"for all"}`)
	bound.expect("message")

	slow := s.dial(bearer(token(t, jwt.MapClaims{"limits": map[string]any{"message_rate": 0.001, "message_burst": 1}})))
	slow.say(`{"type":"stun_config"}`)
	slow.expect("stun_config")
	slow.say(`{"type":"stun_config"}`)
	slow.expectError(429)
	if room, publish := count(s, "signal_auth_refusals_total", "room"), count(s, "signal_auth_refusals_total", "publish"); room != 1 || publish != 2 {
		t.Errorf("%v refusals were counted as room, %v as publish", room, publish)
	}
	res, body := s.get("/ice", bearer(token(t, jwt.MapClaims{"relay": false})))
	if res.StatusCode != 200 || strings.Contains(body, "turn:") || !strings.Contains(body, "stun:") {
		t.Errorf("ICE servers without a relay: %s %s", res.Status, body)
	}
}

// TestUserIDOfASubject holds that connections of a subject share the session part of their ids, whatever else they are.
func TestUserIDOfASubject(t *testing.T) {
	secret := func(c *Config) { c.SessionSecrets = []string{"a secret of all nodes"} }
	one, two, other := start(t, withTokens, secret), start(t, withTokens, secret), start(t, withTokens)
	prefix := func(s *testServer, sub string) string {
		user := s.dial(bearer(token(t, jwt.MapClaims{"sub": sub}))).user
		return user[:strings.LastIndex(user, "-")]
	}
	ann := prefix(one, "ann")
	if again, there := prefix(one, "ann"), prefix(two, "ann"); again != ann || there != ann {
		t.Errorf("ann is %s, %s and %s", ann, again, there)
	}
	if bob, keyed := prefix(one, "bob"), prefix(other, "ann"); bob == ann || keyed == ann {
		t.Errorf("bob is %s, and ann under another secret %s", bob, keyed)
	}
}

// TestResumeNeedsATokenOfTheSubject loses a connection and comes back with tokens of all kinds, at the same node and at another.
func TestResumeNeedsATokenOfTheSubject(t *testing.T) {
	nodes := startNodes(t, 2, withTokens, func(c *Config) { c.ResumeGrace = time.Hour })
	for name, tt := range map[string]struct {
		claims  jwt.MapClaims
		resumed bool
	}{
		"a fresh token":         {jwt.MapClaims{"relay": nil}, true},
		"somebody else's token": {jwt.MapClaims{"sub": "bob"}, false},
		"for another room":      {jwt.MapClaims{"rooms": "x"}, false},
	} {
		for _, at := range nodes {
			p := nodes[0].dial(bearer(token(t, nil)))
			p.join("r")
			p.Cut()
			_ = p.ended()
			if _, err := p.Resume(t.Context(), at.url+"/ws", bearer(token(t, jwt.MapClaims{"exp": 1}))); err == nil || !strings.Contains(err.Error(), "401") {
				t.Errorf("resumed with an expired token: %v", err)
			}
			c, err := p.Resume(t.Context(), at.url+"/ws", bearer(token(t, tt.claims)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			back := &peer{Client: c, t: t}
			back.hub = back.expect("stun_config")
			var g greeting
			if err := back.hub.Document(&g); err != nil || g.Resumed != tt.resumed || (back.hub.UserID == p.user) != tt.resumed {
				t.Errorf("with %s %s got %s", name, p.user, back.hub.Raw)
			}
			if _, credentials := offeredTo(t, back.hub); tt.resumed && credentials {
				t.Errorf("the claims of before are there again: %s", back.hub.Raw)
			}
			if tt.resumed {
				back.say(`{"type":"message","id":"1","data":1}`)
				back.expect("ack")
			} else {
				back.expectError(410)
			}
		}
	}
}

// TestAdoptionNeedsAToken kills the node of one who may relay. Somebody else shows its resume token in vain, and for the one
// itself the claims of the fresh token hold.
func TestAdoptionNeedsAToken(t *testing.T) {
	nodes, dead := startMortals(t, 2, withTokens, func(c *Config) { c.ResumeGrace = time.Hour })
	p, q := nodes[0].dial(bearer(token(t, nil))), nodes[1].dial(bearer(token(t, jwt.MapClaims{"sub": "bob"})))
	p.join("r")
	q.join("r")
	p.expect("user_joined")
	dead.kill("n0", 0)
	p.Cut()
	_ = p.ended()
	thief, err := p.Resume(t.Context(), nodes[1].url+"/ws", bearer(token(t, jwt.MapClaims{"sub": "eve"})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = thief.Close() }()
	other := &peer{Client: thief, t: t}
	if m := other.expect("stun_config"); m.UserID == p.user {
		t.Errorf("somebody else got %s", m.Raw)
	}
	other.expectError(410)
	p.header = bearer(token(t, jwt.MapClaims{"relay": nil}))
	back := p.resumed(nodes[1], p.user, q.user)
	if _, credentials := offeredTo(t, back.hub); credentials {
		t.Errorf("who may not relay any more got %s", back.hub.Raw)
	}
}

// TestBearerTokensResumeNobodyWithAuthentication shows one that a node without authentication has issued.
func TestBearerTokensResumeNobodyWithAuthentication(t *testing.T) {
	text, err := json.Marshal(resumeToken{User: "user-x", Session: "s", Expires: time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	payload := base64.RawURLEncoding.EncodeToString(text)
	for _, tt := range []struct {
		s    *testServer
		good bool
	}{{start(t), true}, {start(t, withTokens), false}} {
		bearer := payload + "." + tt.s.sessions.signToken("s", payload)
		for _, session := range []string{"", "s", subjectSession + "ann"} {
			if _, err := tt.s.readToken(session, bearer); (err == nil) != tt.good {
				t.Errorf("for %q: %v", session, err)
			}
		}
	}
}

// TestTokensAreInNoLog does all that a client can do with tokens, and reads what was logged at debug.
func TestTokensAreInNoLog(t *testing.T) {
	var log systemtest.Log
	logged := func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s := start(t, withTokens, logged)
	b := newBackend(t)
	asks := start(t, logged, func(c *Config) { c.Auth.URL, c.Auth.Query = b.URL, true })
	b.say("connect", 500, "")
	b.say("ice", 500, "")
	good, bad := token(t, nil), tokenBy(t, strings.ToUpper(authSecret), jwt.MapClaims{"sub": "eve"})
	tokens := []string{good, bad, "header.payload.forged-signature", "opaque-and-secret"}
	for _, token := range tokens {
		for _, by := range ways {
			query, header := by(token)
			for _, at := range []*testServer{s, asks} {
				_, _, body := knockAt(t, at, query, header)
				_, _ = io.WriteString(&log, body) // It must not have it either.
				_, body = at.get("/ice"+query, header)
				_, _ = io.WriteString(&log, body)
			}
		}
	}
	p := s.dial(bearer(good))
	for _, token := range tokens {
		p.say(fmt.Sprintf(`{"type":"auth","data":{"token":%q}}`, token))
		_, _ = log.Write(p.next().Raw)
		p.say(fmt.Sprintf(`{"type":"auth","data":{"token":{"x":%q}}}`, token))
		_, _ = log.Write(p.next().Raw)
		p.say(fmt.Sprintf(`{"type":"auth","data":{"token":%q`, token))
		_, _ = log.Write(p.next().Raw)
	}
	_ = p.Close()
	s.stop()
	asks.stop()
	text := log.String()
	for _, token := range tokens {
		parts := strings.Split(token, ".")
		if secret := parts[len(parts)-1]; strings.Contains(text, secret) || strings.Contains(text, authSecret) {
			t.Errorf("the log has %s:\n%s", secret, text)
		}
	}
	if !strings.Contains(text, "connected") || !strings.Contains(text, "WebSocket refused") {
		t.Errorf("the log lacks what was done:\n%s", text)
	}
}

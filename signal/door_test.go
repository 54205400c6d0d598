package signal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"cline-meet/signal/signal/auth"
	"cline-meet/signal/signal/client"
)

const (
	authSecret    = "the newest secret of the backend!"
	rotatedSecret = "the secret that was there before!"
)

// tokenBy returns a token of ann for every room, changed by more claims; those that are nil are left out.
func tokenBy(t testing.TB, secret string, more jwt.MapClaims) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "rooms": "*", "relay": true}
	maps.Copy(claims, more)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func token(t testing.TB, more jwt.MapClaims) string { return tokenBy(t, authSecret, more) }

// keyPair is a key of tokens, and the key set that has it.
type keyPair struct {
	private *ecdsa.PrivateKey
	set     []byte
}

func newKeyPair(t testing.TB) keyPair {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return keyPair{private, fmt.Appendf(nil, `{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":%q,"y":%q}]}`, encode(point[1:33]), encode(point[33:]))}
}

// withTokens is a server that wants tokens and takes them in any way.
func withTokens(c *Config) { c.Auth.Secrets, c.Auth.Query = []string{authSecret, rotatedSecret}, true }

// bearer returns the header of who has a token.
func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// ways are how a client may show its token.
var ways = map[string]func(token string) (query string, header http.Header){
	"subprotocol": func(token string) (string, http.Header) {
		return "", http.Header{"Sec-WebSocket-Protocol": {"signal.v1, bearer." + token}}
	},
	"header": func(token string) (string, http.Header) { return "", bearer(token) },
	"query":  func(token string) (string, http.Header) { return "?access_token=" + url.QueryEscape(token), nil },
}

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

// count returns a counter by the value of its only label.
func count(s *testServer, name, label string) float64 {
	families, err := s.cfg.Registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
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

func TestTokenIsRenewedInPlace(t *testing.T) {
	s := start(t, withTokens)
	p := s.dial(bearer(token(t, jwt.MapClaims{"rooms": "r", "relay": nil, "exp": time.Now().Add(time.Minute).Unix()})))
	p.join("r")
	expires := func(m client.Message) (left int) {
		var doc struct {
			Left int `json:"auth_expires_in"`
		}
		if err := m.Document(&doc); err != nil {
			t.Fatal(err)
		}
		return doc.Left
	}
	if left := expires(p.hub); left < 1 || left > 60 {
		t.Errorf("%s says that it expires in %d s", p.hub.Raw, left)
	}
	renew := func(id, token string) { p.say(fmt.Sprintf(`{"type":"auth","id":%q,"data":{"token":%q}}`, id, token)) }
	for _, tt := range []struct {
		name, token string
		code        int
	}{
		{"somebody else's", token(t, jwt.MapClaims{"sub": "bob"}), 403},
		{"for other rooms", token(t, jwt.MapClaims{"rooms": "x"}), 403},
		{"expired", token(t, jwt.MapClaims{"exp": 1}), 401},
		{"a wrong key's", tokenBy(t, strings.ToUpper(authSecret), nil), 401},
		{"empty", "", 401},
	} {
		renew(tt.name, tt.token)
		if id, _ := p.expectError(tt.code); id != tt.name {
			t.Errorf("%s: answer to %s", tt.name, id)
		}
	}
	for _, data := range []string{`7`, `{"token":7}`, `"x"`} {
		p.say(`{"type":"auth","data":` + data + `}`)
		p.expectError(400)
	}
	renew("good", token(t, jwt.MapClaims{"rooms": "*"}))
	fresh := p.expect("stun_config")
	if _, credentials := offeredTo(t, fresh); !credentials || expires(fresh) < 3000 {
		t.Errorf("a fresh token is answered with %s", fresh.Raw)
	}
	if p.expect("ack").ID != "good" {
		t.Error("the ack is for another")
	}
	p.join("x") // Which only the fresh one allows.
	inString, _ := json.Marshal(fmt.Sprintf(`{"token":%q}`, token(t, nil)))
	p.say(`{"type":"auth","data":` + string(inString) + `}`)
	p.expect("stun_config")

	open := start(t).dial(nil)
	open.say(`{"type":"auth","id":"1","data":{"token":"x"}}`)
	open.expectError(400)
}

// TestTokenExpires lets the token of one of two in a room expire.
func TestTokenExpires(t *testing.T) {
	s := start(t, withTokens)
	p, q := s.dial(bearer(token(t, jwt.MapClaims{"exp": float64(time.Now().Add(1500*time.Millisecond).UnixMilli()) / 1000}))), s.dial(bearer(token(t, nil)))
	p.join("r")
	q.join("r")
	var closed *websocket.CloseError
	if err := p.ended(); !errors.As(err, &closed) || closed.Code != int(closeExpired) || !errors.Is(err, client.ErrTokenExpired) {
		t.Errorf("ended with %v", err)
	}
	q.expect("user_left")
	if n := count(s, "signal_auth_refusals_total", "expired"); n != 1 {
		t.Errorf("%v were counted as expired", n)
	}
}

// TestExpiryOverTime lets the wheel visit a client whose token lasts ten minutes and some seconds.
func TestExpiryOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := socketless(t, &slowState{})
		s.cfg.ICE = func(string, string) ICEConfig { return ICEConfig{} }
		s.sessions = newSessions(nil)
		p := s.place("r", member("a", "near", 1))
		p.conn.rate, p.conn.bound.shown = rate.NewLimiter(1, 1), true
		end := time.Now().Add(10*time.Minute + 7*time.Second)
		p.trust(&auth.Claims{Subject: "a", Expires: end})
		if first := heard(p); len(first) != 1 || !strings.Contains(first[0], `"auth_expires_in":607`) {
			t.Errorf("told %q", first)
		}
		told := time.Time{}
		for time.Until(end) > 0 {
			time.Sleep(min(s.wheel.turn, time.Until(end)-1))
			p.visit()
			if texts := heard(p); len(texts) > 0 && strings.Contains(texts[len(texts)-1], `"auth_expires_in"`) {
				if !told.IsZero() {
					t.Errorf("told again with %v to go", time.Until(end))
				}
				told = time.Now()
			}
			if time.Until(end) == 1 {
				break
			}
		}
		if left := end.Sub(told); left < expiryNotice || left > expiryNotice+s.wheel.turn {
			t.Errorf("told with %v to go", left)
		}
		if isOver(p) {
			t.Error("it has ended before its time")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		last := heard(p)
		if closing := closeExpired.frame("the token has expired"); len(last) != 1 || last[0] != string(closing) || !isOver(p) {
			t.Errorf("at the end it heard %q", last)
		}
	})
}

func isOver(p *participant) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// TestFreshTokenOutlivesTheOld has a token that expires in a minute, and a fresh one in its place.
func TestFreshTokenOutlivesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := socketless(t, &slowState{})
		s.cfg.ICE = func(string, string) ICEConfig { return ICEConfig{} }
		s.sessions = newSessions(nil)
		p := s.place("r", member("a", "near", 1))
		p.conn.rate = rate.NewLimiter(1, 1)
		p.trust(&auth.Claims{Subject: "a", Expires: time.Now().Add(10 * time.Second)})
		p.trust(&auth.Claims{Subject: "a", Expires: time.Now().Add(time.Hour)})
		for range 10 {
			time.Sleep(s.wheel.turn)
			p.visit()
		}
		if isOver(p) {
			t.Errorf("it has ended: %q", heard(p))
		}
	})
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

// TestTokensAreInNoLog does all that a client can do with tokens, and reads what was logged at debug.
func TestTokensAreInNoLog(t *testing.T) {
	var log syncBuffer
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
				log.add(body) // It must not have it either.
				_, body = at.get("/ice"+query, header)
				log.add(body)
			}
		}
	}
	p := s.dial(bearer(good))
	for _, token := range tokens {
		p.say(fmt.Sprintf(`{"type":"auth","data":{"token":%q}}`, token))
		log.add(string(p.next().Raw))
		p.say(fmt.Sprintf(`{"type":"auth","data":{"token":{"x":%q}}}`, token))
		log.add(string(p.next().Raw))
		p.say(fmt.Sprintf(`{"type":"auth","data":{"token":%q`, token))
		log.add(string(p.next().Raw))
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

// syncBuffer is a buffer for several writers.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) add(text string) { _, _ = b.Write([]byte(text)) }

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"cline-meet/signal/signal/setting"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	newSecret = "the newest secret of the backend!"
	oldSecret = "the secret that was there before!"
)

// signed returns a token with claims for ann, changed by more of them; those that are nil are left out.
func signed(t testing.TB, method jwt.SigningMethod, key any, kid string, more jwt.MapClaims) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "rooms": []string{"r"}}
	maps.Copy(claims, more)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// pair is a private key, and its public half as a JSON Web Key.
type pair struct {
	private crypto.Signer
	method  jwt.SigningMethod
	jwk     jwk
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// pairs are made once, because RSA keys take long.
var pairs = sync.OnceValue(func() map[string]pair {
	r, _ := rsa.GenerateKey(rand.Reader, 2048)
	e, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	public, d, _ := ed25519.GenerateKey(rand.Reader)
	point, _ := e.PublicKey.Bytes()
	return map[string]pair{
		"RS256": {r, jwt.SigningMethodRS256, jwk{Type: "RSA", ID: "r", N: encode(r.N.Bytes()), E: encode(big.NewInt(int64(r.E)).Bytes())}},
		"ES256": {e, jwt.SigningMethodES256, jwk{Type: "EC", ID: "e", Curve: "P-256", X: encode(point[1:33]), Y: encode(point[33:])}},
		"EdDSA": {d, jwt.SigningMethodEdDSA, jwk{Type: "OKP", ID: "d", Curve: "Ed25519", X: encode(public)}},
	}
})

// jwks returns a key set with the public halves of some pairs.
func jwks(t testing.TB, ps ...pair) []byte {
	t.Helper()
	set := map[string][]jwk{"keys": {}}
	for _, p := range ps {
		set["keys"] = append(set["keys"], p.jwk)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func keyFile(t testing.TB, text []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func newDoor(t testing.TB, change func(*Config)) *Door {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Logger = slog.New(slog.DiscardHandler)
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// running runs the door until the test ends.
func running(t testing.TB, d *Door) *Door {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return d
}

func reasonOf(t testing.TB, err error) Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *Error", err)
	}
	return e.Reason
}

func tokenRequest(token string) Request { return Request{token: token} }

// TestTokens is every way in which a token may be good or bad.
func TestTokens(t *testing.T) {
	ps := pairs()
	rsaPair := ps["RS256"]
	der, err := x509.MarshalPKIXPublicKey(rsaPair.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	both := newDoor(t, func(c *Config) {
		c.Secrets = []string{newSecret, oldSecret}
		c.JWKS = keyFile(t, jwks(t, rsaPair, ps["ES256"], ps["EdDSA"]))
		c.Issuer, c.Audiences = "https://us.example", []string{"calls", "chat"}
	})
	ours := jwt.MapClaims{"iss": "https://us.example", "aud": "calls"}
	with := func(name string, value any) jwt.MapClaims {
		c := maps.Clone(ours)
		c[name] = value
		return c
	}
	hs := func(secret string, c jwt.MapClaims) string {
		return signed(t, jwt.SigningMethodHS256, []byte(secret), "", c)
	}
	public := func(alg, kid string) string { return signed(t, ps[alg].method, ps[alg].private, kid, ours) }
	good := hs(newSecret, ours)
	parts := strings.Split(good, ".")
	now := time.Now()
	critical := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ann"})
	critical.Header["crit"] = []string{"exp"}
	withCrit, err := critical.SignedString([]byte(newSecret))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		token string
		want  Reason
	}{
		"the newest secret":          {good, ""},
		"a rotated secret":           {hs(oldSecret, ours), ""},
		"RS256":                      {public("RS256", "r"), ""},
		"ES256":                      {public("ES256", "e"), ""},
		"EdDSA":                      {public("EdDSA", "d"), ""},
		"no kid and one key":         {public("RS256", ""), ""},
		"one of several audiences":   {hs(newSecret, with("aud", []string{"x", "chat"})), ""},
		"a clock that is ahead":      {hs(newSecret, with("nbf", now.Add(20*time.Second).Unix())), ""},
		"nothing":                    {"", ReasonMissing},
		"no JWT":                     {"opaque", ReasonMalformed},
		"too many parts":             {good + ".x", ReasonMalformed},
		"padding":                    {good + "=", ReasonMalformed},
		"no JSON":                    {parts[0] + "." + encode([]byte("{")) + "." + parts[2], ReasonMalformed},
		"too long":                   {hs(newSecret, with("x", strings.Repeat("x", maxToken))), ReasonMalformed},
		"a claim twice":              {parts[0] + "." + encode([]byte(`{"sub":"a","sub":"b"}`)) + "." + parts[2], ReasonMalformed},
		"a critical extension":       {withCrit, ReasonMalformed},
		"none":                       {signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", ours), ReasonAlgorithm},
		"another hash":               {signed(t, jwt.SigningMethodHS512, []byte(newSecret), "", ours), ReasonAlgorithm},
		"another padding":            {signed(t, jwt.SigningMethodPS256, rsaPair.private, "r", ours), ReasonAlgorithm},
		"an unknown algorithm":       {encode([]byte(`{"alg":"XX1"}`)) + "." + parts[1] + "." + parts[2], ReasonAlgorithm},
		"no algorithm":               {encode([]byte(`{}`)) + "." + parts[1] + "." + parts[2], ReasonAlgorithm},
		"a wrong secret":             {hs("a secret that nobody has told us", ours), ReasonSignature},
		"a public key as the secret": {hs(string(publicPEM), ours), ReasonSignature},
		"a kid and a public key":     {signed(t, jwt.SigningMethodHS256, publicPEM, "r", ours), ReasonSignature},
		"other claims":               {parts[0] + "." + encode([]byte(`{"sub":"root"}`)) + "." + parts[2], ReasonSignature},
		"the kid of another key":     {public("RS256", "e"), ReasonKey},
		"an unknown kid":             {public("ES256", "x"), ReasonKey},
		"expired":                    {hs(newSecret, with("exp", now.Add(-time.Second).Unix())), ReasonExpired},
		"long expired":               {hs(newSecret, with("exp", now.Add(-time.Hour).Unix())), ReasonExpired},
		"without an end":             {hs(newSecret, with("exp", nil)), ReasonClaims},
		"not yet":                    {hs(newSecret, with("nbf", now.Add(time.Hour).Unix())), ReasonEarly},
		"made tomorrow":              {hs(newSecret, with("iat", now.Add(time.Hour).Unix())), ReasonEarly},
		"another issuer":             {hs(newSecret, with("iss", "https://them.example")), ReasonClaims},
		"no issuer":                  {hs(newSecret, with("iss", nil)), ReasonClaims},
		"another audience":           {hs(newSecret, with("aud", "mail")), ReasonClaims},
		"no audience":                {hs(newSecret, with("aud", nil)), ReasonClaims},
		"nobody":                     {hs(newSecret, with("sub", nil)), ReasonClaims},
		"a long subject":             {hs(newSecret, with("sub", strings.Repeat("x", maxSubject+1))), ReasonClaims},
		"a star in a room":           {hs(newSecret, with("rooms", []string{"a*b"})), ReasonClaims},
		"attributes that are none":   {hs(newSecret, with("attributes", "x")), ReasonClaims},
		"a long profile":             {hs(newSecret, with("name", strings.Repeat("x", maxProfile+1))), ReasonClaims},
		"a negative limit":           {hs(newSecret, with("limits", map[string]int{"message_rate": -1})), ReasonClaims},
		"a number for a grant":       {hs(newSecret, with("relay", 1)), ReasonMalformed},
	} {
		c, err := both.Enter(t.Context(), tokenRequest(tt.token))
		if got := reasonOf(t, err); got != tt.want || (err == nil) != (c != nil) {
			t.Errorf("%s: %v is %q, want %q", name, err, got, tt.want)
		}
		if err != nil && tt.token != "" && strings.Contains(err.Error(), tt.token) {
			t.Errorf("%s: the error has the token", name)
		}
	}
}

// TestKeysBelongToTheirAlgorithm has doors that know keys of one kind alone.
func TestKeysBelongToTheirAlgorithm(t *testing.T) {
	ps := pairs()
	for alg, p := range ps {
		d := newDoor(t, func(c *Config) { c.JWKS = keyFile(t, jwks(t, p)) })
		for other, q := range ps {
			token := signed(t, q.method, q.private, p.jwk.ID, nil)
			_, err := d.Enter(t.Context(), tokenRequest(token))
			if want := map[bool]Reason{true: "", false: ReasonKey}[other == alg]; reasonOf(t, err) != want {
				t.Errorf("a token by %s with keys of %s: %v", other, alg, err)
			}
		}
		if _, err := d.Enter(t.Context(), tokenRequest(signed(t, jwt.SigningMethodHS256, []byte(newSecret), "", nil))); reasonOf(t, err) != ReasonAlgorithm {
			t.Errorf("HS256 without a secret: %v", err)
		}
	}
}

func TestSecretsAreReplaced(t *testing.T) {
	d := newDoor(t, func(c *Config) { c.Secrets = []string{oldSecret} })
	fresh, old := signed(t, jwt.SigningMethodHS256, []byte(newSecret), "", nil), signed(t, jwt.SigningMethodHS256, []byte(oldSecret), "", nil)
	for _, step := range []struct {
		secrets    []string
		fresh, old Reason
	}{
		{[]string{newSecret, oldSecret}, "", ""},
		{[]string{newSecret}, "", ReasonSignature},
	} {
		if !d.SetSecrets(step.secrets) {
			t.Fatal("not replaced")
		}
		for token, want := range map[string]Reason{fresh: step.fresh, old: step.old} {
			if _, err := d.Enter(t.Context(), tokenRequest(token)); reasonOf(t, err) != want {
				t.Errorf("with %d secrets: %v, want %q", len(step.secrets), err, want)
			}
		}
	}
	keys := newDoor(t, func(c *Config) { c.JWKS = keyFile(t, jwks(t, pairs()["ES256"])) })
	asks := newDoor(t, func(c *Config) { c.URL = "http://127.0.0.1/" })
	var open *Door
	if d.SetSecrets(nil) || keys.SetSecrets([]string{newSecret}) || asks.SetSecrets([]string{newSecret}) || open.SetSecrets([]string{newSecret}) {
		t.Error("a door got secrets that had none, or lost its own")
	}
}

func TestClaims(t *testing.T) {
	d := newDoor(t, func(c *Config) { c.Secrets = []string{newSecret} })
	enter := func(more jwt.MapClaims) *Claims {
		c, err := d.Enter(t.Context(), tokenRequest(signed(t, jwt.SigningMethodHS256, []byte(newSecret), "", more)))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	end := time.Now().Add(time.Minute).Truncate(time.Second)
	c := enter(jwt.MapClaims{"exp": end.Unix(), "rooms": []string{"a", "team-*"}, "name": "Ann", "attributes": map[string]int{"x": 1},
		"publish": false, "moderate": true, "relay": true, "limits": map[string]any{"message_rate": 0.5, "message_burst": 2, "max_message_bytes": 3}})
	want := &Claims{Subject: "ann", Rooms: []string{"a", "team-*"}, Name: "Ann", Attributes: []byte(`{"x":1}`), Expires: end,
		Moderate: true, Relay: true, Limits: Limits{0.5, 2, 3}}
	if !c.Expires.Equal(end) {
		t.Errorf("expires at %v, want %v", c.Expires, end)
	}
	if c.Expires = end; !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for room, allowed := range map[string]bool{"a": true, "ab": false, "team-": true, "team-1": true, "team": false, "*": false, "": false} {
		if c.Allows(room) != allowed {
			t.Errorf("room %q is allowed: %v", room, !allowed)
		}
	}
	if c := enter(jwt.MapClaims{"rooms": "b"}); !c.Allows("b") || c.Allows("a") || !c.Publish || c.Moderate || c.Relay {
		t.Errorf("a token that says little grants %+v", c)
	}
	if c := enter(jwt.MapClaims{"rooms": "*"}); !c.Allows("a") {
		t.Errorf("no room is allowed by a star")
	}
	if c := enter(jwt.MapClaims{"rooms": nil}); !c.Allows("a") {
		t.Errorf("a token without rooms allows none")
	}
}

// TestWhereTheTokenIs reads requests as browsers, other clients and people with a link send them.
func TestWhereTheTokenIs(t *testing.T) {
	for name, tt := range map[string]struct {
		header http.Header
		query  string
		want   string
	}{
		"subprotocol":           {http.Header{"Sec-Websocket-Protocol": {"signal.v1, bearer.a.b.c"}}, "", "a.b.c"},
		"subprotocols in rows":  {http.Header{"Sec-Websocket-Protocol": {"signal.v1", "bearer.a.b.c"}}, "", "a.b.c"},
		"header":                {http.Header{"Authorization": {"bearer  a.b.c"}}, "", "a.b.c"},
		"another scheme":        {http.Header{"Authorization": {"Basic a.b.c"}}, "", ""},
		"query":                 {nil, "?access_token=a.b.c", "a.b.c"},
		"the subprotocol wins":  {http.Header{"Sec-Websocket-Protocol": {"bearer.1"}, "Authorization": {"Bearer 2"}}, "?access_token=3", "1"},
		"an empty one does not": {http.Header{"Sec-Websocket-Protocol": {"bearer."}, "Authorization": {"Bearer 2"}}, "?access_token=3", "2"},
		"nowhere":               {nil, "", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/ws"+tt.query, nil)
		maps.Copy(r.Header, tt.header)
		if got := (&Door{query: true}).Read(r, "").token; got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if got := (&Door{}).Read(r, "").token; tt.query != "" && got == "a.b.c" {
			t.Errorf("%s: the query was read", name)
		}
	}
}

func TestParseKeys(t *testing.T) {
	ps := pairs()
	mixed := jwks(t, ps["RS256"])
	mixed = append(bytes.TrimSuffix(mixed, []byte("]}")), `,{"kty":"oct","k":"c2VjcmV0"},{"kty":"EC","crv":"P-521","x":"","y":""},`+
		`{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AQAB"},{"kty":"new","n":[1]}]}`...)
	if keys, err := parseKeys(mixed); err == nil || keys != nil {
		t.Errorf("a field of another type: %v, %v", keys, err)
	}
	mixed = bytes.Replace(mixed, []byte(`"n":[1]`), []byte(`"n":"1"`), 1)
	if keys, err := parseKeys(mixed); err != nil || len(keys) != 1 || keys[0].id != "r" {
		t.Errorf("beside keys that we cannot use: %v, %v", keys, err)
	}
	if keys, err := parseKeys([]byte(`{"keys":[]}`)); err != nil || keys == nil || len(keys) != 0 {
		t.Errorf("an empty set: %v, %v", keys, err)
	}
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	encrypts, elsewhere := ps["RS256"].jwk, ps["ES256"].jwk
	encrypts.Use = "enc"
	elsewhere.Y = elsewhere.X
	for name, text := range map[string][]byte{
		"nothing":          nil,
		"no JSON":          []byte("<html>"),
		"no keys":          []byte("{}"),
		"symmetric":        []byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`),
		"not a signature":  jwks(t, pair{jwk: encrypts}),
		"not on the curve": jwks(t, pair{jwk: elsewhere}),
		"short":            jwks(t, pair{jwk: jwk{Type: "RSA", N: encode(small.N.Bytes()), E: "AQAB"}}),
		"another use":      []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"ES256","x":"` + ps["EdDSA"].jwk.X + `"}]}`),
		"too many":         jwks(t, make([]pair, maxKeys+1)...),
	} {
		if keys, err := parseKeys(text); err == nil {
			t.Errorf("%s: %v", name, keys)
		}
	}
}

// source serves a key set that changes.
type source struct {
	*httptest.Server
	status  atomic.Int32
	keys    atomic.Pointer[[]byte]
	fetches atomic.Int32
}

func newSource(t testing.TB, keys []byte) *source {
	s := new(source)
	s.status.Store(http.StatusOK)
	s.keys.Store(&keys)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.fetches.Add(1)
		w.WriteHeader(int(s.status.Load()))
		_, _ = w.Write(*s.keys.Load())
	}))
	t.Cleanup(s.Close)
	return s
}

func TestKeysFromAURL(t *testing.T) {
	ps := pairs()
	s := newSource(t, jwks(t, ps["ES256"]))
	d := newDoor(t, func(c *Config) { c.JWKS = s.URL })
	if err := d.Ready(); err == nil {
		t.Error("ready without keys")
	}
	running(t, d)
	token := signed(t, ps["ES256"].method, ps["ES256"].private, "e", nil)
	if _, err := d.Enter(t.Context(), tokenRequest(token)); err != nil { // It waits for the first fetch.
		t.Error(err)
	}
	if err := d.Ready(); err != nil || d.Problems() != nil {
		t.Errorf("with keys: %v, %q", err, d.Problems())
	}
}

// scripted is a key set whose source is the test.
func scripted(t *testing.T, every time.Duration, read func() ([]key, error)) *Door {
	k := &keySet{every: every, limit: 5 * time.Second, log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), attempt: make(chan struct{}),
		read: func(context.Context) ([]key, error) { return read() }}
	return running(t, &Door{verifier: verifierOf(k)})
}

func verifierOf(k *keySet) *verifier {
	v := &verifier{keys: k, parser: jwt.NewParser()}
	v.setSecrets(nil)
	return v
}

// TestKeysOverTime tells what tokens are worth while the source of the keys goes, comes back, and gets and loses keys.
func TestKeysOverTime(t *testing.T) {
	ps := pairs()
	parsed := func(names ...string) (keys []key) {
		for _, name := range names {
			k, err := ps[name].jwk.key()
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, k)
		}
		return keys
	}
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		var mu sync.Mutex
		var keys []key
		failure, reads := down, 0
		d := scripted(t, time.Hour, func() ([]key, error) {
			mu.Lock()
			defer mu.Unlock()
			reads++
			return keys, failure
		})
		serve := func(now []key, why error) {
			mu.Lock()
			defer mu.Unlock()
			keys, failure = now, why
		}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return reads
		}
		token := func(alg string) Request {
			return tokenRequest(signed(t, ps[alg].method, ps[alg].private, ps[alg].jwk.ID, jwt.MapClaims{"exp": time.Now().Add(time.Hour * 100).Unix()}))
		}
		expect := func(when, alg string, want Reason) {
			t.Helper()
			if _, err := d.Enter(t.Context(), token(alg)); reasonOf(t, err) != want {
				t.Errorf("%s a token by %s: %v, want %q", when, alg, err, want)
			}
		}
		expect("before the keys can be had", "ES256", ReasonUnavailable)
		if d.Ready() == nil {
			t.Error("ready without keys")
		}
		serve(parsed("ES256"), nil)
		time.Sleep(retryFetch + time.Second)
		expect("with keys", "ES256", "")
		before := count()
		for range 100 {
			expect("just after a fetch", "EdDSA", ReasonKey)
		}
		if now := count(); now != before {
			t.Errorf("%d fetches within %v", now-before, minFetch)
		}
		time.Sleep(minFetch)
		serve(parsed("ES256", "EdDSA"), nil)
		expect("a new key", "EdDSA", "")
		if now := count(); now != before+1 {
			t.Errorf("%d fetches for a new key", now-before)
		}
		serve(nil, down)
		time.Sleep(2 * time.Hour)
		expect("the source is down", "ES256", "")
		if d.Ready() != nil || len(d.Problems()) != 1 {
			t.Errorf("down: %v, %q", d.Ready(), d.Problems())
		}
		serve(parsed("EdDSA"), nil)
		time.Sleep(2 * time.Hour)
		expect("a key withdrawn", "ES256", ReasonKey)
		expect("beside that", "EdDSA", "")
		serve([]key{}, nil)
		time.Sleep(2 * time.Hour)
		expect("all withdrawn", "EdDSA", ReasonKey)
	})
}

// TestFetchesAreBounded has sources that answer with too much, with nothing, somewhere else or not at all.
func TestFetchesAreBounded(t *testing.T) {
	s := newSource(t, jwks(t, pairs()["ES256"]))
	hang := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxDocument+1)) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, s.URL, http.StatusFound) })
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	bad := httptest.NewServer(mux)
	defer bad.Close()
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for _, path := range []string{"/long?key=hidden", "/moved?key=hidden", "/none?key=hidden", "/hang?key=hidden"} {
		ctx := ctx
		if !strings.HasPrefix(path, "/hang") {
			ctx = t.Context()
		}
		if keys, err := fetchKeys(ctx, newClient(), bad.URL+path); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, %v", path, keys, err)
		}
	}
	if keys, err := fetchKeys(t.Context(), newClient(), s.URL); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestConfig(t *testing.T) {
	file := keyFile(t, []byte("{}"))
	for want, change := range map[string]func(*Config){
		"":                                       func(*Config) {},
		"--auth-secret: secret 2 of 2 has 31":    func(c *Config) { c.Secrets = []string{newSecret, newSecret[:31]} },
		"--auth-jwks: is no http":                func(c *Config) { c.JWKS = "ftp://example.org/keys" },
		"--auth-jwks: is no https":               func(c *Config) { c.JWKS = "https://" },
		"--auth-url: is no http":                 func(c *Config) { c.URL = "example.org/auth" },
		"--auth-url: give it, or":                func(c *Config) { c.URL, c.JWKS = "https://example.org/", file },
		"--auth-issuer, --auth-audience: are":    func(c *Config) { c.Issuer = "x" },
		"--auth-timeout: 2h0m0s is more than 8s": func(c *Config) { c.Timeout = 2 * time.Hour },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		want = strings.Replace(want, "https", "http", 1)
		var bounds setting.Problems
		cfg.Settings().Check(&bounds)
		err := errors.Join(bounds.Err(), cfg.Validate())
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("got %v, want %s", err, want)
		}
		if err != nil && strings.Contains(err.Error(), newSecret[:31]) {
			t.Errorf("the error has the secret: %v", err)
		}
	}
	for name, jwks := range map[string]string{"a file that is no key set": file, "no file": file + ".not"} {
		cfg := Config{JWKS: jwks}
		if _, err := New(cfg); err == nil || cfg.CheckFiles() == nil || !strings.Contains(err.Error(), "--auth-jwks") {
			t.Errorf("%s: %v", name, err)
		}
	}
	var nobody *Door
	if d, err := New(DefaultConfig()); d != nil || err != nil || nobody.Ready() != nil || nobody.Problems() != nil || nobody.Waits() {
		t.Errorf("a door that is open: %v, %v", d, err)
	}
}

// FuzzToken holds that what cannot be trusted is refused with an error of ours that does not have it, and that
// only what we have signed is accepted.
func FuzzToken(f *testing.F) {
	ps := pairs()
	d := newDoor(f, func(c *Config) {
		c.Secrets = []string{newSecret}
		c.JWKS = keyFile(f, jwks(f, ps["ES256"]))
	})
	good := signed(f, jwt.SigningMethodHS256, []byte(newSecret), "", nil)
	for _, seed := range []string{good, signed(f, jwt.SigningMethodES256, ps["ES256"].private, "e", nil), "a.b.c", "..", "", strings.Repeat("e30.", 100),
		encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(`{"sub":"a"}`)) + ".", "signal.v1, bearer." + good} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		header := http.Header{"Sec-Websocket-Protocol": {text}, "Authorization": {"Bearer " + text}}
		r := d.Read(&http.Request{Header: header}, "")
		for _, token := range []string{r.token, text} {
			c, err := d.Enter(context.Background(), tokenRequest(token))
			if err == nil && c.Subject != "ann" {
				t.Errorf("%q is %+v", token, c)
			}
			if err != nil && len(token) > 20 && strings.Contains(err.Error(), token) {
				t.Errorf("the error has the token: %v", err)
			}
			reasonOf(t, err)
		}
	})
}

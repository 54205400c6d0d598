package auth

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

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

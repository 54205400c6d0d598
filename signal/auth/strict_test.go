package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// written returns a token of a header and claims as they are written, signed by HS256 with the newest secret.
func written(t testing.TB, header, claims string) string {
	t.Helper()
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	mac, err := jwt.SigningMethodHS256.Sign(text, []byte(newSecret))
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(mac)
}

// TestOddClaims are tokens that a backend has signed, whose claims are not what it meant or two readers read differently. NOW is a time that is good.
func TestOddClaims(t *testing.T) {
	d := newDoor(t, func(c *Config) { c.Secrets = []string{newSecret} })
	now := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	for claims, want := range map[string]Reason{
		`{"sub":"ann","exp":NOW}`:                                     "",
		`{"sub":"ann","exp":NOW.5}`:                                   "",
		`{"sub":"ann","exp":9999999999}`:                              "",
		`{"sub":"ann","exp":NOW,"EXP":1,"SUB":"eve"}`:                 "",
		`{"sub":"Ann é 😀","exp":NOW}`:                                 "",
		`{"sub":"ann","exp":"NOW"}`:                                   ReasonClaims,
		`{"sub":"ann","exp":NOW000}`:                                  ReasonClaims, // milliseconds
		`{"sub":"ann","exp":1e300}`:                                   ReasonClaims,
		`{"sub":"ann","exp":1e400}`:                                   ReasonMalformed,
		`{"sub":"ann","exp":9223372036854775807}`:                     ReasonClaims,
		`{"sub":"ann","exp":-1e300}`:                                  ReasonClaims,
		`{"sub":"ann","exp":-1}`:                                      ReasonExpired,
		`{"sub":"ann","exp":0}`:                                       ReasonExpired,
		`{"sub":"ann","exp":true}`:                                    ReasonMalformed,
		`{"sub":"ann","exp":[NOW]}`:                                   ReasonMalformed,
		`{"sub":"ann","exp":null}`:                                    ReasonClaims,
		`{"sub":"ann","Exp":NOW}`:                                     ReasonClaims,
		`{"sub":"ann","exp":NOW,"exp":NOW}`:                           ReasonMalformed,
		`{"sub":"ann","exp":NOW,"\u0065xp":1}`:                        ReasonMalformed,
		`{"sub":"ann","exp":NOW,"nbf":NOW}`:                           ReasonEarly,
		`{"sub":"ann","exp":NOW,"nbf":"1"}`:                           ReasonClaims,
		`{"sub":"ann","exp":NOW,"nbf":1e300}`:                         ReasonClaims, // It wraps around to the past.
		`{"sub":"ann","exp":NOW,"iat":1e300}`:                         ReasonClaims,
		`{"sub":"","exp":NOW}`:                                        ReasonClaims,
		`{"sub":null,"exp":NOW}`:                                      ReasonClaims,
		`{"Sub":"ann","exp":NOW}`:                                     ReasonClaims,
		`{"sub":7,"exp":NOW}`:                                         ReasonMalformed,
		`{"sub":["ann"],"exp":NOW}`:                                   ReasonMalformed,
		`{"sub":"\ud800","exp":NOW}`:                                  ReasonMalformed,
		"{\"sub\":\"\xff\",\"exp\":NOW}":                              ReasonMalformed,
		`{"sub":"ann","exp":NOW,"rooms":null}`:                        ReasonMalformed,
		`{"sub":"ann","exp":NOW,"rooms":{"a":1}}`:                     ReasonMalformed,
		`{"sub":"ann","exp":NOW,"rooms":[["a"]]}`:                     ReasonMalformed,
		`{"sub":"ann","exp":NOW,"rooms":"**"}`:                        ReasonClaims,
		`{"sub":"ann","exp":NOW,"rooms":"*a"}`:                        ReasonClaims,
		`{"sub":"ann","exp":NOW,"publish":0}`:                         ReasonMalformed,
		`{"sub":"ann","exp":NOW,"relay":"true"}`:                      ReasonMalformed,
		`{"sub":"ann","exp":NOW,"limits":{"message_burst":1e300}}`:    ReasonMalformed,
		`{"sub":"ann","exp":NOW,"attributes":{"a":1,"a":2}}`:          ReasonMalformed,
		`{"sub":"ann","exp":NOW,"other":{"sub":"bob","sub":"eve"}}`:   ReasonMalformed,
		`{"sub":"ann","exp":NOW}{}`:                                   ReasonMalformed,
		`[{"sub":"ann","exp":NOW}]`:                                   ReasonMalformed,
		`{"sub":"ann","exp":NOW,"x":` + strings.Repeat("[", 5000):     ReasonMalformed,
		`{"sub":{"sub":"ann"},"exp":NOW}`:                             ReasonMalformed,
		`{"claims":{"sub":"ann","exp":NOW,"rooms":"*","relay":true}}`: ReasonClaims,
		`null`: ReasonClaims,
	} {
		claims = strings.ReplaceAll(claims, "NOW", now)
		c, err := d.Enter(t.Context(), tokenRequest(written(t, `{"alg":"HS256"}`, claims)))
		if got := reasonOf(t, err); got != want || (err == nil) != (c != nil) {
			t.Errorf("%.80s: %v is %q, want %q", claims, err, got, want)
		}
	}
}

// TestPatternsAreBeginnings has rooms that look like expressions of other languages.
func TestPatternsAreBeginnings(t *testing.T) {
	for pattern, rooms := range map[string]map[string]bool{
		"team.*":  {"team.1": true, "team.": true, "team1": false, "teamX1": false},
		"[a-z]+":  {"abc": false, "[a-z]+": true},
		"a|b":     {"a": false, "b": false},
		"^a$":     {"a": false},
		"a?":      {"a": false, "ab": false},
		"%":       {"a": false},
		"":        {"a": false, "": true},
		"A*":      {"a": false, "Ab": true},
		"a*":      {"a": true, "ab": true, "b": false, " a": false},
		"../a*":   {"a": false},
		"room-1":  {"room-1": true, "room-10": false, "room-1/": false},
		"room-1*": {"room-10": true},
	} {
		c := &Claims{Subject: "ann", Rooms: []string{pattern}}
		if err := c.check(); err != nil {
			t.Errorf("%q: %v", pattern, err)
		}
		for room, want := range rooms {
			if c.Allows(room) != want {
				t.Errorf("%q allows %q: %v", pattern, room, !want)
			}
		}
	}
}

// TestOddHeaders are headers that say what only our settings may, and some that two readers read differently.
func TestOddHeaders(t *testing.T) {
	d := newDoor(t, func(c *Config) { c.Secrets = []string{newSecret} })
	claims := fmt.Sprintf(`{"sub":"ann","exp":%d}`, time.Now().Add(time.Hour).Unix())
	for header, want := range map[string]Reason{
		`{"alg":"HS256","typ":"JWT"}`:                     "",
		`{"alg":"HS256","kid":"../../../../dev/null"}`:    "", // It is a secret for all of them.
		`{"alg":"HS256","kid":"' OR 1=1 --"}`:             "",
		`{"alg":"HS256","kid":7}`:                         ReasonMalformed,
		`{"alg":"HS256","kid":["1"]}`:                     ReasonMalformed,
		`{"alg":"HS256","kid":{"$ne":""}}`:                ReasonMalformed,
		`{"alg":"HS256","kid":"1","kid":"2"}`:             ReasonMalformed,
		`{"alg":"none","alg":"HS256"}`:                    ReasonMalformed,
		`{"alg":"HS256","x":{"a":1,"a":2}}`:               ReasonMalformed,
		`{"alg":"HS256","crit":[]}`:                       ReasonMalformed,
		`{"alg":"HS256","crit":["b64"],"b64":false}`:      ReasonMalformed,
		`{"alg":"HS256","alg":"none"}`:                    ReasonAlgorithm,
		`{"alg":"none"}`:                                  ReasonAlgorithm,
		`{"alg":"None"}`:                                  ReasonAlgorithm,
		`{"alg":"nOnE"}`:                                  ReasonAlgorithm,
		`{"alg":""}`:                                      ReasonAlgorithm,
		`{"alg":null}`:                                    ReasonAlgorithm,
		`{"alg":["HS256"]}`:                               ReasonAlgorithm,
		`{"alg":"hs256"}`:                                 ReasonAlgorithm,
		`{"alg":"HS256 "}`:                                ReasonAlgorithm,
		`{"ALG":"HS256"}`:                                 ReasonAlgorithm,
		`{"alg":"dir","enc":"A128GCM"}`:                   ReasonAlgorithm,
		`null`:                                            ReasonAlgorithm,
		`[]`:                                              ReasonMalformed,
		`{"alg":"RS256","jku":"http://127.0.0.1:1/keys"}`: ReasonAlgorithm, // There are no keys for it.
	} {
		_, err := d.Enter(t.Context(), tokenRequest(written(t, header, claims)))
		if got := reasonOf(t, err); got != want {
			t.Errorf("%s: %v is %q, want %q", header, err, got, want)
		}
	}
}

// TestTokensBringNoKeys has an attacker sign with a key of its own and say in the header where that is.
func TestTokensBringNoKeys(t *testing.T) {
	ours, theirs := pairs(), newPairs()
	elsewhere := newSource(t, jwks(t, theirs["RS256"], theirs["ES256"], theirs["EdDSA"]))
	d := running(t, newDoor(t, func(c *Config) { c.JWKS = keyFile(t, jwks(t, ours["RS256"], ours["ES256"], ours["EdDSA"])) }))
	for alg, p := range theirs {
		for name, header := range map[string]map[string]any{
			"jwk": {"jwk": p.jwk, "kid": ours[alg].jwk.ID}, "jku": {"jku": elsewhere.URL, "kid": p.jwk.ID}, "x5u": {"x5u": elsewhere.URL},
			"x5c": {"x5c": []string{encode([]byte("a certificate"))}}, "kid of a file": {"kid": "file:///dev/null"}, "kid of a page": {"kid": elsewhere.URL},
		} {
			token := jwt.NewWithClaims(p.method, jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()})
			maps.Copy(token.Header, header)
			text, err := token.SignedString(p.private)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = d.Enter(t.Context(), tokenRequest(text)); reasonOf(t, err) != ReasonSignature && reasonOf(t, err) != ReasonKey {
				t.Errorf("%s by %s: %v", alg, name, err)
			}
		}
	}
	if n := elsewhere.fetches.Load(); n > 0 {
		t.Errorf("%d keys were fetched from where a token says", n)
	}
}

// TestKeysOfOtherUse has sets whose keys must not verify, or not alone.
func TestKeysOfOtherUse(t *testing.T) {
	one, other := pairs()["ES256"], newPairs()["ES256"]
	other.jwk.ID = one.jwk.ID
	key := func(p pair, more map[string]any) map[string]any {
		text, err := json.Marshal(p.jwk)
		if err != nil {
			t.Fatal(err)
		}
		k := map[string]any{}
		if err := json.Unmarshal(text, &k); err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(k, func(_ string, v any) bool { return v == "" || v == nil })
		maps.Copy(k, more)
		return k
	}
	spare := key(pairs()["EdDSA"], nil)
	for name, tt := range map[string]struct {
		keys []map[string]any
		want Reason
	}{
		"for signatures":            {[]map[string]any{key(one, map[string]any{"use": "sig", "alg": "ES256", "key_ops": []string{"verify"}})}, ""},
		"for encryption":            {[]map[string]any{key(one, map[string]any{"use": "enc"}), spare}, ReasonKey},
		"for signing":               {[]map[string]any{key(one, map[string]any{"key_ops": []string{"sign"}}), spare}, ReasonKey},
		"for another algorithm":     {[]map[string]any{key(one, map[string]any{"alg": "ES384"}), spare}, ReasonKey},
		"for HS256":                 {[]map[string]any{key(one, map[string]any{"alg": "HS256"}), spare}, ReasonKey},
		"two of one id":             {[]map[string]any{key(other, nil), key(one, nil)}, ""},
		"another of that id":        {[]map[string]any{key(other, nil)}, ReasonSignature},
		"the id of another kind":    {[]map[string]any{key(pairs()["EdDSA"], map[string]any{"kid": one.jwk.ID})}, ReasonKey},
		"of no id, and a token's":   {[]map[string]any{key(one, map[string]any{"kid": ""})}, ReasonKey},
		"a secret of that id":       {[]map[string]any{{"kty": "oct", "kid": one.jwk.ID, "k": encode([]byte(newSecret))}, spare}, ReasonKey},
		"what the owner took out":   {[]map[string]any{}, ReasonKey},
		"a private key, by mistake": {[]map[string]any{key(one, map[string]any{"d": encode(make([]byte, 32))})}, ""},
	} {
		set, err := json.Marshal(map[string]any{"keys": tt.keys})
		if err != nil {
			t.Fatal(err)
		}
		d := newDoor(t, func(c *Config) { c.JWKS = keyFile(t, set) })
		_, err = d.Enter(t.Context(), tokenRequest(signed(t, one.method, one.private, one.jwk.ID, nil)))
		if got := reasonOf(t, err); got != tt.want {
			t.Errorf("%s: %v is %q, want %q", name, err, got, tt.want)
		}
		if _, err = d.Enter(t.Context(), tokenRequest(written(t, `{"alg":"HS256"}`, `{"sub":"ann","exp":4000000000}`))); reasonOf(t, err) != ReasonAlgorithm {
			t.Errorf("%s: HS256 by a key set: %v", name, err)
		}
	}
}

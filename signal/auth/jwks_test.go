package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// pair is a private key, and its public half as a JSON Web Key.
type pair struct {
	private crypto.Signer
	method  jwt.SigningMethod
	jwk     jwk
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// pairs are made once, because RSA keys take long.
var pairs = sync.OnceValue(newPairs)

func newPairs() map[string]pair {
	r, _ := rsa.GenerateKey(rand.Reader, 2048)
	e, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	public, d, _ := ed25519.GenerateKey(rand.Reader)
	point, _ := e.PublicKey.Bytes()
	return map[string]pair{
		"RS256": {r, jwt.SigningMethodRS256, jwk{Type: "RSA", ID: "r", N: encode(r.N.Bytes()), E: encode(big.NewInt(int64(r.E)).Bytes())}},
		"ES256": {e, jwt.SigningMethodES256, jwk{Type: "EC", ID: "e", Curve: "P-256", X: encode(point[1:33]), Y: encode(point[33:])}},
		"EdDSA": {d, jwt.SigningMethodEdDSA, jwk{Type: "OKP", ID: "d", Curve: "Ed25519", X: encode(public)}},
	}
}

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

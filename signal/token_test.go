package signal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
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

package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

// leeway is how far the clock of who makes tokens may be ahead of ours.
const leeway = 30 * time.Second

// verifier verifies tokens. The algorithm of a key is a property of the key and never what a token says: a secret
// verifies HS256 alone, and what is public can never be one.
type verifier struct {
	secrets atomic.Pointer[jwt.VerificationKeySet] // none of its keys is a public one
	keys    *keySet                                // nil for none
	parser  *jwt.Parser
}

const (
	algHMAC  = "HS256"
	algRSA   = "RS256"
	algECDSA = "ES256"
	algEdDSA = "EdDSA"
)

func newVerifier(cfg Config) (*verifier, error) {
	v := new(verifier)
	v.setSecrets(cfg.Secrets)
	options := []jwt.ParserOption{jwt.WithValidMethods([]string{algHMAC, algRSA, algECDSA, algEdDSA}), jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway)}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if len(cfg.Audiences) > 0 {
		options = append(options, jwt.WithAudience(cfg.Audiences...))
	}
	v.parser = jwt.NewParser(options...)
	var err error
	if cfg.JWKS != "" {
		v.keys, err = newKeySet(cfg)
	}
	return v, err
}

func (v *verifier) setSecrets(secrets []string) {
	set := new(jwt.VerificationKeySet)
	for _, secret := range secrets {
		set.Keys = append(set.Keys, []byte(secret))
	}
	v.secrets.Store(set)
}

func (v *verifier) run(ctx context.Context) {
	if v.keys != nil {
		v.keys.run(ctx)
	}
}

func (v *verifier) ready() error {
	if v.keys == nil || len(v.secrets.Load().Keys) > 0 {
		return nil
	}
	return v.keys.ready()
}

func (v *verifier) problems() []string {
	if v.keys == nil {
		return nil
	}
	return v.keys.problems()
}

// verify returns the claims of a token. It waits, within a bound, for keys that are being fetched.
func (v *verifier) verify(ctx context.Context, token string) (*Claims, error) {
	if token == "" {
		return nil, &Error{ReasonMissing, "a token is needed"}
	}
	var doc document
	asked := false
	_, err := v.parser.ParseWithClaims(token, &doc, func(t *jwt.Token) (any, error) {
		asked = true
		return v.keysFor(ctx, t)
	})
	if err != nil {
		return nil, explain(err, asked)
	}
	c, err := doc.claims()
	if err == nil {
		err = c.current(time.Now()) // The leeway is for clocks that are ahead.
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// header is what counts of the header of a token. All else that it may say of keys, such as jwk, jku and x5u, is the word of whoever has made it.
type header struct {
	KeyID    string         `json:"kid"`
	Critical jsontext.Value `json:"crit"`
}

// headerOf reads the header of a token as strictly as its claims are read.
func headerOf(t *jwt.Token) (h header, err error) {
	text, _, _ := strings.Cut(t.Raw, ".")
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	switch {
	case err != nil:
		return h, &Error{ReasonMalformed, "the header of the token cannot be read"}
	case h.Critical != nil: // We know no extension, RFC 7515, section 4.1.11.
		return h, &Error{ReasonMalformed, "the token needs an extension"}
	}
	return h, nil
}

// keysFor returns the keys of which one must have signed a token.
func (v *verifier) keysFor(ctx context.Context, t *jwt.Token) (any, error) {
	h, err := headerOf(t)
	if err != nil {
		return nil, err
	}
	alg, secrets := t.Method.Alg(), v.secrets.Load()
	switch {
	case alg == algHMAC && len(secrets.Keys) > 0:
		return *secrets, nil
	case alg == algHMAC || v.keys == nil:
		return nil, errAlgorithm
	}
	return v.keys.find(ctx, alg, h.KeyID)
}

var errAlgorithm = &Error{ReasonAlgorithm, "there is no key for the algorithm of the token"}

// explain tells what is wrong with a token, in words of our own: those of the parser may have parts of it. Asked says
// that the parser came as far as to ask for the key.
func explain(err error, asked bool) error {
	var own *Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, jwt.ErrTokenMalformed):
		return &Error{ReasonMalformed, "the token is no JWT with readable claims"}
	case !asked:
		return errAlgorithm
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return &Error{ReasonSignature, "the token is not signed by one of our keys"}
	case errors.Is(err, jwt.ErrTokenExpired):
		return &Error{ReasonExpired, "the token has expired"}
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return &Error{ReasonEarly, "the token is not valid yet"}
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return wrong("iss", "is not ours")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return wrong("aud", "has none of ours")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return wrong("exp, iss or aud", "is missing")
	}
	return &Error{ReasonMalformed, "the token cannot be read"}
}

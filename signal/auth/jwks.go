package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/go-json-experiment/json"
)

const (
	minRSABits = 2048
	maxRSABits = 8192 // what is longer takes too long to verify with
	maxKeys    = 100
)

// key is a public key, which belongs to one algorithm.
type key struct {
	id     string
	alg    string
	public crypto.PublicKey
}

// jwk is a JSON Web Key, RFC 7517, of the types of RFC 7518 and RFC 8037 that we know.
type jwk struct {
	Type       string   `json:"kty"`
	ID         string   `json:"kid"`
	Algorithm  string   `json:"alg"`
	Use        string   `json:"use"`
	Operations []string `json:"key_ops"`
	Curve      string   `json:"crv"`
	N          string   `json:"n"`
	E          string   `json:"e"`
	X          string   `json:"x"`
	Y          string   `json:"y"`
}

// parseKeys reads a JSON Web Key Set. Keys that we cannot use, such as symmetric ones, are left out. An empty set is
// one: its owner has withdrawn all keys. A set of nothing but keys that we cannot use is a mistake.
func parseKeys(text []byte) ([]key, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("it is no JSON Web Key Set") // The text may be anything.
	}
	switch {
	case set.Keys == nil:
		return nil, errors.New("it is no JSON Web Key Set")
	case len(set.Keys) > maxKeys:
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	keys := []key{}
	var last error
	for _, j := range set.Keys {
		k, err := j.key()
		if err != nil {
			last = err
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 && last != nil {
		return nil, fmt.Errorf("it has no key for RS256, ES256 or EdDSA: %w", last)
	}
	return keys, nil
}

func (j jwk) key() (key, error) {
	k := key{id: j.ID}
	var err error
	switch {
	case j.Use != "" && j.Use != "sig", len(j.Operations) > 0 && !slices.Contains(j.Operations, "verify"):
		return k, errors.New("a key is not for signatures")
	case j.Type == "RSA":
		k.alg = algRSA
		k.public, err = j.rsa()
	case j.Type == "EC" && j.Curve == "P-256":
		k.alg = algECDSA
		k.public, err = j.ecdsa()
	case j.Type == "OKP" && j.Curve == "Ed25519":
		k.alg = algEdDSA
		k.public, err = j.ed25519()
	default:
		return k, errors.New("the type of a key is none of RSA, EC with P-256 and OKP with Ed25519")
	}
	if err == nil && j.Algorithm != "" && j.Algorithm != k.alg && !(j.Algorithm == "Ed25519" && k.alg == algEdDSA) {
		return k, errors.New("a key is for another algorithm")
	}
	return k, err
}

func (j jwk) rsa() (crypto.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(j.N)
	if err != nil {
		return nil, errors.New("n of an RSA key cannot be read")
	}
	e, err := base64.RawURLEncoding.DecodeString(j.E)
	if err != nil || len(e) > 4 {
		return nil, errors.New("e of an RSA key cannot be read")
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits || public.E < 3 || public.E&1 == 0 {
		return nil, fmt.Errorf("an RSA key must have %d to %d bits and an odd exponent from 3", minRSABits, maxRSABits)
	}
	return public, nil
}

func (j jwk) ecdsa() (crypto.PublicKey, error) {
	const size = 32
	x, errX := base64.RawURLEncoding.DecodeString(j.X)
	y, errY := base64.RawURLEncoding.DecodeString(j.Y)
	if errX != nil || errY != nil || len(x) != size || len(y) != size {
		return nil, errors.New("x and y of a P-256 key are not 32 bytes each")
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, errors.New("a P-256 key is no point of the curve")
	}
	return public, nil
}

func (j jwk) ed25519() (crypto.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errors.New("x of an Ed25519 key is not 32 bytes")
	}
	return ed25519.PublicKey(x), nil
}

package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// nonceLifetime is how long a nonce is good for. Clients get a fresh one with
// the 438 that follows, at the price of one round trip.
const nonceLifetime = time.Hour

const (
	nonceTimeSize = 4
	nonceMACSize  = 12
)

// nonces makes and checks nonces without remembering any: a nonce is the second
// it was made in and a MAC over that and the client's address (RFC 8489,
// section 9.2). The keys come from the shared secrets, so every node accepts the
// nonces of every other, also after a restart. It may be used by any goroutine.
type nonces struct {
	keys *atomic.Pointer[[]*nonceKey] // keys are newest first: the first signs, all verify.
}

func newNonces(secrets []string) nonces {
	n := nonces{keys: new(atomic.Pointer[[]*nonceKey])}
	n.set(secrets)
	return n
}

// set replaces the shared secrets that the keys come from.
func (n nonces) set(secrets []string) {
	var keys []*nonceKey
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte("signal turn nonce"))
		keys = append(keys, newNonceKey(mac.Sum(nil)))
	}
	n.keys.Store(&keys)
}

// fresh returns a nonce for a client.
func (n nonces) fresh(client netip.Addr, now time.Time) string {
	made := binary.BigEndian.AppendUint32(make([]byte, 0, nonceTimeSize+nonceMACSize), uint32(now.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(made, (*n.keys.Load())[0].mac(made, client)...))
}

// valid reports whether nonce was made for that client and is not stale.
func (n nonces) valid(nonce []byte, client netip.Addr, now time.Time) bool {
	var raw [nonceTimeSize + nonceMACSize]byte
	if base64.RawURLEncoding.DecodedLen(len(nonce)) != len(raw) {
		return false
	}
	if _, err := base64.RawURLEncoding.Decode(raw[:], nonce); err != nil {
		return false
	}
	made := raw[:nonceTimeSize]
	// The time is 32 bits of the clock, so the difference is right past 2106.
	age := int32(uint32(now.Unix()) - binary.BigEndian.Uint32(made))
	if age < -int32(nonceLifetime/time.Second) || age > int32(nonceLifetime/time.Second) {
		return false
	}
	for _, key := range *n.keys.Load() {
		if hmac.Equal(raw[nonceTimeSize:], key.mac(made, client)) {
			return true
		}
	}
	return false
}

// nonceKey computes MACs. It keeps hashes that know the key, since to make one
// costs more than to use it.
type nonceKey struct{ hashes sync.Pool }

func newNonceKey(key []byte) *nonceKey {
	return &nonceKey{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

func (k *nonceKey) mac(made []byte, client netip.Addr) []byte {
	h := k.hashes.Get().(hash.Hash)
	defer k.hashes.Put(h)
	h.Reset()
	h.Write(made)
	addr := client.As16()
	h.Write(addr[:])
	return h.Sum(nil)[:nonceMACSize]
}

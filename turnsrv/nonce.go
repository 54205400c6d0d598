package turnsrv

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
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
	keys *atomic.Pointer[[][]byte] // keys are newest first: the first signs, all verify.
}

func newNonces(secrets []string) nonces {
	n := nonces{keys: new(atomic.Pointer[[][]byte])}
	n.set(secrets)
	return n
}

// set replaces the shared secrets that the keys come from.
func (n nonces) set(secrets []string) {
	var keys [][]byte
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte("signal turn nonce"))
		keys = append(keys, mac.Sum(nil))
	}
	n.keys.Store(&keys)
}

// fresh returns a nonce for a client.
func (n nonces) fresh(client netip.Addr, now time.Time) string {
	made := binary.BigEndian.AppendUint32(make([]byte, 0, nonceTimeSize+nonceMACSize), uint32(now.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(made, nonceMAC((*n.keys.Load())[0], made, client)...))
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
		if hmac.Equal(raw[nonceTimeSize:], nonceMAC(key, made, client)) {
			return true
		}
	}
	return false
}

func nonceMAC(key, made []byte, client netip.Addr) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(made)
	addr := client.As16()
	mac.Write(addr[:])
	return mac.Sum(nil)[:nonceMACSize]
}

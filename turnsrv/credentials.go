package turnsrv

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// Credentials returns the TURN-REST username and credential of user, which are
// good until expiry with every server that knows secret.
func Credentials(secret, user string, expiry time.Time) (username, credential string) {
	username = strconv.FormatInt(expiry.Unix(), 10)
	if user != "" {
		username += ":" + user
	}
	return username, password(secret, username)
}

// password is base64(HMAC-SHA1(secret, username)). The hash is fixed by the
// TURN-REST convention that other servers and clients share.
func password(secret, username string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// splitUsername reads the time and the user out of a TURN-REST username,
// "expiry:user" or "expiry".
func splitUsername(username string) (expiry time.Time, user string, ok bool) {
	digits, user, _ := strings.Cut(username, ":")
	unix, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || unix < 0 {
		return time.Time{}, "", false
	}
	return time.Unix(unix, 0), user, true
}

// Reasons of authentication failures, as the metric names them.
const (
	failMissing  = "missing"  // The request has no MESSAGE-INTEGRITY: the first one of every client.
	failFields   = "fields"   // USERNAME, REALM or NONCE is missing.
	failNonce    = "nonce"    // The nonce is stale, foreign or made up.
	failUsername = "username" // There is no such user.
	failExpired  = "expired"
	failRevoked  = "revoked"
	failPassword = "password" // No secret explains the request's integrity.
)

// identity is who sent a request.
type identity struct {
	username string
	user     string // user is the username without the expiry.
	key      []byte
	expiry   time.Time // expiry is zero for a static user.
}

// authFailure is a failed authentication: the code to answer and the reason to
// count.
type authFailure struct {
	code   stun.ErrorCode
	reason string
}

// authenticator proves requests with the long-term credential mechanism of RFC
// 8489, section 9.2. It may be used by any goroutine.
type authenticator struct {
	// Fixed after construction.
	secrets atomic.Pointer[[]string] // secrets are newest first.
	static  map[string]string        // static holds the passwords of static users.
	realm   string
	nonces  nonces
	strict  bool          // strict refuses an expired credential also for what exists.
	ttl     time.Duration // ttl is how long the credentials live that we mint.

	mu      sync.Mutex
	revoked map[string]time.Time // revoked holds users until their last credential has expired.
}

func newAuthenticator(cfg Config) *authenticator {
	a := &authenticator{
		static:  map[string]string{},
		realm:   cfg.Realm,
		nonces:  newNonces(cfg.Secrets),
		strict:  cfg.StrictExpiry,
		ttl:     cfg.TTL,
		revoked: map[string]time.Time{},
	}
	a.setSecrets(cfg.Secrets)
	for _, entry := range cfg.Users {
		name, secret, _ := strings.Cut(entry, ":")
		a.static[name] = secret
	}
	return a
}

// setSecrets replaces the shared secrets, newest first, of which there must be at least one.
func (a *authenticator) setSecrets(secrets []string) {
	a.secrets.Store(&secrets)
	a.nonces.set(secrets)
}

// authenticate returns who sent a request. Known is the allocation of the
// client's 5-tuple, or nil; its key is tried before others.
func (a *authenticator) authenticate(m *stun.Message, client netip.Addr, known *allocation, now time.Time) (identity, *authFailure) {
	if !m.Contains(stun.AttrMessageIntegrity) {
		return identity{}, &authFailure{stun.CodeUnauthorized, failMissing}
	}
	username, errUser := m.Get(stun.AttrUsername)
	nonce, errNonce := m.Get(stun.AttrNonce)
	if errUser != nil || errNonce != nil || !m.Contains(stun.AttrRealm) {
		return identity{}, &authFailure{stun.CodeBadRequest, failFields}
	}
	if !a.nonces.valid(nonce, client, now) {
		return identity{}, &authFailure{stun.CodeStaleNonce, failNonce}
	}
	id, reason := a.identify(m, string(username), known, now)
	if reason != "" {
		return identity{}, &authFailure{stun.CodeUnauthorized, reason}
	}
	wire.TrimAfterIntegrity(m)
	return id, nil
}

func (a *authenticator) identify(m *stun.Message, username string, known *allocation, now time.Time) (identity, string) {
	if known != nil && known.who.username == username && proves(m, known.who.key) {
		return known.who, a.refusal(m, known.who, true, now)
	}
	if secret, ok := a.static[username]; ok {
		id := identity{username: username, user: username, key: a.key(username, secret)}
		if !proves(m, id.key) {
			return identity{}, failPassword
		}
		return id, ""
	}
	expiry, user, ok := splitUsername(username)
	if !ok {
		return identity{}, failUsername
	}
	for _, secret := range *a.secrets.Load() {
		key := a.key(username, password(secret, username))
		if proves(m, key) {
			id := identity{username: username, user: user, key: key, expiry: expiry}
			return id, a.refusal(m, id, known != nil, now)
		}
	}
	return identity{}, failPassword
}

// refusal tells why a proven identity may not make this request, if so. One that
// serves an allocation that exists may go on after the credential's expiry, or
// every call would end with the credential that it was set up with, since
// browsers keep using it; unless the expiry is strict.
func (a *authenticator) refusal(m *stun.Message, id identity, exists bool, now time.Time) string {
	if a.isRevoked(id, now) {
		return failRevoked
	}
	expired := !id.expiry.IsZero() && !now.Before(id.expiry)
	if expired && (a.strict || !exists || m.Type.Method == stun.MethodAllocate) {
		return failExpired
	}
	return ""
}

func proves(m *stun.Message, key []byte) bool { return stun.MessageIntegrity(key).Check(m) == nil }

func (a *authenticator) key(username, secret string) []byte {
	return stun.NewLongTermIntegrity(username, a.realm, secret)
}

// revoke makes minted credentials of user void for as long as those that exist
// may live, new ones included. A static user's password stays good.
func (a *authenticator) revoke(user string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, until := range a.revoked {
		if now.After(until) {
			delete(a.revoked, name)
		}
	}
	a.revoked[user] = now.Add(a.ttl)
}

// isRevoked says whether an identity's credential was minted for a user who was
// revoked. A static user's was not minted.
func (a *authenticator) isRevoked(id identity, now time.Time) bool {
	if id.expiry.IsZero() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.revoked[id.user]
	return ok && now.Before(until)
}

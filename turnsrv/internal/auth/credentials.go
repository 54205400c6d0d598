package auth

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

	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/wire"
)

// Order is what comes first in a TURN-REST username.
type Order string

// The orders that are in use. The first one is that of the TURN-REST convention.
const (
	ExpiryUser Order = "expiry:user"
	UserExpiry Order = "user:expiry"
)

// mark stands in front of the expiry of a username, once for STUN and twice for Room: a credential says by it what its owner's
// peers have to show. The HMAC covers it, so that who has a marked credential cannot make another one of it, and no user's name can
// stand in its place. Usernames that others mint for the same secret have none, hence ask for nothing. Whoever does not know of marks,
// an older node or another TURN server, reads the same expiry and the same user, since a number may begin with a zero.
const mark = "0"

// Credentials returns the TURN-REST username and credential of user, which are
// good until expiry with every server that knows secret and keeps to the order.
// They demand that proof of consent of the peers.
func Credentials(secret, user string, expiry time.Time, order Order, proof consent.Mode) (username, credential string) {
	username = strings.Repeat(mark, int(proof)) + strconv.FormatInt(expiry.Unix(), 10)
	switch {
	case user == "":
	case order == UserExpiry:
		username = user + ":" + username
	default:
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

// minted is what a TURN-REST username says.
type minted struct {
	expiry time.Time
	user   string // user is empty where the time is all of it.
	proof  consent.Mode
}

// splitUsername reads a TURN-REST username.
func splitUsername(username string, order Order) (m minted, ok bool) {
	digits, user, _ := strings.Cut(username, ":")
	if i := strings.LastIndexByte(username, ':'); order == UserExpiry && i >= 0 {
		user, digits = username[:i], username[i+1:]
	}
	unix, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || unix < 0 {
		return minted{}, false
	}
	marks := len(digits) - len(strings.TrimLeft(digits, mark))
	return minted{expiry: time.Unix(unix, 0), user: user, proof: consent.Mode(min(marks, int(consent.Room)))}, true
}

// Reasons are all reasons of authentication failures.
func Reasons() []string {
	return []string{FailMissing, FailFields, FailNonce, FailUsername, FailExpired, FailRevoked, FailPassword}
}

// Reasons of authentication failures, as the metric names them.
const (
	FailMissing  = "missing"  // The request has no MESSAGE-INTEGRITY: the first one of every client.
	FailFields   = "fields"   // USERNAME, REALM or NONCE is missing.
	FailNonce    = "nonce"    // The nonce is stale, foreign or made up.
	FailUsername = "username" // There is no such user.
	FailExpired  = "expired"
	FailRevoked  = "revoked"
	FailPassword = "password" // No secret explains the request's integrity.
)

// Identity is who sent a request.
type Identity struct {
	Username string
	User     string // User is the username without the expiry.
	Key      []byte
	Expiry   time.Time    // Expiry is zero for a static user.
	Proof    consent.Mode // Proof is what the credential demands of the peers.
}

// Minted says whether the credential was minted, and is not a static user's.
func (id Identity) Minted() bool { return !id.Expiry.IsZero() }

// Failure is a failed authentication: the code to answer and the reason to
// count.
type Failure struct {
	Code   stun.ErrorCode
	Reason string
	Known  bool // Known says that nothing but a good nonce is missing from a request for an allocation that exists.
}

// Answer is the kind of answer that a failure gets.
func (f *Failure) Answer() Answer {
	switch f.Reason {
	case FailMissing, FailFields:
		return AnswerUnauthorized
	case FailNonce:
		return AnswerStale
	}
	return AnswerRefused
}

// Authenticator proves requests with the long-term credential mechanism of RFC
// 8489, section 9.2. It may be used by any goroutine.
type Authenticator struct {
	secrets atomic.Pointer[[]string]          // secrets are newest first.
	static  atomic.Pointer[map[string]string] // static holds the passwords of static users.
	nonces  nonces

	// Fixed after construction.
	realm  string
	order  Order
	strict bool          // strict refuses an expired credential also for what exists.
	ttl    time.Duration // ttl is how long the credentials live that we mint.

	mu      sync.Mutex
	revoked map[string]time.Time // revoked holds users until their last credential has expired.
}

// Config is what an authenticator has to know.
type Config struct {
	Realm   string
	Order   Order         // Order is that of usernames.
	Secrets []string      // Secrets are the shared secrets, newest first, at least one.
	Users   []string      // Users are static users, "name:password".
	Strict  bool          // Strict refuses an expired credential also for an allocation that exists.
	TTL     time.Duration // TTL is how long the credentials live that the node mints.
}

// New returns an authenticator for valid settings.
func New(cfg Config) *Authenticator {
	a := &Authenticator{
		realm:   cfg.Realm,
		order:   cfg.Order,
		nonces:  newNonces(cfg.Secrets),
		strict:  cfg.Strict,
		ttl:     cfg.TTL,
		revoked: map[string]time.Time{},
	}
	a.SetSecrets(cfg.Secrets)
	a.SetUsers(cfg.Users)
	return a
}

// SetUsers replaces the static users, "name:password".
func (a *Authenticator) SetUsers(users []string) {
	static := map[string]string{}
	for _, entry := range users {
		name, secret, _ := strings.Cut(entry, ":")
		static[name] = secret
	}
	a.static.Store(&static)
}

// SetSecrets replaces the shared secrets, newest first, of which there must be at least one.
func (a *Authenticator) SetSecrets(secrets []string) {
	a.secrets.Store(&secrets)
	a.nonces.set(secrets)
}

// Authenticate returns who sent a request. Known is whose the allocation of the
// client's 5-tuple is, nil without one; that key is tried before others.
func (a *Authenticator) Authenticate(m *stun.Message, client netip.Addr, known *Identity, now time.Time) (Identity, *Failure) {
	if !m.Contains(stun.AttrMessageIntegrity) {
		return Identity{}, &Failure{Code: stun.CodeUnauthorized, Reason: FailMissing}
	}
	username, errUser := m.Get(stun.AttrUsername)
	nonce, errNonce := m.Get(stun.AttrNonce)
	if errUser != nil || errNonce != nil || !m.Contains(stun.AttrRealm) {
		return Identity{}, &Failure{Code: stun.CodeBadRequest, Reason: FailFields}
	}
	if !a.nonces.valid(nonce, client, now) {
		return Identity{}, &Failure{Code: stun.CodeStaleNonce, Reason: FailNonce, Known: known.proved(m, string(username))}
	}
	id, reason := a.identify(m, string(username), known, now)
	if reason != "" {
		return Identity{}, &Failure{Code: stun.CodeUnauthorized, Reason: reason}
	}
	wire.TrimAfterIntegrity(m)
	return id, nil
}

func (a *Authenticator) identify(m *stun.Message, username string, known *Identity, now time.Time) (Identity, string) {
	if known.proved(m, username) {
		return *known, a.refusal(m, *known, true, now)
	}
	if secret, ok := (*a.static.Load())[username]; ok {
		id := Identity{Username: username, User: username, Key: a.key(username, secret)}
		if !proves(m, id.Key) {
			return Identity{}, FailPassword
		}
		return id, ""
	}
	said, ok := splitUsername(username, a.order)
	if !ok {
		return Identity{}, FailUsername
	}
	for _, secret := range *a.secrets.Load() {
		key := a.key(username, password(secret, username))
		if proves(m, key) {
			id := Identity{Username: username, User: said.user, Key: key, Expiry: said.expiry, Proof: said.proof}
			return id, a.refusal(m, id, known != nil, now)
		}
	}
	return Identity{}, FailPassword
}

// refusal tells why a proven identity may not make this request, if so. One that
// serves an allocation that exists may go on after the credential's expiry, or
// every call would end with the credential that it was set up with, since
// browsers keep using it; unless the expiry is strict.
func (a *Authenticator) refusal(m *stun.Message, id Identity, exists bool, now time.Time) string {
	if a.IsRevoked(id, now) {
		return FailRevoked
	}
	expired := id.Minted() && !now.Before(id.Expiry)
	if expired && (a.strict || !exists || m.Type.Method == stun.MethodAllocate) {
		return FailExpired
	}
	return ""
}

// proved says whether a request was made with the key of who owns the allocation,
// nil where there is none.
func (known *Identity) proved(m *stun.Message, username string) bool {
	return known != nil && known.Username == username && proves(m, known.Key)
}

func proves(m *stun.Message, key []byte) bool { return stun.MessageIntegrity(key).Check(m) == nil }

func (a *Authenticator) key(username, secret string) []byte {
	return stun.NewLongTermIntegrity(username, a.realm, secret)
}

// Challenge returns what a client needs to prove its next request.
func (a *Authenticator) Challenge(client netip.Addr, now time.Time) (stun.Realm, stun.Nonce) {
	return stun.NewRealm(a.realm), stun.NewNonce(a.nonces.fresh(client, now))
}

// Revoke makes minted credentials of user void for as long as those that exist
// may live, new ones included. A static user's password stays good.
func (a *Authenticator) Revoke(user string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, until := range a.revoked {
		if now.After(until) {
			delete(a.revoked, name)
		}
	}
	a.revoked[user] = now.Add(a.ttl)
}

// IsRevoked says whether an identity's credential was minted for a user who was
// revoked. A static user's was not minted.
func (a *Authenticator) IsRevoked(id Identity, now time.Time) bool {
	if !id.Minted() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.revoked[id.User]
	return ok && now.Before(until)
}

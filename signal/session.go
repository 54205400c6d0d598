package signal

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"net/http"
	"strings"
	"sync/atomic"
)

const (
	cookieName       = "signal_session"
	secureCookieName = "__Host-" + cookieName
)

var userEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// sessions signs and verifies session cookies. A cookie is a random id and its HMAC-SHA256; the
// server keeps nothing of it. It defends against made-up ids, not against a stolen cookie.
type sessions struct {
	// secrets are newest first: the first signs, all verify.
	secrets *atomic.Pointer[[][]byte]
}

func newSessions(secrets []string) sessions {
	s := sessions{secrets: new(atomic.Pointer[[][]byte])}
	if len(secrets) == 0 {
		secrets = []string{rand.Text()}
	}
	s.set(secrets)
	return s
}

// set replaces the secrets, of which there must be at least one.
func (s sessions) set(secrets []string) {
	var all [][]byte
	for _, secret := range secrets {
		all = append(all, []byte(secret))
	}
	s.secrets.Store(&all)
}

// SetSessionSecrets replaces the secrets that sign cookies, newest first: all are accepted, the first
// signs. An empty list changes nothing.
func (s *Server) SetSessionSecrets(secrets []string) {
	if len(secrets) > 0 {
		s.sessions.set(secrets)
	}
}

// find returns the session id of a request's cookie, and whether the cookie is signed by the
// newest secret. The id is empty when there is no cookie or it is not ours.
func (s sessions) find(r *http.Request, secure bool) (id string, current bool) {
	cookie, err := r.Cookie(nameOfCookie(secure))
	if err != nil {
		return "", false
	}
	id, mac, ok := strings.Cut(cookie.Value, ".")
	if !ok || id == "" {
		return "", false
	}
	for i, secret := range *s.secrets.Load() {
		if hmac.Equal([]byte(mac), []byte(sign(secret, id))) {
			return id, i == 0
		}
	}
	return "", false
}

// binding is what the resume tokens of a connection are bound to.
type binding struct {
	session string
	// shown says that the client has shown that it is of the session. If not it may be unable to: browsers keep the
	// cookie from pages of other sites, and programs may have no place for one.
	shown bool
}

// ensure returns the session of a request, a new one when the client has no cookie of ours, and the cookie
// to set, unless the client has it.
func (s sessions) ensure(r *http.Request, secure bool) (binding, *http.Cookie) {
	id, current := s.find(r, secure)
	b := binding{id, id != ""}
	if current {
		return b, nil
	}
	if !b.shown {
		b.session = rand.Text()
	}
	return b, &http.Cookie{
		Name:     nameOfCookie(secure),
		Value:    b.session + "." + sign((*s.secrets.Load())[0], b.session),
		Path:     "/",
		HttpOnly: true,
		Secure:   secure,
		SameSite: http.SameSiteLaxMode,
	}
}

func nameOfCookie(secure bool) string {
	if secure {
		return secureCookieName
	}
	return cookieName
}

func sign(secret []byte, id string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("session\x00" + id))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// signToken and verifyToken sign what a client carries for one session.
func (s sessions) signToken(session, payload string) string {
	return signToken((*s.secrets.Load())[0], session, payload)
}

func (s sessions) verifyToken(session, payload, mac string) bool {
	for _, secret := range *s.secrets.Load() {
		if hmac.Equal([]byte(mac), []byte(signToken(secret, session, payload))) {
			return true
		}
	}
	return false
}

func signToken(secret []byte, session, payload string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("resume\x00" + session + "\x00" + payload))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// subjectSession begins the session of who has a subject instead of a cookie. No cookie's id has a colon.
const subjectSession = "subject:"

// userPrefix returns the part of a user id that all connections of a session share. For a subject it is keyed, lest
// others find out by trial who is behind an id; so it lasts as long as the newest secret.
func (s sessions) userPrefix(session string) string {
	sum := sha256.Sum256([]byte("user\x00" + session))
	if strings.HasPrefix(session, subjectSession) {
		mac := hmac.New(sha256.New, (*s.secrets.Load())[0])
		mac.Write([]byte("user\x00" + session))
		mac.Sum(sum[:0])
	}
	return "user-" + userEncoding.EncodeToString(sum[:5])
}

// newUserID returns a user id for one connection of a session.
func (s sessions) newUserID(session string) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // Never fails, as its documentation says.
	return s.userPrefix(session) + "-" + userEncoding.EncodeToString(b[:])[:4]
}

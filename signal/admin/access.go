package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// role is what a caller may do. Each may do what those before it may.
type role int

const (
	roleNobody role = iota
	roleMetrics
	roleRead
	roleWrite
)

// String returns the name that settings and the API's document have for it.
func (r role) String() string { return [...]string{"nobody", "metrics", "read", "write"}[r] }

// token is one bearer token, by its hash, so that to compare takes the same time for all.
type token struct {
	sum  [sha256.Size]byte
	role role
	name string // how audit lines call it
}

// access decides who a caller is and what that may do. The pages of other sites may do nothing: their browser sends no token
// by itself, it names their Origin, and when their name was made to mean this machine it names that as Host.
type access struct {
	tokens []token
	socket bool // the address is a Unix socket, which the file's owner alone can open
	local  bool
}

func newAccess(c *Config) *access {
	_, socket := c.socket()
	a := &access{socket: socket, local: c.isLocal()}
	for _, list := range []struct {
		role   role
		tokens []string
	}{{roleWrite, c.Tokens}, {roleRead, c.ReadTokens}, {roleMetrics, c.MetricsTokens}} {
		for i, text := range list.tokens {
			a.tokens = append(a.tokens, token{sha256.Sum256([]byte(text)), list.role, list.role.String() + "-token-" + strconv.Itoa(i+1)})
		}
	}
	return a
}

// caller is who sends a request.
type caller struct {
	role role
	name string
}

type callerKey struct{}

// callerOf returns who sent the request of a context.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// identify returns who sends a request. A refusal is a status and what the caller should change.
func (a *access) identify(r *http.Request) (who caller, status int, refusal string) {
	if isForeign(r) {
		return caller{}, http.StatusForbidden, "this address is not for the pages of other sites"
	}
	if given, ok := bearer(r); ok {
		who = a.find(given)
		if who.role == roleNobody {
			return who, http.StatusUnauthorized, "the bearer token is not valid here"
		}
		return who, 0, ""
	}
	switch {
	case a.socket:
		return caller{roleWrite, "socket"}, 0, ""
	case len(a.tokens) > 0 || !a.local:
		return caller{}, http.StatusUnauthorized, "send an admin token as bearer token"
	case !isLiteral(r.Host):
		return caller{}, http.StatusForbidden, "without a token this address must be called by its number or localhost, not " + strconv.Quote(r.Host)
	}
	return caller{roleRead, "loopback"}, 0, ""
}

// find returns the caller who has a token. It looks at all of them.
func (a *access) find(text string) (who caller) {
	sum := sha256.Sum256([]byte(text))
	for _, t := range a.tokens {
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			who = caller{t.role, t.name}
		}
	}
	return who
}

func bearer(r *http.Request) (text string, ok bool) {
	scheme, text, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(text), ok && strings.EqualFold(scheme, "bearer")
}

// isForeign reports whether a browser sends a request for the page of another site.
func isForeign(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host != r.Host
}

// isLiteral reports whether a Host header is an IP address or localhost, which no name of another site can be.
func isLiteral(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	_, err = netip.ParseAddr(name)
	return err == nil || strings.EqualFold(name, "localhost")
}

// guard serves requests whose caller is known, and tells the others what is wrong.
func (a *access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, status, refusal := a.identify(r)
		if status != 0 {
			refuse(w, status, refusal)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
	})
}

// need serves requests of who may do at least that.
func need(least role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if callerOf(r.Context()).role < least {
			refuse(w, http.StatusForbidden, lacks(least))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func lacks(least role) string {
	if least == roleWrite {
		return "this needs the write role: a token of --admin-token"
	}
	return "this needs the " + least.String() + " role: a token of --admin-" + least.String() + "-token or --admin-token"
}

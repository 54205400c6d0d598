// Package auth decides who may come in. It verifies tokens, JWTs whose keys the owner of the product has, or asks the
// owner's backend for each connect and join. Either way the answer is Claims: who somebody is and what it may do.
//
// Nobody comes in by accident: what cannot be verified now, because keys or the backend cannot be reached, is
// Unavailable. No error and no log line has a token, or a part of one, in it.
package auth

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"unicode"
)

// A Door is what stands between strangers and the rooms. Any goroutine may use it.
type Door struct {
	query    bool
	verifier *verifier // nil with a hook
	hook     *hook     // nil with tokens
}

// New returns the door of a config, nil when all may come in. It fails when the file with the keys cannot be read.
func New(cfg Config) (*Door, error) {
	if !cfg.Enabled() {
		return nil, nil
	}
	d := &Door{query: cfg.Query}
	if cfg.URL != "" {
		d.hook = newHook(cfg)
		return d, nil
	}
	var err error
	d.verifier, err = newVerifier(cfg)
	return d, err
}

// Run keeps the keys current until ctx ends.
func (d *Door) Run(ctx context.Context) {
	switch {
	case d == nil:
	case d.hook != nil:
		<-ctx.Done()
		d.hook.close()
	default:
		d.verifier.run(ctx)
	}
}

// SetSecrets replaces the secrets of tokens. It reports false where there were none, or would be none.
func (d *Door) SetSecrets(secrets []string) bool {
	if d == nil || d.verifier == nil || len(secrets) == 0 || len(d.verifier.secrets.Load().Keys) == 0 {
		return false
	}
	d.verifier.setSecrets(secrets)
	return true
}

// Ready returns why nobody can come in now, nil when they can.
func (d *Door) Ready() error {
	if d == nil || d.hook != nil {
		return nil
	}
	return d.verifier.ready()
}

// Problems says what does not work although people can come in.
func (d *Door) Problems() []string {
	if d == nil || d.hook != nil {
		return nil
	}
	return d.verifier.problems()
}

// Waits reports whether a join has to wait for the owner's backend.
func (d *Door) Waits() bool { return d != nil && d.hook != nil }

// A Request is who wants to come in, as the request for a WebSocket or for ICE servers says. It holds
// secrets and must not be logged.
type Request struct {
	// Origin and Address are of the page and of the client.
	Origin, Address string

	token         string // the bearer token, empty for none
	authorization string // the header as it was sent
	cookie        string
}

// Subprotocol is what clients offer and get who have a token among the subprotocols that they offer, which is all that
// browsers let a page send with the request for a WebSocket.
const Subprotocol = "signal.v1"

// bearerPrefix is what comes before the token there.
const bearerPrefix = "bearer."

// Read takes a request for a WebSocket or for ICE servers apart. The address is the client's as the server believes it.
func (d *Door) Read(r *http.Request, address string) Request {
	out := Request{
		Origin:        r.Header.Get("Origin"),
		Address:       address,
		authorization: r.Header.Get("Authorization"),
		cookie:        strings.Join(r.Header.Values("Cookie"), "; "),
	}
	out.token = offered(r.Header)
	if scheme, token, ok := strings.Cut(out.authorization, " "); out.token == "" && ok && strings.EqualFold(scheme, "bearer") {
		out.token = strings.TrimSpace(token)
	}
	if out.token == "" && d.query {
		out.token = r.URL.Query().Get("access_token")
	}
	return out
}

// maxToken is how many bytes a token may have; a proxy in front takes no more in a header, as a rule.
const maxToken = 8 << 10

// checkToken refuses what no header can carry, wherever it came from.
func (r Request) checkToken() error {
	switch {
	case len(r.token) > maxToken:
		return &Error{ReasonMalformed, fmt.Sprintf("the token is longer than %d bytes", maxToken)}
	case strings.ContainsFunc(r.token, unicode.IsControl):
		return &Error{ReasonMalformed, "the token has control characters"}
	}
	return nil
}

// offered returns the token among the subprotocols that a client offers.
func offered(h http.Header) string {
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(line, ",") {
			if token, ok := strings.CutPrefix(strings.TrimSpace(name), bearerPrefix); ok {
				return token
			}
		}
	}
	return ""
}

// What somebody wants who asks the owner's backend.
const (
	kindConnect = "connect"
	kindJoin    = "join"
	kindICE     = "ice"
)

// Enter returns the claims of who wants a WebSocket. Its error is an *Error.
func (d *Door) Enter(ctx context.Context, r Request) (*Claims, error) {
	return d.check(ctx, kindConnect, r)
}

// Relay returns the claims of who wants ICE servers. Its error is an *Error.
func (d *Door) Relay(ctx context.Context, r Request) (*Claims, error) {
	return d.check(ctx, kindICE, r)
}

func (d *Door) check(ctx context.Context, kind string, r Request) (*Claims, error) {
	if err := r.checkToken(); err != nil {
		return nil, err
	}
	if d.hook != nil {
		return d.hook.ask(ctx, question{Kind: kind, Request: r})
	}
	return d.verifier.verify(ctx, r.token)
}

// Join returns the claims with which somebody may be in a room, those that it has if nobody says otherwise. It waits if
// Waits says so. Its error is an *Error.
func (d *Door) Join(ctx context.Context, c *Claims, r Request, user, room string) (*Claims, error) {
	if !c.Allows(room) {
		return nil, &Error{ReasonRoom, "claim rooms does not allow this room"}
	}
	if d.hook == nil {
		return c, nil
	}
	answer, err := d.hook.ask(ctx, question{Kind: kindJoin, Request: r, Room: room, User: user, Subject: c.Subject, known: c})
	if err != nil {
		return nil, err
	}
	if !answer.Allows(room) {
		return nil, &Error{ReasonRoom, "this room is not allowed"}
	}
	return answer, sameSubject(c, answer)
}

// prefix is the unit in which clients are limited, an IPv4 address or an IPv6 /64; the zero prefix if it is not known.
func (r Request) prefix() netip.Prefix {
	addr, err := netip.ParseAddr(r.Address)
	if err != nil {
		return netip.Prefix{}
	}
	p, _ := addr.Prefix(min(addr.BitLen(), 64)) // The bits fit.
	return p
}

// With returns the request with a fresh token in place of the one that it had, unless that is empty.
func (r Request) With(token string) Request {
	if token != "" {
		r.token, r.authorization = token, ""
	}
	return r
}

// Renew returns the claims of a request with a fresh token in place of those that somebody has, and those in the room
// where it is, the same if that is empty. It may wait. Its error is an *Error.
func (d *Door) Renew(ctx context.Context, c *Claims, r Request, user, room string) (fresh, inRoom *Claims, err error) {
	fresh, err = d.Enter(ctx, r)
	if err == nil {
		err = sameSubject(c, fresh)
	}
	if err != nil || room == "" {
		return fresh, fresh, err
	}
	inRoom, err = d.Join(ctx, fresh, r, user, room)
	return fresh, inRoom, err
}

func sameSubject(a, b *Claims) error {
	if a.Subject != b.Subject {
		return &Error{ReasonSubject, "the subject is not the one of this connection"}
	}
	return nil
}

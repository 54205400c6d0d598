package signal

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"cline-meet/signal/signal/auth"
	"cline-meet/signal/signal/setting"
	"cline-meet/signal/state"
)

// Who may come in is decided by package auth. Each connection shows a token, or is asked for at the owner's backend, anew,
// also one that resumes: so the claims of a participant are always those of its connection and need not
// move with it. The subject of the claims is the session, in place of a cookie's.

// expiryNotice is how long before a token expires its client is told at the latest, if it lives that long.
const expiryNotice = time.Minute

// visitor is who is at the other end of a connection, as its request says.
type visitor struct {
	bound   binding
	addr    netip.Addr
	secure  bool          // it came by TLS
	claims  *auth.Claims  // nil where everybody may come in; others may hold in a room
	request *auth.Request // what the owner's backend is asked with, nil where it is not
}

// asking returns what the owner's backend is asked with, if it is.
func (v visitor) asking() auth.Request {
	if v.request == nil {
		return auth.Request{}
	}
	return *v.request
}

func openDoor(cfg Config) (*auth.Door, error) {
	cfg.Auth.Logger = cfg.Logger
	return auth.New(cfg.Auth)
}

// SetAuthSecrets replaces the secrets of tokens, newest first. Who came in by one that is withdrawn stays until its
// token expires. To begin or to stop asking for tokens by a secret needs a restart.
func (s *Server) SetAuthSecrets(secrets []string) error {
	if !s.door.SetSecrets(secrets) {
		return setting.ErrRestart
	}
	return nil
}

// knock returns who wants a WebSocket, and what the header of the answer must have. It may wait for the owner's backend.
func (s *Server) knock(r *http.Request, who clientID) (visitor, http.Header, error) {
	header := http.Header{}
	if s.door == nil {
		bound, cookie := s.sessions.ensure(r, who.secure)
		if cookie != nil {
			header.Set("Set-Cookie", cookie.String())
		}
		return visitor{bound: bound}, header, nil
	}
	request := s.door.Read(r, who.addr.String())
	claims, err := s.door.Enter(r.Context(), request)
	if err != nil {
		return visitor{}, nil, s.refusal(err)
	}
	return s.known(claims, request), header, nil
}

// presumedSession returns the session of who shows a resume token before it has knocked. With authentication that is the
// one of the participant that the token names, for which the token is then good or not.
func (s *Server) presumedSession(r *http.Request, who clientID, token string) string {
	switch {
	case token == "":
		return ""
	case s.door == nil:
		session, _ := s.sessions.find(r, who.secure)
		return session
	}
	t, _ := decodeToken(token)
	p := s.participant(t.User)
	if p == nil {
		return ""
	}
	if claims := p.granted(); claims != nil {
		return sessionOf(claims)
	}
	return ""
}

// known returns the visitor who has claims. The token of the request is forgotten unless the owner's backend will want it.
func (s *Server) known(claims *auth.Claims, request auth.Request) visitor {
	v := visitor{bound: binding{sessionOf(claims), true}, claims: claims}
	if s.door.Waits() {
		v.request = &request
	}
	return v
}

// sessionOf returns the session of who has claims, to which its resume tokens are bound.
func sessionOf(claims *auth.Claims) string { return subjectSession + claims.Subject }

// knockForICE returns which user wants ICE servers without a WebSocket.
func (s *Server) knockForICE(r *http.Request, who clientID) (user string, claims *auth.Claims, err error) {
	if s.door == nil {
		if user = s.iceUser(r, who); user == "" {
			return "", nil, fault(codeUnauthorized,
				"no session: open / or /ws first and send its cookie, or the resume_token of a WebSocket without a cookie as bearer token")
		}
		return user, nil, nil
	}
	claims, err = s.door.Relay(r.Context(), s.door.Read(r, who.addr.String()))
	if err != nil {
		return "", nil, s.refusal(err)
	}
	return s.sessions.userPrefix(sessionOf(claims)), claims, nil
}

// refusal counts what the door refuses and returns it as what a client is told.
func (s *Server) refusal(err error) *clientError {
	var refused *auth.Error
	if !errors.As(err, &refused) {
		refused = &auth.Error{Reason: auth.ReasonUnavailable, Text: "try again"}
	}
	s.metrics.authRefusals.WithLabelValues(string(refused.Reason)).Inc()
	if refused.Reason == auth.ReasonCrowded {
		s.metrics.reached(limitAuthRequests)
	}
	return &clientError{refused.Code(), refused.Text, refused.Reason}
}

func authCounters(f promauto.Factory) *prometheus.CounterVec {
	refusals := f.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_auth_refusals_total", Help: "What authentication refused: connections, joins, fresh tokens, messages and ICE servers, by reason."}, []string{"reason"})
	for _, reason := range auth.Reasons {
		refusals.WithLabelValues(string(reason))
	}
	return refusals
}

// turnAway answers a request for a WebSocket that may not come in.
func (s *Server) turnAway(w http.ResponseWriter, err error) {
	s.refuse(w, "auth", challenge(w, err), textOf(err))
}

// iceRefusal is the answer to who gets no ICE servers. A reason is there if it is not let in: so a page finds out, whose browser does not
// tell why there is no WebSocket.
type iceRefusal struct {
	Error  string      `json:"error"`
	Reason auth.Reason `json:"reason,omitempty"`
}

func newICERefusal(err error) iceRefusal {
	var ce *clientError
	if errors.As(err, &ce) {
		return iceRefusal{ce.message, ce.reason}
	}
	return iceRefusal{Error: textOf(err)}
}

// textOf is what a client is told of an error without its code, which the HTTP status is.
func textOf(err error) string {
	var ce *clientError
	if errors.As(err, &ce) {
		return ce.message
	}
	return "try again"
}

// challenge sets the headers of an answer that refuses, and returns its status.
func challenge(w http.ResponseWriter, err error) (status int) {
	var ce *clientError
	if status = codeUnavailable; errors.As(err, &ce) {
		status = ce.code
	}
	switch status {
	case codeUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case codeUnavailable:
		w.Header().Set("Retry-After", "2")
	}
	return status
}

// ice returns the ICE servers for a user: without the grant to relay none with credentials.
func (s *Server) ice(host, user string, claims *auth.Claims) ICEConfig {
	ice := s.cfg.ICE(host, user)
	if claims == nil || claims.Relay {
		return ice
	}
	var open ICEConfig
	for _, server := range ice.Servers {
		if server.Username == "" {
			open.Servers = append(open.Servers, server)
		}
	}
	return open
}

// mayReturn decides about the room in which a participant is, which is the caller's, that c resumes. The
// participant ends if its client may not be there any more, and is detached again if that cannot be known now.
func (s *Server) mayReturn(c *conn, p *participant) error {
	if s.door == nil || p.room == nil {
		return nil
	}
	claims, err := s.door.Join(s.ctx, c.claims, c.asking(), p.user, p.room.id)
	if err == nil {
		c.inRoom = claims
		return nil
	}
	refused := s.refusal(err)
	if refused.code == codeUnavailable {
		p.setAside(c.from)
		return fmt.Errorf("%w: %w", state.ErrUnavailable, refused)
	}
	p.end(state.ReasonDisconnect)
	return fmt.Errorf("%w: %w", errGone, refused)
}

// setAside detaches a participant, which is the caller's, with a grace of its own. It holds a place of that address, unless
// it has one.
func (p *participant) setAside(from *address) {
	p.mu.Lock()
	p.until = time.Now().Add(p.srv.cfg.ResumeGrace)
	if p.home == nil {
		p.home = from
		p.srv.addrs.hold(from)
	}
	p.mu.Unlock()
	p.letGo()
}

// visitor returns who is at the other end of a live participant.
func (p *participant) visitor() visitor {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.visitor
}

// granted returns the claims that hold now.
func (p *participant) granted() *auth.Claims {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claims
}

// mayJoin returns the claims that the client has in a room, in the read loop, which may have to wait for them.
func (p *participant) mayJoin(room string) (*auth.Claims, error) {
	s := p.srv
	if s.door == nil {
		return nil, nil
	}
	if s.door.Waits() {
		p.yieldAnyway()
	}
	v := p.visitor()
	claims, err := s.door.Join(s.ctx, v.claims, v.asking(), p.user, room)
	if err != nil {
		return nil, s.refusal(err)
	}
	return claims, nil
}

// renewClaims puts a fresh token in place of the one that the client has. The old one stands if that is refused.
func (p *participant) renewClaims(env envelope) error {
	s := p.srv
	if s.door == nil {
		return fault(codeBadRequest, "type: no token is needed here")
	}
	token, err := tokenOf(env.Data)
	if err != nil {
		return err
	}
	room := ""
	if p.room != nil {
		room = p.room.id
	}
	p.yieldAnyway()
	v := p.visitor()
	request := v.asking().With(token)
	fresh, inRoom, err := s.door.Renew(s.ctx, v.claims, request, p.user, room)
	if err != nil {
		return s.refusal(err)
	}
	p.replaceVisitor(s.known(fresh, request))
	p.trust(inRoom)
	return nil
}

// tokenOf reads the token from the data of an auth message, plain or encoded as a string.
func tokenOf(data []byte) (string, error) {
	if len(data) > 0 && data[0] == '"' {
		data, _ = unquote(data)
	}
	var token []byte
	isText := true
	err := members(data, func(name, value []byte) {
		if string(name) == "token" {
			token, isText = unquote(value)
		}
	})
	if err != nil || !isText {
		return "", fault(codeBadRequest, "data: must be an object with a string token")
	}
	return string(token), nil
}

// replaceVisitor takes over, in the read loop, what a fresh token says of who is at the other end.
func (p *participant) replaceVisitor(v visitor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn.visitor = v
}

// trust takes over claims in the read loop and tells the client what follows from them, if they are others than before.
func (p *participant) trust(claims *auth.Claims) {
	p.mu.Lock()
	same := claims == p.claims
	if !same && p.conn != nil {
		p.trustLocked(p.conn, claims)
	}
	p.mu.Unlock()
	if !same {
		p.sendICE()
	}
}

// trustLocked takes over claims of the client at c, whose limits follow.
func (p *participant) trustLocked(c *conn, claims *auth.Claims) {
	p.claims, p.warned = claims, false
	if claims == nil {
		return
	}
	limits := p.srv.limitsOf(claims)
	c.rate.SetLimit(rate.Limit(limits.MessageRate))
	c.rate.SetBurst(limits.MessageBurst)
	c.largest = limits.MaxMessageBytes
	p.watchExpiryLocked()
}

// limitsOf returns the limits of a connection: the node's, where its claims say nothing lower.
func (s *Server) limitsOf(claims *auth.Claims) auth.Limits {
	limits := auth.Limits{MessageRate: s.cfg.MessageRate, MessageBurst: s.cfg.MessageBurst, MaxMessageBytes: s.cfg.MaxFrame}
	if claims == nil {
		return limits
	}
	return auth.Limits{
		MessageRate:     min(limits.MessageRate, cmp.Or(claims.Limits.MessageRate, limits.MessageRate)),
		MessageBurst:    min(limits.MessageBurst, cmp.Or(claims.Limits.MessageBurst, limits.MessageBurst)),
		MaxMessageBytes: min(limits.MaxMessageBytes, cmp.Or(claims.Limits.MaxMessageBytes, limits.MaxMessageBytes)),
	}
}

// expiresInLocked returns how long the claims last; it reports false when they last for ever.
func (p *participant) expiresInLocked() (left time.Duration, ends bool) {
	if p.claims == nil || p.claims.Expires.IsZero() {
		return 0, false
	}
	return time.Until(p.claims.Expires), true
}

// watchExpiryLocked ends the connection in time if its claims expire before the next visit of the wheel.
func (p *participant) watchExpiryLocked() {
	if left, ends := p.expiresInLocked(); ends && left < p.srv.wheel.turn {
		time.AfterFunc(left, p.claimsExpire)
	}
}

// claimsExpire ends a participant whose claims are void, unless it got others meanwhile. One that is detached has no claims
// to lose: who comes back for it shows some.
func (p *participant) claimsExpire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if left, ends := p.expiresInLocked(); !ends || left > 0 || p.conn == nil || p.over {
		return
	}
	p.srv.metrics.authRefusals.WithLabelValues(string(auth.ReasonExpired)).Inc()
	p.closeLocked(closeExpired, "the token has expired")
}

// expiresSoonLocked is for the wheel: it reports whether the client has to be told that its claims expire, and
// sees to it that they do.
func (p *participant) expiresSoonLocked() bool {
	p.watchExpiryLocked()
	left, ends := p.expiresInLocked()
	return ends && !p.warned && left < expiryNotice+p.srv.wheel.turn
}

// announceExpiryLocked returns the seconds that the claims last, for the client; 0 for ever.
func (p *participant) announceExpiryLocked() int {
	left, ends := p.expiresInLocked()
	if !ends {
		return 0
	}
	p.warned = p.warned || left < expiryNotice+p.srv.wheel.turn
	return max(1, int(left/time.Second))
}

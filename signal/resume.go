package signal

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"cline-meet/signal/state"
)

// resumeTimeout bounds how long a client waits for its session to come from where it was.
const resumeTimeout = 5 * time.Second

// errGone says that there is no session to resume.
var errGone = errors.New("the session is gone")

// bearerLife is for how long beyond the grace a token is good that is bound to nothing. Clients get a fresh one when half of it
// is over.
const bearerLife = 10 * time.Minute

// resumeToken is what a client shows to get its participant back. The room is empty where the shared state outlives
// the process and knows it.
//
// Its signature binds it to the session of the connection on which it was issued, if the client has shown there that it is of
// that session. Else it is a bearer token: it names the session itself, and who has it needs nothing else, so it lives
// shorter. It ends with its time, and when the client has proved that it has got one of a later greeting: what was used once, as
// what is in the log of a proxy always was, is of no use. Who sends the cookie of that session may, and all nodes of former
// releases need it.
type resumeToken struct {
	User  string `json:"u"`
	Epoch uint64 `json:"e"`
	Node  string `json:"n"`
	Room  string `json:"r,omitempty"`

	// The rest is of bearer tokens: until when it is good, in seconds since 1970, and which greeting of the epoch issued it.
	Session  string `json:"s,omitempty"`
	Expires  int64  `json:"x,omitempty"`
	Greeting uint64 `json:"g,omitempty"`
}

// tokenLocked returns the signed token for the client of a participant, which is live.
func (p *participant) tokenLocked() string {
	s, b := p.srv, p.conn.bound
	t := resumeToken{User: p.user, Epoch: p.epoch, Node: s.state.ID(), Room: p.place}
	if !b.shown {
		t.Session, t.Greeting = b.session, p.greetings
		t.Expires = time.Now().Add(s.cfg.ResumeGrace + bearerLife).Unix()
	}
	text, _ := json.Marshal(t) // Plain fields always encode.
	payload := base64.RawURLEncoding.EncodeToString(text)
	return payload + "." + s.sessions.signToken(b.session, payload)
}

// readToken returns what a token says that is of that session, or a bearer token.
func (s *Server) readToken(session, text string) (resumeToken, error) {
	payload, mac, _ := strings.Cut(text, ".")
	t, err := decodeToken(text)
	switch {
	case err != nil:
		return resumeToken{}, fmt.Errorf("%w: the token cannot be read", errGone)
	case !s.sessions.verifyToken(cmp.Or(t.Session, session), payload, mac):
		return resumeToken{}, fmt.Errorf("%w: the token is not of this session", errGone)
	case t.Session != "" && s.door != nil:
		return resumeToken{}, fmt.Errorf("%w: the token is of nobody in particular", errGone)
	case t.Session != "" && time.Now().Unix() >= t.Expires:
		return resumeToken{}, fmt.Errorf("%w: the token has expired", errGone)
	}
	return t, nil
}

// decodeToken returns what a token says, whoever has written it.
func decodeToken(text string) (t resumeToken, err error) {
	payload, _, _ := strings.Cut(text, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err == nil {
		err = json.Unmarshal(raw, &t)
	}
	return t, err
}

// isUsedUp reports whether the client has proved that it has got a token of a later greeting of the epoch. Tokens that
// are bound, whose greeting is 0, are good as long as the epoch.
func (p *participant) isUsedUp(greeting uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return greeting > 0 && greeting < p.proved
}

// resumption is what a client asks for: its token, and how many frames it got in that session when
// it counts them.
type resumption struct {
	token string
	got   *uint64
}

// enter attaches a connection to a participant, the one that it asks for or a new one. It fails when
// the client must try again.
func (s *Server) enter(c *conn, want resumption) error {
	if want.token == "" {
		_, err := s.enterAnew(c)
		return err
	}
	err := s.resume(c, want)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, state.ErrUnavailable) || s.ctx.Err() != nil:
		s.metrics.resumes.WithLabelValues("unavailable").Inc()
		return err
	}
	s.metrics.resumes.WithLabelValues("gone").Inc()
	s.cfg.Logger.Debug("not resumed", "error", err)
	p, err := s.enterAnew(c)
	if err == nil {
		p.send(errorFrame("", codeGone, "the session could not be resumed: join again"))
	}
	return err
}

func (s *Server) enterAnew(c *conn) (*participant, error) {
	p := s.register(c.bound.session)
	return p, p.attach(c, greeting{}, nil)
}

// resume attaches a connection to the participant of its token.
func (s *Server) resume(c *conn, want resumption) error {
	t, err := s.readToken(c.bound.session, want.token)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, resumeTimeout)
	defer cancel()
	done, err := s.resumeAlone(ctx, t.User)
	if err != nil {
		return err
	}
	defer done()
	p, outcome, err := s.fetch(ctx, c, t, want.got)
	if err != nil {
		return err
	}
	if s.kicked.has(p.user) {
		p.end(state.ReasonKick)
		return fmt.Errorf("%w: the user was removed", errGone)
	}
	if err := s.mayReturn(c, p); err != nil {
		return err
	}
	if outcome == "here" && !p.stays(ctx, c) {
		p.end(state.ReasonDisconnect)
		return fmt.Errorf("%w: it was taken for dead with this node", errGone)
	}
	if err := p.attach(c, greeting{Resumed: true, Gap: p.takeStock()}, want.got); err != nil {
		p.end(state.ReasonDisconnect)
		return err
	}
	s.metrics.resumes.WithLabelValues(outcome).Inc()
	p.log.Debug("resumed", "from", t.Node, "outcome", outcome)
	return nil
}

// resumeAlone waits until no other connection of this node resumes that user, which a client that has lost patience makes
// twice: the second one gets what the first has got. Who is done calls what it returns.
func (s *Server) resumeAlone(ctx context.Context, user string) (done func(), err error) {
	for {
		s.mu.Lock()
		other := s.resuming[user]
		if other == nil {
			mine := make(chan struct{})
			s.resuming[user] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.resuming, user)
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another connection that resumes: %w", state.ErrUnavailable)
		}
	}
}

// fetch returns the participant of a token, which is the caller's, and how it came: from here, moved from
// another node, adopted from a dead one or revived after the end of the former process.
func (s *Server) fetch(ctx context.Context, c *conn, t resumeToken, got *uint64) (p *participant, outcome string, err error) {
	switch p = s.participant(t.User); {
	case p != nil && p.isPast(c, got):
		return nil, "", fmt.Errorf("%w: its client has gone on since it asked", errGone)
	case p != nil && p.epoch == t.Epoch && p.isUsedUp(t.Greeting):
		return nil, "", fmt.Errorf("%w: the token was used", errGone)
	case p != nil && p.mayHave(t.Epoch): // The greeting that had the next token did not arrive, or the request is late.
		p, err = s.takeOver(ctx, t.User, p.translate(ctx, t.Epoch))
		outcome = "here"
	case t.Node == s.state.ID():
		p, err = s.takeOver(ctx, t.User, t.Epoch)
		if outcome = "here"; errors.Is(err, errGone) {
			p, outcome, err = s.fetchAway(ctx, t, got)
		}
	case s.cfg.Clustered:
		p, outcome, err = s.fetchAway(ctx, t, got)
	default:
		p, err = s.revive(ctx, t, got)
		outcome = "revived"
	}
	return p, outcome, err
}

// takeOver returns a participant of this node, which is the caller's from then on. The connection
// that it still may have is closed. It fails with errGone when there is none of that epoch, or when
// somebody else has it.
func (s *Server) takeOver(ctx context.Context, user string, epoch uint64) (*participant, error) {
	for {
		p := s.participant(user)
		if p == nil || p.epoch != epoch {
			return nil, errGone
		}
		holder, err := p.seize()
		if holder == nil {
			return p, err
		}
		holder.cut(closeReplaced, "another connection has resumed this session", lastWords)
		select {
		case <-holder.released:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the connection before: %w", state.ErrUnavailable)
		}
	}
}

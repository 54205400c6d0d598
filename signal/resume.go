package signal

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/state"
)

// resumeTimeout bounds how long a client waits for its session to come from where it was.
const resumeTimeout = 5 * time.Second

// errGone says that there is no session to resume.
var errGone = errors.New("the session is gone")

// connState says who a participant belongs to.
type connState int

const (
	stateLive     connState = iota // to its read loop
	stateDetached                  // to nobody: whoever comes first may take it
	stateTaken                     // to who took it
)

// resumeToken is what a client shows to get its participant back. It is bound to the session
// cookie by its signature.
type resumeToken struct {
	User  string `json:"u"`
	Epoch uint64 `json:"e"`
	Node  string `json:"n"`
}

// token returns the signed token of a connection.
func (c *conn) token() string {
	text, _ := json.Marshal(resumeToken{c.user, c.epoch, c.srv.state.ID()}) // Plain fields always encode.
	payload := base64.RawURLEncoding.EncodeToString(text)
	return payload + "." + c.srv.sessions.signToken(c.session, payload)
}

func (s *Server) readToken(session, text string) (resumeToken, error) {
	payload, mac, _ := strings.Cut(text, ".")
	if !s.sessions.verifyToken(session, payload, mac) {
		return resumeToken{}, fmt.Errorf("%w: the token is not of this session", errGone)
	}
	var t resumeToken
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err == nil {
		err = json.Unmarshal(raw, &t)
	}
	if err != nil {
		return t, fmt.Errorf("%w: the token cannot be read", errGone)
	}
	return t, nil
}

// resumption is what a client asks for: its token, and how many frames it got in that session when
// it counts them.
type resumption struct {
	token string
	got   *uint64
}

// enter makes a connection a participant, the one it was before if it resumes, and greets it. It
// reports false when the connection cannot go on.
func (s *Server) enter(c *conn, want resumption) bool {
	c.broken = true // Until it has begun, frames are only kept.
	if want.token == "" {
		return s.enterAnew(c)
	}
	err := s.resume(c, want)
	switch {
	case err == nil:
		return true
	case errors.Is(err, state.ErrUnavailable) || s.ctx.Err() != nil:
		s.metrics.resumes.WithLabelValues("unavailable").Inc()
		msg := websocket.FormatCloseMessage(closeUnavailable, "the session cannot be reached now: resume again")
		_ = c.ws.WriteControl(websocket.CloseMessage, msg, time.Now().Add(time.Second))
		return false
	}
	s.metrics.resumes.WithLabelValues("gone").Inc()
	s.cfg.Logger.Debug("not resumed", "error", err)
	c.sent, c.kept, c.keptBytes = 0, nil, 0
	if !s.enterAnew(c) {
		return false
	}
	c.send(errorFrame("", codeGone, "the session could not be resumed: join again"))
	return true
}

func (s *Server) enterAnew(c *conn) bool {
	if !s.register(c) {
		return false
	}
	c.begin(c.iceFrame(false))
	return true
}

// resume gives a connection the participant of its token.
func (s *Server) resume(c *conn, want resumption) error {
	t, err := s.readToken(c.session, want.token)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, resumeTimeout)
	defer cancel()
	if t.Node != s.state.ID() {
		return s.resumeFrom(ctx, c, t, want.got)
	}
	old, err := s.take(ctx, t.User, t.Epoch)
	if err != nil {
		return err
	}
	return s.succeed(c, old, want.got)
}

// take returns a participant of this node, which is the caller's from then on. The connection that
// it still may have is closed.
func (s *Server) take(ctx context.Context, user string, epoch uint64) (*conn, error) {
	for {
		s.mu.Lock()
		c := s.conns[user]
		if c == nil || c.epoch != epoch || c.state == stateTaken {
			s.mu.Unlock()
			return nil, errGone
		}
		if c.state == stateDetached {
			c.state = stateTaken
			c.grace.Stop()
			s.mu.Unlock()
			return c, nil
		}
		c.yield = true
		s.mu.Unlock()
		msg := websocket.FormatCloseMessage(closeReplaced, "another connection has resumed this session")
		_ = c.ws.WriteControl(websocket.CloseMessage, msg, time.Now().Add(10*time.Millisecond))
		c.abort()
		select {
		case <-c.released:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the connection before: %w", state.ErrUnavailable)
		}
	}
}

// detach keeps a participant whose connection has ended for a client that comes back. It reports
// false when the participant must go at once.
func (s *Server) detach(c *conn, why state.Reason) bool {
	may := c.mayReturn(why)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(c.released)
	if !may && !c.yield {
		c.state = stateTaken
		return false
	}
	c.state = stateDetached
	c.grace = time.AfterFunc(s.cfg.ResumeGrace, func() { s.expire(c) })
	return true
}

// expire ends a detached participant for good.
func (s *Server) expire(c *conn) {
	s.mu.Lock()
	detached := c.state == stateDetached
	if detached {
		c.state = stateTaken
	}
	s.mu.Unlock()
	if detached { // A crew that has gone leaves it to Shutdown.
		s.crew.do(func() { s.end(c, state.ReasonDisconnect) })
	}
}

// end takes a participant, which is the caller's, out of everything.
func (s *Server) end(c *conn, why state.Reason) {
	c.depart(why)
	s.forget(c)
	c.log.Debug("participant is gone", "reason", why)
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c.user] == c {
		delete(s.conns, c.user)
	}
}

// succeed lets a new connection go on where an old one of this node, which is the caller's, stopped.
func (s *Server) succeed(c, old *conn, got *uint64) error {
	if err := old.rewind(got); err != nil {
		s.end(old, state.ReasonDisconnect)
		return err
	}
	c.user, c.epoch, c.log = old.user, old.epoch, old.log
	if old.room == nil {
		c.sent, c.kept, c.keptBytes = old.sent, old.kept, old.keptBytes
	} else {
		old.room.replace(old, c)
	}
	c.room = old.room
	s.adopt(c)
	c.begin(c.iceFrame(true))
	s.metrics.resumes.WithLabelValues("here").Inc()
	c.log.Debug("resumed", "from", "here")
	return nil
}

// adopt makes a connection the one of its user.
func (s *Server) adopt(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c.user] = c
}

// rewind drops the kept frames that the client says it got. When it does not say, all that it has
// not confirmed is sent again.
func (c *conn) rewind(got *uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return fmt.Errorf("%w: too much waited for it", errGone)
	}
	if got != nil && !c.forgetLocked(*got) {
		return fmt.Errorf("%w: frame %d is not the next to be kept", errGone, *got)
	}
	return nil
}

// lose ends a participant that may have missed something: it is told to join again.
func (c *conn) lose(why string) {
	c.send(errorFrame("", codeGone, why+": join again"))
	c.close(closeLost, why, state.ReasonDisconnect)
	c.srv.expire(c) // When it is detached.
}

func (s *Server) detachedCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.conns {
		if c.state == stateDetached {
			n++
		}
	}
	return n
}

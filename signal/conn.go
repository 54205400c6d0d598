package signal

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"cline-meet/signal/signal/auth"
	"cline-meet/signal/state"
)

// closeGrace is how long a client has to answer our close frame before the connection is cut.
const closeGrace = 2 * time.Second

// A connection may have messages refused for so much at once, and for so much more each second, before it is closed.
const (
	faultBurst = 1000
	faultRate  = 10
)

// faultOf returns what a message counts that was refused with that code. Who is only too fast has not understood the limits
// yet and may say much at once; when the shared state is away, that is nobody's fault.
func faultOf(code int) int {
	switch code {
	case codeUnavailable:
		return 0
	case codeRateLimited:
		return 1
	}
	return 10
}

// conn is one WebSocket of a client. It carries frames for the participant that it is attached to, which
// outlives it, and knows nothing of rooms. Its socket reads for it: the methods of receiver are called
// in the order of the frames, and they are what is called the read loop.
type conn struct {
	socket

	// Fixed after construction.
	srv    *Server
	host   string   // what the client calls us
	from   *address // what it counts for
	number uint64   // its place among all that were asked for

	// Nobody else knows it before it is attached. From then on the participant's lock guards the visitor, whom the read
	// loop replaces, and the rest is fixed.
	visitor
	inRoom      *auth.Claims // those in the room to which it comes back, nil for none
	participant *participant
	log         *slog.Logger

	// Owned by the read loop.
	rate     *rate.Limiter
	largest  int // bytes of a message
	faults   *rate.Limiter
	released chan struct{} // closed when the read loop has let go of the participant

	// Guarded by the wheel's lock.
	slot int
}

func newConn(s *Server, l link, who visitor, host string, from *address) *conn {
	c := &conn{
		srv:      s,
		host:     host,
		from:     from,
		visitor:  who,
		log:      s.cfg.Logger,
		rate:     rate.NewLimiter(rate.Limit(s.cfg.MessageRate), s.cfg.MessageBurst),
		largest:  s.cfg.MaxFrame,
		faults:   rate.NewLimiter(faultRate, faultBurst),
		released: make(chan struct{}),
	}
	c.init(l, c, &s.limits, &s.flusher)
	return c
}

// message handles a message. What is wrong with it is told to the client.
func (c *conn) message(op opcode, data []byte) {
	if c.isClosing() {
		c.hasty = true // Nothing is done with what it still says.
		return
	}
	c.handle(op, data)
}

// tooLarge refuses a message, under its id if that is in the beginning. It counts for the rate as all messages do.
func (c *conn) tooLarge(begin []byte) {
	if c.isClosing() {
		return
	}
	_ = c.throttle() // To wait would not help.
	env, _ := decode(begin)
	var space [64]byte
	text := strconv.AppendInt(append(space[:0], "message too large: at most "...), int64(c.limits.message), 10)
	c.refuse(env, codeTooLarge, append(text, " bytes"...))
}

func (c *conn) tooMuch() { c.participant.expel(closeTooLarge, "too much that is too large") }

func (c *conn) pinged() { c.charge() }

func (c *conn) pong(data []byte) {
	c.charge()
	c.participant.confirmed(c, string(data))
}

// ended leaves the rest, which may wait, to a goroutine. The server waits for it.
func (c *conn) ended(err error) { go c.srv.ended(c, err) }

// ending tells why the connection ended, and whether the client may come back to its participant: not
// when it said goodbye, as browsers do for a page that is left, when nothing was heard for so long
// that no grace is left, or when it sent what no client may send.
func (c *conn) ending(err error) (why state.Reason, mayReturn bool) {
	if err == errSilent {
		// The client may be half dead only: if it still reads, it learns what happened.
		c.cut(closeTimeout, "nothing heard within the read timeout", lastWords)
		return state.ReasonTimeout, false
	}
	if err == errNotUTF8 {
		c.srv.metrics.messages[unknownType][outcomeOf(codeBadRequest)].Inc()
		return state.ReasonDisconnect, false
	}
	var closed closeError
	goodbye := errors.As(err, &closed) && closed.isGoodbye()
	if c.srv.draining.Load() && closed.code != websocket.CloseNormalClosure {
		goodbye = false // It answers what we have said.
	}
	return state.ReasonDisconnect, !goodbye
}

// visit is what the wheel does: it looks after the participant and ends a connection on which nothing
// is heard for too long.
func (c *conn) visit() {
	c.participant.visit()
	if left := c.silence(); left > 0 && left < c.srv.wheel.turn {
		time.AfterFunc(left, func() { c.silence() })
	}
}

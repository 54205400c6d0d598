package signal

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"cline-meet/signal/state"
)

// closeGrace is how long a client has to answer our close frame before the connection is cut.
const closeGrace = 2 * time.Second

// lastWords is how long a close frame may take to be written when nobody waits for its answer.
const lastWords = 100 * time.Millisecond

// faultBurst is how many faults a connection may make at once, and faultRate how many a second are
// forgiven, before it is closed.
const (
	faultBurst = 100
	faultRate  = 1
)

// conn is one WebSocket. It carries frames for the participant that it is attached to, which outlives
// it, and knows nothing of rooms. Its read loop runs in a goroutine of its own, which the server waits
// for; a writer goroutine exists only while frames are queued, and the read loop waits for it.
// Everything that is written, control frames included, passes through its send queue.
//
// This file alone touches the WebSocket; sendqueue.go decides what is written.
type conn struct {
	// Fixed after construction.
	srv     *Server
	ws      *websocket.Conn
	session string // the id in the cookie
	host    string // the Host header, which names us as this client sees us

	// Fixed once it is attached; before that nobody else knows it.
	participant *participant
	log         *slog.Logger

	// Owned by the read loop.
	rate     *rate.Limiter
	faults   *rate.Limiter
	released chan struct{} // closed when the read loop has let go of the participant

	// Guarded by the wheel's lock.
	slot int

	writer sync.WaitGroup

	// mu is the innermost lock.
	mu       sync.Mutex
	queue    []outgoing
	queued   int           // bytes in queue and in the writer's hands
	pong     []byte        // the answer that is owed to the client's last ping, nil for none
	writing  bool          // a writer goroutine exists
	closing  bool          // the close frame is queued or written; nothing may follow it
	broken   bool          // the WebSocket takes no more
	patience time.Duration // how long the client may take to answer the close frame
}

// outgoing is a frame that waits for the writer: text, ping, pong or close.
type outgoing struct {
	kind int
	data []byte
}

func newConn(s *Server, ws *websocket.Conn, session, host string) *conn {
	return &conn{
		srv:      s,
		ws:       ws,
		session:  session,
		host:     host,
		log:      s.cfg.Logger,
		rate:     rate.NewLimiter(rate.Limit(s.cfg.MessageRate), s.cfg.MessageBurst),
		faults:   rate.NewLimiter(faultRate, faultBurst),
		released: make(chan struct{}),
	}
}

// readLoop handles the client's messages one after another until the connection ends. It returns
// the reason for which it did, and whether the client may come back to its participant: not when it
// said goodbye, as browsers do for a page that is left, or when nothing was heard for so long that
// no grace is left.
func (c *conn) readLoop() (why state.Reason, mayReturn bool) {
	c.alive()
	c.ws.SetPongHandler(func(data string) error { c.alive(); c.participant.confirmed(data); return nil })
	c.ws.SetPingHandler(func(data string) error { c.alive(); c.answerPing([]byte(data)); return nil })
	c.ws.SetCloseHandler(func(code int, _ string) error { c.answerClose(code); return nil })
	for {
		kind, r, err := c.ws.NextReader()
		if err == nil {
			c.alive()
			err = c.readMessage(kind, r)
		}
		if err != nil {
			return c.ending(err)
		}
	}
}

// alive gives the client another ReadTimeout, unless the connection is closing, whose deadline
// must stand.
func (c *conn) alive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		_ = c.ws.SetReadDeadline(time.Now().Add(c.srv.cfg.ReadTimeout))
	}
}

// readMessage reads and handles one message. Its error is the connection's; what is wrong with the
// message is told to the client.
func (c *conn) readMessage(kind int, r io.Reader) error {
	buf := c.srv.buffers.Get().(*bytes.Buffer)
	defer c.srv.buffers.Put(buf)
	buf.Reset()
	limit := c.srv.cfg.MaxFrame
	if _, err := buf.ReadFrom(io.LimitReader(r, int64(limit)+1)); err != nil {
		return err
	}
	if c.isClosing() {
		return nil
	}
	if buf.Len() > limit {
		c.srv.metrics.messages[unknownType][outcomeOf(codeTooLarge)].Inc()
		c.participant.send(errorFrame("", codeTooLarge, "message too large"))
		c.participant.close(closeTooLarge, "message too large")
		return nil
	}
	c.handle(kind, buf.Bytes())
	return nil
}

// ending tells why the connection ended: because we closed it, or as reading said.
func (c *conn) ending(err error) (why state.Reason, mayReturn bool) {
	goodbye := websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && !c.isClosing() {
		return state.ReasonTimeout, false
	}
	return state.ReasonDisconnect, !goodbye
}

// finish closes what is left of the connection and waits for its writer. The read loop's goroutine
// calls it last.
func (c *conn) finish(why state.Reason) {
	if why == state.ReasonTimeout {
		// The client may be half dead only: if it still reads, it learns what happened.
		c.cut(closeTimeout, "nothing heard within the read timeout", lastWords)
	}
	c.stop()
	late := time.AfterFunc(lastWords, c.abort)
	c.writer.Wait()
	late.Stop()
	c.abort()
}

// write writes a batch of frames; the last of the connection's is the close frame.
func (c *conn) write(batch []outgoing) error {
	deadline := time.Now().Add(c.srv.cfg.WriteTimeout)
	_ = c.ws.SetWriteDeadline(deadline)
	for _, o := range batch {
		var err error
		if o.kind == websocket.TextMessage {
			err = c.ws.WriteMessage(o.kind, o.data)
		} else {
			err = c.ws.WriteControl(o.kind, o.data, deadline)
		}
		if err != nil {
			return err
		}
		if o.kind == websocket.CloseMessage {
			c.mu.Lock()
			_ = c.ws.SetReadDeadline(time.Now().Add(c.patience))
			c.mu.Unlock()
		}
	}
	return nil
}

// abort cuts the connection without a word; the read loop ends.
func (c *conn) abort() { _ = c.ws.NetConn().Close() }

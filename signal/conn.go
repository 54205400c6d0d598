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

// Close codes of our own. 4000–4499 tell a client to reconnect, 4500–4999 not to.
const (
	closeSlow        = 4000
	closeTimeout     = 4001
	closeLost        = 4002
	closeUnavailable = 4003
	closeReplaced    = 4500
)

// closeGrace is how long a client has to answer our close frame before the connection is cut.
const closeGrace = 2 * time.Second

// faultBurst is how many faults a connection may make at once, and faultRate how many a second are
// forgiven, before it is closed.
const (
	faultBurst = 100
	faultRate  = 1
)

// conn is one WebSocket of one participant. Its read loop runs in a goroutine of its own, which
// the server waits for; a writer goroutine exists only while frames are queued, and the read loop
// waits for it. send, ping and close may be called by any goroutine and never block.
//
// A participant outlives its WebSocket: when that is lost, the conn stays in its room as a detached
// one, which only keeps frames, until another conn takes over from it or the grace is over.
type conn struct {
	// Fixed after construction.
	srv     *Server
	ws      *websocket.Conn
	session string
	host    string // the Host header, which names us as this client sees us

	// Fixed when the connection has begun: before that, nobody else knows it.
	user  string
	epoch uint64
	log   *slog.Logger

	// Owned by the read loop, and after it by who takes the detached connection.
	room   *room
	rate   *rate.Limiter
	faults *rate.Limiter

	// Guarded by the wheel's lock.
	slot int

	// Guarded by the server's lock.
	state    connState
	yield    bool          // another connection wants to take over
	released chan struct{} // closed when the read loop has let go of the participant
	grace    *time.Timer   // ends a detached connection

	writer sync.WaitGroup

	mu         sync.Mutex
	queue      []outgoing
	queued     int  // bytes in queue and in the writer's hands
	writing    bool // a writer goroutine exists
	closing    bool // the close frame is queued or written; nothing may follow it
	broken     bool // the WebSocket takes no more; frames are only kept
	reason     state.Reason
	goodbye    bool      // the client has left for good
	iceRefresh time.Time // when fresh ICE servers are due; zero for never

	sent      uint64   // how many frames that count were sent, ever
	kept      [][]byte // the last of them, which the client has not confirmed
	keptBytes int
	asked     bool // a ping that asks for a confirmation is under way
}

// outgoing is a frame that waits for the writer: text, ping or close.
type outgoing struct {
	kind int
	data []byte
}

// alive gives the client another READ_TIMEOUT, unless the connection is closing, whose deadline
// must stand.
func (c *conn) alive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		_ = c.ws.SetReadDeadline(time.Now().Add(c.srv.cfg.ReadTimeout))
	}
}

// readLoop handles the client's messages one after another until the connection ends, and returns
// the reason for which it did.
func (c *conn) readLoop() state.Reason {
	c.alive()
	c.ws.SetPongHandler(func(data string) error { c.alive(); c.confirmed(data); return nil })
	answerPing := c.ws.PingHandler()
	c.ws.SetPingHandler(func(data string) error { c.alive(); return answerPing(data) })
	for {
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return c.endReason(err)
		}
		c.alive()
		if err := c.readMessage(kind, r); err != nil {
			return c.endReason(err)
		}
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
		c.send(errorFrame("", codeTooLarge, "message too large"))
		c.close(websocket.CloseMessageTooBig, "message too large", state.ReasonDisconnect)
		return nil
	}
	c.handle(kind, buf.Bytes())
	return nil
}

func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// endReason tells why the connection ended: what we closed it for, or what reading said.
func (c *conn) endReason(err error) state.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != "" {
		return c.reason
	}
	c.goodbye = websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return state.ReasonTimeout
	}
	return state.ReasonDisconnect
}

// mayReturn reports whether the client may resume after its connection has ended: not when it said
// goodbye, as browsers do for a page that is left, when we closed it, or when nothing was heard for so long that no grace is left.
func (c *conn) mayReturn(why state.Reason) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.srv.cfg.ResumeGrace > 0 && !c.closing && !c.goodbye && c.reason == "" && why != state.ReasonTimeout
}

// finish closes what is left of the connection and waits for its writer. The read loop's goroutine
// calls it last.
func (c *conn) finish(why state.Reason) {
	if why == state.ReasonTimeout && !c.isClosing() {
		// The client may be half dead only: if it still reads, it learns what happened.
		msg := websocket.FormatCloseMessage(closeTimeout, "nothing heard within the read timeout")
		_ = c.ws.WriteControl(websocket.CloseMessage, msg, time.Now().Add(10*time.Millisecond))
	}
	c.stopWriting()
	c.abort()
	c.writer.Wait()
}

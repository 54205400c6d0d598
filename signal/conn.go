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
	closeSlow    = 4000
	closeTimeout = 4001
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
type conn struct {
	// Fixed after construction.
	srv   *Server
	ws    *websocket.Conn
	user  string
	epoch uint64
	host  string // the Host header, which names us as this client sees us
	log   *slog.Logger

	// Owned by the read loop.
	room   *room
	rate   *rate.Limiter
	faults *rate.Limiter

	// Guarded by the wheel's lock.
	slot int

	writer sync.WaitGroup

	mu         sync.Mutex
	queue      []outgoing
	queued     int  // bytes in queue and in the writer's hands
	writing    bool // a writer goroutine exists
	closing    bool // the close frame is queued or written; nothing may follow it
	reason     state.Reason
	iceRefresh time.Time // when fresh ICE servers are due; zero for never
}

// outgoing is a frame that waits for the writer: text, ping or close.
type outgoing struct {
	kind int
	data []byte
}

// send queues a text frame. A client for which too much waits already is disconnected: signaling
// must not lose a message silently, and no client may make the server hold memory for it.
func (c *conn) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	if c.queued+len(frame) > c.srv.cfg.MaxQueue {
		c.srv.metrics.overflows.Inc()
		c.log.Debug("client is too slow", "queued", c.queued)
		c.queue, c.queued = nil, 0
		time.AfterFunc(closeGrace, c.abort) // The write under way may block much longer.
		c.closeLocked(closeSlow, "too slow: messages piled up", state.ReasonDisconnect)
		return
	}
	c.pushLocked(outgoing{websocket.TextMessage, frame})
}

// ping queues a ping unless frames are waiting, which prove or disprove the client as well.
func (c *conn) ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.writing {
		c.pushLocked(outgoing{websocket.PingMessage, nil})
	}
}

// close queues a close frame behind all that waits. The read loop ends when the client answers it,
// or when closeGrace is over. Reason is what the room is told.
func (c *conn) close(code int, text string, why state.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.closeLocked(code, text, why)
	}
}

func (c *conn) closeLocked(code int, text string, why state.Reason) {
	c.closing, c.reason = true, why
	c.pushLocked(outgoing{websocket.CloseMessage, websocket.FormatCloseMessage(code, text)})
}

// abort cuts the connection without a word; the read loop ends.
func (c *conn) abort() { _ = c.ws.NetConn().Close() }

func (c *conn) pushLocked(o outgoing) {
	c.queue = append(c.queue, o)
	c.queued += len(o.data)
	if !c.writing {
		c.writing = true
		c.writer.Go(c.write)
	}
}

// write sends what is queued and ends when nothing is left.
func (c *conn) write() {
	for {
		c.mu.Lock()
		batch := c.queue
		c.queue = nil
		if len(batch) == 0 {
			c.writing = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for _, o := range batch {
			if err := c.writeOne(o); err != nil {
				c.abort()
				c.stopSending()
				return
			}
		}
	}
}

func (c *conn) writeOne(o outgoing) error {
	deadline := time.Now().Add(c.srv.cfg.WriteTimeout)
	if o.kind != websocket.TextMessage {
		err := c.ws.WriteControl(o.kind, o.data, deadline)
		if o.kind == websocket.CloseMessage {
			_ = c.ws.SetReadDeadline(time.Now().Add(closeGrace))
		}
		return err
	}
	_ = c.ws.SetWriteDeadline(deadline)
	err := c.ws.WriteMessage(websocket.TextMessage, o.data)
	c.mu.Lock()
	c.queued -= min(len(o.data), c.queued)
	c.mu.Unlock()
	return err
}

// stopSending drops all that waits and all that comes.
func (c *conn) stopSending() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing, c.writing = true, false
	c.queue, c.queued = nil, 0
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
	c.ws.SetPongHandler(func(string) error { c.alive(); return nil })
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
		c.srv.metrics.messages.WithLabelValues("unknown", "413").Inc()
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
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return state.ReasonTimeout
	}
	return state.ReasonDisconnect
}

// finish closes what is left of the connection and waits for its writer. The read loop's goroutine
// calls it last.
func (c *conn) finish(why state.Reason) {
	if why == state.ReasonTimeout && !c.isClosing() {
		// The client may be half dead only: if it still reads, it learns what happened.
		msg := websocket.FormatCloseMessage(closeTimeout, "nothing heard within the read timeout")
		_ = c.ws.WriteControl(websocket.CloseMessage, msg, time.Now().Add(10*time.Millisecond))
	}
	c.stopSending()
	c.abort()
	c.writer.Wait()
}

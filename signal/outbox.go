package signal

import (
	"strconv"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/state"
)

// send queues a text frame that counts: a client that resumes gets it again unless it says that it
// got it. A client for which too much waits already is disconnected: signaling must not lose a
// message silently, and no client may make the server hold memory for it.
func (c *conn) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.keepLocked(frame)
	if c.broken {
		return
	}
	c.queueLocked(frame)
	if c.keptBytes > c.srv.cfg.MaxQueue/2 && !c.asked {
		c.askLocked()
	}
}

// sendAside queues a text frame that is of this WebSocket only and does not count.
func (c *conn) sendAside(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.broken {
		c.queueLocked(frame)
	}
}

func (c *conn) queueLocked(frame []byte) {
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

// keepLocked counts a frame and keeps it until the client confirms it. When too much is kept, the
// oldest is forgotten if it has been written; what waits for a client that is away must not be, and
// its participant ends.
func (c *conn) keepLocked(frame []byte) {
	c.sent++
	if c.srv.cfg.ResumeGrace == 0 {
		return
	}
	c.kept = append(c.kept, frame)
	c.keptBytes += len(frame)
	if c.keptBytes <= c.srv.cfg.MaxQueue {
		return
	}
	if c.broken {
		c.overflowLocked()
		return
	}
	for c.keptBytes > c.srv.cfg.MaxQueue {
		c.keptBytes -= len(c.kept[0])
		c.kept[0] = nil
		c.kept = c.kept[1:]
	}
}

// overflowLocked ends a participant whose client is away and for whom too much waits.
func (c *conn) overflowLocked() {
	c.kept, c.keptBytes, c.closing = nil, 0, true
	c.srv.metrics.overflows.Inc()
	c.srv.crew.do(func() { c.srv.expire(c) })
}

// confirmed forgets the frames that came before a ping which the client has answered.
func (c *conn) confirmed(pong string) {
	number, err := strconv.ParseUint(pong, 10, 64)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = false
	c.forgetLocked(number)
}

// forgetLocked drops the kept frames up to that number. It reports false when there are none of
// that number or it is forgotten already.
func (c *conn) forgetLocked(number uint64) bool {
	first := c.sent - uint64(len(c.kept)) // the number of the last frame that is not kept any more
	if number < first || number > c.sent {
		return false
	}
	for _, frame := range c.kept[:number-first] {
		c.keptBytes -= len(frame)
	}
	c.kept = c.kept[number-first:]
	if len(c.kept) == 0 {
		c.kept = nil
	}
	return true
}

// askLocked queues a ping whose answer confirms all that was queued before.
func (c *conn) askLocked() {
	c.asked = true
	c.pushLocked(outgoing{websocket.PingMessage, strconv.AppendUint(nil, c.sent, 10)})
}

// ping queues a ping unless frames are waiting, which prove or disprove the client as well.
func (c *conn) ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.broken && !c.writing {
		c.askLocked()
	}
}

// close queues a close frame behind all that waits. The read loop ends when the client answers it,
// or when closeGrace is over. Reason is what the room is told.
func (c *conn) close(code int, text string, why state.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.broken {
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
				c.stopWriting()
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

// stopWriting drops all that waits to be written; what counts stays kept.
func (c *conn) stopWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken, c.writing = true, false
	c.queue, c.queued = nil, 0
}

// begin opens a connection that has only kept frames so far, or none: first the frame that greets
// the client, then what is kept.
func (c *conn) begin(greeting []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = false
	c.pushLocked(outgoing{websocket.TextMessage, greeting})
	for _, frame := range c.kept {
		c.pushLocked(outgoing{websocket.TextMessage, frame})
	}
}

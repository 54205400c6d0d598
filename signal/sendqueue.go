package signal

import (
	"errors"
	"slices"
	"time"

	"github.com/gorilla/websocket"
)

// maxWrite bounds the bytes of a batch that the writer takes in hand, so that a client which reads
// slowly but steadily makes room in the queue before all of it has read.
const maxWrite = 64 << 10

var (
	errQueueFull = errors.New("too much is queued")
	errNotOpen   = errors.New("the connection takes no more")
)

// push queues a text frame. It fails with errQueueFull when more than MaxQueue bytes would wait, and
// with errNotOpen when the connection is closing or broken.
func (c *conn) push(frame []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing || c.broken:
		return errNotOpen
	case c.queued+len(frame) > c.srv.cfg.MaxQueue:
		return errQueueFull
	}
	c.pushLocked(outgoing{websocket.TextMessage, frame})
	return nil
}

// open queues what a connection begins with, whose size is bounded by who keeps it.
func (c *conn) open(greeting []byte, kept [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushLocked(outgoing{websocket.TextMessage, greeting})
	for _, frame := range kept {
		c.pushLocked(outgoing{websocket.TextMessage, frame})
	}
}

// ping queues a ping, which must be answered before the next.
func (c *conn) ping(data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.broken {
		c.pushLocked(outgoing{websocket.PingMessage, data})
	}
}

// answerPing owes the client a pong. Of several pings only the last is answered, as RFC 6455, section
// 5.5.3, allows, so that a client cannot make them pile up.
func (c *conn) answerPing(data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.broken {
		return
	}
	if c.pong = append([]byte{}, data...); !c.writing {
		c.startLocked()
	}
}

// answerClose answers a client's close frame, unless that was an answer itself.
func (c *conn) answerClose(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.broken {
		c.closeLocked(websocket.FormatCloseMessage(code, ""), closeGrace)
	}
}

// close queues a close frame behind all that waits. The read loop ends when the client answers it,
// or closeGrace after it was written.
func (c *conn) close(code closeCode, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing && !c.broken {
		c.closeLocked(code.frame(text), closeGrace)
	}
}

// cut drops all that waits and closes the connection, which ends within a time, whether the close
// frame could be written and is answered or not.
func (c *conn) cut(code closeCode, text string, within time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.broken {
		return
	}
	c.queue, c.queued = nil, 0
	time.AfterFunc(within, c.abort)
	c.closeLocked(code.frame(text), within)
}

func (c *conn) closeLocked(frame []byte, patience time.Duration) {
	c.closing, c.patience = true, patience
	c.pushLocked(outgoing{websocket.CloseMessage, frame})
}

// stop takes no more frames and drops those that wait but for a close frame.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken, c.pong = true, nil
	c.queue = slices.DeleteFunc(c.queue, func(o outgoing) bool { return o.kind != websocket.CloseMessage })
}

// idle reports whether nothing waits to be written.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.writing
}

func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

func (c *conn) pushLocked(o outgoing) {
	c.queue = append(c.queue, o)
	c.queued += len(o.data)
	if !c.writing {
		c.startLocked()
	}
}

func (c *conn) startLocked() {
	c.writing = true
	c.writer.Go(c.writeQueue)
}

// writeQueue writes what is queued and ends when nothing is left, or with the connection.
func (c *conn) writeQueue() {
	for batch := c.next(0); len(batch) > 0; batch = c.next(sizeOf(batch)) {
		if c.write(batch) != nil {
			c.stop()
			c.abort()
			return
		}
	}
}

// next returns what is to be written after so many bytes were; nothing when the writer shall end.
func (c *conn) next(written int) []outgoing {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queued = max(0, c.queued-written) // What was in hand when the queue was dropped is not counted any more.
	n := 0
	for size := 0; n < len(c.queue) && size < maxWrite; n++ {
		size += len(c.queue[n].data)
	}
	batch := c.queue[:n:n]
	if c.queue = c.queue[n:]; len(c.queue) == 0 {
		c.queue = nil
	}
	if c.pong != nil {
		batch = slices.Insert(batch, 0, outgoing{websocket.PongMessage, c.pong})
		c.pong = nil
	}
	c.writing = len(batch) > 0
	return batch
}

func sizeOf(batch []outgoing) (size int) {
	for _, o := range batch {
		size += len(o.data)
	}
	return size
}

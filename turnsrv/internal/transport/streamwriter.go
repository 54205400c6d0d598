package transport

import (
	"errors"
	"os"
	"time"

	"cline-meet/signal/turnsrv/internal/wire"
)

// busyWrites is how many writes in a row have to follow each other closely for the
// writer to stay. A client that gets less has a new one each time, which costs less than to wait
// in vain.
const busyWrites = 4

// haveWritten has somebody write what is queued: at the next tick if the client was
// written to just now, and not much waits. It is called with mu held.
func (c *streamConn) haveWritten() {
	switch {
	case c.resting && len(c.queue.bytes) > writeChunk:
		c.resting = false
		select {
		case c.urgent <- struct{}{}:
		default: // It has not heard of the one before yet.
		}
	case !c.writing:
		c.writing = true
		c.resting = c.common.Gather && time.Since(c.wrote) < gatherTime
		c.writer.Go(c.write)
	}
}

// write writes what is queued, as much at once as there is, and ends when there
// is nothing more.
func (c *streamConn) write() {
	var tick *time.Timer
	for resting := c.rests(false); ; resting = c.rests(true) {
		if resting {
			tick = c.awaitTick(tick)
		}
		batch := c.take()
		if batch == nil {
			return
		}
		err := c.writeAll(batch.bytes)
		c.discard(batch)
		if err != nil {
			c.end(writeError(err))
		}
	}
}

// rests says whether the writer is to rest before it takes something, which it may have done before.
func (c *streamConn) rests(again bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if again {
		much := c.queue != nil && len(c.queue.bytes) > writeChunk
		c.resting = c.common.Gather && c.near >= busyWrites && !much && c.ended == ""
	}
	return c.resting
}

// awaitTick waits for the tick, or until somebody finds too much waiting. It uses the
// timer again that it returns.
func (c *streamConn) awaitTick(tick *time.Timer) *time.Timer {
	wait := untilTick(writeAfter)
	if tick == nil {
		tick = time.NewTimer(wait)
	} else {
		tick.Reset(wait)
	}
	select {
	case <-tick.C:
	case <-c.urgent:
		tick.Stop()
	}
	return tick
}

// take returns what is queued, or nil when the writer has to end.
func (c *streamConn) take() *sendQueue {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.queue
	c.queue, c.resting = nil, false
	if batch != nil && c.ended != "" {
		c.discard(batch)
		batch = nil
	}
	if batch == nil {
		c.writing = false
		return nil
	}
	now := time.Now()
	if c.near++; now.Sub(c.wrote) >= 2*gatherTime {
		c.near = 0
	}
	c.wrote = now
	return batch
}

// discard gives back a queue whose frames are written, or lost.
func (c *streamConn) discard(q *sendQueue) {
	c.common.Metrics.queued.Add(-int64(len(q.bytes)))
	q.release()
}

func writeError(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return closedSlow
	}
	return closedByClient
}

// writeAll leaves no deadline behind, since TLS also answers key updates while
// it reads.
func (c *streamConn) writeAll(batch []byte) error {
	defer func() { _ = c.raw.SetWriteDeadline(time.Time{}) }()
	if c.batch != nil {
		_ = c.raw.SetWriteDeadline(time.Now().Add(c.common.writeTimeout))
		return c.writeRecords(batch)
	}
	for len(batch) > 0 {
		n := min(len(batch), writeChunk)
		_ = c.raw.SetWriteDeadline(time.Now().Add(c.common.writeTimeout))
		if _, err := c.raw.Write(batch[:n]); err != nil {
			return err
		}
		batch = batch[n:]
	}
	return nil
}

// writeRecords writes each frame of a batch into a record of its own: one that
// holds several loses all but the first with clients that take a record for a
// message, as coturn's do.
func (c *streamConn) writeRecords(batch []byte) error {
	c.batch.hold()
	for written := 0; len(batch) > 0; {
		n := wire.FrameSize(batch)
		if written += n; written > writeChunk {
			written = n
			_ = c.raw.SetWriteDeadline(time.Now().Add(c.common.writeTimeout))
		}
		if _, err := c.stream.Write(batch[:n]); err != nil {
			return errors.Join(err, c.batch.flush())
		}
		batch = batch[n:]
	}
	return c.batch.flush()
}

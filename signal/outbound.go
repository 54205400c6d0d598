package signal

import (
	"errors"
	"fmt"
	"strconv"
)

// What a participant is sent is kept until its client has confirmed it, so that one that comes back gets what it has not got.

// send queues a text frame that counts: a client that resumes gets it again unless it says that it
// got it. The frame is copied. A client for which too much waits already is disconnected: signaling must not lose a
// message silently, and no client may make the server hold memory for it.
func (p *participant) send(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sendLocked(frame)
}

func (p *participant) sendLocked(frame []byte) {
	if p.over {
		return
	}
	queued := p.queueLocked(frame)
	p.keepLocked(frame, queued)
	if queued && p.kept.size > p.srv.cfg.MaxQueue/2 && !p.asked {
		p.askLocked()
	}
}

// sendAside queues a text frame that is for this connection only and does not count.
func (p *participant) sendAside(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queueLocked(frame)
}

// queueLocked reports whether the client will get the frame if its connection holds.
func (p *participant) queueLocked(frame []byte) bool {
	if p.conn == nil {
		return false
	}
	err := p.conn.push(frame)
	if errors.Is(err, errQueueFull) {
		p.srv.metrics.overflows.Inc()
		p.log.Debug("client is too slow")
		p.over = true
		p.conn.cut(closeSlow, "too slow: messages piled up", closeGrace)
	}
	return err == nil
}

// keepLocked counts a frame and keeps it until the client confirms it. When too much is kept, the
// oldest is forgotten if the frame was queued, so that the client has got the oldest or never will;
// what waits for a client that is away must not be, and its participant ends.
func (p *participant) keepLocked(frame []byte, queued bool) {
	p.sent++
	if p.srv.cfg.ResumeGrace == 0 || p.over {
		return
	}
	p.kept.add(frame)
	defer p.noteLocked()
	if p.kept.size > p.srv.cfg.MaxQueue && !queued {
		p.kept.drop(p.kept.count)
		p.over = true
		p.srv.metrics.overflows.Inc()
		p.expireLocked()
		return
	}
	p.kept.dropOver(p.srv.cfg.MaxQueue)
}

// confirmed forgets the frames that came before a ping which the client has answered over c, and a gap
// of which the greeting there has told. The token of that greeting has come as well.
func (p *participant) confirmed(c *conn, pong string) {
	number, err := strconv.ParseUint(pong, 10, 64)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = false
	p.forgetLocked(number)
	if p.conn == c && !c.isClosing() { // A connection is closed by what makes another gap.
		p.gap, p.former, p.proved = false, 0, p.greetings
	}
}

// forgetLocked drops the kept frames up to that number. It reports false when there are none of
// that number or it is forgotten already.
func (p *participant) forgetLocked(number uint64) bool {
	first := p.sent - uint64(p.kept.count) // the number of the last frame that is not kept any more
	if number < first || number > p.sent {
		return false
	}
	p.kept.drop(int(number - first))
	p.noteLocked()
	return true
}

// rewindLocked drops the kept frames that the client says it got, which may be said again. When it
// does not say, all that it has not confirmed is sent again. It fails with errGone when the client
// would miss something.
func (p *participant) rewindLocked(got *uint64) error {
	if p.over {
		return fmt.Errorf("%w: too much waited for it, or is missing", errGone)
	}
	if got != nil && !p.forgetLocked(*got) {
		return fmt.Errorf("%w: frame %d is not the next to be kept", errGone, *got)
	}
	return nil
}

// hasGoneOn reports whether a live client has confirmed more than it says it got. Then who says so is not that client
// but a request of it that was long on its way.
func (p *participant) hasGoneOn(got *uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner == ownerConn && got != nil && *got < p.sent-uint64(p.kept.count)
}

// isPast reports whether the client of a participant is there and has gone on since a connection asked for it: the client has
// confirmed more than was got there, or is there by a connection that it asked for later.
func (p *participant) isPast(c *conn, got *uint64) bool {
	if p.hasGoneOn(got) {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner == ownerConn && p.conn.number > c.number
}

// askLocked queues a ping whose answer confirms all that was queued before.
func (p *participant) askLocked() {
	p.asked = true
	var space [20]byte
	p.conn.ping(strconv.AppendUint(space[:0], p.sent, 10))
}

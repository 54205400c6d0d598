package signal

import (
	"iter"
	"sync"
	"time"
)

// lastWords is how long a close frame may take to be written when nobody waits for its answer.
const lastWords = 100 * time.Millisecond

// sendQueue is what a socket has to write: frames in wire form, one after another. Whoever flushes
// takes all of it in hand and writes that in one call.
type sendQueue struct {
	// mu is the innermost lock but the flusher's.
	mu       sync.Mutex
	queue    *buffer       // what waits for a flush, nil for nothing
	inHand   *buffer       // what is being written, nil for nothing
	written  int           // bytes of inHand that have been written
	pong     *buffer       // the payload of the pong that is owed, nil for none
	flushing bool          // somebody writes
	blocked  bool          // the client must read before more can be written
	roomy    bool          // the client has read while somebody writes, who may not know it
	marked   bool          // somebody is about to flush it
	closing  bool          // the close frame is queued or written; nothing may follow it
	broken   bool          // it takes no more
	patience time.Duration // how long the client may take to answer the close frame once it is written
	failure  error         // why we have ended the reading, nil if we have not
	stuck    *time.Timer   // ends a write that has taken nothing for long, nil while none waits
	waiting  account       // of queue and inHand
	drained  chan struct{} // closed when nothing is left to write, nil unless somebody waits for it
}

// push queues a text frame. It fails with errQueueFull when more than the limit would wait, and with
// errNotOpen when the connection is closing or broken.
func (s *socket) push(text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing || s.broken:
		return errNotOpen
	case s.waitingLocked()+len(text) > s.limits.queue:
		return errQueueFull
	}
	s.appendLocked(opText, text)
	return nil
}

// waitingLocked returns the bytes that are queued and in hand.
func (s *socket) waitingLocked() int {
	n := -s.written
	for _, b := range []*buffer{s.queue, s.inHand} {
		if b != nil {
			n += len(b.b)
		}
	}
	return n
}

// open queues what a connection begins with, whose size is bounded by who keeps it.
func (s *socket) open(greeting []byte, kept iter.Seq[[]byte]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.broken {
		return
	}
	s.appendLocked(opText, greeting)
	for text := range kept {
		s.appendLocked(opText, text)
	}
}

// ping queues a ping, which must be answered before the next.
func (s *socket) ping(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing && !s.broken {
		s.appendLocked(opPing, data)
	}
}

// answerPing owes the client a pong. Of several pings only the last is answered, as RFC 6455, section
// 5.5.3, allows, so that a client cannot make them pile up.
func (s *socket) answerPing(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.broken {
		return
	}
	if s.pong == nil {
		s.pong = newBuffer(maxControl)
	}
	s.pong.b = append(s.pong.b[:0], data...)
	s.markLocked()
}

// answerClose answers a client's close frame, unless that was an answer itself.
func (s *socket) answerClose(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var code []byte // One byte is none, and a frame must not have it.
	if len(payload) >= 2 {
		code = payload[:2]
	}
	if !s.closing && !s.broken {
		s.closeLocked(code, closeGrace)
	}
}

// close queues a close frame behind all that waits. Reading ends when the client answers it, or
// closeGrace after it was written.
func (s *socket) close(code closeCode, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing && !s.broken {
		s.closeLocked(code.frame(text), closeGrace)
	}
}

// cut drops all that waits and closes the connection, which ends within a time, whether the close
// frame could be written and is answered or not.
func (s *socket) cut(code closeCode, text string, within time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.broken {
		return
	}
	s.dropLocked()
	time.AfterFunc(within, s.abort)
	s.closeLocked(code.frame(text), within)
}

func (s *socket) closeLocked(payload []byte, patience time.Duration) {
	s.closing, s.patience = true, patience
	s.appendLocked(opClose, payload)
}

// stop takes no more frames. If any are left to write, it returns what is closed when they are written
// or given up.
func (s *socket) stop() (written <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
	s.pong.free()
	s.pong = nil
	if s.queue == nil && s.inHand == nil {
		return nil
	}
	s.drained = make(chan struct{})
	return s.drained
}

// idle reports whether nothing waits to be written.
func (s *socket) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue == nil && s.inHand == nil
}

func (s *socket) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

func (s *socket) appendLocked(op opcode, payload []byte) {
	s.queue = s.queue.grown(maxHeader + len(payload))
	s.queue.b = appendFrame(s.queue.b, op, payload)
	s.noteLocked()
	s.markLocked()
}

// noteLocked accounts for what waits.
func (s *socket) noteLocked() {
	s.waiting.note(s.holding, s.queue.size()+s.inHand.size())
}

// markLocked tells the flusher, unless somebody will look at the queue anyway.
func (s *socket) markLocked() {
	if !s.marked && !s.flushing && !s.blocked {
		s.marked = true
		s.flusher.add(s)
	}
}

// flush writes what is queued until nothing is left, until it would have to wait for the client, or until so many bytes
// are written. Then it reports that there is more: whoever called must call again.
func (s *socket) flush(most int) (more bool) {
	for batch := s.next(); batch != nil; {
		if most <= 0 {
			s.pause()
			return true
		}
		n, err := s.link.Write(batch[:min(len(batch), most)])
		most -= n
		batch = s.wrote(n, err)
	}
	return false
}

// pause ends a flush for now.
func (s *socket) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushing, s.marked = false, true
}

// backlog returns how much waits to be written.
func (s *socket) backlog() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitingLocked()
}

// next begins a flush: it returns what to write, nil for nothing.
func (s *socket) next() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marked = false
	if s.flushing || s.blocked {
		return nil
	}
	return s.takeLocked()
}

// wrote notes what a write has come to and returns what to write next.
func (s *socket) wrote(n int, err error) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written += n
	switch {
	case err == errWait && s.roomy:
		s.roomy = false
	case err == errWait:
		s.flushing, s.blocked = false, true
		s.watchLocked(n > 0)
		return nil
	case err != nil:
		s.flushing = false
		s.breakLocked()
		s.link.cut()
		return nil
	}
	return s.takeLocked()
}

// takeLocked returns what is in hand or takes all that waits, and owes a pong no more.
func (s *socket) takeLocked() []byte {
	if s.inHand != nil && s.written < len(s.inHand.b) {
		s.flushing = true
		return s.inHand.b[s.written:]
	}
	s.inHand.free()
	if s.stuck != nil {
		s.stuck.Stop()
		s.stuck = nil
	}
	if s.pong != nil && !s.closing {
		s.appendPongLocked()
	}
	s.inHand, s.queue, s.written = s.queue, nil, 0
	s.noteLocked()
	if s.flushing = s.inHand != nil; s.flushing {
		return s.inHand.b
	}
	s.emptyLocked()
	return nil
}

func (s *socket) appendPongLocked() {
	s.queue = s.queue.grown(maxHeader + len(s.pong.b))
	s.queue.b = appendFrame(s.queue.b, opPong, s.pong.b)
	s.pong.free()
	s.pong = nil
}

// emptyLocked notes that all is written. Behind a close frame the client has its time to answer.
func (s *socket) emptyLocked() {
	s.inHand.free()
	s.inHand = nil
	s.noteLocked()
	if s.closing && s.patience > 0 {
		time.AfterFunc(s.patience, s.abort)
		s.patience = 0
	}
	s.wakeLocked()
}

func (s *socket) wakeLocked() {
	if s.drained != nil {
		close(s.drained)
		s.drained = nil
	}
}

// unblock notes that the client has read, and reports whether a flush had to wait for that and must go on. Who is writing
// right now may have found no room a moment before that is told, which happens once, and must try again.
func (s *socket) unblock() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.blocked
	s.blocked, s.roomy, s.marked = false, s.flushing, s.marked || was
	return was
}

// watchLocked ends a write that takes nothing for the limit.
func (s *socket) watchLocked(moved bool) {
	switch {
	case s.stuck == nil:
		s.stuck = time.AfterFunc(s.limits.write, s.abort)
	case moved:
		s.stuck.Reset(s.limits.write)
	}
}

// breakLocked takes no more and gives up what waits. What is being written right now belongs to who
// writes it.
func (s *socket) breakLocked() {
	s.broken = true
	s.dropLocked()
	if s.stuck != nil {
		s.stuck.Stop()
		s.stuck = nil
	}
	if !s.flushing {
		s.inHand.free()
		s.inHand, s.written, s.blocked = nil, 0, false
		s.noteLocked()
		s.wakeLocked()
	}
}

// dropLocked drops what waits, and what is not begun cannot be told from what is in hand: that stays.
func (s *socket) dropLocked() {
	s.queue.free()
	s.pong.free()
	s.queue, s.pong = nil, nil
	s.noteLocked()
}

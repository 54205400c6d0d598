package signal

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

var (
	errNotOpen   = errors.New("the connection takes no more")
	errQueueFull = errors.New("too much is queued")
	// errSilent ends the reading of a client of which nothing was heard for long.
	errSilent = errors.New("nothing heard within the read timeout")
	// errWait is what a link returns that would have to wait.
	errWait = errors.New("would block")
)

// A closeError is the end of a socket by the client's close frame.
type closeError struct{ code int }

// isGoodbye reports whether the client has left for good.
func (e closeError) isGoodbye() bool {
	return e.code == websocket.CloseNormalClosure || e.code == websocket.CloseGoingAway || e.code == websocket.CloseNoStatusReceived
}

func (e closeError) Error() string { return fmt.Sprintf("closed by the client with %d", e.code) }

// link is the connection below a socket. One goroutine at a time reads and one writes; the other
// methods may be called by any.
type link interface {
	// Read and Write do as net.Conn says, or what can be done without waiting: then the error is errWait.
	io.ReadWriter
	// serve calls the socket's read whenever something has come, until that fails.
	serve(s *socket)
	// yield says, in the goroutine that reads, that it is about to wait for something else.
	yield()
	// flush calls the socket's flush. When Write waits, that is in a goroutine of its own and without a bound.
	flush(s *socket, most int) (more bool)
	// hungUp reports whether the client has ended the connection, which who reads may not know yet.
	hungUp() bool
	// endReading makes Read fail from now on.
	endReading()
	// cut ends the connection, so that Read and Write fail.
	cut()
	// close gives the connection back. Nobody may read or write any more.
	close()
}

// receiver is who a socket reads for. Its methods are called by one goroutine at a time, in the
// order of the frames; what they are given is only valid until they return.
type receiver interface {
	// message takes a whole message, opText or opBinary.
	message(op opcode, data []byte)
	// tooLarge takes the beginning of a message that is longer than the limit; the rest is dropped.
	tooLarge(begin []byte)
	// tooMuch says that more of that kind came than is borne. No other message follows.
	tooMuch()
	// pinged says that a ping came, which the socket answers.
	pinged()
	// pong takes the answer to a ping.
	pong(data []byte)
	// ended says last why reading has ended: a closeError, errSilent, errProtocol, errNotUTF8 or an error
	// of the connection. The socket must be finished then. It must not wait.
	ended(err error)
}

// socketLimits are what all sockets of a server have in common.
type socketLimits struct {
	message int           // bytes of a client's message
	queue   int           // bytes that may wait to be written
	read    time.Duration // how long a client may send nothing
	write   time.Duration // how long a write may take nothing
}

// socket is a WebSocket after the handshake, RFC 6455. It makes messages of what comes, answers pings
// and close frames, and queues what is sent, in wire form, until it is flushed: see flusher.
//
// While nothing comes and nothing waits it holds no buffer and, where the link is a descriptor, no
// goroutine. Any goroutine may push, ping, close, cut and abort; none of these blocks.
type socket struct {
	// Fixed after construction.
	limits  *socketLimits
	link    link
	to      receiver
	flusher *flusher

	heard atomic.Int64 // when the last bytes came, by uptime

	// holding is that of the participant, fixed once it is known.
	holding *holding

	// Owned by who reads.
	in      assembly
	account account // of in
	hasty   bool    // the client sends faster than it may, so it is read a little at a time

	sendQueue
}

func (s *socket) init(l link, to receiver, limits *socketLimits, f *flusher) {
	s.link, s.to, s.limits, s.flusher = l, to, limits, f
	s.heard.Store(int64(uptime()))
}

var started = time.Now()

// uptime is a clock for durations, which takes less room than a time.Time.
func uptime() time.Duration { return time.Since(started) }

// serve begins to read.
func (s *socket) serve() { s.link.serve(s) }

// read reads once, into space unless a part of a frame is there already, and handles what has come. It
// reports whether all was read that had come. After an error, which the receiver is told, it must not
// be called again.
func (s *socket) read(space []byte) (all bool, err error) {
	space = s.in.space(space)
	n, err := s.link.Read(space)
	if n > 0 {
		s.heard.Store(int64(uptime()))
		if failed := s.in.take(space[:n], s); failed != nil {
			err = failed
		}
	}
	if err == nil || err == errWait {
		s.account.note(s.holding, s.in.held())
		return n < len(space), nil
	}
	s.in.release()
	s.account.note(s.holding, 0)
	s.to.ended(s.reasonOf(err))
	return true, err
}

// reasonOf returns why reading has ended.
func (s *socket) reasonOf(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return s.failure
	}
	if s.closing || s.broken {
		return err
	}
	switch {
	case errors.Is(err, errProtocol):
		s.closeLocked(closeProtocol.frame(err.Error()), lastWords)
	case err == errNotUTF8:
		s.closeLocked(closeNotUTF8.frame(err.Error()), lastWords)
	}
	return err
}

// control handles a control frame.
func (s *socket) control(op opcode, payload []byte) error {
	switch op {
	case opPing:
		s.to.pinged()
		s.answerPing(payload)
	case opPong:
		s.to.pong(payload)
	case opClose:
		code, err := parseClose(payload)
		if err != nil {
			return err
		}
		s.answerClose(payload)
		return closeError{code}
	}
	return nil
}

// silence ends the reading if nothing was heard for the limit. It returns how long it still may take
// until then.
func (s *socket) silence() (left time.Duration) {
	left = s.limits.read - (uptime() - time.Duration(s.heard.Load()))
	if left > 0 {
		return left
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing && !s.broken && s.failure == nil {
		s.failure = errSilent
		s.link.endReading()
	}
	return 0
}

// abort cuts the connection without a word; reading ends.
func (s *socket) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breakLocked()
	s.link.cut()
}

// finish gives the connection back after reading has ended. What waits may take a moment to be written.
func (s *socket) finish() {
	if written := s.stop(); written != nil {
		s.link.flush(s, math.MaxInt)
		late := time.AfterFunc(lastWords, s.abort)
		<-written
		late.Stop()
	}
	s.link.close()
}

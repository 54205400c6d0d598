package signal

import (
	"crypto/tls"
	"math"
	"net"
	"time"
)

// stream is a link over a connection that can only wait, such as TLS. A goroutine reads it and, while
// there is something to write, another writes.
type stream struct {
	// Fixed after construction.
	conn    net.Conn
	below   net.Conn      // the one that conn is over, or conn: its Close does not wait
	timeout time.Duration // how long a record may take to be written
	flusher *flusher

	writer tasks

	// Owned by the goroutine that reads.
	batching bool // between begin and end of the flusher
}

// maxRecord is the length of the longest record of TLS.
const maxRecord = 16 << 10

func newStream(conn net.Conn, timeout time.Duration, f *flusher) *stream {
	below := conn
	if t, ok := conn.(*tls.Conn); ok {
		below = t.NetConn()
	}
	return &stream{conn: conn, below: below, timeout: timeout, flusher: f}
}

// Read begins a batch of the flusher, which serve ends when all is handled that has come.
func (l *stream) Read(p []byte) (int, error) {
	n, err := l.conn.Read(p)
	l.flusher.begin()
	l.batching = true
	return n, err
}

// Write writes a piece after the other, each within the timeout: a slow client may take long for all.
func (l *stream) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		_ = l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
		var piece int
		piece, err = l.conn.Write(p[n:min(len(p), n+maxRecord)])
		n += piece
	}
	return n, err
}

// serve waits with room for one byte, so that a client that says nothing holds no buffer: the socket
// reads on behind the byte.
func (l *stream) serve(s *socket) {
	first := make([]byte, 1)
	for {
		_, err := s.read(first)
		l.yield()
		if err != nil {
			return
		}
	}
}

// yield ends the batch: nothing that anybody has sent may wait for what is to come.
func (l *stream) yield() {
	if l.batching {
		l.batching = false
		l.flusher.end()
	}
}

func (l *stream) flush(s *socket, _ int) (more bool) {
	l.writer.run(func() { s.flush(math.MaxInt) })
	return false
}

func (l *stream) hungUp() bool { return hungUp(l.below) }

func (l *stream) endReading() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }
func (l *stream) cut()        { _ = l.below.Close() }

func (l *stream) close() {
	_ = l.conn.Close()
	l.writer.end()
}

package signal

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// stream is a link over a connection that can only wait, such as TLS. A goroutine reads it and, while
// there is something to write, another writes.
type stream struct {
	// Fixed after construction.
	conn    net.Conn
	below   net.Conn      // the one that conn is over, or conn: its Close does not wait
	timeout time.Duration // how long a write may take
	flusher *flusher

	writer sync.WaitGroup
}

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
	return n, err
}

func (l *stream) Write(p []byte) (int, error) {
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
	return l.conn.Write(p)
}

// serve waits with room for one byte, so that a client that says nothing holds no buffer: the socket
// reads on behind the byte.
func (l *stream) serve(s *socket) {
	first := make([]byte, 1)
	for {
		_, err := s.read(first)
		l.flusher.end()
		if err != nil {
			return
		}
	}
}

func (l *stream) flush(s *socket) { l.writer.Go(s.flush) }

func (l *stream) yield()      {}
func (l *stream) endReading() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }
func (l *stream) cut()        { _ = l.below.Close() }

func (l *stream) close() {
	_ = l.conn.Close()
	l.writer.Wait()
}

package turnsrv

import (
	"errors"
	"log/slog"
	"net"
	"sync"
)

// streams is a listener for TCP clients, as the engine accepts from it. It
// closes the connections that it handed out, since the engine does not.
type streams struct {
	// Fixed after construction.
	net.Listener
	requests *inflight
	log      *slog.Logger
	closing  chan struct{} // closing is closed by Close.
	left     chan struct{} // left is closed when the engine has stopped accepting.

	serving sync.WaitGroup // serving counts the connections that the engine has not closed.

	// Guarded by mu.
	mu     sync.Mutex
	conns  map[*streamConn]struct{}
	closed bool
}

func newStreams(listener net.Listener, requests *inflight, log *slog.Logger) *streams {
	return &streams{
		Listener: listener,
		requests: requests,
		log:      log,
		closing:  make(chan struct{}),
		left:     make(chan struct{}),
		conns:    map[*streamConn]struct{}{},
	}
}

// Accept returns the next connection. Only Close makes it fail, because the
// engine gives a listener up after the first error.
func (s *streams) Accept() (net.Conn, error) {
	var delay backoff
	for {
		conn, err := s.Listener.Accept()
		if err == nil {
			if tracked := s.track(conn); tracked != nil {
				return tracked, nil
			}
			_ = conn.Close()
			err = net.ErrClosed
		}
		if errors.Is(err, net.ErrClosed) || !delay.wait(s.closing) {
			close(s.left)
			return nil, net.ErrClosed
		}
		s.log.Debug("turn connection not accepted", "error", err)
	}
}

// track returns nil when the listener is closed already.
func (s *streams) track(conn net.Conn) *streamConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	c := &streamConn{
		Conn:    conn,
		streams: s,
		remote:  conn.RemoteAddr(),
		frames:  newFrameReader(conn),
	}
	s.conns[c] = struct{}{}
	s.serving.Add(1)
	return c
}

func (s *streams) forget(c *streamConn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.serving.Done()
}

// Close implements net.Listener. It also closes all connections, and may be
// called more than once.
func (s *streams) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	open := make([]*streamConn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	if first {
		close(s.closing)
		_ = s.Listener.Close()
	}
	for _, c := range open {
		_ = c.Conn.Close()
	}
	return nil
}

// streamConn is one TCP client. The engine has a read loop of its own for it.
type streamConn struct {
	// Fixed after construction.
	net.Conn
	streams *streams
	remote  net.Addr // remote is one pointer for all requests, which identifies them.
	once    sync.Once

	// Owned by the engine's read loop.
	frames *frameReader
}

// Read returns exactly one frame. The engine would take frames out of a plain
// stream by itself, but it computes their sizes in 16 bits and spins forever on
// some; it never sees those, and it finishes one request before it asks for the
// next.
func (c *streamConn) Read(p []byte) (int, error) {
	frame, err := c.frames.next(len(p))
	if err != nil {
		return 0, err
	}
	c.streams.requests.put(c.remote, frame)
	return copy(p, frame), nil
}

// RemoteAddr implements net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return c.remote }

// Close is the engine's last act on a connection.
func (c *streamConn) Close() error {
	c.once.Do(func() {
		_ = c.Conn.Close()
		c.streams.requests.remove(c.remote)
		c.streams.forget(c)
	})
	return nil
}

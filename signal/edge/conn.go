package edge

import (
	"bufio"
	"crypto/tls"
	"net"
	"sync"
)

// aheadSize is how much may be read of a connection before its part reads: a PROXY header is read from it in pieces.
const aheadSize = 256

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, aheadSize) }}

// Conn is a connection of which something has been read already, which Read returns first.
type Conn struct {
	net.Conn               // *net.TCPConn, or the *tls.Conn on one
	client   net.Addr      // client is who a proxy says is there, nil without one.
	secure   bool          // secure says that the proxy has taken TLS off.
	ahead    *bufio.Reader // ahead holds what was read, nil when all that was returned.
}

func newConn(under net.Conn) *Conn {
	c := &Conn{Conn: under, ahead: readers.Get().(*bufio.Reader)}
	c.ahead.Reset(under)
	return c
}

// peek returns the first byte of what is to come.
func (c *Conn) peek() (byte, error) {
	first, err := c.ahead.Peek(1)
	if err != nil {
		return 0, err
	}
	return first[0], nil
}

// settled returns the connection for its part, with no more around it than needed.
func (c *Conn) settled() net.Conn {
	if _, ours := c.Conn.(*tls.Conn); ours || c.secure {
		return secureConn{c}
	}
	return c
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.ahead == nil {
		return c.Conn.Read(p)
	}
	if c.ahead.Buffered() == 0 {
		c.release()
		return c.Conn.Read(p)
	}
	n, err := c.ahead.Read(p)
	if c.ahead.Buffered() == 0 {
		c.release()
	}
	return n, err
}

func (c *Conn) release() {
	c.ahead.Reset(nil)
	readers.Put(c.ahead)
	c.ahead = nil
}

// RemoteAddr returns the address of the client.
func (c *Conn) RemoteAddr() net.Addr {
	if c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// NetConn returns the connection under c.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Bare returns the connection without c, if it is TCP and nothing is left that c has read of it. The connection is then
// for who asked.
func (c *Conn) Bare() (tcp *net.TCPConn, ok bool) {
	tcp, ok = c.Conn.(*net.TCPConn)
	return tcp, ok && c.ahead == nil
}

// secureConn is a Conn that came over TLS. http.Server asks it.
type secureConn struct{ *Conn }

// ConnectionState returns what is known of the TLS.
func (c secureConn) ConnectionState() tls.ConnectionState {
	if t, ours := c.Conn.Conn.(*tls.Conn); ours {
		return t.ConnectionState()
	}
	return tls.ConnectionState{HandshakeComplete: true}
}

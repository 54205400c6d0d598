package transport

import (
	fifo "container/list"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"

	"cline-meet/signal/turnsrv/internal/batch"
)

// ecnMask covers the ECN in a mark.
const ecnMask = 3

// datagram is what waits for a session.
type datagram struct {
	packet []byte
	mark   batch.Mark
}

// dtlsConn is one DTLS client and the path to it. To the DTLS implementation it
// is the socket that this client alone sends to.
type dtlsConn struct {
	// Fixed after construction.
	server  *dtlsServer
	from    FiveTuple
	out     *UDPPath
	session *dtls.Conn
	context context.Context // context ends with the connection; handshakes ask it.
	cancel  context.CancelFunc
	silent  atomic.Bool // silent says that nothing more is for the client to hear.
	// The implementation does not say which datagram a message came in. Heard is the DSCP of the last one that it took, mostly the
	// message's own; the ECN is that of one packet and no other, and is not passed on. Spoken is the mark of what was written last.
	heard, spoken atomic.Uint32
	over          chan struct{} // over is closed when the receiver knows that the client has gone.

	// Owned by the goroutine of serve.
	received bool // received says that the receiver knows the client.
	patience patience

	// Guarded by the server's mu.
	place   *fifo.Element         // place is where the server has it among the unverified.
	before  *dtlsConn             // before is the session from the same port that this one replaces, nil once that is over.
	hello   [helloRandomSize]byte // hello tells the ClientHello that it began with, and repetitions of it, from others.
	settled bool                  // settled says that it counts as a handshake no more.

	// Guarded by mu.
	mu          sync.Mutex
	arrived     sync.Cond
	queue       []datagram
	budget      int  // budget is how many bytes of handshake may still come.
	established bool // established says that the handshake is over.
	expired     bool // expired says that reading is to fail.
	shut        bool // shut says that nothing more comes.
	ended       string
}

func newDTLSConn(s *dtlsServer, from FiveTuple) (*dtlsConn, error) {
	c := &dtlsConn{server: s, from: from, out: s.socket.pathTo(from.Client, from.Server), budget: handshakeBudget, over: make(chan struct{})}
	c.arrived.L = &c.mu
	session, err := dtls.ServerWithOptions(c, net.UDPAddrFromAddrPort(from.Client), s.options...)
	if err != nil {
		return nil, err
	}
	c.session = session
	c.context, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// push queues a datagram for the session. It returns why it dropped it, if it did.
func (c *dtlsConn) push(packet []byte, mark batch.Mark) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(packet) > maxRecord:
		return dropTooLarge
	case c.shut:
		return dropNoSession
	case len(c.queue) == queueSize:
		return dropQueueFull
	}
	handshake := !c.established
	if c.established {
		var stray bool
		if handshake, stray = inspect(packet); stray {
			return dropNoSession
		}
	}
	if handshake {
		if c.budget -= len(packet); c.budget < 0 {
			return dropBudget
		}
	}
	c.queue = append(c.queue, datagram{append([]byte(nil), packet...), mark})
	c.arrived.Signal()
	return ""
}

// establish notes the end of the handshake, unless the connection is closed.
func (c *dtlsConn) establish() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.established = true
	return c.ended == ""
}

// read hands messages to the receiver and returns why there are no more.
func (c *dtlsConn) read() string {
	config := c.server.common
	c.patience = patience{conn: c.session, idle: config.IdleTimeout}
	c.patience.wait(config.firstMessageTimeout)
	buffer := make([]byte, maxRecord)
	for {
		n, err := c.session.Read(buffer)
		if err != nil {
			if reason := c.readError(err); reason != "" {
				return reason
			}
			continue
		}
		if n == 0 {
			continue
		}
		c.received = true
		c.patience.renew()
		config.receiver.Receive(c.from, c, buffer[:n], batch.Mark(c.heard.Load()))
	}
}

// readError returns the empty string for an error that concerns one record
// alone, since anybody can send one in the client's name.
func (c *dtlsConn) readError(err error) string {
	var timeout *dtls.TimeoutError
	switch {
	case errors.As(err, &timeout) && !c.received:
		return closedSilent
	case errors.As(err, &timeout):
		return closedIdle
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, dtls.ErrConnClosed):
		return closedByClient
	}
	return ""
}

// Send implements Path. A packet too large for a record is lost.
func (c *dtlsConn) Send(packet []byte, mark batch.Mark) error {
	if c.reason() != "" {
		return errGone
	}
	if len(packet) > maxPayload {
		c.server.common.Metrics.drop(DTLS, dropTooLarge, 1)
		return nil
	}
	c.spoken.Store(uint32(mark))
	_, err := c.session.Write(packet)
	return err
}

// close ends the session.
func (c *dtlsConn) close() { c.end(closedByServer) }

// end closes the session; the first reason counts.
func (c *dtlsConn) end(reason string) {
	c.mu.Lock()
	first := c.ended == ""
	if first {
		c.ended = reason
	}
	established := c.established
	c.mu.Unlock()
	if !first {
		return
	}
	c.cancel()
	if established {
		_ = c.session.Close()
	}
	_ = c.Close()
}

func (c *dtlsConn) reason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// ReadFrom implements net.PacketConn for the session.
func (c *dtlsConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) == 0 && !c.shut && !c.expired {
		c.arrived.Wait()
	}
	switch {
	case c.shut:
		return 0, nil, net.ErrClosed
	case c.expired:
		return 0, nil, os.ErrDeadlineExceeded
	}
	n := copy(p, c.queue[0].packet)
	c.heard.Store(uint32(c.queue[0].mark &^ ecnMask))
	c.queue[0] = datagram{}
	c.queue = c.queue[1:]
	return n, net.UDPAddrFromAddrPort(c.from.Client), nil
}

// WriteTo implements net.PacketConn for the session. Its ServerHello is the
// sign that the client has shown the cookie. What the system refuses to send is
// lost, as on any network, and ends no session.
func (c *dtlsConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	if len(p) > handshakeTypeAt && p[0] == recordHandshake && p[handshakeTypeAt] == helloServer {
		c.server.verified(c)
	}
	if !c.silent.Load() {
		_ = c.out.Send(p, batch.Mark(c.spoken.Load()))
	}
	return len(p), nil
}

// Close implements net.PacketConn for the session.
func (c *dtlsConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut, c.queue = true, nil
	c.arrived.Broadcast()
	return nil
}

// LocalAddr implements net.PacketConn for the session.
func (c *dtlsConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.from.Server) }

// SetReadDeadline implements net.PacketConn for the session, which only ever
// sets a deadline that has passed, to be woken up, or none.
func (c *dtlsConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = !t.IsZero() && !t.After(time.Now())
	c.arrived.Broadcast()
	return nil
}

// SetWriteDeadline implements net.PacketConn for the session. Writing does not wait.
func (c *dtlsConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline implements net.PacketConn for the session.
func (c *dtlsConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

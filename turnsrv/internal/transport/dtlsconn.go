package transport

import (
	"bytes"
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

// idleTicks is how often in its idle time a session is asked whether something has come.
const idleTicks = 8

// datagram is what waits for a session.
type datagram struct {
	packet []byte
	mark   batch.Mark
}

// Deliver is given each message of a DTLS client, and the mark of the datagram that it came in.
type Deliver func(from *DTLSConn, message []byte, mark batch.Mark)

// DTLSConn is one DTLS client and the path to it. To the DTLS implementation, which
// makes the handshake, it is the socket that this client alone sends to. What comes
// after that is opened by whoever reads the real socket.
type DTLSConn struct {
	// Fixed after construction.
	server  *dtlsServer
	from    FiveTuple
	out     *UDPPath
	session *dtls.Conn
	context context.Context // context ends with the connection; handshakes ask it.
	cancel  context.CancelFunc
	silent  atomic.Bool   // silent says that nothing more is for the client to hear.
	over    chan struct{} // over is closed when the receiver knows that the client has gone.

	active atomic.Bool            // active says that a message came since that was asked last.
	gone   atomic.Bool            // gone says that the connection has ended.
	sealer atomic.Pointer[sealer] // sealer is nil until the session is established.

	// Owned by the goroutine of serve.
	received bool // received says that the receiver knows the client.

	// Guarded by the server's mu.
	place   *fifo.Element         // place is where the server has it among the unverified.
	before  *DTLSConn             // before is the session from the same port that this one replaces, nil once that is over.
	hello   [helloRandomSize]byte // hello tells the ClientHello that it began with, and repetitions of it, from others.
	settled bool                  // settled says that it counts as a handshake no more.

	readers sync.WaitGroup // readers are who hands messages on now, added to under mu.

	// Guarded by mu.
	mu      sync.Mutex
	arrived sync.Cond
	queue   []datagram // queue waits for the implementation,
	early   []datagram // and early for the end of the handshake.
	opener  *opener    // opener is nil until the session is established and nothing waits in early.
	budget  int        // budget is how many bytes of handshake may still come.
	expired bool       // expired says that reading is to fail.
	shut    bool       // shut says that nothing more comes.
	ended   string
}

func newDTLSConn(s *dtlsServer, from FiveTuple) (*DTLSConn, error) {
	c := &DTLSConn{server: s, from: from, out: s.socket.pathTo(from.Client, from.Server), budget: handshakeBudget, over: make(chan struct{})}
	c.arrived.L = &c.mu
	session, err := dtls.ServerWithOptions(c, net.UDPAddrFromAddrPort(from.Client), s.options...)
	if err != nil {
		return nil, err
	}
	c.session = session
	c.context, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// From returns the 5-tuple of the client.
func (c *DTLSConn) From() FiveTuple { return c.from }

// Carrier returns the path that records take to the client.
func (c *DTLSConn) Carrier() *UDPPath { return c.out }

// take handles a datagram. It returns why it dropped it, if it did.
func (c *DTLSConn) take(packet []byte, mark batch.Mark, deliver Deliver) string {
	c.mu.Lock()
	switch {
	case c.shut || c.ended != "": // Who waits for the readers waits for no more of them.
		c.mu.Unlock()
		return dropNoSession
	case c.opener == nil && isSealed(packet):
		defer c.mu.Unlock()
		return hold(&c.early, packet, mark)
	case c.opener == nil:
		defer c.mu.Unlock()
		return c.pushLocked(packet, mark)
	}
	opener := c.opener
	c.readers.Add(1)
	c.mu.Unlock()
	defer c.readers.Done()
	return c.takeRecords(opener, packet, mark, deliver)
}

// takeRecords handles a datagram for an established session.
func (c *DTLSConn) takeRecords(opener *opener, packet []byte, mark batch.Mark, deliver Deliver) string {
	for len(packet) > 0 {
		record, rest, ok := nextRecord(packet)
		if !ok {
			return dropNoSession
		}
		packet = rest
		reason := ""
		switch {
		case isSealed(record):
			reason = c.takeSealed(opener, record, mark, deliver)
		case isStray(record):
			reason = dropNoSession
		default:
			c.mu.Lock()
			reason = c.pushLocked(record, mark)
			c.mu.Unlock()
		}
		if reason != "" {
			return reason
		}
	}
	return ""
}

// takeSealed handles data, or an alert.
func (c *DTLSConn) takeSealed(opener *opener, record []byte, mark batch.Mark, deliver Deliver) (dropped string) {
	kind := record[0]
	message, ok := opener.open(record)
	switch {
	case !ok:
		return dropNoSession
	case kind == recordAlert && isFarewell(message):
		c.server.running.Go(func() { c.end(closedByClient) }) // It may wait for the implementation.
	case kind == recordData && len(message) > 0:
		if !c.active.Load() {
			c.active.Store(true)
		}
		deliver(c, message, mark)
	}
	return ""
}

// pushLocked queues a datagram for the implementation. It returns why it dropped it, if it did.
func (c *DTLSConn) pushLocked(packet []byte, mark batch.Mark) string {
	if len(packet) > maxRecord {
		return dropTooLarge
	}
	if c.budget -= len(packet); c.budget < 0 {
		return dropBudget
	}
	reason := hold(&c.queue, packet, mark)
	c.arrived.Signal()
	return reason
}

// hold puts a copy of a datagram into a queue. It returns why it did not.
func hold(queue *[]datagram, packet []byte, mark batch.Mark) string {
	if len(*queue) == queueSize {
		return dropQueueFull
	}
	*queue = append(*queue, datagram{bytes.Clone(packet), mark})
	return ""
}

// establish notes the end of the handshake. It returns what opens the client's records, nil when there is no session.
func (c *DTLSConn) establish() *opener {
	sealer, opener, err := keysOf(c.session)
	if err != nil {
		c.server.common.Log.Warn("turn session has no keys", "transport", "dtls", "client", c.from.Client, "error", err)
		return nil
	}
	c.sealer.Store(sealer)
	if c.reason() != "" {
		return nil
	}
	return opener
}

// begin handles what came before the handshake was over on this side, in order, and
// leaves what comes from then on to who reads it.
func (c *DTLSConn) begin(opener *opener) {
	for {
		c.mu.Lock()
		early := c.early
		c.early = nil
		if len(early) == 0 {
			c.opener = opener
		}
		c.mu.Unlock()
		if len(early) == 0 {
			return
		}
		for _, d := range early {
			if reason := c.takeRecords(opener, d.packet, d.mark, c.server.receive); reason != "" {
				c.server.common.Metrics.drop(DTLS, reason, 1)
			}
		}
	}
}

// await returns why the session is over. Who reads does not look at the time.
func (c *DTLSConn) await() string {
	limit, reason := c.server.common.firstMessageTimeout, closedSilent
	tick := min(limit, c.server.common.IdleTimeout) / idleTicks
	for latest := time.Now(); ; {
		_ = c.session.SetReadDeadline(time.Now().Add(tick))
		if !c.expires() {
			return closedByClient
		}
		now := time.Now()
		if c.active.Swap(false) {
			c.received, latest = true, now
			limit, reason = c.server.common.IdleTimeout, closedIdle
			tick = limit / idleTicks
		}
		if now.Sub(latest) >= limit {
			return reason
		}
	}
}

// expires waits until the implementation's deadline has passed. It returns false when the session is over before.
func (c *DTLSConn) expires() bool {
	var nothing [1]byte
	for {
		_, err := c.session.Read(nothing[:])
		var timeout *dtls.TimeoutError
		switch {
		case errors.As(err, &timeout):
			return true
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, dtls.ErrConnClosed):
			return false
		}
		// Any other error concerns one record alone, and anybody can send one in the client's name.
	}
}

// Send implements Path.
func (c *DTLSConn) Send(packet []byte, mark batch.Mark) error {
	buffer := records.Get().(*[]byte)
	defer records.Put(buffer)
	record, err := c.Seal((*buffer)[:0], packet, nil, 0)
	if err != nil {
		return err
	}
	return c.out.Send(record, mark)
}

// records are where those are made that leave by themselves.
var records = sync.Pool{New: func() any { b := make([]byte, 0, maxPayload+SealOverhead); return &b }}

// Seal appends the record to dst that brings a message to the client: head, body and up to 3 zeros behind it. It allocates
// nothing where dst has room for SealOverhead more. A message too large for a record is lost.
func (c *DTLSConn) Seal(dst, head, body []byte, zeros int) ([]byte, error) {
	sealer := c.sealer.Load()
	switch {
	case sealer == nil || c.gone.Load():
		return dst, errGone
	case len(head)+len(body)+zeros > maxPayload:
		c.server.common.Metrics.drop(DTLS, dropTooLarge, 1)
		return dst, errTooLarge
	}
	return sealer.seal(dst, recordData, head, body, zeros)
}

// close ends the session.
func (c *DTLSConn) close() { c.end(closedByServer) }

// end closes the session; the first reason counts.
func (c *DTLSConn) end(reason string) {
	c.mu.Lock()
	first := c.ended == ""
	if first {
		c.ended = reason
	}
	c.mu.Unlock()
	if !first {
		return
	}
	c.gone.Store(true)
	c.cancel()
	if sealer := c.sealer.Load(); sealer != nil {
		c.sayFarewell(sealer)
		_ = c.session.Close()
	}
	_ = c.Close()
}

// sayFarewell tells the client that the session is over, unless it is to hear nothing. The implementation, whose records the client
// may take for repetitions by now, is not to do so.
func (c *DTLSConn) sayFarewell(sealer *sealer) {
	var space [2 + SealOverhead]byte
	record, err := sealer.seal(space[:0], recordAlert, []byte{alertWarning, alertFarewell}, nil, 0)
	if err == nil && !c.silent.Swap(true) {
		_ = c.out.Send(record, 0)
	}
}

func (c *DTLSConn) reason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// ReadFrom implements net.PacketConn for the implementation.
func (c *DTLSConn) ReadFrom(p []byte) (int, net.Addr, error) {
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
	c.queue[0] = datagram{}
	c.queue = c.queue[1:]
	return n, net.UDPAddrFromAddrPort(c.from.Client), nil
}

// WriteTo implements net.PacketConn for the implementation. Its ServerHello is the
// sign that the client has shown the cookie. What the system refuses to send is
// lost, as on any network, and ends no session.
func (c *DTLSConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	if len(p) > handshakeTypeAt && p[0] == recordHandshake && p[handshakeTypeAt] == helloServer {
		c.server.verified(c)
	}
	if !c.silent.Load() {
		_ = c.out.Send(p, 0)
	}
	return len(p), nil
}

// Close implements net.PacketConn for the implementation.
func (c *DTLSConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut, c.queue, c.early = true, nil, nil
	c.arrived.Broadcast()
	return nil
}

// LocalAddr implements net.PacketConn for the implementation.
func (c *DTLSConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.from.Server) }

// SetReadDeadline implements net.PacketConn for the implementation, which only ever
// sets a deadline that has passed, to be woken up, or none.
func (c *DTLSConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = !t.IsZero() && !t.After(time.Now())
	c.arrived.Broadcast()
	return nil
}

// SetWriteDeadline implements net.PacketConn for the implementation. Writing does not wait.
func (c *DTLSConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline implements net.PacketConn for the implementation.
func (c *DTLSConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

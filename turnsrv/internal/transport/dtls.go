package transport

import (
	fifo "container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
	"golang.org/x/time/rate"
)

const (
	// maxRecord is the largest datagram that the DTLS implementation reads.
	maxRecord = 8 << 10

	// maxPayload is the most that one record may hold (RFC 6347, section 4.1).
	maxPayload = 16 << 10

	// queueSize is how many datagrams wait for a session that is busy.
	queueSize = 64

	// handshakeBudget is how many bytes of handshake a session takes in its
	// life. The implementation would keep megabytes of fragments for each.
	handshakeBudget = 64 << 10
)

// dtlsServer serves the DTLS clients of one socket. It keeps them apart by
// address, and lets nothing but a ClientHello begin a session.
type dtlsServer struct {
	// Fixed after construction.
	common     *common
	socket     *udpSocket
	shares     bool // shares says that servers of plain UDP read the socket, and own it.
	options    []dtls.ServerOption
	handshakes *addressLimit
	pace       *rate.Limiter

	running sync.WaitGroup // running counts the read loop and the sessions.

	// Guarded by mu.
	mu         sync.Mutex
	conns      map[FiveTuple]*dtlsConn
	unverified fifo.List // unverified holds the sessions whose client has not shown its address, oldest first.
	closed     bool
}

func newDTLSServer(c *common, socket *udpSocket) *dtlsServer {
	return &dtlsServer{
		common: c,
		socket: socket,
		options: []dtls.ServerOption{
			dtls.WithGetCertificate(certificateOf(c.TLS)),
			dtls.WithLoggerFactory(c.DTLSLogs),
		},
		handshakes: newAddressLimit(c.limits.handshakes, c.handshakesOfAddress),
		pace:       rate.NewLimiter(rate.Limit(c.handshakeRate), c.handshakeRate),
		conns:      map[FiveTuple]*dtlsConn{},
	}
}

// certificateOf returns what finds the certificate for a new handshake, as TLS
// with config does.
func certificateOf(config *tls.Config) func(*dtls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *dtls.ClientHelloInfo) (*tls.Certificate, error) {
		if config.GetCertificate != nil {
			certificate, err := config.GetCertificate(tlsHello(hello))
			if certificate != nil || err != nil {
				return certificate, err
			}
		}
		if len(config.Certificates) == 0 {
			return nil, errors.New("there is no certificate")
		}
		return &config.Certificates[0], nil
	}
}

// tlsHello says of a DTLS client what is asked to choose a certificate.
func tlsHello(hello *dtls.ClientHelloInfo) *tls.ClientHelloInfo {
	info := &tls.ClientHelloInfo{
		ServerName:        hello.ServerName,
		SupportedVersions: []uint16{tls.VersionTLS12},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
		SupportedPoints:   []uint8{0},
		SignatureSchemes: []tls.SignatureScheme{
			tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512,
			tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512, tls.Ed25519,
		},
	}
	for _, suite := range hello.CipherSuites {
		info.CipherSuites = append(info.CipherSuites, uint16(suite))
	}
	return info
}

func (s *dtlsServer) start() {
	if s.shares {
		return
	}
	s.running.Go(func() { s.socket.serve(s.handle) })
}

// handle takes a datagram to its session.
func (s *dtlsServer) handle(client, server netip.AddrPort, packet []byte) {
	from := FiveTuple{DTLS, client, server}
	s.mu.Lock()
	c := s.conns[from]
	s.mu.Unlock()
	if c == nil && !isClientHello(packet) {
		s.common.Metrics.drop(DTLS, dropNoSession, 1)
		return
	}
	if c == nil {
		c = s.open(from)
	}
	if c == nil {
		return
	}
	if reason := c.push(packet); reason != "" {
		s.common.Metrics.drop(DTLS, reason, 1)
	}
}

// open begins a session. It returns nil when there are too many handshakes.
func (s *dtlsServer) open(from FiveTuple) *dtlsConn {
	if !s.pace.Allow() {
		s.refuse(from, errTotalLimit)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conns[from]; c != nil || s.closed {
		return c
	}
	if err := s.admitHandshake(from.Client.Addr()); err != nil {
		s.refuse(from, err)
		return nil
	}
	c, err := newDTLSConn(s, from)
	if err != nil {
		s.handshakes.release(from.Client.Addr())
		s.refuse(from, err)
		return nil
	}
	s.conns[from] = c
	c.place = s.unverified.PushBack(c)
	s.running.Go(func() { s.serve(c) })
	return c
}

func (s *dtlsServer) refuse(from FiveTuple, err error) {
	s.common.Metrics.handshakes.WithLabelValues(DTLS.String(), handshakeRefused).Inc()
	s.common.Metrics.drop(DTLS, dropHandshakes, 1)
	s.common.Log.Debug("turn handshake refused", "transport", "dtls", "client", from.Client, "error", err)
}

// admitHandshake finds room for one handshake more. Anybody can send a
// ClientHello in another's name, so those that have not answered from their
// address make room, the oldest first. It is called with mu held.
func (s *dtlsServer) admitHandshake(client netip.Addr) error {
	err := s.handshakes.acquire(client)
	if err == nil {
		return nil
	}
	for place := s.unverified.Front(); place != nil; place = place.Next() {
		c := place.Value.(*dtlsConn)
		if errors.Is(err, errTotalLimit) || Site(c.from.Client.Addr()) == Site(client) {
			s.evict(c)
			return s.handshakes.acquire(client)
		}
	}
	return err
}

// evict ends a handshake. It is called with mu held.
func (s *dtlsServer) evict(c *dtlsConn) {
	s.settle(c)
	delete(s.conns, c.from)
	c.cancel()
}

// settle ends what a handshake holds. It is called with mu held.
func (s *dtlsServer) settle(c *dtlsConn) {
	if c.place != nil {
		s.unverified.Remove(c.place)
		c.place = nil
	}
	if !c.settled {
		c.settled = true
		s.handshakes.release(c.from.Client.Addr())
	}
}

// verified notes that a client has shown its address with a cookie.
func (s *dtlsServer) verified(c *dtlsConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.place != nil {
		s.unverified.Remove(c.place)
		c.place = nil
	}
}

// serve is the life of a session.
func (s *dtlsServer) serve(c *dtlsConn) {
	reason := s.run(c)
	c.end(reason)
	s.mu.Lock()
	s.settle(c)
	if s.conns[c.from] == c {
		delete(s.conns, c.from)
	}
	s.mu.Unlock()
	if c.received {
		s.common.receiver.Gone(c.from)
	}
	reason = c.reason()
	s.common.Metrics.closed.WithLabelValues(DTLS.String(), reason).Inc()
	s.common.Log.Debug("turn connection ended", "transport", "dtls", "client", c.from.Client, "reason", reason)
}

func (s *dtlsServer) run(c *dtlsConn) string {
	if !s.handshake(c) {
		return closedHandshake
	}
	if err := s.common.open.acquire(c.from.Client.Addr()); err != nil {
		return closedLimit
	}
	defer s.common.open.release(c.from.Client.Addr())
	connections := s.common.Metrics.connections.WithLabelValues(DTLS.String())
	connections.Inc()
	defer connections.Dec()
	return c.read()
}

// handshake returns whether the session is established. Its slot is free then.
func (s *dtlsServer) handshake(c *dtlsConn) bool {
	ctx, cancel := context.WithTimeout(c.context, s.common.handshakeTimeout)
	defer cancel()
	err := c.session.HandshakeContext(ctx)
	s.mu.Lock()
	s.settle(c)
	s.mu.Unlock()
	outcome := handshakeOK
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		outcome = handshakeTimeout
	case err != nil:
		outcome = handshakeFailed
		s.common.Log.Debug("turn handshake failed", "transport", "dtls", "client", c.from.Client, "error", err)
	}
	s.common.Metrics.handshakes.WithLabelValues(DTLS.String(), outcome).Inc()
	return err == nil && c.establish()
}

// close ends all sessions with a farewell to their clients, and then the socket.
func (s *dtlsServer) close() {
	s.mu.Lock()
	s.closed = true
	open := make([]*dtlsConn, 0, len(s.conns))
	for _, c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.close()
	}
	if !s.shares {
		_ = s.socket.conn.Close()
	}
	s.running.Wait()
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

	// Owned by the goroutine of serve.
	received bool // received says that the receiver knows the client.
	patience patience

	// Guarded by the server's mu.
	place   *fifo.Element // place is where the server has it among the unverified.
	settled bool          // settled says that it counts as a handshake no more.

	// Guarded by mu.
	mu          sync.Mutex
	arrived     sync.Cond
	queue       [][]byte
	budget      int  // budget is how many bytes of handshake may still come.
	established bool // established says that the handshake is over.
	expired     bool // expired says that reading is to fail.
	shut        bool // shut says that nothing more comes.
	ended       string
}

func newDTLSConn(s *dtlsServer, from FiveTuple) (*dtlsConn, error) {
	c := &dtlsConn{server: s, from: from, out: s.socket.pathTo(from.Client, from.Server), budget: handshakeBudget}
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
func (c *dtlsConn) push(packet []byte) string {
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
	c.queue = append(c.queue, append([]byte(nil), packet...))
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
		config.receiver.Receive(c.from, c, buffer[:n])
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
func (c *dtlsConn) Send(packet []byte) error {
	if c.reason() != "" {
		return errGone
	}
	if len(packet) > maxPayload {
		c.server.common.Metrics.drop(DTLS, dropTooLarge, 1)
		return nil
	}
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
	n := copy(p, c.queue[0])
	c.queue[0] = nil
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
	_ = c.out.Send(p)
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

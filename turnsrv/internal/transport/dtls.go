package transport

import (
	fifo "container/list"
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/pion/dtls/v3"
	"golang.org/x/time/rate"

	"cline-meet/signal/turnsrv/internal/batch"
)

const (
	// maxRecord is the largest datagram that the DTLS implementation reads. It gets none but of handshakes.
	maxRecord = 8 << 10

	// maxPayload is the most that one record may hold (RFC 6347, section 4.1).
	maxPayload = 16 << 10

	// queueSize is how many datagrams wait for a session that is busy.
	queueSize = 64

	// handshakeBudget is how many bytes of handshake a session takes in its
	// life. The implementation would keep megabytes of fragments for each.
	handshakeBudget = 64 << 10
)

// dtlsServer serves the DTLS clients of one address, whose sockets others read. It
// keeps them apart by address, and lets nothing but a ClientHello begin a session.
type dtlsServer struct {
	// Fixed after construction.
	common     *common
	socket     *udpSocket // socket is what it answers through.
	options    []dtls.ServerOption
	handshakes *addressLimit
	pace       *rate.Limiter

	running sync.WaitGroup // running counts the sessions.

	// Guarded by mu.
	mu         sync.Mutex
	conns      map[FiveTuple]*DTLSConn
	renewals   map[FiveTuple]*DTLSConn // renewals are handshakes from where a session is already.
	unverified fifo.List               // unverified holds the sessions whose client has not shown its address, oldest first.
	closed     bool
}

func newDTLSServer(c *common, socket *udpSocket) *dtlsServer {
	return &dtlsServer{
		common: c,
		socket: socket,
		options: []dtls.ServerOption{
			dtls.WithGetCertificate(certificateOf(c.TLS)),
			dtls.WithCipherSuites(cipherSuites...),
			dtls.WithLoggerFactory(c.DTLSLogs),
		},
		handshakes: newAddressLimit(c.limits.handshakes, c.handshakesOfAddress),
		pace:       rate.NewLimiter(rate.Limit(c.handshakeRate), c.handshakeRate),
		conns:      map[FiveTuple]*DTLSConn{},
		renewals:   map[FiveTuple]*DTLSConn{},
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

// handle takes a datagram to its session, and its messages to deliver. Recent is the session of
// who sent the one before, or nil; it returns that of this one.
func (s *dtlsServer) handle(recent *DTLSConn, from FiveTuple, packet []byte, mark batch.Mark, deliver Deliver) *DTLSConn {
	c, hello := recent, isClientHello(packet)
	if c == nil || hello || c.from != from || c.gone.Load() {
		s.mu.Lock()
		c = s.sessionLocked(from, packet, hello)
		s.mu.Unlock()
	}
	if c == nil && !hello {
		s.common.Metrics.drop(DTLS, dropNoSession, 1)
		return nil
	}
	if c == nil {
		c = s.open(from, packet)
	}
	if c == nil {
		return nil
	}
	if reason := c.take(packet, mark, deliver); reason != "" {
		s.common.Metrics.drop(DTLS, reason, 1)
	}
	if hello {
		return nil
	}
	return c
}

// receive is the Deliver of who has no other.
func (s *dtlsServer) receive(from *DTLSConn, message []byte, mark batch.Mark) {
	s.common.receiver.Receive(from.from, from, message, mark)
}

// sessionLocked returns the session that a datagram is for, nil if that is to begin.
func (s *dtlsServer) sessionLocked(from FiveTuple, packet []byte, hello bool) *DTLSConn {
	c := s.conns[from]
	if c == nil || c.settled && hello {
		c = s.renewals[from]
	}
	if c != nil && hello && c.place != nil && helloRandom(packet) != c.hello {
		// It is another client's, or a forger's, and has not shown its address. Its cookie
		// would lead this one astray.
		c.silent.Store(true)
		s.evict(c)
		return nil
	}
	return c
}

// open begins a session with a ClientHello. It returns nil when there are too many handshakes.
// Where there is a session from the same port its client may have lost it, with
// its state, or a NAT has given the port to another. Anybody can say so in the client's
// name, so that session goes on until the new client has shown its address (RFC
// 6347, section 4.2.8).
func (s *dtlsServer) open(from FiveTuple, hello []byte) *DTLSConn {
	if !s.pace.Allow() {
		s.refuse(from, errTotalLimit)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.sessionLocked(from, hello, true); c != nil || s.closed {
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
	c.hello = helloRandom(hello)
	if c.before = s.conns[from]; c.before != nil {
		s.renewals[from] = c
	} else {
		s.conns[from] = c
	}
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
		c := place.Value.(*DTLSConn)
		if errors.Is(err, errTotalLimit) || Site(c.from.Client.Addr()) == Site(client) {
			s.evict(c)
			return s.handshakes.acquire(client)
		}
	}
	return err
}

// evict ends a handshake. It is called with mu held.
func (s *dtlsServer) evict(c *DTLSConn) {
	s.settle(c)
	s.forget(c)
	c.cancel()
}

// forget leads no more datagrams to a session. It is called with mu held.
func (s *dtlsServer) forget(c *DTLSConn) {
	for _, sessions := range []map[FiveTuple]*DTLSConn{s.conns, s.renewals} {
		if sessions[c.from] == c {
			delete(sessions, c.from)
		}
	}
}

// settle ends what a handshake holds. It is called with mu held.
func (s *dtlsServer) settle(c *DTLSConn) {
	if c.place != nil {
		s.unverified.Remove(c.place)
		c.place = nil
	}
	if !c.settled {
		c.settled = true
		s.handshakes.release(c.from.Client.Addr())
	}
}

// verified notes that a client has shown its address with a cookie. A session from
// there is over, without a farewell, which the client could not read.
func (s *dtlsServer) verified(c *DTLSConn) {
	s.mu.Lock()
	if c.place != nil {
		s.unverified.Remove(c.place)
		c.place = nil
	}
	var before *DTLSConn
	if s.renewals[c.from] == c {
		delete(s.renewals, c.from)
		s.conns[c.from], before = c, c.before
	}
	s.mu.Unlock()
	if before != nil {
		before.silent.Store(true)
		before.end(closedReplaced)
	}
}

// serve is the life of a session.
func (s *dtlsServer) serve(c *DTLSConn) {
	defer close(c.over)
	reason := s.run(c)
	c.end(reason)
	s.mu.Lock()
	s.settle(c)
	s.forget(c)
	s.mu.Unlock()
	c.readers.Wait()
	if c.received || c.active.Load() {
		s.common.receiver.Gone(c.from)
	}
	reason = c.reason()
	s.common.Metrics.closed.WithLabelValues(DTLS.String(), reason).Inc()
	s.common.Log.Debug("turn connection ended", "transport", "dtls", "client", c.from.Client, "reason", reason)
}

func (s *dtlsServer) run(c *DTLSConn) string {
	opener := s.handshake(c)
	if opener == nil {
		return closedHandshake
	}
	s.awaitEnd(c)
	if err := s.common.open.acquire(c.from.Client.Addr()); err != nil {
		return closedLimit
	}
	defer s.common.open.release(c.from.Client.Addr())
	connections := s.common.Metrics.connections.WithLabelValues(DTLS.String())
	connections.Inc()
	defer connections.Dec()
	c.begin(opener)
	return c.await()
}

// awaitEnd returns when the session that another one replaces is over, so that what it
// opened is gone before anything new is there.
func (s *dtlsServer) awaitEnd(c *DTLSConn) {
	s.mu.Lock()
	before := c.before
	c.before = nil
	s.mu.Unlock()
	if before != nil {
		<-before.over
	}
}

// handshake returns what opens the client's records when the session is established, else nil. Its slot is free then.
func (s *dtlsServer) handshake(c *DTLSConn) *opener {
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
	if err != nil {
		return nil
	}
	return c.establish()
}

// close ends all sessions with a farewell to their clients.
func (s *dtlsServer) close() {
	s.mu.Lock()
	s.closed = true
	open := make([]*DTLSConn, 0, len(s.conns))
	for _, sessions := range []map[FiveTuple]*DTLSConn{s.conns, s.renewals} {
		open = slices.AppendSeq(open, maps.Values(sessions))
	}
	s.mu.Unlock()
	for _, c := range open {
		c.close()
	}
	s.running.Wait()
}

// Package edge is where connections come in. Between a listener and the part of the node that serves its connections it
// finds out, in this order and only as far as it was told to:
//
//  1. whose a connection is. A proxy of --proxy-protocol, or for TURN of --turn-proxy-protocol, begins each with a PROXY header,
//     which names the client; nobody else may send one (header.go);
//  2. whether it is TLS, and with --one-port whether it is for HTTP or for TURN: by its first byte, in clear text or
//     behind the handshake (protocol.go).
//
// Every client of ours speaks first, so the edge has only to wait. It does that in a goroutine for each connection, lest
// one that is silent hold up the others, and for as long as patience. Until it has said what it is, a connection
// counts as one that asks for something over HTTP, hence its address and the node have no more of them than they may.
// Then the limits of its part hold.
//
// The connection that the part gets is the one that came, with the client's address on it, and with what was read of it
// still to be read (conn.go). A WebSocket in clear text is taken out of that again, and costs what it costs without an edge.
// Without any of these settings there is no edge at all.
package edge

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

const (
	// patience is how long a connection has to say what it is.
	patience = 10 * time.Second
	// retry is the time between attempts to accept while the system is short of something.
	retry = 50 * time.Millisecond
)

// Surroundings are what the program hands to an edge.
type Surroundings struct {
	// HTTPS and TURN are nil when their TLS is terminated elsewhere, or not at all.
	HTTPS, TURN *tls.Config
	// Under puts TURN's own layer between a connection and its TLS.
	Under func(net.Conn) net.Conn
	// Count follows a connection that has not said yet what it is, as http.Server.ConnState. It closes what is too much.
	Count      func(net.Conn, http.ConnState)
	Log        *slog.Logger
	Registerer prometheus.Registerer // Registerer is for metrics, and may be nil.
}

// Edge makes the listeners of HTTP and TURN.
type Edge struct {
	// Fixed after construction.
	Surroundings
	onePort bool
	tls     *tls.Config    // of the one port, nil without TLS
	web     []netip.Prefix // sources of PROXY headers for HTTP, or for the one port
	turn    []netip.Prefix // those for TURN
	http    *queue         // HTTP's share of the one port
	unnamed rate.Sometimes // warnings of proxies that do not name the client
	refused *prometheus.CounterVec

	mu    sync.Mutex
	bound []*listener // those of the one port, in the order in which they were bound
}

// New returns an edge for settings that are valid.
func New(cfg Config, s Surroundings) *Edge {
	e := &Edge{Surroundings: s, onePort: cfg.IsOnePort(), unnamed: rate.Sometimes{Interval: time.Minute}, refused: newRefusals(s.Registerer)}
	e.web, _ = sources(cfg.HTTPProxies) // Validate has seen them.
	if e.turn, _ = sources(cfg.TURNProxies); e.onePort {
		e.turn = e.web
	}
	e.tls = oneConfig(s.HTTPS, s.TURN)
	e.http = newQueue(e.addr)
	return e
}

// ListenHTTP returns the listener of HTTP, as net.Listen. With one port it is HTTP's share of what ListenTURN binds, before
// which it has no address, and what was TLS is so no more.
func (e *Edge) ListenHTTP(network, address string) (net.Listener, error) {
	if e.onePort {
		return e.http, nil
	}
	return e.listen(network, address, e.web)
}

// ListenTURN returns a listener of TURN, as net.Listen.
func (e *Edge) ListenTURN(network, address string) (net.Listener, error) {
	return e.listen(network, address, e.turn)
}

func (e *Edge) listen(network, address string, sources []netip.Prefix) (net.Listener, error) {
	inner, err := net.Listen(network, address)
	if err != nil || !e.onePort && len(sources) == 0 {
		return inner, err
	}
	return e.on(inner, sources), nil
}

// on returns a listener of what another one accepts, of proxies among others.
func (e *Edge) on(inner net.Listener, sources []netip.Prefix) *listener {
	l := &listener{edge: e, inner: inner, sources: sources, queue: newQueue(inner.Addr)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bound = append(e.bound, l)
	return l
}

// addr returns the first address of the one port, nil before there is one.
func (e *Edge) addr() net.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.bound) == 0 {
		return nil
	}
	return e.bound[0].Addr()
}

func (e *Edge) forget(l *listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bound = slices.DeleteFunc(e.bound, func(other *listener) bool { return other == l })
}

// listener accepts connections, and gives those that it does not owe to HTTP to who calls Accept.
type listener struct {
	// Fixed after construction.
	*queue
	edge    *Edge
	inner   net.Listener
	sources []netip.Prefix  // of PROXY headers
	ctx     context.Context // ctx ends when the listener is closed.
	cancel  context.CancelFunc

	starting sync.Once
	running  sync.WaitGroup // running counts the accept loop and the connections that have not said what they are.
}

// Accept implements net.Listener. Nothing is accepted before the first call.
func (l *listener) Accept() (net.Conn, error) {
	l.starting.Do(func() { l.running.Go(l.accept) })
	return l.queue.Accept()
}

// Close implements net.Listener. It ends the connections that have not said what they are. With one port HTTP gets no more
// of this address either.
func (l *listener) Close() error {
	_ = l.queue.Close()
	l.cancel()
	err := l.inner.Close()
	l.starting.Do(func() {}) // What has not started does not any more.
	l.running.Wait()
	l.edge.forget(l)
	return err
}

func (l *listener) accept() {
	for {
		conn, err := l.inner.Accept()
		if l.ctx.Err() != nil {
			return
		}
		if err == nil {
			l.running.Go(func() { l.receive(conn) })
			continue
		}
		l.owner().give(l.ctx, nil, err)
		select {
		case <-time.After(retry):
		case <-l.ctx.Done():
			return
		}
	}
}

// owner is who is told what is wrong with the listener.
func (l *listener) owner() *queue {
	if l.edge.onePort {
		return l.edge.http
	}
	return l.queue
}

// receive takes a connection to the part that it is for.
func (l *listener) receive(raw net.Conn) {
	abort := context.AfterFunc(l.ctx, func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(patience))
	conn, to, err := l.open(raw)
	if !abort() {
		return
	}
	if err != nil {
		if reason := reasonOf(err); reason != "" {
			l.edge.refused.WithLabelValues(reason).Inc()
		}
		l.edge.Log.Debug("connection refused", "client", raw.RemoteAddr().String(), "address", l.Addr().String(), "error", err)
		_ = raw.Close()
		return
	}
	_ = raw.SetDeadline(time.Time{})
	to.give(l.ctx, conn, nil)
}

// open finds out about a connection what there is to know, and returns it with the queue of the part that it is for.
func (l *listener) open(raw net.Conn) (net.Conn, *queue, error) {
	conn := newConn(raw)
	trusted := isSource(l.sources, raw.RemoteAddr())
	if trusted {
		if err := conn.readHeader(); err != nil {
			l.edge.noteHeader(raw, err)
			return nil, nil, err
		}
	}
	l.edge.Count(conn, http.StateNew)
	defer l.edge.Count(conn, http.StateClosed)
	if !trusted {
		if err := conn.refuseHeader(); err != nil {
			return nil, nil, err
		}
	}
	if !l.edge.onePort {
		return conn.settled(), l.queue, nil
	}
	return l.sort(conn)
}

// queue hands connections over to who accepts them.
type queue struct {
	// Fixed after construction.
	addr    func() net.Addr
	waiting chan accepted
	closed  chan struct{}

	closing sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

func newQueue(addr func() net.Addr) *queue {
	return &queue{addr: addr, waiting: make(chan accepted), closed: make(chan struct{})}
}

// give waits until somebody has taken the connection. It closes it when nobody will.
func (q *queue) give(ctx context.Context, conn net.Conn, err error) {
	select {
	case q.waiting <- accepted{conn, err}:
		return
	case <-q.closed:
	case <-ctx.Done():
	}
	if conn != nil {
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case a := <-q.waiting:
		return a.conn, a.err
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.closing.Do(func() { close(q.closed) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr() }

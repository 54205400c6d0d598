package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/wire"
)

const (
	// writeChunk is how much is written at once under one deadline.
	writeChunk = 16 << 10

	// keptBuffer is the largest send buffer that is kept for the next client.
	keptBuffer = 64 << 10
)

// streamServer accepts TCP or TLS clients.
type streamServer struct {
	// Fixed after construction.
	common    *common
	transport Protocol
	listener  net.Listener
	tls       *tls.Config // tls is nil for plain TCP.

	running sync.WaitGroup // running counts the accept loop and the connections.

	// Guarded by mu.
	mu     sync.Mutex
	conns  map[FiveTuple]*streamConn // conns are the latest of their 5-tuples.
	closed bool
}

func newStreamServer(c *common, listener net.Listener, config *tls.Config) *streamServer {
	s := &streamServer{
		common: c, transport: TCP, listener: listener, conns: map[FiveTuple]*streamConn{},
	}
	if config != nil {
		s.transport = TLS
		s.tls = config.Clone()
		s.tls.DynamicRecordSizingDisabled = true // A frame is a record.
	}
	return s
}

func (s *streamServer) start() { s.running.Go(s.accept) }

// accept takes connections until the listener is closed. Other errors, such as
// a lack of descriptors, pass.
func (s *streamServer) accept() {
	var delay Backoff
	for {
		conn, err := s.listener.Accept()
		if err == nil {
			delay = Backoff{}
			s.admit(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		s.common.Metrics.socketErrors.WithLabelValues(s.transport.String()).Inc()
		s.common.Log.Debug("turn connection not accepted", "transport", s.transport.String(), "error", err)
		if !delay.Wait(s.common.done) {
			return
		}
	}
}

func (s *streamServer) admit(conn net.Conn) {
	remote, okRemote := conn.RemoteAddr().(*net.TCPAddr)
	local, okLocal := conn.LocalAddr().(*net.TCPAddr)
	if !okRemote || !okLocal {
		_ = conn.Close()
		return
	}
	layers := layersOf(conn)
	if layers.tcp != nil {
		limitUnsent(layers.tcp)
	}
	s.serve(conn, layers, FiveTuple{s.spoken(layers), wire.Unmapped(remote.AddrPort()), wire.Unmapped(local.AddrPort())})
}

// spoken is TLS also for a connection that has come over it to a listener of both.
func (s *streamServer) spoken(l layers) Protocol {
	if l.tls != nil {
		return TLS
	}
	return s.transport
}

// serve gives a connection a goroutine, unless there are too many already.
func (s *streamServer) serve(conn net.Conn, l layers, from FiveTuple) {
	transport := from.Protocol.String()
	if err := s.common.open.acquire(from.Client.Addr()); err != nil {
		s.common.Metrics.closed.WithLabelValues(transport, closedLimit).Inc()
		_ = conn.Close()
		s.common.Log.Debug("turn connection refused", "transport", transport, "client", from.Client, "error", err)
		return
	}
	c := newStreamConn(s.common, conn, l, from, s.tls)
	if !s.track(c) {
		_ = conn.Close()
		s.common.open.release(from.Client.Addr())
		return
	}
	connections := s.common.Metrics.connections.WithLabelValues(transport)
	connections.Inc()
	s.running.Go(func() {
		c.serve()
		connections.Dec()
		s.forget(c)
		s.common.open.release(from.Client.Addr())
	})
}

// track returns false when the server is closed already.
func (s *streamServer) track(c *streamConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	c.before, s.conns[c.from] = s.conns[c.from], c
	return true
}

func (s *streamServer) forget(c *streamConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c.from] == c {
		delete(s.conns, c.from)
	}
}

// close closes the listener and all connections, and waits for them.
func (s *streamServer) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	open := make([]*streamConn, 0, len(s.conns))
	for _, c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.close()
	}
	s.running.Wait()
}

var errGone = errors.New("the client has disconnected")

// streamConn is one TCP or TLS client and the path to it.
type streamConn struct {
	// Fixed after construction.
	common *common
	from   FiveTuple
	raw    net.Conn
	stream net.Conn      // stream is raw or the TLS on it.
	secure *tls.Conn     // secure is the TLS, nil without.
	batch  *recordBatch  // batch is between raw and TLS, nil without TLS.
	socket *gatherer     // socket is what is read below TLS.
	over   chan struct{} // over is closed when the receiver knows that the client has gone.

	// Owned by the goroutine of serve.
	before   *streamConn // before is the connection of the same 5-tuple that this one follows, nil once that is over.
	received bool        // received says that the receiver knows the client.
	patience patience

	writer sync.WaitGroup // writer counts the goroutine that writes, added to under mu.

	// Guarded by mu.
	mu      sync.Mutex
	queue   *sendQueue // queue is nil when nothing waits.
	writing bool       // writing says that there is a writer, which takes what is queued.
	resting bool       // resting says that it waits for the tick, or for urgent.
	wrote   time.Time  // wrote is when it took something last.
	near    int        // near is how many times in a row that came within two gatherTimes.
	ended   string     // ended is why the connection was closed, empty while it is open.

	urgent chan struct{} // urgent ends the writer's rest. It has room for the one who finds it resting.
}

// newStreamConn puts TLS on a connection if there is a config for it.
func newStreamConn(c *common, conn net.Conn, l layers, from FiveTuple, config *tls.Config) *streamConn {
	s := &streamConn{common: c, from: from, raw: conn, stream: conn, secure: l.tls, batch: l.batch, over: make(chan struct{}), urgent: make(chan struct{}, 1)}
	switch {
	case l.batch != nil:
		s.raw = l.batch
	case config != nil:
		s.batch = newRecordBatch(conn)
		s.secure = tls.Server(s.batch, config)
		s.stream = s.secure
	default:
		s.socket = &gatherer{Conn: conn}
		s.stream = s.socket
	}
	if s.batch != nil {
		s.socket = s.batch.socket
	}
	return s
}

// serve reads until the connection ends, and returns when all is over.
func (c *streamConn) serve() {
	defer close(c.over)
	c.awaitEnd()
	c.end(c.read())
	c.writer.Wait()
	if c.received {
		c.common.receiver.Rest(c.from)
		c.common.receiver.Gone(c.from)
	}
	reason := c.reason()
	c.common.Metrics.closed.WithLabelValues(c.from.Protocol.String(), reason).Inc()
	c.common.Log.Debug("turn connection ended", "transport", c.from.Protocol.String(), "client", c.from.Client, "reason", reason)
}

// awaitEnd returns when a connection of the same 5-tuple is over, whose port the client has taken again, so that what it
// opened is gone before anything new is there.
func (c *streamConn) awaitEnd() {
	if before := c.before; before != nil {
		before.end(closedReplaced)
		<-before.over
		c.before = nil
	}
}

// read returns why it can go on no more.
func (c *streamConn) read() string {
	if !c.handshake() {
		return closedHandshake
	}
	c.patience = patience{conn: c.raw, idle: c.common.IdleTimeout}
	c.patience.wait(c.common.firstMessageTimeout)
	c.socket.resting, c.socket.before = c.common.Gather, c.rest
	frames := wire.NewFramer(c.stream)
	for {
		frame, err := frames.Next()
		if err != nil {
			return c.readError(err)
		}
		c.received = true
		c.patience.renew()
		c.common.receiver.Receive(c.from, c, frame, 0)
	}
}

// rest is called when the receiver has got all that was read.
func (c *streamConn) rest() {
	if c.received {
		c.common.receiver.Rest(c.from)
	}
}

func (c *streamConn) readError(err error) string {
	switch {
	case errors.Is(err, wire.ErrFrame):
		return closedFrame
	case errors.Is(err, os.ErrDeadlineExceeded) && !c.received:
		return closedSilent
	case errors.Is(err, os.ErrDeadlineExceeded):
		return closedIdle
	}
	return closedByClient
}

func (c *streamConn) handshake() bool {
	if c.secure == nil {
		return true
	}
	_ = c.raw.SetDeadline(time.Now().Add(c.common.handshakeTimeout))
	err := c.secure.Handshake() // It may be over already.
	_ = c.raw.SetDeadline(time.Time{})
	outcome := handshakeOK
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		outcome = handshakeTimeout
	case err != nil:
		outcome = handshakeFailed
		c.common.Log.Debug("turn handshake failed", "transport", "tls", "client", c.from.Client, "error", err)
	}
	c.common.Metrics.handshakes.WithLabelValues(c.from.Protocol.String(), outcome).Inc()
	return err == nil
}

// Send implements Path. When the queue is full, the oldest data in it is lost;
// a client that does not even take control messages is closed.
func (c *streamConn) Send(packet []byte, _ batch.Mark) error {
	c.mu.Lock()
	if c.ended != "" {
		c.mu.Unlock()
		return errGone
	}
	if c.queue == nil {
		c.queue = queues.Get().(*sendQueue)
	}
	before := len(c.queue.bytes)
	dropped, kept := c.queue.push(packet, c.common.queueLimit())
	c.common.Metrics.queued.Add(int64(len(c.queue.bytes) - before))
	if kept {
		c.haveWritten()
	}
	c.mu.Unlock()
	if dropped > 0 {
		c.common.Metrics.drop(c.from.Protocol, dropSlowClient, dropped)
	}
	if !kept && !wire.IsDataToClient(packet) {
		c.end(closedSlow)
		return errGone
	}
	return nil
}

// close ends the connection. What is queued is lost.
func (c *streamConn) close() { c.end(closedByServer) }

// end closes the connection; the first reason counts. It closes TCP without a
// TLS farewell, which would wait for a client that does not read.
func (c *streamConn) end(reason string) {
	c.mu.Lock()
	first := c.ended == ""
	if first {
		c.ended = reason
	}
	c.mu.Unlock()
	if first {
		_ = c.raw.Close()
	}
}

func (c *streamConn) reason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// sendQueue holds the frames that wait to be written to a stream, padded and
// back to back.
type sendQueue struct {
	bytes  []byte
	frames []queuedFrame
}

type queuedFrame struct {
	size int // size includes the padding.
	data bool
}

// push adds a packet, for which it drops as much of the oldest data as it has
// to. It returns how many packets were lost and whether the new one was kept.
func (q *sendQueue) push(packet []byte, limit int) (dropped int, kept bool) {
	size, data := wire.Padded(len(packet)), wire.IsDataToClient(packet)
	if len(q.bytes)+size > limit {
		// A quarter is freed at once, because freeing moves all that stays.
		dropped = q.dropData(max(limit/4, len(q.bytes)+size-limit))
	}
	if len(q.bytes)+size > limit {
		if data {
			dropped++
		}
		return dropped, false
	}
	q.bytes = append(q.bytes, packet...)
	q.bytes = append(q.bytes, padding[:size-len(packet)]...)
	q.frames = append(q.frames, queuedFrame{size, data})
	return dropped, true
}

// dropData drops the oldest data until that has freed so many bytes, and
// returns how many frames that were.
func (q *sendQueue) dropData(bytes int) (dropped int) {
	from, to, frames := 0, 0, q.frames[:0]
	for _, f := range q.frames {
		if f.data && bytes > 0 {
			dropped++
			bytes -= f.size
		} else {
			copy(q.bytes[to:], q.bytes[from:from+f.size])
			to += f.size
			frames = append(frames, f)
		}
		from += f.size
	}
	q.bytes, q.frames = q.bytes[:to], frames
	return dropped
}

// padding is at most as long as that.
var padding [3]byte

// queues are those of clients for whom nothing waits.
var queues = sync.Pool{New: func() any { return &sendQueue{bytes: make([]byte, 0, 2<<10)} }}

func (q *sendQueue) release() {
	if cap(q.bytes) <= keptBuffer {
		q.bytes, q.frames = q.bytes[:0], q.frames[:0]
		queues.Put(q)
	}
}

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
	conns  map[*streamConn]struct{}
	closed bool
}

func newStreamServer(c *common, listener net.Listener, config *tls.Config) *streamServer {
	s := &streamServer{
		common: c, transport: TCP, listener: listener, conns: map[*streamConn]struct{}{},
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
	if !s.closed {
		s.conns[c] = struct{}{}
	}
	return !s.closed
}

func (s *streamServer) forget(c *streamConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// close closes the listener and all connections, and waits for them.
func (s *streamServer) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	open := make([]*streamConn, 0, len(s.conns))
	for c := range s.conns {
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
	stream net.Conn     // stream is raw or the TLS on it.
	secure *tls.Conn    // secure is the TLS, nil without.
	batch  *recordBatch // batch is between raw and TLS, nil without TLS.
	socket *gatherer    // socket is what is read below TLS.

	// Owned by the goroutine of serve.
	received bool // received says that the receiver knows the client.
	patience patience

	writer sync.WaitGroup // writer counts the goroutine that writes, added to under mu.

	// Guarded by mu.
	mu      sync.Mutex
	queue   *sendQueue  // queue is nil when nothing waits.
	writing bool        // writing says that there is a writer, which takes what is queued, or will be.
	resting bool        // resting says that later starts it.
	wrote   time.Time   // wrote is when the last one ended.
	later   *time.Timer // later is nil until it is needed.
	ended   string      // ended is why the connection was closed, empty while it is open.
}

// newStreamConn puts TLS on a connection if there is a config for it.
func newStreamConn(c *common, conn net.Conn, l layers, from FiveTuple, config *tls.Config) *streamConn {
	s := &streamConn{common: c, from: from, raw: conn, stream: conn, secure: l.tls, batch: l.batch}
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

// haveWritten has somebody write what is queued: at the next tick if the client was
// written to just now, and not much waits. It is called with mu held.
func (c *streamConn) haveWritten() {
	switch {
	case c.resting && len(c.queue.bytes) > writeChunk && c.later.Stop():
		c.resting = false
		c.writer.Go(c.write)
		c.writer.Done() // That of the timer.
	case c.writing:
	case !c.common.Gather || time.Since(c.wrote) >= gatherTime:
		c.writing = true
		c.writer.Go(c.write)
	default:
		c.writing, c.resting = true, true
		c.writer.Add(1)
		c.writeLater(untilTick())
	}
}

func (c *streamConn) writeLater(wait time.Duration) {
	if c.later != nil {
		c.later.Reset(wait)
		return
	}
	c.later = time.AfterFunc(wait, func() {
		defer c.writer.Done()
		c.write()
	})
}

// write writes what is queued, as much at once as there is, and ends when there
// is nothing more.
func (c *streamConn) write() {
	for batch := c.take(); batch != nil; batch = c.take() {
		err := c.writeAll(batch.bytes)
		c.discard(batch)
		if err != nil {
			c.end(writeError(err))
		}
	}
}

// take returns what is queued, or nil when the writer has to end.
func (c *streamConn) take() *sendQueue {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.queue
	c.queue, c.resting = nil, false
	if batch != nil && c.ended != "" {
		c.discard(batch)
		batch = nil
	}
	if batch == nil {
		c.writing, c.wrote = false, time.Now()
	}
	return batch
}

// discard gives back a queue whose frames are written, or lost.
func (c *streamConn) discard(q *sendQueue) {
	c.common.Metrics.queued.Add(-int64(len(q.bytes)))
	q.release()
}

func writeError(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return closedSlow
	}
	return closedByClient
}

// writeAll leaves no deadline behind, since TLS also answers key updates while
// it reads.
func (c *streamConn) writeAll(batch []byte) error {
	defer func() { _ = c.raw.SetWriteDeadline(time.Time{}) }()
	if c.batch != nil {
		_ = c.raw.SetWriteDeadline(time.Now().Add(c.common.writeTimeout))
		return c.writeRecords(batch)
	}
	for len(batch) > 0 {
		n := min(len(batch), writeChunk)
		_ = c.raw.SetWriteDeadline(time.Now().Add(c.common.writeTimeout))
		if _, err := c.raw.Write(batch[:n]); err != nil {
			return err
		}
		batch = batch[n:]
	}
	return nil
}

// writeRecords writes each frame of a batch into a record of its own: one that
// holds several loses all but the first with clients that take a record for a
// message, as coturn's do.
func (c *streamConn) writeRecords(batch []byte) error {
	c.batch.hold()
	for len(batch) > 0 {
		n := wire.FrameSize(batch)
		if _, err := c.stream.Write(batch[:n]); err != nil {
			return errors.Join(err, c.batch.flush())
		}
		batch = batch[n:]
		_ = c.raw.SetWriteDeadline(time.Now().Add(c.common.writeTimeout))
	}
	return c.batch.flush()
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

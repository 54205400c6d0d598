package signal

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// pollers wait for all plain connections of a server, so that an idle one costs no goroutine. There
// is one for each core; connections are dealt out in turns.
//
// A poller is served by one worker, a goroutine that takes all connections on which something has come,
// handles that, one after the other, and flushes what was sent. Handling must not hold up the others:
// a handler that is about to wait yields, which leaves the poller to a new worker, and the old one ends
// with its connection's turn.
type pollers struct {
	all  []*poller
	next atomic.Uint32
}

func newPollers(f *flusher) (*pollers, error) {
	ps := new(pollers)
	for range runtime.GOMAXPROCS(0) {
		p, err := newPoller(f)
		if err != nil {
			ps.close()
			return nil, fmt.Errorf("preparing to wait for connections: %w", err)
		}
		ps.all = append(ps.all, p)
	}
	return ps, nil
}

// close ends the workers and waits for them. No connection may be served any more.
func (ps *pollers) close() {
	for _, p := range ps.all {
		p.close()
	}
}

// link takes over a connection. It returns nil when that is none that a poller can wait for.
func (ps *pollers) link(conn net.Conn) link {
	tcp, ok := conn.(*net.TCPConn)
	if c, wrapped := conn.(interface{ Bare() (*net.TCPConn, bool) }); wrapped {
		tcp, ok = c.Bare()
	}
	if !ok {
		return nil
	}
	p := ps.all[int(ps.next.Add(1))%len(ps.all)]
	d, err := p.take(tcp)
	if err != nil {
		return nil
	}
	return d
}

// pollerEvents is how many connections a poller reports at once, all of which are read before anything is flushed. With few
// of them clients work on the first answers while the next messages are read.
const pollerEvents = 16

// maxAgain is how many clients that say much have another turn before those are heard that say little.
const maxAgain = 8

// workerBuffer is the size of what is read at once. What is longer is read into a buffer of its own.
const workerBuffer = 8 << 10

// hastyBuffer is the size of what is read at once of a client that is too fast for its limits. To refuse its messages takes time, too.
const hastyBuffer = 1 << 10

// poller is an epoll set of connections. Each event is reported once, when something changes
// (EPOLLET): nothing needs to be changed in the set while connections are read, written and idle.
type poller struct {
	// Fixed after construction.
	fd   int
	wake int // an eventfd that ends the worker
	// gate is an epoll set that the runtime watches. It always holds fd, since putting a set into another one takes the system
	// as long as there are connections in it, but tells of its events only while the worker is parked, lest every one wakes a
	// thread of the runtime too.
	gate    *os.File
	parked  syscall.RawConn // of gate
	flusher *flusher

	workers sync.WaitGroup
	closing sync.Once

	mu      sync.Mutex
	serving []*descriptor // by descriptor
	started bool
}

func newPoller(f *flusher) (*poller, error) {
	p := &poller{fd: -1, wake: -1, flusher: f}
	if err := p.open(); err != nil {
		p.closeAll()
		return nil, err
	}
	return p, nil
}

func (p *poller) open() (err error) {
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	gate, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(gate, true) // The runtime watches only what does not block; this does not fail.
	p.gate = os.NewFile(uintptr(gate), "epoll")
	if p.parked, err = p.gate.SyscallConn(); err != nil {
		return err
	}
	if err := p.report(unix.EPOLL_CTL_ADD, 0); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	return p.watch(p.wake)
}

func (p *poller) watch(fd int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event))
}

// take takes a connection over from the runtime's poller, which would watch it as well.
func (p *poller) take(tcp *net.TCPConn) (*descriptor, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	if err := raw.Control(func(original uintptr) {
		fd, failed = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || failed != nil {
		return nil, errors.Join(err, failed)
	}
	_ = tcp.Close() // The connection lives on in the other descriptor.
	return &descriptor{fd: fd, poller: p}, nil
}

func (p *poller) add(d *descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.serving) <= d.fd {
		p.serving = append(p.serving, make([]*descriptor, 64)...)
	}
	p.serving[d.fd] = d
	if !p.started {
		p.started = true
		p.workers.Go(newWorker(p).run)
	}
}

// remove takes away a descriptor, which may have been added or not.
func (p *poller) remove(d *descriptor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.fd < len(p.serving) && p.serving[d.fd] == d {
		p.serving[d.fd] = nil
	}
}

// close may be called again: what it closed may be the number of somebody else's descriptor by then.
func (p *poller) close() {
	p.closing.Do(func() {
		one := [8]byte{1, 7: 1}           // It counts, in either byte order.
		_, _ = unix.Write(p.wake, one[:]) // It can only be full, which wakes as well.
		p.workers.Wait()
		p.closeAll()
	})
}

func (p *poller) closeAll() {
	if p.gate != nil {
		_ = p.gate.Close()
	}
	for _, fd := range []int{p.wake, p.fd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// worker serves a poller until another takes its place.
//
// What it does between two looks at the poller is bounded, so that whoever says little waits little, whatever others say and
// are sent: it handles what has come up to some size, flushes what is soon written, and writes once where much waits.
type worker struct {
	poller  *poller
	buf     []byte        // what is read is handled there
	ready   []*descriptor // those on which something has come; it is their turn
	again   []*descriptor // those whose turn was interrupted
	rest    []*socket     // those for which much waits, or whose client reads again
	came    int           // bytes that were read since the last look
	holding *holding      // of the participant that it waits for, nil for none
	gone    bool          // another worker serves the poller
	ended   bool          // the poller ends

	events [pollerEvents]unix.EpollEvent
	found  int
	full   bool                          // there may be more events than were found last
	look   func(uintptr) bool            // poll, kept since a function value is allocated
	space  [2 * pollerEvents]*descriptor // for ready
}

// workers are kept for use: in a cluster every message for another node takes a new one.
var workers = sync.Pool{New: func() any {
	w := &worker{buf: make([]byte, workerBuffer)}
	w.look = func(uintptr) bool { return w.poll() }
	return w
}}

func newWorker(p *poller) *worker {
	w := workers.Get().(*worker)
	w.poller, w.gone, w.ended, w.full = p, false, false, false
	return w
}

// run serves the poller until another worker does, or the end.
func (w *worker) run() {
	defer w.free()
	for !w.gone && w.wait() {
		w.poller.flusher.begin()
		w.handle()
		if !w.gone {
			w.rest = w.poller.flusher.endShortly(w.rest)
			w.write()
			runtime.Gosched() // Others may have waited for a whole batch.
		}
	}
}

func (w *worker) free() {
	if w.holding != nil {
		w.holding.add(-workerBuffer)
		w.holding = nil
	}
	w.poller, w.ready, w.again, w.rest = nil, nil, nil, nil
	clear(w.space[:])
	workers.Put(w)
}

// handle gives connections their turns until much has come, and one at least to those that are ready and to those that were
// interrupted.
func (w *worker) handle() {
	w.came = 0
	for len(w.ready) > 0 && !w.gone && w.came < turnBytes {
		d := w.ready[0]
		w.ready = w.ready[1:]
		d.read(w)
	}
	for n := min(len(w.again), maxAgain); n > 0 && !w.gone; n-- { // Whoever is interrupted again waits for the others.
		d := w.again[0]
		w.again = w.again[1:]
		if d.read(w); w.came >= turnBytes {
			return
		}
	}
}

// write gives one of the rest its turn. The system tells of a thousand clients at once that they read again, since it probes
// in one tick all that have stopped for about as long.
func (w *worker) write() {
	if len(w.rest) == 0 {
		return
	}
	s := w.rest[0]
	w.rest = w.rest[1:]
	if s.link.flush(s, turnBytes) {
		w.rest = append(w.rest, s)
	}
}

// yield leaves the poller to a new worker. What was sent so far is flushed. The buffer is held for whom the old one waits.
func (w *worker) yield(h *holding) {
	if w.gone {
		return
	}
	w.gone = true
	if w.holding = h; h != nil {
		h.add(workerBuffer)
	}
	next := newWorker(w.poller)
	next.ready, next.again, next.rest = append(next.space[:0], w.ready...), w.again, w.rest
	w.ready, w.again, w.rest = nil, nil, nil
	w.poller.workers.Go(next.run)
	w.poller.flusher.end()
}

// wait returns when there is something to handle; it reports false when the poller ends.
func (w *worker) wait() bool {
	if len(w.ready) > 0 { // Much had come before, or a worker before has left them.
		return true
	}
	if !w.poll() && len(w.again) == 0 && len(w.rest) == 0 && !w.park() {
		return false
	}
	w.ready = w.space[:0]
	w.resolve()
	for w.full && len(w.ready) < pollerEvents && w.poll() { // What has come may stand behind those who read again.
		w.resolve()
	}
	return !w.ended
}

// poll looks for events and reports whether there are any.
func (w *worker) poll() bool {
	n, err := unix.EpollWait(w.poller.fd, w.events[:], 0)
	w.found = max(0, n)
	return err == nil && n > 0
}

// park waits in the runtime's poller until there are events.
func (w *worker) park() bool {
	if w.poller.report(unix.EPOLL_CTL_MOD, unix.EPOLLIN) != nil { // The system is short of something; a thread does as well.
		n, err := unix.EpollWait(w.poller.fd, w.events[:], -1)
		w.found = max(0, n)
		return err == nil || err == unix.EINTR
	}
	err := w.poller.parked.Read(w.look)
	return errors.Join(err, w.poller.report(unix.EPOLL_CTL_MOD, 0)) == nil
}

// report has the gate tell of events of the poller, or of none.
func (p *poller) report(operation int, events uint32) error {
	event := unix.EpollEvent{Events: events}
	var failed error
	err := p.parked.Control(func(gate uintptr) { failed = unix.EpollCtl(int(gate), operation, p.fd, &event) })
	return errors.Join(err, failed)
}

// resolve gives turns to those for whom events were found.
func (w *worker) resolve() {
	var space [pollerEvents]*descriptor
	for i, d := range w.descriptors(space[:0]) {
		if d == nil {
			continue
		}
		reads, writes := d.happened(w.events[i].Events)
		if reads {
			w.ready = append(w.ready, d)
		}
		if writes {
			w.rest = append(w.rest, d.socket)
		}
	}
	w.found, w.full = 0, w.found == len(w.events)
}

// descriptors returns those that events were found for, nil for what is none or not served any more.
func (w *worker) descriptors(all []*descriptor) []*descriptor {
	w.poller.mu.Lock()
	defer w.poller.mu.Unlock()
	for _, e := range w.events[:w.found] {
		if int(e.Fd) == w.poller.wake {
			w.ended = w.ended || e.Events&unix.EPOLLIN != 0
			all = append(all, nil)
			continue
		}
		all = append(all, w.poller.serving[e.Fd])
	}
	return all
}

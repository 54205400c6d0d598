package signal

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// The turns of a descriptor: who reads from it.
const (
	turnFree    int32 = iota // nobody: whoever hears that something has come
	turnTaken                // somebody, until all is read
	turnNoticed              // the same, and something has come since
	turnEnded                // nobody ever again
)

// maxReads is how often a connection is read before others have their turn.
const maxReads = 4

// descriptor is a link that does not wait. What happens to it is told by a poller, once for each change.
type descriptor struct {
	// Fixed after construction.
	fd     int
	poller *poller

	// Fixed when it is served.
	socket *socket

	turn atomic.Int32
	hung atomic.Bool // the client sends no more, so that the last read finds the end

	// Owned by whose turn it is.
	worker *worker

	mu     sync.Mutex // mu is an innermost lock.
	closed bool
}

func (d *descriptor) Read(p []byte) (int, error) {
	n, err := retry(unix.Read, d.fd, p)
	switch {
	case err == unix.EAGAIN:
		return 0, errWait
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	d.worker.came += n
	return n, nil
}

func (d *descriptor) Write(p []byte) (int, error) {
	n, err := retry(unix.Write, d.fd, p)
	switch {
	case err == unix.EAGAIN:
		return 0, errWait
	case err != nil:
		return 0, os.NewSyscallError("write", err)
	case n < len(p):
		return n, errWait
	}
	return n, nil
}

// retry calls until no signal interrupts.
func retry(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// serve hands the connection to the poller, which reports at once what has come and gone so far.
func (d *descriptor) serve(s *socket) {
	d.socket = s
	d.poller.add(d)
	if err := d.poller.watch(d.fd); err != nil {
		s.to.ended(err)
	}
}

// happened notes what is possible, and reports whether there is a turn to read and one to write.
func (d *descriptor) happened(events uint32) (reads, writes bool) {
	const ends = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	if events&ends != 0 {
		d.hung.Store(true)
	}
	writes = events&(unix.EPOLLOUT|ends) != 0 && d.socket.unblock()
	reads = events&(unix.EPOLLIN|ends) != 0 && d.notice()
	return reads, writes
}

// notice takes the turn if it is free, and else notes that whoever has it must look again.
func (d *descriptor) notice() bool {
	for {
		switch {
		case d.turn.CompareAndSwap(turnFree, turnTaken):
			return true
		case d.turn.CompareAndSwap(turnTaken, turnNoticed), d.turn.Load() >= turnNoticed:
			return false
		}
	}
}

// read reads, in its turn, until nothing is left. When it is much, or more than the client may send, others have a turn before.
func (d *descriptor) read(w *worker) {
	d.worker = w
	for n := 1; ; n++ {
		space := w.buf
		if d.socket.hasty {
			space, n = space[:hastyBuffer], maxReads
		}
		all, err := d.socket.read(space)
		if err != nil {
			d.turn.Store(turnEnded)
			return
		}
		if all && !d.hung.Swap(false) {
			if d.turn.CompareAndSwap(turnTaken, turnFree) {
				return
			}
			d.turn.Store(turnTaken)
		}
		if n >= maxReads && !w.gone {
			w.again = append(w.again, d)
			return
		}
	}
}

func (d *descriptor) yield()      { d.worker.yield(d.socket.holding) }
func (d *descriptor) endReading() { d.shutdown(unix.SHUT_RD) }
func (d *descriptor) cut()        { d.shutdown(unix.SHUT_RDWR) }

func (d *descriptor) flush(s *socket, most int) (more bool) { return s.flush(most) }

func (d *descriptor) hungUp() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed || pollsHungUp(d.fd)
}

// hungUp reports whether the other side has ended a connection, as far as the system knows.
func hungUp(conn net.Conn) (ended bool) {
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { ended = pollsHungUp(int(fd)) })
		}
	}
	return ended
}

func pollsHungUp(fd int) bool {
	polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(polled, 0)
	return err == nil && n > 0
}

// shutdown ends the reading or all; the poller reports it.
func (d *descriptor) shutdown(how int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		_ = unix.Shutdown(d.fd, how) // It can only have ended already.
	}
}

func (d *descriptor) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.poller.remove(d)
	_ = unix.Close(d.fd) // Its number may mean another connection at once.
}

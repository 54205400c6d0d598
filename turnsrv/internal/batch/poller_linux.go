package batch

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pollerEvents is how many sockets a poller reports at once.
const pollerEvents = 256

// WakeNumber is the number by which a Poller reports that it was interrupted.
const WakeNumber = 0

// Poller waits for sockets that can be read, in the way that costs least: napping
// while many packets come, in the kernel while some do, parked while all is quiet.
// One loop may wait; any goroutine may add and interrupt. A socket that is closed
// leaves it by itself.
type Poller struct {
	// Fixed after construction.
	fd   int
	wake int      // wake is an eventfd.
	gate *os.File // gate is an epoll set that the runtime watches. It holds fd while the goroutine is parked, lest every packet wakes a thread of the runtime, too.
	conn syscall.RawConn

	// What wait calls, kept since a function value is allocated.
	look       func(uintptr) bool
	open, shut func(uintptr)
	changed    error // changed is what open and shut came to.

	// Owned by the loop.
	pace   pace
	least  time.Duration // least is how long the next nap is, if there is one.
	spare  spareProcessor
	events [pollerEvents]unix.EpollEvent
	found  int
}

// NewPoller returns a poller whose naps are no longer than maxNap; 0 means none.
func NewPoller(maxNap time.Duration) (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p := &Poller{fd: fd, wake: -1, pace: pace{maxNap: maxNap}}
	p.look = func(uintptr) bool { return p.poll(0) }
	p.open = p.changer(unix.EPOLL_CTL_ADD)
	p.shut = p.changer(unix.EPOLL_CTL_DEL)
	if err := p.prepare(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Poller) prepare() error {
	gate, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(gate, true) // The runtime watches only what does not block; this does not fail.
	p.gate = os.NewFile(uintptr(gate), "epoll")
	if p.conn, err = p.gate.SyscallConn(); err != nil {
		return err
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		p.wake = -1
		return os.NewSyscallError("eventfd", err)
	}
	return p.watch(p.wake, WakeNumber)
}

// Add makes the poller report a socket by a number that is not WakeNumber, until it
// is closed.
func (p *Poller) Add(s *Socket, number uint32) error {
	fd, ok := s.acquire()
	if !ok {
		return net.ErrClosed
	}
	defer s.release()
	return p.watch(fd, number)
}

func (p *Poller) watch(fd int, number uint32) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(number)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event))
}

// Await returns when there is something to read, or false when there never will.
func (p *Poller) Await() bool {
	if d := p.pace.nap(); d > 0 {
		nap(max(d, p.least))
	}
	p.least = 0
	busy := p.pace.busy()
	p.spare.note(busy, p.pace.latest)
	if busy && p.spare.there.Load() && p.poll(busyWait) {
		return true
	}
	return p.wait() == nil
}

// Turned notes a turn that began at now and passed so many packets on. With backlog
// more waits than it read.
func (p *Poller) Turned(packets int, backlog bool, now time.Time) {
	p.pace.turned(packets, backlog, now)
}

// Prolong makes the next nap, if there is one, that long at least.
func (p *Poller) Prolong(least time.Duration) { p.least = least }

// poll looks for sockets to read and returns whether there are any. It waits for
// one, at most that long in whole milliseconds, without telling the scheduler: a
// goroutine that is woken hundreds of times in a millisecond is better off so.
func (p *Poller) poll(limit time.Duration) bool {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)),
		pollerEvents, uintptr(limit.Milliseconds()), 0, 0)
	p.found = 0
	if errno == 0 {
		p.found = int(n)
	}
	return p.found > 0
}

// wait parks the goroutine until there is a socket to read. It fails when the
// poller is closed.
func (p *Poller) wait() error {
	if p.poll(0) {
		return nil
	}
	if err := errors.Join(p.conn.Control(p.open), p.changed); err != nil {
		return err
	}
	err := p.conn.Read(p.look)
	return errors.Join(err, p.conn.Control(p.shut), p.changed)
}

// changer returns what puts fd behind the gate or takes it away.
func (p *Poller) changer(operation int) func(uintptr) {
	event := unix.EpollEvent{Events: unix.EPOLLIN}
	return func(gate uintptr) {
		p.changed = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(gate), operation, p.fd, &event))
	}
}

// Found returns how many sockets Await has found.
func (p *Poller) Found() int { return p.found }

// Ready returns the numbers of the sockets that were found, by index.
func (p *Poller) Ready(i int) uint32 { return uint32(p.events[i].Fd) }

// Interrupt makes Await return.
func (p *Poller) Interrupt() {
	one := [8]byte{1, 7: 1}           // It counts, in either byte order.
	_, _ = unix.Write(p.wake, one[:]) // It can only be full, which interrupts as well.
}

// Heed ends the effect of the interrupts so far.
func (p *Poller) Heed() {
	var count [8]byte
	_, _ = unix.Read(p.wake, count[:]) // Nothing may be left of them already.
}

// Close gives back what the poller has. Nobody may wait any more.
func (p *Poller) Close() {
	p.spare.close()
	if p.gate != nil {
		_ = p.gate.Close()
	}
	if p.wake >= 0 {
		_ = unix.Close(p.wake)
	}
	_ = unix.Close(p.fd)
}

// nap sleeps without telling the scheduler.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

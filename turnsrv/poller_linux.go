package turnsrv

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pollerEvents is how many sockets a poller reports at once.
const pollerEvents = 256

// wakeNumber is the number of the descriptor that interrupts a poller.
const wakeNumber = 0

// poller waits for sockets that can be read. One goroutine may wait; any may add
// and interrupt. A socket that is closed leaves it by itself.
type poller struct {
	// Fixed after construction.
	fd   int
	wake int      // wake is an eventfd.
	gate *os.File // gate is an epoll set that the runtime watches. It holds fd while the goroutine is parked, lest every packet wakes a thread of the runtime, too.
	conn syscall.RawConn

	// What wait calls, kept since a function value is allocated.
	look       func(uintptr) bool
	open, shut func(uintptr)
	changed    error // changed is what open and close came to.

	events [pollerEvents]unix.EpollEvent // events are the waiting goroutine's.
	found  int
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p := &poller{fd: fd, wake: -1}
	p.look = func(uintptr) bool { return p.poll(0) }
	p.open = p.changer(unix.EPOLL_CTL_ADD)
	p.shut = p.changer(unix.EPOLL_CTL_DEL)
	if err := p.prepare(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) prepare() error {
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
	return p.add(p.wake, wakeNumber)
}

// add makes the poller report a descriptor by a number that is not wakeNumber.
func (p *poller) add(fd int, number uint32) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(number)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event))
}

// poll looks for sockets to read and returns whether there are any. It waits for
// one, at most that long in whole milliseconds, without telling the scheduler: a
// goroutine that is woken hundreds of times in a millisecond is better off so.
func (p *poller) poll(limit time.Duration) bool {
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
func (p *poller) wait() error {
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
func (p *poller) changer(operation int) func(uintptr) {
	event := unix.EpollEvent{Events: unix.EPOLLIN}
	return func(gate uintptr) {
		p.changed = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(gate), operation, p.fd, &event))
	}
}

// ready returns the numbers of the sockets that poll and wait found, by index.
func (p *poller) ready(i int) uint32 { return uint32(p.events[i].Fd) }

// interrupt makes wait and poll return.
func (p *poller) interrupt() {
	one := [8]byte{1, 7: 1}           // It counts, in either byte order.
	_, _ = unix.Write(p.wake, one[:]) // It can only be full, which interrupts as well.
}

// heed ends the effect of the interrupts so far.
func (p *poller) heed() {
	var count [8]byte
	_, _ = unix.Read(p.wake, count[:]) // Nothing may be left of them already.
}

// close is called when nobody waits any more.
func (p *poller) close() {
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

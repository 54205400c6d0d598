package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const pollEvents = 256

// poller waits for many sockets at once. It is owned by one goroutine.
type poller struct {
	epoll  int
	self   [1]unix.PollFd
	events [pollEvents]unix.EpollEvent
}

// ready is a socket that can be read, written or both.
type ready struct {
	number      int
	read, write bool
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll: %w", err)
	}
	return &poller{epoll: epoll, self: [1]unix.PollFd{{Fd: int32(epoll), Events: unix.POLLIN}}}, nil
}

func (p *poller) close() { _ = unix.Close(p.epoll) }

// watch says what is wanted of a socket from now on; fresh says that it is new here.
func (p *poller) watch(fd, number int, fresh, read, write bool) error {
	event := unix.EpollEvent{Fd: int32(number)}
	if read {
		event.Events |= unix.EPOLLIN
	}
	if write {
		event.Events |= unix.EPOLLOUT
	}
	op := unix.EPOLL_CTL_MOD
	if fresh {
		op = unix.EPOLL_CTL_ADD
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, op, fd, &event))
}

// wait appends the sockets that are ready. It sleeps only when none is, until one is or d is over:
// a generator that is busy makes one system call here.
func (p *poller) wait(d time.Duration, to []ready) ([]ready, error) {
	to, err := p.look(to)
	if len(to) > 0 || err != nil || d <= 0 {
		return to, err
	}
	limit := unix.NsecToTimespec(d.Nanoseconds())
	if _, err := unix.Ppoll(p.self[:], &limit, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return to, os.NewSyscallError("ppoll", err)
	}
	return p.look(to)
}

// look appends the sockets that are ready now.
func (p *poller) look(to []ready) ([]ready, error) {
	n, err := unix.EpollWait(p.epoll, p.events[:], 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return to, os.NewSyscallError("epoll_wait", err)
	}
	for _, e := range p.events[:max(n, 0)] {
		broken := e.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0
		to = append(to, ready{int(e.Fd), e.Events&unix.EPOLLIN != 0 || broken, e.Events&unix.EPOLLOUT != 0})
	}
	return to, nil
}

// read returns -1 when there is nothing now, and 0 when the server has closed the connection.
func read(fd int, b []byte) (int, error) {
	n, err := unix.Read(fd, b)
	return n, unlessAgain(err)
}

// write returns how much was taken, -1 for nothing.
func write(fd int, b []byte) (int, error) {
	n, err := unix.Write(fd, b)
	return n, unlessAgain(err)
}

func unlessAgain(err error) error {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// bare takes the socket of a connection, which is closed, as a descriptor of its own.
func bare(conn net.Conn) (int, error) {
	defer func() { _ = conn.Close() }()
	system, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, failed := -1, error(nil)
	err = system.Control(func(of uintptr) { fd, failed = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, failed); err != nil {
		return -1, fmt.Errorf("taking a socket: %w", err)
	}
	return fd, nil
}

// cut closes a socket without waiting for the other side, so that its port is free at once.
func cut(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

// narrow lets little wait in a connection that is made: neither in our receive buffer nor, because
// segments are small, in the send buffer of a server on this machine.
func narrow(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 536))
	})
	return errors.Join(err, failed)
}

// checkDescriptors returns an error unless this process may have so many sockets.
func checkDescriptors(sockets int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("reading the limit of descriptors: %w", err)
	}
	if uint64(sockets)+spareDescriptors > limit.Cur {
		return fmt.Errorf("%d clients are more than the limit of descriptors, %d, allows: raise it with ulimit -n", sockets, limit.Cur)
	}
	return nil
}

package batch

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket is a UDP socket that the Go runtime does not watch, since a Poller does,
// and each packet would wake both. It never blocks. It implements Conn except for
// reading, which an Inbox does. Its methods may be called by any goroutine.
type Socket struct {
	local *net.UDPAddr // local is fixed after construction.

	// Owned by the loop that reads the socket.
	drops    uint32 // drops is what the kernel dropped, as it said last.
	coalesce coalescing
	marks    marking

	// segmentLimit is the largest size that the kernel may be asked to split a
	// long write into. It shrinks by what the kernel refuses.
	segmentLimit atomic.Int32

	// mu is held for reading while fd is in use, so that nobody writes to a
	// descriptor that was closed and is another's by now.
	mu sync.RWMutex
	fd int // fd is -1 once it is closed.
}

func newSocket(fd int, local *net.UDPAddr) *Socket {
	s := &Socket{fd: fd, local: local}
	s.segmentLimit.Store(math.MaxInt32)
	// Where the kernel does not count what it drops, nobody learns of it.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	return s
}

// Open opens a UDP socket at an address. An IPv6 one takes no IPv4.
func Open(at netip.AddrPort) (*Socket, error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := bindTo(fd, at); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	if at.Port() == 0 {
		if at, err = boundTo(fd, at); err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
	}
	return newSocket(fd, net.UDPAddrFromAddrPort(at)), nil
}

// boundTo is at with the port that the kernel picked.
func boundTo(fd int, at netip.AddrPort) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return at, os.NewSyscallError("getsockname", err)
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(at.Addr(), uint16(name.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(at.Addr(), uint16(name.Port)), nil
	}
	return at, nil
}

func bindTo(fd int, at netip.AddrPort) error {
	if at.Addr().Is4() {
		return unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16(), ZoneId: zoneOf(at.Addr())})
}

// Adopt takes a socket away from the Go runtime, of whose datagrams the marks are to be
// told or not. The connection is closed then, whatever comes of it.
func Adopt(conn *net.UDPConn, marks bool) (*Socket, error) {
	defer func() { _ = conn.Close() }()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var failed error
	err = raw.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	s := newSocket(fd, conn.LocalAddr().(*net.UDPAddr))
	if marks {
		TellMarks(s, s.isIPv6())
	}
	return s, nil
}

func (s *Socket) isIPv6() bool { return s.local.IP.To4() == nil }

// acquire returns the descriptor for use until release, or false when it is closed.
func (s *Socket) acquire() (fd int, ok bool) {
	s.mu.RLock()
	if s.fd < 0 {
		s.mu.RUnlock()
		return -1, false
	}
	return s.fd, true
}

func (s *Socket) release() { s.mu.RUnlock() }

// Close waits for calls that are under way, none of which blocks.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	fd := s.fd
	s.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// LocalAddr returns the address that the socket is bound to.
func (s *Socket) LocalAddr() net.Addr { return s.local }

// SyscallConn implements syscall.Conn.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return s, nil }

// Control implements syscall.RawConn.
func (s *Socket) Control(f func(fd uintptr)) error {
	fd, ok := s.acquire()
	if !ok {
		return net.ErrClosed
	}
	defer s.release()
	f(uintptr(fd))
	return nil
}

// Read implements syscall.RawConn. Only a Poller knows when to read.
func (s *Socket) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// Write implements syscall.RawConn. Nothing waits for such a socket.
func (s *Socket) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// SetReadBuffer asks for a receive buffer of that size.
func (s *Socket) SetReadBuffer(bytes int) error { return s.setBuffer(unix.SO_RCVBUF, bytes) }

// SetWriteBuffer asks for a send buffer of that size.
func (s *Socket) SetWriteBuffer(bytes int) error { return s.setBuffer(unix.SO_SNDBUF, bytes) }

func (s *Socket) setBuffer(option, bytes int) error {
	fd, ok := s.acquire()
	if !ok {
		return net.ErrClosed
	}
	defer s.release()
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, bytes))
}

// ReadMsgUDPAddrPort implements Conn. An Inbox reads by other means.
func (s *Socket) ReadMsgUDPAddrPort([]byte, []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	return 0, 0, 0, netip.AddrPort{}, errors.ErrUnsupported
}

// WriteMsgUDPAddrPort implements Conn. It fails at once when the kernel has
// no room.
func (s *Socket) WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error) {
	fd, ok := s.acquire()
	if !ok {
		return 0, 0, net.ErrClosed
	}
	defer s.release()
	m := messages.Get().(*message)
	defer messages.Put(m)
	m.part = iovec(b)
	m.header = unix.Msghdr{Iov: &m.part, Name: (*byte)(unsafe.Pointer(&m.name)), Namelen: putSockaddr(&m.name, addr)}
	m.header.SetIovlen(1)
	if len(oob) > 0 {
		m.header.Control = &oob[0]
		m.header.SetControllen(len(oob))
	}
	sent, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.header)), unix.MSG_DONTWAIT)
	m.part, m.header = unix.Iovec{}, unix.Msghdr{}
	if errno != 0 {
		return 0, 0, os.NewSyscallError("sendmsg", errno)
	}
	return int(sent), len(oob), nil
}

// message is what a single datagram is sent with.
type message struct {
	header unix.Msghdr
	part   unix.Iovec
	name   unix.RawSockaddrInet6
}

var messages = sync.Pool{New: func() any { return new(message) }}

// iovec describes a part of a datagram.
func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// putSockaddr writes an address of either family the kernel's way and returns
// its size.
func putSockaddr(to *unix.RawSockaddrInet6, addr netip.AddrPort) uint32 {
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], addr.Port())
	number := binary.NativeEndian.Uint16(port[:])
	if addr.Addr().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(to))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: number, Addr: addr.Addr().As4()}
		return unix.SizeofSockaddrInet4
	}
	*to = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: number, Addr: addr.Addr().As16()}
	if addr.Addr().Zone() != "" {
		to.Scope_id = zoneOf(addr.Addr())
	}
	return unix.SizeofSockaddrInet6
}

// sockaddr reads an address that the kernel wrote.
func sockaddr(from *unix.RawSockaddrInet6) netip.AddrPort {
	port := (*[2]byte)(unsafe.Pointer(&from.Port))
	number := binary.BigEndian.Uint16(port[:])
	if from.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), number)
	}
	addr := netip.AddrFrom16(from.Addr).Unmap()
	if from.Scope_id != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(from.Scope_id), 10))
	}
	return netip.AddrPortFrom(addr, number)
}

// zoneOf returns the index of the interface of a link-local address, which is
// written as a number or by name.
func zoneOf(addr netip.Addr) uint32 {
	zone := addr.Zone()
	if zone == "" {
		return 0
	}
	if index, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(index)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

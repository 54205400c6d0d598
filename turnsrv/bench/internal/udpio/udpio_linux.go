//go:build linux && (amd64 || arm64)

package udpio

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Supported says whether the system has what the package offers.
const Supported = true

const (
	// MaxSegments is how many datagrams one GSO send may hold on every kernel
	// that has it.
	MaxSegments = 64

	// MaxTrain is the largest GSO send in bytes, below the 65,507 of IPv4.
	MaxTrain = 65_000

	// ControlSpace is room for all control messages of one datagram.
	ControlSpace = 128
)

// Message is one datagram, or one train of segments, of a batch: struct mmsghdr.
type Message struct {
	Header unix.Msghdr
	N      uint32 // N is the number of bytes that were received or sent.
	_      uint32
}

// Name is room for the address of either family.
type Name = unix.RawSockaddrInet6

// Receive takes what is there into messages, without waiting.
func Receive(fd int, messages []Message) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])),
		uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(messages)
	return int(n), errno
}

// Send sends messages until one fails or all are sent, without waiting. The
// error is that of the first one, when nothing was sent.
func Send(fd int, messages []Message) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])),
		uintptr(len(messages)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	runtime.KeepAlive(messages)
	return int(n), errno
}

// SetBuffers asks for socket buffers of so many bytes: beyond the system's limit
// where that is allowed, else up to it.
func SetBuffers(fd, bytes int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
	}
}

// SetGRO turns merging of received trains on or off.
func SetGRO(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, value)
}

// segmentControl is the size of what AppendSegment appends.
var segmentControl = unix.CmsgSpace(2)

// AppendSegment appends the control message that makes a send a train of
// segments of size bytes. to must have room for it.
func AppendSegment(to []byte, size int) []byte {
	start := len(to)
	to = to[:start+segmentControl]
	clear(to[start:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&to[start]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(to[start+unix.CmsgLen(0):], uint16(size))
	return to
}

// Told is what control messages tell about a datagram.
type Told struct {
	Segment int        // Segment is the size of the segments of a train, 0 for a single datagram.
	Asked   netip.Addr // Asked is the address that it was sent to.
	Dropped uint32     // Dropped is how many the socket has lost so far.
}

// ParseControl reads control messages. It allocates nothing.
func ParseControl(control []byte) (t Told) {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(control) {
			return t
		}
		data := control[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			t.Segment = int(int32(binary.NativeEndian.Uint32(data)))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			t.Dropped = binary.NativeEndian.Uint32(data)
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			t.Asked = netip.AddrFrom4([4]byte(data[8:12])) // ipi_addr, after the interface and the local address.
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			t.Asked = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
		control = control[min(len(control), unix.CmsgSpace(len(data))):]
	}
	return t
}

// PutAddress writes an address for the system and returns the size of that.
func PutAddress(name *Name, a netip.AddrPort) uint32 {
	port := a.Port()<<8 | a.Port()>>8
	if a.Addr().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: a.Addr().As4()}
		return unix.SizeofSockaddrInet4
	}
	*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		id, _ := strconv.ParseUint(zone, 10, 32)
		name.Scope_id = uint32(id)
	}
	return unix.SizeofSockaddrInet6
}

// Address reads an address of the system. A zone is the number of an interface.
func Address(name *Name) netip.AddrPort {
	port := name.Port<<8 | name.Port>>8
	if name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port)
	}
	addr := netip.AddrFrom16(name.Addr)
	if name.Scope_id != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10))
	}
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// Wait waits for events of an epoll set, without giving the processor of the Go
// scheduler away: for at most a millisecond or so. A garbage collection
// interrupts it, which looks like no events.
func Wait(epoll int, events []unix.EpollEvent, timeout time.Duration) (int, syscall.Errno) {
	t := unix.NsecToTimespec(timeout.Nanoseconds())
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), uintptr(unsafe.Pointer(&t)), 0, 0)
	if errno == unix.ENOSYS {
		n, _, errno = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), uintptr(timeout.Milliseconds()), 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// Nap sleeps without giving the processor of the Go scheduler away. It may end
// early.
func Nap(d time.Duration) {
	t := unix.NsecToTimespec(d.Nanoseconds())
	_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

package batch

import (
	"net"
	"net/netip"
	"syscall"
)

const (
	// MaxDatagram is room for any datagram, so that none is ever truncated.
	MaxDatagram = 64 << 10

	// ControlSpace is room for what the kernel says about a datagram.
	ControlSpace = 128

	// SocketBuffer holds a burst of a video stream; the kernel may grant less.
	SocketBuffer = 4 << 20
)

// Conn is a UDP socket: a *net.UDPConn, which a goroutine reads, or a Socket.
type Conn interface {
	syscall.Conn
	LocalAddr() net.Addr
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	Close() error
}

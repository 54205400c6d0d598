package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"cline-meet/signal/turnsrv/internal/batch"
)

// unsentLimit bounds what the kernel holds for a stream client that does not
// read, in bytes. What is queued above it stays where it can still be dropped.
const unsentLimit = 128 << 10

// usualUDPSockets is one socket for every core: the kernel spreads the
// clients over them.
func usualUDPSockets() int { return batch.Cores() }

// listenPacket opens a UDP socket, which may share its port with others.
func listenPacket(network, address string, share bool) (*net.UDPConn, error) {
	var config net.ListenConfig
	if share {
		config.Control = sharePort
	}
	conn, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func sharePort(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(err, failed)
}

// limitUnsent asks the kernel to take no more than a little ahead of what the
// client reads. Without it a slow client only gets older data.
func limitUnsent(tcp *net.TCPConn) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit)
	})
}

// tellFrom asks the kernel to tell that there is something to read when it is so many bytes. It
// returns whether that is so then.
func tellFrom(tcp *net.TCPConn, bytes int) bool {
	failed := errors.ErrUnsupported
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) })
	}
	return err == nil && failed == nil
}

// unread returns how many bytes there are to read, 0 where that is not known.
func unread(tcp *net.TCPConn) (bytes int) {
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { bytes, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	}
	return bytes
}

// askedAddress finds the address that a datagram was sent to in what the kernel
// says about it. It does so for every packet, hence without allocating.
func askedAddress(control []byte, _ bool) netip.Addr {
	for len(control) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return netip.Addr{}
		}
		control = rest
		switch {
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12])) // ipi_addr, after the interface and the local address.
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
	}
	return netip.Addr{}
}

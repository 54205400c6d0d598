//go:build !linux

package transport

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// usualUDPSockets is one: only Linux spreads clients over sockets that share
// a port.
func usualUDPSockets() int { return 1 }

// listenPacket opens a UDP socket. Sockets that were to share a port fail to
// bind here.
func listenPacket(network, address string, _ bool) (*net.UDPConn, error) {
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// limitUnsent does nothing where the kernel has no such limit.
func limitUnsent(*net.TCPConn) {}

// askedAddress finds the address that a datagram was sent to in what the kernel
// says about it.
func askedAddress(control []byte, ipv4Socket bool) netip.Addr {
	var dst net.IP
	if ipv4Socket {
		var message ipv4.ControlMessage
		if message.Parse(control) == nil {
			dst = message.Dst
		}
	} else {
		var message ipv6.ControlMessage
		if message.Parse(control) == nil {
			dst = message.Dst
		}
	}
	addr, _ := netip.AddrFromSlice(dst)
	return addr.Unmap()
}

// tellFrom asks nothing of systems that have no such thing.
func tellFrom(*net.TCPConn, int) bool { return false }

func unread(*net.TCPConn) int { return 0 }

package turnsrv

import (
	"net"
	"net/netip"
)

var loopbackIPv4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// primaryIPv4 returns the IPv4 address that this machine is seen at by others,
// as far as the machine itself can tell: the source address of its default
// route, else the best interface address, else loopback.
func primaryIPv4() netip.Addr {
	if addr := routedIPv4(); isPresentable(addr) {
		return addr
	}
	return bestIPv4(interfaceIPv4())
}

// routedIPv4 asks the kernel which source address leads to the internet.
// Connecting a UDP socket sends nothing.
func routedIPv4() netip.Addr {
	conn, err := net.Dial("udp4", "203.0.113.1:9")
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = conn.Close() }()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return local.AddrPort().Addr().Unmap()
}

func interfaceIPv4() []netip.Addr {
	var found []netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil {
			found = append(found, prefix.Addr().Unmap())
		}
	}
	return found
}

// bestIPv4 prefers an address of the internet to a private one.
func bestIPv4(addrs []netip.Addr) netip.Addr {
	best := loopbackIPv4
	for _, addr := range addrs {
		if !isPresentable(addr) {
			continue
		}
		if !addr.IsPrivate() {
			return addr
		}
		if best == loopbackIPv4 {
			best = addr
		}
	}
	return best
}

// isPresentable says whether others might reach addr.
func isPresentable(addr netip.Addr) bool {
	return addr.Is4() && addr.IsGlobalUnicast()
}

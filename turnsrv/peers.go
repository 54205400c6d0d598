package turnsrv

import (
	"net"
	"net/netip"
)

// peerRule allows or denies the peers of a prefix.
type peerRule struct {
	prefix netip.Prefix
	allow  bool
}

// peerPolicy says which addresses a relay may exchange packets with. The most
// specific rule that covers an address decides; without one it is denied. It is
// immutable after construction.
type peerPolicy struct {
	rules []peerRule

	// The node's own relay addresses are peers only at the ports of relays, or a
	// relay would reach the services that listen beside them, this server too.
	own              map[netip.Addr]bool
	minPort, maxPort uint16
}

// specialPurpose holds what must not be a peer by default: the special-purpose
// address registries of IANA (RFC 6890), multicast and reserved space.
var specialPurpose = []string{
	"0.0.0.0/8",       // this network
	"10.0.0.0/8",      // private use
	"100.64.0.0/10",   // shared by carrier-grade NATs
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, the metadata services of clouds
	"172.16.0.0/12",   // private use
	"192.0.0.0/24",    // IETF protocol assignments
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relay anycast
	"192.168.0.0/16",  // private use
	"198.18.0.0/15",   // benchmarking
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, limited broadcast

	// All of IPv6 that is not global unicast: unspecified, loopback, discard
	// only, local translation, segment routing, unique local, link-local, site
	// local and multicast.
	"::/0",
	"2001::/23",     // IETF protocol assignments, Teredo, ORCHID, benchmarking
	"2001:db8::/32", // documentation
	"3fff::/20",     // documentation
}

// generalPurpose holds what is allowed unless a more specific rule denies it.
var generalPurpose = []string{"0.0.0.0/0", "2000::/3"}

// newPeerPolicy returns the default policy of a node whose relays are seen or
// bound at own, on the ports from minPort to maxPort.
func newPeerPolicy(minPort, maxPort uint16, own ...netip.Addr) *peerPolicy {
	p := &peerPolicy{own: map[netip.Addr]bool{}, minPort: minPort, maxPort: maxPort}
	for _, prefix := range generalPurpose {
		p.rules = append(p.rules, peerRule{netip.MustParsePrefix(prefix), true})
	}
	for _, prefix := range specialPurpose {
		p.rules = append(p.rules, peerRule{netip.MustParsePrefix(prefix), false})
	}
	for _, addr := range own {
		addr = undisguise(addr)
		p.own[addr] = true
		p.rules = append(p.rules, peerRule{netip.PrefixFrom(addr, addr.BitLen()), true})
	}
	return p
}

// allows says whether addr may be a peer, whatever its port.
func (p *peerPolicy) allows(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	addr = undisguise(addr)
	best := peerRule{prefix: netip.Prefix{}, allow: false}
	for _, rule := range p.rules {
		if rule.prefix.Contains(addr) && rule.prefix.Bits() > best.prefix.Bits() {
			best = rule
		}
	}
	return best.allow
}

// allowsIP is allows for the address form of the engine.
func (p *peerPolicy) allowsIP(ip net.IP) bool {
	addr, ok := netip.AddrFromSlice(ip)
	return ok && p.allows(addr)
}

// reaches says whether a packet may go to an address that allows let pass.
func (p *peerPolicy) reaches(peer netip.AddrPort) bool {
	if !p.own[undisguise(peer.Addr())] {
		return true
	}
	return p.minPort <= peer.Port() && peer.Port() <= p.maxPort
}

// Prefixes of IPv6 addresses that stand for an IPv4 address.
var (
	prefixCompatible = netip.MustParsePrefix("::/96")
	prefixTranslated = netip.MustParsePrefix("::ffff:0:0:0/96")
	prefixNAT64      = netip.MustParsePrefix("64:ff9b::/96")
	prefix6to4       = netip.MustParsePrefix("2002::/16")
)

// undisguise returns the IPv4 address that an IPv6 address stands for, when it
// stands for one: a router on the way would send the packet there.
func undisguise(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return addr
	}
	b := addr.As16()
	switch {
	case prefixCompatible.Contains(addr), prefixTranslated.Contains(addr), prefixNAT64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case prefix6to4.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

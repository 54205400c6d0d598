package transport

import (
	"net/netip"
	"slices"
)

// For NAT behaviour discovery (RFC 5780) a server has two addresses and two ports, and answers from any pair of them whoever asks any other. The
// first address and port are those of the listeners, the second port is the one after theirs. A listener of all addresses has the second one
// as well. What is missing gets sockets of its own, which serve no more than Bindings: they never have to keep up with data.

// AlternatePort returns the second port, 0 without a second address.
func (t *Transports) AlternatePort() int { return t.numbers.alternate }

// bindAlternates binds what the listeners leave.
func (t *Transports) bindAlternates(make sockets) error {
	if len(t.common.Alternates) == 0 {
		return nil
	}
	t.numbers.alternate = t.numbers.plain + 1
	plain, other := uint16(t.numbers.plain), uint16(t.numbers.alternate)
	var at []netip.AddrPort
	for _, alternate := range t.common.Alternates {
		if err := probe(alternate, make); err != nil {
			return err
		}
		for _, listener := range t.listeners(alternate) {
			at = append(at, netip.AddrPortFrom(listener, other))
		}
		if !slices.ContainsFunc(t.listeners(alternate), func(a netip.Addr) bool { return a.IsUnspecified() || a == alternate }) {
			at = append(at, netip.AddrPortFrom(alternate, plain), netip.AddrPortFrom(alternate, other))
		}
	}
	own := *t.common
	own.receiver = t.common.Bindings
	for _, address := range at {
		socket, err := t.bindAt(UDP, address, alternateFlag, make, false)
		if err != nil {
			return err
		}
		t.bindings = append(t.bindings, newUDPServer(&own, socket))
	}
	return nil
}

// probe makes sure that an address is one of this machine, which a listener of all addresses would not tell.
func probe(addr netip.Addr, make sockets) error {
	conn, err := make.packet(network("udp", addr), hostPort(addr, 0), false)
	if err != nil {
		return listenError(alternateFlag, "udp", hostPort(addr, 0), err)
	}
	return conn.Close()
}

// listeners returns the addresses of an address' family that UDP listens on.
func (t *Transports) listeners(like netip.Addr) (addrs []netip.Addr) {
	for _, s := range t.datagrams {
		if addr := s.Address().Addr(); addr.Is4() == like.Is4() && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// PathFrom returns the way from one of the server's UDP addresses to a client. It is nil without a socket that can send from there.
func (t *Transports) PathFrom(server, client netip.AddrPort) Path {
	for _, s := range slices.Concat(t.datagrams, t.bindings) {
		at := s.Address()
		all := at.Addr().IsUnspecified() && at.Addr().Is4() == server.Addr().Is4() && s.socket.told
		if at.Port() == server.Port() && (all || at.Addr() == server.Addr()) {
			return s.PathTo(client, server)
		}
	}
	return nil
}

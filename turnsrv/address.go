package turnsrv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

var loopbackIPv4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Auto as external address asks Kubernetes or a STUN server for it. As public
// host it stands for the external address.
const Auto = "auto"

// relayAddress is where the relays of one address family are. Behind a 1:1 NAT
// the address they are bound to is not the one they are seen at. Both are
// invalid when the node has no relays of the family.
type relayAddress struct {
	bind netip.Addr // bind is the address of the sockets.
	seen netip.Addr // seen is the address peers and clients are told.
}

// translate returns where to send a packet for peer: a peer that is seen at
// this node's own address is another relay of the node, and few NATs would lead
// the packet back.
func (a relayAddress) translate(peer netip.AddrPort) netip.AddrPort {
	return exchange(peer, a.seen, a.bind)
}

// present returns what a peer is called whose packet came from source. It is
// the inverse of translate.
func (a relayAddress) present(source netip.AddrPort) netip.AddrPort {
	return exchange(source, a.bind, a.seen)
}

func exchange(peer netip.AddrPort, from, to netip.Addr) netip.AddrPort {
	if from == to || !from.IsValid() || peer.Addr().Unmap() != from {
		return peer
	}
	return netip.AddrPortFrom(to, peer.Port())
}

// relayAddresses finds the addresses of relays that cfg, which was validated,
// names or leaves open, and makes sure that sockets can be bound to them. IPv4
// is always there, IPv6 if it is configured, or if no relay address is
// configured and the machine has a global one. It asks a STUN server if cfg
// says so, or Kubernetes, which ends early when ctx does.
func relayAddresses(ctx context.Context, cfg Config) (v4, v6 relayAddress, err error) {
	v4.bind, v6.bind = configuredRelays(cfg)
	if !v4.bind.IsValid() {
		v4.bind = primaryIPv4()
	}
	if len(cfg.RelayIP) == 0 {
		v6.bind = primaryIPv6()
	}
	for _, addr := range []netip.Addr{v4.bind, v6.bind} {
		if err := checkBindable(addr); err != nil {
			return relayAddress{}, relayAddress{}, fmt.Errorf("--turn-relay-ip: binding a relay to %s: %w", addr, err)
		}
	}
	external, err := parseExternal(cfg.ExternalIP)
	if err == nil {
		v4.seen, err = external.seen(ctx, v4.bind, cfg)
	}
	if err == nil {
		v6.seen, err = external.seen(ctx, v6.bind, cfg)
	}
	if err == nil && !v6.bind.IsValid() && external.names(netip.Addr.Is6) {
		err = errors.New("an external IPv6 address needs an IPv6 relay address; set --turn-relay-ip")
	}
	if err != nil {
		return relayAddress{}, relayAddress{}, fmt.Errorf("--turn-external-ip: %w", err)
	}
	return v4, v6, nil
}

// configuredRelays returns the configured address of each family, or an invalid one.
func configuredRelays(cfg Config) (v4, v6 netip.Addr) {
	for _, text := range cfg.RelayIP {
		addr, err := netip.ParseAddr(text)
		switch addr = addr.Unmap(); {
		case err != nil:
		case addr.Is4():
			v4 = addr
		default:
			v6 = addr
		}
	}
	return v4, v6
}

// checkBindable accepts an invalid address, which stands for no relays.
func checkBindable(addr netip.Addr) error {
	if !addr.IsValid() {
		return nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return err
	}
	return conn.Close()
}

// external is what was configured about the addresses that relays are seen at.
type external struct {
	auto  bool
	plain []netip.Addr              // plain holds at most one address of each family, for every relay address.
	pairs map[netip.Addr]netip.Addr // pairs maps relay addresses to external ones.
}

// parseExternal reads the values of --turn-external-ip: auto, or any of
// addresses and external/relay pairs.
func parseExternal(texts []string) (external, error) {
	e := external{pairs: map[netip.Addr]netip.Addr{}}
	for _, text := range texts {
		if text == Auto {
			e.auto = true
			continue
		}
		if err := e.add(text); err != nil {
			return external{}, err
		}
	}
	if e.auto && len(texts) > 1 {
		return external{}, fmt.Errorf("%s stands alone", Auto)
	}
	return e, nil
}

func (e *external) add(text string) error {
	seenText, bindText, isPair := strings.Cut(text, "/")
	seen, err := parseRelayAddress(seenText)
	if err != nil {
		return err
	}
	if !isPair {
		if slices.ContainsFunc(e.plain, func(other netip.Addr) bool { return other.BitLen() == seen.BitLen() }) {
			return fmt.Errorf("%s is a second address of its family; for several give external/relay pairs", text)
		}
		e.plain = append(e.plain, seen)
		return nil
	}
	bind, err := parseRelayAddress(bindText)
	if err != nil {
		return err
	}
	if bind.BitLen() != seen.BitLen() {
		return fmt.Errorf("%s pairs an IPv4 with an IPv6 address", text)
	}
	if _, ok := e.pairs[bind]; ok {
		return fmt.Errorf("%s is a second pair for relay address %s", text, bind)
	}
	e.pairs[bind] = seen
	return nil
}

// names says whether an address of a family is given for every relay address.
func (e *external) names(family func(netip.Addr) bool) bool {
	return slices.ContainsFunc(e.plain, family)
}

// seen returns the address that relays at bind are seen at. Without one that
// was told it is bind. When pairs are all that is told of a family, one of them
// must be for bind: several nodes may share a configuration, but a node that is
// missing in it would hand out an address that nobody can reach.
func (e *external) seen(ctx context.Context, bind netip.Addr, cfg Config) (netip.Addr, error) {
	if !bind.IsValid() {
		return netip.Addr{}, nil
	}
	if e.auto {
		return askExternal(ctx, bind, cfg)
	}
	if seen, ok := e.pairs[bind]; ok {
		return seen, nil
	}
	for _, seen := range e.plain {
		if seen.BitLen() == bind.BitLen() {
			return seen, nil
		}
	}
	for other := range e.pairs {
		if other.BitLen() == bind.BitLen() {
			return netip.Addr{}, fmt.Errorf("no pair is for relay address %s", bind)
		}
	}
	return bind, nil
}

// askExternal asks Kubernetes for the external address of the node that cfg
// names, else the STUN server that cfg names. An IPv6 address that needs no
// translation is its own external address: few STUN servers have IPv6. Without
// an answer of Kubernetes and without a STUN server it is bind.
func askExternal(ctx context.Context, bind netip.Addr, cfg Config) (netip.Addr, error) {
	if isGlobalIPv6(bind) {
		return bind, nil
	}
	seen, err := askKubernetes(ctx, bind, cfg)
	source := "kubernetes node " + cfg.KubernetesNode
	switch {
	case err != nil && cfg.ExternalSTUN == "":
		return netip.Addr{}, fmt.Errorf("%s: %w", Auto, err)
	case err != nil:
		cfg.logger().Warn("asking for the external address of the node", "error", err)
	case !seen.IsValid() && cfg.ExternalSTUN == "":
		seen, source = bind, "relay address, "+source+" has no external one"
	}
	if !seen.IsValid() {
		source = "stun server " + cfg.ExternalSTUN
		seen, err = stunQuery{server: cfg.ExternalSTUN, wait: stunFirstWait, tries: stunTries}.run(ctx, bind)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("%s: asking --turn-external-stun %s from %s: %w", Auto, cfg.ExternalSTUN, bind, err)
		}
	}
	cfg.logger().Info("external address found", "address", seen, "relay", bind, "source", source)
	return seen, nil
}

// primaryIPv4 returns the IPv4 address that this machine is seen at by others,
// as far as the machine itself can tell: the source address of its default
// route, else the best interface address, else loopback.
func primaryIPv4() netip.Addr {
	if addr := routedAddress("udp4", "203.0.113.1:9"); isPresentable(addr) {
		return addr
	}
	addrs, err := machineAddresses()
	if err != nil {
		return loopbackIPv4
	}
	return bestIPv4(addrs)
}

// primaryIPv6 returns the global unicast IPv6 address of this machine that leads
// to the internet, else any that a socket can be bound to, else an invalid one.
// Unlike in IPv4, a private address is none: nothing translates it on the way.
func primaryIPv6() netip.Addr {
	addrs, err := machineAddresses()
	if err != nil {
		return netip.Addr{}
	}
	return bestIPv6(append([]netip.Addr{routedAddress("udp6", "[2001:db8::1]:9")}, addrs...))
}

func bestIPv6(addrs []netip.Addr) netip.Addr {
	for _, addr := range addrs {
		// An address whose uniqueness is not proven yet cannot be bound.
		if isGlobalIPv6(addr) && checkBindable(addr) == nil {
			return addr
		}
	}
	return netip.Addr{}
}

// routedAddress asks the kernel which source address leads to a remote one.
// Connecting a UDP socket sends nothing.
func routedAddress(network, remote string) netip.Addr {
	conn, err := net.Dial(network, remote)
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = conn.Close() }()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return plainAddr(local.AddrPort().Addr())
}

// machineAddresses returns the addresses of all interfaces.
func machineAddresses() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			found = append(found, plainAddr(prefix.Addr()))
		}
	}
	return found, nil
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

var (
	globalIPv6 = netip.MustParsePrefix("2000::/3")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// isGlobalIPv6 says whether addr needs no translation. Documentation addresses
// count, since networks for tests use them; those of a Teredo tunnel do not.
func isGlobalIPv6(addr netip.Addr) bool {
	return globalIPv6.Contains(addr) && !teredo.Contains(addr)
}

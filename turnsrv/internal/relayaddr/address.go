package relayaddr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	"cline-meet/signal/signal/setting"
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Auto as external address asks Kubernetes or a STUN server for it.
const Auto = "auto"

// Config is what an operator says of the addresses of relays.
type Config struct {
	// Relays are the addresses that relays are bound to, at most one of each family.
	Relays []string
	// External are the addresses they are seen at: at most one of each family,
	// external/relay pairs, or auto alone.
	External       []string
	STUN           string // STUN is host:port of the server that auto asks.
	KubernetesNode string // KubernetesNode is the Node that auto asks Kubernetes for, before the STUN server.
	Metadata       bool   // Metadata lets the cloud be asked, after Kubernetes.
	Log            *slog.Logger
}

// Address is where the relays of one address family are. Behind a 1:1 NAT
// the address they are bound to is not the one they are seen at. Both are
// invalid when the node has no relays of the family.
type Address struct {
	Bind netip.Addr // Bind is the address of the sockets.
	Seen netip.Addr // Seen is the address peers and clients are told.
}

// Translate returns where to send a packet for peer: a peer that is seen at
// this node's own address is another relay of the node, and few NATs would lead
// the packet back.
func (a Address) Translate(peer netip.AddrPort) netip.AddrPort {
	return exchange(peer, a.Seen, a.Bind)
}

// Present returns what a peer is called whose packet came from source. It is
// the inverse of translate.
func (a Address) Present(source netip.AddrPort) netip.AddrPort {
	return exchange(source, a.Bind, a.Seen)
}

func exchange(peer netip.AddrPort, from, to netip.Addr) netip.AddrPort {
	if from == to || !from.IsValid() || peer.Addr().Unmap() != from {
		return peer
	}
	return netip.AddrPortFrom(to, peer.Port())
}

// Find finds the addresses of relays that cfg, which was validated,
// names or leaves open, and makes sure that sockets can be bound to them. IPv4
// is always there, IPv6 if it is configured, or if no relay address is
// configured and the machine has a global one. It asks a STUN server if cfg
// says so, or Kubernetes, which ends early when ctx does.
func Find(ctx context.Context, cfg Config) (v4, v6 Address, err error) {
	v4.Bind, v6.Bind = configuredRelays(cfg)
	if !v4.Bind.IsValid() {
		v4.Bind = PrimaryIPv4()
	}
	if len(cfg.Relays) == 0 {
		v6.Bind = primaryIPv6()
	}
	for _, addr := range []netip.Addr{v4.Bind, v6.Bind} {
		if err := checkBindable(addr); err != nil {
			return Address{}, Address{}, fmt.Errorf("--turn-relay-ip: binding a relay to %s: %w", addr, err)
		}
	}
	external, err := ParseExternal(cfg.External)
	if err == nil {
		v4.Seen, err = external.seen(ctx, v4.Bind, cfg)
	}
	if err == nil {
		v6.Seen, err = external.seen(ctx, v6.Bind, cfg)
	}
	if err == nil && !v6.Bind.IsValid() && external.NamesIPv6() {
		err = errors.New("an external IPv6 address needs an IPv6 relay address; set --turn-relay-ip")
	}
	if err != nil {
		return Address{}, Address{}, fmt.Errorf("--turn-external-ip: %w", err)
	}
	return v4, v6, nil
}

// configuredRelays returns the configured address of each family, or an invalid one.
func configuredRelays(cfg Config) (v4, v6 netip.Addr) {
	for _, text := range cfg.Relays {
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

// External is what was configured about the addresses that relays are seen at.
type External struct {
	auto  bool
	plain []netip.Addr              // plain holds at most one address of each family, for every relay address.
	pairs map[netip.Addr]netip.Addr // pairs maps relay addresses to external ones.
}

// ParseExternal reads the values of --turn-external-ip: auto, or any of
// addresses and external/relay pairs.
func ParseExternal(texts []string) (External, error) {
	e := External{pairs: map[netip.Addr]netip.Addr{}}
	for _, text := range texts {
		if text == Auto {
			e.auto = true
			continue
		}
		if err := e.add(text); err != nil {
			return External{}, err
		}
	}
	if e.auto && len(texts) > 1 {
		return External{}, fmt.Errorf("%s stands alone", Auto)
	}
	return e, nil
}

func (e *External) add(text string) error {
	seenText, bindText, isPair := strings.Cut(text, "/")
	seen, err := Parse(seenText)
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
	bind, err := Parse(bindText)
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

// Asks says whether the addresses have to be found out.
func (e *External) Asks() bool { return e.auto }

// NamesIPv6 says whether an IPv6 address is given for every relay address.
func (e *External) NamesIPv6() bool { return slices.ContainsFunc(e.plain, netip.Addr.Is6) }

// seen returns the address that relays at bind are seen at. Without one that
// was told it is bind. When pairs are all that is told of a family, one of them
// must be for bind: several nodes may share a configuration, but a node that is
// missing in it would hand out an address that nobody can reach.
func (e *External) seen(ctx context.Context, bind netip.Addr, cfg Config) (netip.Addr, error) {
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
	if isTranslated(bind) && len(e.plain) == 0 {
		return findExternal(ctx, bind, cfg), nil
	}
	return bind, nil
}

// findExternal finds the external address of a node that was told none, or returns bind.
func findExternal(ctx context.Context, bind netip.Addr, cfg Config) netip.Addr {
	if cfg.KubernetesNode == "" && !cfg.Metadata && cfg.STUN == "" {
		return bind
	}
	seen, err := askExternal(ctx, bind, cfg)
	if err != nil {
		cfg.Log.Warn("looking for the external address", "error", err)
		return bind
	}
	return seen
}

// askExternal asks Kubernetes for the external address of the node that cfg
// names, else the cloud, else the STUN server that cfg names. An IPv6 address that
// needs no translation is its own external address: few STUN servers have IPv6.
// Without an answer and without a STUN server it is bind.
func askExternal(ctx context.Context, bind netip.Addr, cfg Config) (netip.Addr, error) {
	if isGlobalIPv6(bind) {
		return bind, nil
	}
	seen, err := askKubernetes(ctx, bind, cfg)
	source := "kubernetes node " + cfg.KubernetesNode
	if err != nil && (cfg.STUN != "" || cfg.Metadata) {
		cfg.Log.Warn("asking for the external address of the node", "error", err)
	}
	if !seen.IsValid() && cfg.Metadata && bind.Is4() {
		if found, name := (cloud{metadataURL, metadataWait}).externalIP(ctx); found.IsValid() {
			seen, source, err = found, "metadata of "+name, nil
		}
	}
	switch {
	case seen.IsValid():
	case cfg.STUN != "":
		source = "stun server " + cfg.STUN
		seen, err = stunQuery{server: cfg.STUN, wait: stunFirstWait, tries: stunTries}.run(ctx, bind)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("%s: asking --turn-external-stun %s from %s: %w", Auto, cfg.STUN, bind, err)
		}
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%s: %w", Auto, err)
	case len(cfg.External) == 0:
		return bind, nil
	default:
		seen, source = bind, "relay address, nobody knows an external one"
	}
	cfg.Log.Info("external address found", "address", seen, "relay", bind, "source", source)
	return seen, nil
}

var sharedByNATs = netip.MustParsePrefix("100.64.0.0/10")

// isTranslated says whether peers elsewhere must see addr as another one: it is private, or a carrier's NAT is in front.
func isTranslated(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLinkLocalUnicast() || sharedByNATs.Contains(addr)
}

// PrimaryIPv4 returns the IPv4 address that this machine is seen at by others,
// as far as the machine itself can tell: the source address of its default
// route, else the best interface address, else loopback.
func PrimaryIPv4() netip.Addr {
	if addr := routedAddress("udp4", "203.0.113.1:9"); isPresentable(addr) {
		return addr
	}
	addrs, err := OfMachine()
	if err != nil {
		return loopback
	}
	return bestIPv4(addrs)
}

// primaryIPv6 returns the global unicast IPv6 address of this machine that leads
// to the internet, else any that a socket can be bound to, else an invalid one.
// Unlike in IPv4, a private address is none: nothing translates it on the way.
func primaryIPv6() netip.Addr {
	addrs, err := OfMachine()
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
	return Plain(local.AddrPort().Addr())
}

// OfMachine returns the addresses of all interfaces.
func OfMachine() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			found = append(found, Plain(prefix.Addr()))
		}
	}
	return found, nil
}

// bestIPv4 prefers an address of the internet to a private one.
func bestIPv4(addrs []netip.Addr) netip.Addr {
	best := loopback
	for _, addr := range addrs {
		if !isPresentable(addr) {
			continue
		}
		if !addr.IsPrivate() {
			return addr
		}
		if best == loopback {
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

// Parse reads an address that relays may be bound to or seen at.
func Parse(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, setting.NotAnAddress(text)
	}
	if addr = addr.Unmap(); !IsDestination(addr) {
		return netip.Addr{}, fmt.Errorf("%s is not an address that peers can send to", text)
	}
	return addr, nil
}

var broadcastIPv4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// IsDestination says whether packets to an address lead to one host: not when it is
// no unicast address, and the system sends what is for 0.0.0.0 to itself.
func IsDestination(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() && addr != broadcastIPv4
}

// Plain strips what does not matter to where an address leads: the IPv4-mapped
// notation and the zone.
func Plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

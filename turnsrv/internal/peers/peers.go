// Package peers says whom a relay may exchange packets with: nobody in a special-use
// range, however its address is disguised, unless an operator opens it, and never the
// services of the node itself.
package peers

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/relayaddr"
)

// Config is what an operator says of peers, and what no setting opens.
type Config struct {
	Allow, Deny []string // Allow and Deny hold CIDRs and addresses.

	// Forbidden are what relays must never reach, whatever Allow says. An unspecified
	// address stands for every address that this machine has.
	Forbidden []netip.AddrPort

	MinPort, MaxPort int // MinPort and MaxPort are the ports of relays, inclusive.
}

// Check adds every wrong CIDR to p.
func (cfg Config) Check(p *setting.Problems) {
	parseAll(p, allowFlag, cfg.Allow)
	parseAll(p, denyFlag, cfg.Deny)
}

const (
	allowFlag = "turn-allow-peer"
	denyFlag  = "turn-deny-peer"
)

// verdict is what the peer policy says about an address.
type verdict uint8

const (
	verdictDenied  verdict = iota
	verdictAllowed         // Allowed at every port.
	verdictRelay           // Allowed at relay ports: the node's own relay addresses.
)

// rule gives the addresses of a prefix a verdict.
type rule struct {
	prefix  netip.Prefix
	verdict verdict
	rank    rank
}

// rank decides between rules of one length: what the operator says is stronger
// than what is built in, and a denial stronger than an allowance.
type rank uint8

const (
	rankBuiltIn rank = iota
	rankOwn
	rankAllow
	rankDeny
)

// Policy says which peers a relay may exchange packets with. The most
// specific rule that covers an address decides. It is immutable after
// construction.
type Policy struct {
	// The rules, flattened: verdicts[i] holds from starts[i] to before
	// starts[i+1]. A search costs the same for three rules and for thousands.
	// It is made for packets, hence among numbers.
	starts   []number
	verdicts []verdict
	ipv4     int // ipv4 is how many of them are of IPv4, which come first.

	minPort, maxPort uint16 // The relay ports, inclusive.

	forbidden map[uint16]forbiddenHosts // By port.
	machine   map[netip.Addr]bool       // The addresses of this machine, except loopback, when the policy was made.
}

// forbiddenHosts says where one port must not be reached.
type forbiddenHosts struct {
	machine bool // machine means every address of this machine.
	addrs   []netip.Addr
}

// specialPurpose holds what must not be a peer by default: the special-purpose
// address registries of IANA (RFC 6890), multicast and reserved space. What
// ::/0 covers already is named too, so that an operator who allows ::/0 does
// not open it.
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

	"::/0",            // all of IPv6 that is not global unicast
	"::1/128",         // loopback
	"::/96",           // unspecified, the IPv4-compatible form
	"::ffff:0:0:0/96", // the IPv4-translated form, which belongs inside a translator
	"64:ff9b:1::/48",  // local translation
	"100::/64",        // discard only
	"2001::/23",       // IETF protocol assignments, Teredo, ORCHID, benchmarking
	"2001:db8::/32",   // documentation
	"3fff::/20",       // documentation
	"5f00::/16",       // segment routing
	"fc00::/7",        // unique local
	"fe80::/10",       // link-local
	"fec0::/10",       // site local
	"ff00::/8",        // multicast
}

// generalPurpose holds what is allowed unless a more specific rule denies it.
var generalPurpose = []string{"0.0.0.0/0", "2000::/3", "64:ff9b::/96"}

// New returns the policy of a node: the built-in rules, those of cfg,
// and the node's own relay addresses, which are peers at relay ports so that
// two clients of one node reach each other. An own address that is not valid is
// left out. It fails when cfg was not validated or the addresses of the machine
// cannot be read.
func New(cfg Config, own ...relayaddr.Address) (*Policy, error) {
	rules, err := rules(cfg, own)
	if err != nil {
		return nil, err
	}
	p := &Policy{minPort: uint16(cfg.MinPort), maxPort: uint16(cfg.MaxPort)}
	p.flatten(rules)
	if err := p.forbid(cfg.Forbidden, own); err != nil {
		return nil, err
	}
	return p, nil
}

func rules(cfg Config, own []relayaddr.Address) ([]rule, error) {
	var rules []rule
	for _, text := range generalPurpose {
		rules = append(rules, rule{netip.MustParsePrefix(text), verdictAllowed, rankBuiltIn})
	}
	for _, text := range specialPurpose {
		rules = append(rules, rule{netip.MustParsePrefix(text), verdictDenied, rankBuiltIn})
	}
	for _, address := range own {
		for _, addr := range []netip.Addr{address.Bind, address.Seen} {
			if addr = relayaddr.Plain(addr); addr.IsValid() {
				rules = append(rules, rule{netip.PrefixFrom(addr, addr.BitLen()), verdictRelay, rankOwn})
			}
		}
	}
	var wrong setting.Problems
	for _, prefix := range parseAll(&wrong, allowFlag, cfg.Allow) {
		rules = append(rules, rule{prefix, verdictAllowed, rankAllow})
	}
	for _, prefix := range parseAll(&wrong, denyFlag, cfg.Deny) {
		rules = append(rules, rule{prefix, verdictDenied, rankDeny})
	}
	return rules, wrong.Err()
}

// parseAll reads the values of a flag. It adds every wrong one to p.
func parseAll(p *setting.Problems, flag string, texts []string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefix, err := parse(text)
		if err != nil {
			p.Add(flag, err)
			continue
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes
}

// parse reads a CIDR or an address. Bits beyond the length are an error,
// since it is not known which of the two is mistyped.
func parse(text string) (netip.Prefix, error) {
	prefix, err := setting.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length; the CIDR is %s", text, undisguisePrefix(masked))
	}
	return undisguisePrefix(prefix), nil
}

// undisguisePrefix returns the IPv4 prefix that an IPv6 prefix stands for. A
// prefix that covers a whole form, such as 2002::/16, stays what it is: who
// denies 6to4 does not mean all of IPv4. The mapped form is only a notation and
// means all of IPv4.
func undisguisePrefix(prefix netip.Prefix) netip.Prefix {
	addr := prefix.Addr()
	if addr.Is4In6() && prefix.Bits() >= 96 {
		return netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	for _, form := range embeddings {
		if bits := prefix.Bits() - form.Bits(); bits > 0 && form.Contains(addr) {
			if inner, ok := embeddedIPv4(addr); ok {
				return netip.PrefixFrom(inner, min(bits, 32)).Masked()
			}
		}
	}
	return prefix
}

// flatten turns rules into ranges. Verdicts change only where a prefix begins
// or after it ends.
func (p *Policy) flatten(rules []rule) {
	var starts []netip.Addr
	for _, r := range rules {
		starts = append(starts, r.prefix.Addr())
		if next := lastAddr(r.prefix).Next(); next.IsValid() {
			starts = append(starts, next)
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	for _, addr := range slices.Compact(starts) {
		p.starts, p.verdicts = append(p.starts, numberOf(addr)), append(p.verdicts, decideAmong(rules, addr))
		if addr.Is4() {
			p.ipv4++
		}
	}
}

// decideAmong returns the verdict of the strongest rule that covers addr.
func decideAmong(rules []rule, addr netip.Addr) verdict {
	best := rule{verdict: verdictDenied}
	for _, r := range rules {
		if r.prefix.Contains(addr) && (!best.prefix.IsValid() || r.beats(best)) {
			best = r
		}
	}
	return best.verdict
}

func (r rule) beats(other rule) bool {
	return cmp.Or(cmp.Compare(r.prefix.Bits(), other.prefix.Bits()), cmp.Compare(r.rank, other.rank)) > 0
}

func lastAddr(prefix netip.Prefix) netip.Addr {
	b := prefix.Addr().AsSlice()
	for i := prefix.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// forbid makes the lookup of peers that no rule can allow. What is forbidden at
// the address a relay is bound to is forbidden at the one it is seen at, since
// a 1:1 NAT leads from there to here.
func (p *Policy) forbid(peers []netip.AddrPort, own []relayaddr.Address) error {
	p.forbidden = make(map[uint16]forbiddenHosts, len(peers))
	everywhere := false
	for _, peer := range peers {
		addr, hosts := relayaddr.Plain(peer.Addr()), p.forbidden[peer.Port()]
		if addr.IsUnspecified() {
			hosts.machine, everywhere = true, true
		} else if addr.IsValid() {
			hosts.addrs = append(hosts.addrs, addr)
		}
		for _, address := range own {
			if addr.IsValid() && addr == relayaddr.Plain(address.Bind) {
				hosts.addrs = append(hosts.addrs, relayaddr.Plain(address.Seen))
			}
		}
		p.forbidden[peer.Port()] = hosts
	}
	if !everywhere {
		return nil
	}
	addrs, err := relayaddr.OfMachine()
	if err != nil {
		return fmt.Errorf("listing the addresses that must not be peers: %w", err)
	}
	p.machine = map[netip.Addr]bool{}
	for _, addr := range addrs {
		p.machine[addr] = true
	}
	for _, address := range own {
		p.machine[relayaddr.Plain(address.Bind)], p.machine[relayaddr.Plain(address.Seen)] = true, true
	}
	return nil
}

// PermitsAddress says whether a relay may exchange packets with peers at an address,
// at some port at least. A permission is asked for by an address alone, and its
// port may be anything (RFC 8656, section 10.1): clients that are refused one
// port give up the address, and with it the relays of others there.
func (p *Policy) PermitsAddress(addr netip.Addr) bool {
	addr = relayaddr.Plain(addr)
	inner, embedded := embeddedIPv4(addr)
	return p.verdict(addr) != verdictDenied && (!embedded || p.verdict(inner) != verdictDenied)
}

// Permits says whether a relay may exchange packets with peer. It is asked for
// channels and again for packets either way, hence allocates nothing.
func (p *Policy) Permits(peer netip.AddrPort) bool {
	addr := relayaddr.Plain(peer.Addr())
	if !p.permitsForm(addr, peer.Port()) {
		return false
	}
	inner, ok := embeddedIPv4(addr)
	return !ok || p.permitsForm(inner, peer.Port())
}

// permitsForm judges an address as it is written.
func (p *Policy) permitsForm(addr netip.Addr, port uint16) bool {
	switch p.verdict(addr) {
	case verdictDenied:
		return false
	case verdictRelay:
		if port < p.minPort || port > p.maxPort {
			return false
		}
	}
	return !p.forbids(addr, port)
}

func (p *Policy) forbids(addr netip.Addr, port uint16) bool {
	hosts, ok := p.forbidden[port]
	if !ok {
		return false
	}
	return slices.Contains(hosts.addrs, addr) || hosts.machine && (addr.IsLoopback() || p.machine[addr])
}

// verdict of the rules for a plain address. What is no unicast address never
// is a peer.
func (p *Policy) verdict(addr netip.Addr) verdict {
	if !relayaddr.IsDestination(addr) {
		return verdictDenied
	}
	first, end := 0, p.ipv4
	if addr.Is6() {
		first, end = p.ipv4, len(p.starts)
	}
	n := numberOf(addr)
	for end-first > 1 { // The built-in rules begin at 0.0.0.0 and ::, at or before every address.
		if middle := (first + end) / 2; n.before(p.starts[middle]) {
			end = middle
		} else {
			first = middle
		}
	}
	return p.verdicts[first]
}

// number is an address among those of its family.
type number struct{ high, low uint64 }

func numberOf(addr netip.Addr) number {
	b := addr.As16()
	return number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n number) before(o number) bool { return n.high < o.high || n.high == o.high && n.low < o.low }

// embeddings are the IPv6 prefixes that are followed by an IPv4 address.
var embeddings = []netip.Prefix{
	netip.MustParsePrefix("::/96"),           // IPv4-compatible (RFC 4291, section 2.5.5.1)
	netip.MustParsePrefix("::ffff:0:0:0/96"), // IPv4-translated (RFC 2765, section 2.1)
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64 (RFC 6052, section 2.1)
	netip.MustParsePrefix("2002::/16"),       // 6to4 (RFC 3056, section 2)
}

// embeddedIPv4 returns the IPv4 address that an IPv6 address leads to, when it holds
// one: a router or tunnel on the way would send the packet there. The address
// must be plain.
func embeddedIPv4(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	switch high := binary.BigEndian.Uint64(b[0:8]); {
	case high == 0 && binary.BigEndian.Uint32(b[8:12]) == 0 && binary.BigEndian.Uint32(b[12:16]) > 1, // :: and ::1 are no IPv4 addresses.
		high == 0 && binary.BigEndian.Uint32(b[8:12]) == 0xffff0000,
		high == 0x0064ff9b_00000000 && binary.BigEndian.Uint32(b[8:12]) == 0:
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case high>>48 == 0x2002:
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case high>>32 == 0x20010000: // Teredo (RFC 4380, section 4) inverts the client's address.
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	case binary.BigEndian.Uint32(b[8:12])&^0x02000000 == 0x00005efe: // ISATAP (RFC 5214, section 6.1)
		return netip.AddrFrom4([4]byte(b[12:16])), true
	}
	return netip.Addr{}, false
}

package turnsrv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pion/stun/v2"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/relayaddr"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

// Attributes of RFC 5780, section 7, and the flags of the first.
const (
	attrChangeRequest  stun.AttrType = 0x0003
	attrResponsePort   stun.AttrType = 0x0027
	attrResponseOrigin stun.AttrType = 0x802B
	attrOtherAddress   stun.AttrType = 0x802C

	changeIP, changePort = 4, 2
)

// behaviour is NAT behaviour discovery (RFC 5780): a client learns how its NAT maps and filters by where it asks, and by where it has itself
// answered from. It takes two addresses of a family, and two ports. Only answers over UDP tell of a NAT, so it is there for no other transport.
//
// An answer goes to the address that has asked, at another port if that is wished for, and is bounded as all answers to strangers are. PADDING
// is an unknown attribute (420): an answer as long as the path allows to any question would amplify.
type behaviour struct {
	transports *transport.Transports
	pairs      [][2]relayaddr.Address // pairs are the first and the second address of each family that has two.
}

// startBehaviour comes once the listeners are bound, before anybody is served.
func (f *front) startBehaviour(t *transport.Transports) error {
	if len(f.cfg.AlternateIP) == 0 {
		return nil
	}
	b := &behaviour{transports: t}
	for _, text := range f.cfg.AlternateIP {
		second, err := parseAlternateIP(text)
		if err != nil {
			return fmt.Errorf("--turn-alternate-ip: %w", err)
		}
		first := f.firstAddress(second.Bind)
		if !first.Bind.IsValid() {
			return fmt.Errorf("--turn-alternate-ip: %s is not the second address of its family: --turn-listen has no other", second.Bind)
		}
		b.pairs = append(b.pairs, [2]relayaddr.Address{first, second})
	}
	f.behaviour = b
	return nil
}

// firstAddress is the listen address beside a second one, that of the relays where the server listens at all. It is invalid without one.
func (f *front) firstAddress(second netip.Addr) (first relayaddr.Address) {
	relays := relayaddr.Address{}
	for _, p := range f.pools {
		if p.address.Bind.Is4() == second.Is4() {
			relays = p.address
		}
	}
	for _, text := range f.cfg.Listen {
		addr, err := netip.ParseAddr(text)
		addr = addr.Unmap()
		switch {
		case err != nil || addr.Is4() != second.Is4() || addr == second:
		case addr.IsUnspecified() && relays.Bind != second:
			return relays
		case addr == relays.Bind:
			return relays
		case !addr.IsUnspecified() && !first.Bind.IsValid():
			first = relayaddr.Address{Bind: addr, Seen: addr}
		}
	}
	return first
}

// bindings is a front that answers Bindings alone.
type bindings struct{ *front }

// Receive implements transport.Receiver for the sockets that are there for discovery.
func (f bindings) Receive(from transport.FiveTuple, via transport.Path, packet []byte, _ batch.Mark) {
	if len(packet) < wire.STUNHeader || binary.BigEndian.Uint16(packet) != stun.BindingRequest.Value() {
		f.metrics.dropped(dropMethod)
		return
	}
	f.message(request{from: from, via: via}, packet)
}

// change is where a client wants its answer from and where to.
type change struct {
	asked    bool // asked says that the request is of discovery.
	ip, port bool
	to       netip.AddrPort
}

var errNoSocket = errors.New("no socket is bound to it")

// change reads what a request wishes for.
func (q *request) change() (c change, err error) {
	c = change{to: q.from.Client, asked: q.m.Contains(attrChangeRequest) || q.m.Contains(attrResponsePort)}
	flags, present, err := wire.SizedValue(q.m, attrChangeRequest, 4)
	if err != nil {
		return c, err
	}
	if present {
		c.ip, c.port = flags[3]&changeIP != 0, flags[3]&changePort != 0
	}
	value, err := q.m.Get(attrResponsePort)
	if err != nil {
		return c, nil
	}
	if len(value) != 2 && len(value) != 4 || binary.BigEndian.Uint16(value) == 0 { // Clients differ on whether its padding is part of it.
		return c, wire.ErrMessage
	}
	c.to = netip.AddrPortFrom(c.to.Addr(), binary.BigEndian.Uint16(value))
	return c, nil
}

// discover answers a Binding request as RFC 5780, section 6.1, has it. It reports false for one that is to be answered as elsewhere: here is no
// second address, or its source has been told enough and wants no more than its address.
func (q *request) discover() bool {
	b := q.front.behaviour
	if b == nil || q.from.Protocol != transport.UDP || q.from.Server.Addr().IsUnspecified() {
		return false
	}
	own, other := b.at(q.from.Server.Addr())
	if !other.Bind.IsValid() {
		return false
	}
	c, err := q.change()
	if !q.front.strangers.Allow(auth.AnswerDiscovery, q.from.Client, q.m.TransactionID, q.now) {
		if c.asked {
			q.front.metrics.dropped(dropSourceLimit)
		}
		return c.asked
	}
	unknown := slices.DeleteFunc(wire.UnknownAttributes(q.m), func(t stun.AttrType) bool { return t == attrChangeRequest || t == attrResponsePort })
	switch {
	case err != nil:
		q.fail(stun.CodeBadRequest)
	case len(unknown) > 0:
		q.fail(stun.CodeUnknownAttribute, unknown)
	default:
		q.tell(own, other, c)
	}
	return true
}

// at returns the address that was asked, and the other one of its family, which is invalid if there is none.
func (b *behaviour) at(asked netip.Addr) (own, other relayaddr.Address) {
	own = relayaddr.Address{Bind: asked, Seen: asked}
	for _, p := range b.pairs {
		switch first, second := p[0], p[1]; {
		case first.Bind.Is4() != asked.Is4():
		case asked == second.Bind:
			return second, first
		case asked == first.Bind:
			return first, second
		default: // A server of all addresses was asked at a third one.
			return own, second
		}
	}
	return own, relayaddr.Address{}
}

// tell sends the answer from where it is wished for.
func (q *request) tell(own, other relayaddr.Address, c change) {
	t := q.front.behaviour.transports
	port := q.from.Server.Port()
	otherPort := uint16(t.Port() + t.AlternatePort() - int(port))
	from, fromPort := own, port
	if c.ip {
		from = other
	}
	if c.port {
		fromPort = otherPort
	}
	if c.asked {
		path := t.PathFrom(netip.AddrPortFrom(from.Bind, fromPort), c.to)
		if path == nil {
			q.serverError("answering from another address", errNoSocket)
			return
		}
		q.via, q.loop = path, nil
	}
	q.succeed(wire.SetXORAddress(stun.AttrXORMappedAddress, q.from.Client), wire.SetAddress(stun.AttrMappedAddress, q.from.Client),
		wire.SetAddress(attrResponseOrigin, netip.AddrPortFrom(from.Seen, fromPort)), wire.SetAddress(attrOtherAddress, netip.AddrPortFrom(other.Seen, otherPort)))
}

// parseAlternateIP reads one value of --turn-alternate-ip: an address, or external/local.
func parseAlternateIP(text string) (relayaddr.Address, error) {
	seenText, bindText, isPair := strings.Cut(text, "/")
	seen, err := relayaddr.Parse(seenText)
	if err != nil || !isPair {
		return relayaddr.Address{Bind: seen, Seen: seen}, err
	}
	bind, err := relayaddr.Parse(bindText)
	if err == nil && bind.Is4() != seen.Is4() {
		err = fmt.Errorf("%s pairs an IPv4 with an IPv6 address", text)
	}
	return relayaddr.Address{Bind: bind, Seen: seen}, err
}

// alternateAddresses are those of --turn-alternate-ip, which is valid, on this machine.
func (c *Config) alternateAddresses() (addrs []netip.Addr) {
	for _, text := range c.AlternateIP {
		if a, err := parseAlternateIP(text); err == nil {
			addrs = append(addrs, a.Bind)
		}
	}
	return addrs
}

func (c *Config) validateAlternateIP(p *setting.Problems) {
	families := map[bool]bool{}
	for _, text := range c.AlternateIP {
		a, err := parseAlternateIP(text)
		if err != nil {
			p.Add("turn-alternate-ip", err)
			continue
		}
		p.Check(!families[a.Bind.Is4()], "turn-alternate-ip", "%s is one more address of its family", text)
		families[a.Bind.Is4()] = true
	}
	next := c.Port + 1
	p.Check(len(families) == 0 || c.Port == 0 || next < 1<<16 && (next != c.TLSPort || c.OnePort), "turn-alternate-ip",
		"port %d, the one after --turn-port, is not free for it", next)
}

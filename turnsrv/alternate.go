package turnsrv

import (
	"math/rand/v2"
	"net/netip"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// refuseDraining sends a client that asks for an allocation to another server, if there
// is one, by the ALTERNATE-SERVER of RFC 8489, section 10, and refuses it otherwise.
func (q *request) refuseDraining() {
	other, ok := q.front.alternate(q.from.Server)
	if !ok {
		q.exceeded(quotaDrain)
		return
	}
	q.front.metrics.quotaHits.WithLabelValues(quotaDrain).Inc()
	q.fail(stun.CodeTryAlternate, wire.SetAddress(stun.AttrAlternateServer, other))
}

// alternate returns any server of the address family that was asked, at the same port. All nodes may
// have one configuration, so the list may name this one.
func (f *front) alternate(asked netip.AddrPort) (netip.AddrPort, bool) {
	var others []netip.AddrPort
	for _, text := range f.cfg.Alternates {
		addr, err := netip.ParseAddr(text)
		if addr = addr.Unmap(); err == nil && addr.Is4() == asked.Addr().Is4() && addr != asked.Addr() && !f.isOwn(addr) {
			others = append(others, netip.AddrPortFrom(addr, asked.Port()))
		}
	}
	if len(others) == 0 {
		return netip.AddrPort{}, false
	}
	return others[rand.IntN(len(others))], true
}

// isOwn says whether relays of this node are at an address.
func (f *front) isOwn(addr netip.Addr) bool {
	for _, p := range f.pools {
		if p.address.Bind == addr || p.address.Seen == addr {
			return true
		}
	}
	return false
}

package turnsrv

import (
	"encoding/binary"
	"net/netip"
	"time"

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/transport"
)

// A loop asks an allocation about a flow once, and remembers the answer from turn to
// turn for as long as its basis holds: no request has changed the allocation, none of
// its relays was closed, the policy is the same and nothing has expired. Within a
// turn the flow that was looked at last is not even looked for. Which flows are
// remembered is up to a hash: one that takes another's place has the allocation asked
// again when the other comes, so that only time is lost. Consent and bandwidth are
// asked for every packet. Flows of relays that were closed are forgotten, since each
// keeps an allocation and all that it knows of its peers in memory.

// rememberedBits says how many flows a loop remembers in each direction, as a power of two.
const rememberedBits = 9

// memory holds flows by their hash. It grows with them, and never allocates for one
// that takes another's place.
type memory[T any] [1 << rememberedBits]*T

// place returns where a flow belongs that an address and a number tell from others, which
// another flow may have.
func (m *memory[T]) place(of netip.AddrPort, number uint16) *T {
	address := of.Addr().As16()
	key := (uint32(of.Port())<<16 | uint32(number)) ^ binary.NativeEndian.Uint32(address[12:])
	at := &m[key*2_654_435_761>>(32-rememberedBits)] // This is Knuth's multiplicative hash.
	if *at == nil {
		*at = new(T)
	}
	return *at
}

// forget makes room of the flows that are over.
func (m *memory[T]) forget(over func(*T) bool) {
	for _, flow := range m {
		if flow != nil && over(flow) {
			*flow = *new(T)
		}
	}
}

// way is where what a client sends on a channel leads.
type way struct {
	from   transport.FiveTuple
	number uint16 // number is 0 in no way that is known.
	out    outbound
	slot   batch.Slot // slot is where the packets are collected.
}

// leads says whether this is the way of a channel and leads where it did. A relay on it may have
// been closed since, and its port be another's.
func (w *way) leads(from transport.FiveTuple, number uint16, now time.Time) bool {
	return w.number == number && w.from == from && w.out.holds(now) && !w.crossesClosed()
}

func (w *way) crossesClosed() bool { return w.out.across != nil && w.out.across.closed() }

// remember makes what was decided about a packet the way of its channel.
func (w *way) remember(from transport.FiveTuple, number uint16, out outbound) {
	*w = way{from: from, number: number, out: out, slot: peerSlot(out.relay, out.to)}
	if out.across == nil && out.relay.pool.has(out.to) {
		w.out.until = time.Time{} // There may be a relay with the next packet.
	}
}

// wayBack is what becomes of what a peer sends.
type wayBack struct {
	relay     *relay
	source    netip.AddrPort
	inbound   inbound
	permitted bool
	slot      batch.Slot
	secure    *transport.DTLSConn // secure is nil for a client without DTLS.
}

func (p *wayBack) isOf(r *relay, source netip.AddrPort) bool {
	return p.relay == r && p.source == source
}

// remember makes what is decided now the way of a peer.
func (p *wayBack) remember(r *relay, source netip.AddrPort, now time.Time) {
	*p = wayBack{relay: r, source: source}
	p.inbound, p.permitted = r.inbound(source, now)
	p.slot, p.secure = clientSlot(r.alloc.via, toClients)
}

// admits decides about a payload, and counts it.
func (p *wayBack) admits(payload []byte, now time.Time) bool {
	if !p.permitted {
		p.relay.alloc.front.metrics.dropped(dropNoPermission)
		return false
	}
	return p.inbound.admit(payload, now)
}

// forgetClosed forgets, between two turns, the flows of relays that were closed. One that another
// loop has closed goes with the next of this one.
func (l *dataLoop) forgetClosed() {
	if !l.stale.Swap(false) {
		return
	}
	l.ways.forget(func(w *way) bool { return w.out.relay != nil && (w.out.relay.closed() || w.crossesClosed()) })
	l.waysBack.forget(func(p *wayBack) bool { return p.relay != nil && p.relay.closed() })
}

// find makes the way of a channel of the client that is looked at the recent one, and says whether
// it is known. Else it is the one that is to be.
func (l *dataLoop) find(channel uint16) bool {
	if l.way != nil && l.way.number == channel {
		return true
	}
	l.way = l.ways.place(l.from.Client, channel)
	if l.way.leads(l.from, channel, l.now) {
		return true
	}
	l.way.number = 0
	return false
}

// lookUp makes the way of a peer the recent one.
func (l *dataLoop) lookUp(r *relay, source netip.AddrPort) *wayBack {
	if l.peer == nil || !l.peer.isOf(r, source) {
		l.peer = l.waysBack.place(source, r.port)
		if !l.peer.isOf(r, source) || !l.peer.inbound.holds(l.now) {
			l.peer.remember(r, source, l.now)
		}
	}
	l.peer.slot.Mark = l.mark
	return l.peer
}

package turnsrv

import (
	"net/netip"
	"time"

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/peers"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

// basis is what a decision about a flow rests on. It holds while neither the allocation
// has changed nor the policy, until a time.
type basis struct {
	alloc   *allocation
	changes uint32
	policy  *peers.Policy
	until   time.Time
}

// basis is to be taken before a decision is made.
func (a *allocation) basis() basis {
	return basis{alloc: a, changes: a.changes.Load(), policy: a.front.policy.Load()}
}

func (b *basis) holds(now time.Time) bool {
	return b.alloc != nil && b.changes == b.alloc.changes.Load() && b.policy == b.alloc.front.policy.Load() && now.Before(b.until)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// outbound is a payload on its way from a client to a peer.
type outbound struct {
	basis
	relay        *relay
	to           netip.AddrPort // to is where the system sends it, which may differ from what the client calls the peer.
	consent      consent.Flow
	payload      []byte
	mark         batch.Mark // mark is that of the packet it came in (RFC 8656, section 14).
	dontFragment bool
	across       *relay // across is the relay of this node that the peer is, nil for any other peer.
}

// route decides where data of a client goes, and counts it. It reports false
// for what is dropped, counted as well.
func (f *front) route(from transport.FiveTuple, packet []byte, now time.Time) (outbound, bool) {
	a := f.allocation(from)
	if a == nil {
		f.metrics.dropped(dropNoAllocation)
		return outbound{}, false
	}
	if wire.IsChannelData(packet) {
		return a.outboundChannelData(packet, now)
	}
	return a.outboundIndication(packet, now)
}

// outboundChannelData decides about ChannelData (RFC 8656, section 12.6).
func (a *allocation) outboundChannelData(packet []byte, now time.Time) (outbound, bool) {
	number, payload, ok := wire.ParseChannelData(packet)
	if !ok {
		a.front.metrics.dropped(dropMalformed)
		return outbound{}, false
	}
	b := a.basis()
	c := a.channelTo(number, now)
	if c == nil {
		a.front.metrics.dropped(dropNoChannel)
		return outbound{}, false
	}
	until, ok := a.permitted(c.peer.Addr(), now)
	if !ok { // A channel outlives its permission, unless either is refreshed.
		a.front.metrics.dropped(dropNoPermission)
		return outbound{}, false
	}
	b.until = earlier(until, c.expires)
	return b.address(c.relay, c.peer, payload, now)
}

// outboundIndication decides about a Send indication (RFC 8656, section 11.2).
func (a *allocation) outboundIndication(packet []byte, now time.Time) (outbound, bool) {
	indication, err := wire.ParseSendIndication(packet)
	if err != nil {
		a.front.metrics.dropped(dropMalformed)
		return outbound{}, false
	}
	peer, b := indication.Peer, a.basis()
	r := a.relayFor(peer.Addr())
	if _, ok := a.permitted(peer.Addr(), now); r == nil || !ok {
		a.front.metrics.dropped(dropNoPermission)
		return outbound{}, false
	}
	p, ok := b.address(r, peer, indication.Data, now)
	p.dontFragment = indication.DontFragment
	return p, ok
}

// address says where a payload goes, if policy, consent and bandwidth allow it.
func (b basis) address(r *relay, peer netip.AddrPort, payload []byte, now time.Time) (outbound, bool) {
	if !b.policy.Permits(peer) {
		b.alloc.front.metrics.peersDenied.Inc()
		return outbound{}, false
	}
	to := r.pool.address.Translate(peer)
	out := outbound{basis: b, relay: r, to: to, across: r.pool.relayAt(to), consent: b.alloc.gate.Flow(consent.Out, peer)}
	return out, out.admit(payload, now)
}

// admit decides about a payload to the same peer, and counts it. It reports false for
// what is dropped, counted as well.
func (out *outbound) admit(payload []byte, now time.Time) bool {
	out.payload = payload
	if verdict := out.consent.Admit(payload, now); verdict != consent.Passed {
		out.alloc.front.metrics.denied(consent.Out, verdict, len(payload))
		return false
	}
	if !out.alloc.toPeer.pass(1, len(payload), now) {
		out.alloc.front.metrics.dropped(dropBandwidth)
		return false
	}
	return true
}

// sendAgain sends a check of the client to a peer once more, by the same rules as a Send indication.
func (a *allocation) sendAgain(peer netip.AddrPort, check []byte) {
	now, b := a.front.now(), a.basis()
	r := a.relayFor(peer.Addr())
	if _, ok := a.permitted(peer.Addr(), now); r == nil || !ok {
		return
	}
	if out, ok := b.address(r, peer, check, now); ok {
		a.front.send(out)
	}
}

// relayToPeer sends data of a client: at once, or when nothing more of it is there.
func (f *front) relayToPeer(from transport.FiveTuple, packet []byte, mark batch.Mark) {
	p, ok := f.route(from, packet, f.now())
	switch {
	case !ok:
	case batch.MaxSegments > 1 && (from.Protocol == transport.TCP || from.Protocol == transport.TLS):
		p.alloc.train().add(p)
	default:
		p.mark = mark
		f.send(p)
	}
}

// send sends a payload by itself.
func (f *front) send(p outbound) {
	if p.across != nil {
		f.cross(p)
		return
	}
	r, v6 := p.relay, p.to.Addr().Is6()
	if p.dontFragment {
		r.fragments.Lock()
		defer r.fragments.Unlock()
		batch.ForbidFragments(r.conn, v6)
		defer batch.AllowFragments(r.conn, v6)
	}
	if _, _, err := r.conn.WriteMsgUDPAddrPort(p.payload, batch.MarkControl(p.mark, v6), p.to); err != nil {
		f.metrics.dropped(dropSendError)
		return
	}
	f.metrics.unlooped.sentToPeer(1, len(p.payload))
}

// inbound is what goes from a peer to a client.
type inbound struct {
	basis
	peer    netip.AddrPort // peer is as the client calls it.
	channel uint16         // channel is 0 where none is bound to the peer.
	consent consent.Flow
}

// inbound tells what becomes of packets from source. It reports false for a peer
// without a permission, or that the policy denies: a permission for the own relay
// address is for other relays, not for whatever else sends from this machine.
func (r *relay) inbound(source netip.AddrPort, now time.Time) (inbound, bool) {
	in := inbound{basis: r.alloc.basis(), peer: r.pool.address.Present(source)}
	in.consent = r.alloc.gate.Flow(consent.In, in.peer)
	until, ok := in.alloc.permitted(in.peer.Addr(), now)
	in.until = until
	if c := in.alloc.channelFrom(in.peer, now); c != nil {
		in.channel, in.until = c.number, earlier(until, c.expires)
	}
	return in, ok && in.policy.Permits(in.peer)
}

// admit decides about a payload, and counts it. It reports false for what is
// dropped, counted as well.
func (in *inbound) admit(payload []byte, now time.Time) bool {
	if in.size(len(payload)) > wire.MaxFrame {
		in.alloc.front.metrics.dropped(dropOversize)
		return false
	}
	if verdict := in.consent.Admit(payload, now); verdict != consent.Passed {
		in.alloc.front.metrics.denied(consent.In, verdict, len(payload))
		return false
	}
	if !in.alloc.fromPeers.pass(1, len(payload), now) {
		in.alloc.front.metrics.dropped(dropBandwidth)
		return false
	}
	return true
}

// size is how long a payload of n bytes is with what goes around it.
func (in *inbound) size(n int) int {
	switch {
	case in.channel != 0:
		return wire.ChannelHeader + n
	case in.peer.Addr().Is4():
		return wire.DataIndicationHeaderIPv4 + wire.Padded(n)
	}
	return wire.DataIndicationHeader + wire.Padded(n)
}

// appendHeader appends what goes in front of a payload of n bytes: a ChannelData
// header or that of a Data indication (RFC 8656, sections 11.3 and 12.7), which
// has to be padded.
func (in *inbound) appendHeader(header []byte, n int) (_ []byte, padding int) {
	if in.channel == 0 {
		return wire.AppendDataIndication(header, in.peer, n), wire.Padded(n) - n
	}
	return append(header, byte(in.channel>>8), byte(in.channel), byte(n>>8), byte(n)), 0
}

// relayToClient relays a payload of n bytes at dataIndicationHeader in buffer at once.
// Behind it there is room for the padding.
func (r *relay) relayToClient(source netip.AddrPort, buffer []byte, n int, mark batch.Mark) {
	f := r.alloc.front
	now := f.now()
	in, ok := r.inbound(source, now)
	if !ok {
		f.metrics.dropped(dropNoPermission)
		return
	}
	if !in.admit(buffer[wire.DataIndicationHeader:][:n], now) {
		return
	}
	var space [wire.DataIndicationHeader]byte
	header, padding := in.appendHeader(space[:0], n)
	start, end := wire.DataIndicationHeader-len(header), wire.DataIndicationHeader+n+padding
	copy(buffer[start:], header)
	clear(buffer[wire.DataIndicationHeader+n : end])
	if err := r.alloc.via.Send(buffer[start:end], mark); err != nil {
		f.metrics.dropped(dropSendError)
		return
	}
	f.metrics.unlooped.receivedFromPeer(1, n)
}

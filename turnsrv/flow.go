package turnsrv

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/pion/stun/v2"
)

// Types of the indications that carry data, as they stand in a message.
const (
	typeSendIndication = 0x0016
	typeDataIndication = 0x0017
)

const (
	attributeHeader = 4

	// fingerprintXOR tells a FINGERPRINT from another CRC-32 (RFC 8489, section
	// 14.7).
	fingerprintXOR = 0x5354554e
)

// fromClientData says whether a packet of a client is data to relay: ChannelData
// or a Send indication. Shorter ones than a ChannelData header are none.
func fromClientData(packet []byte) bool {
	return packet[0]>>6 == 1 || binary.BigEndian.Uint16(packet) == typeSendIndication
}

// parcel is a payload on its way from a client to a peer.
type parcel struct {
	relay        *relay
	to           netip.AddrPort // to is where the system sends it, which may differ from what the client calls the peer.
	payload      []byte
	dontFragment bool
}

// outbound decides where data of a client goes, and counts it. It reports false
// for what is dropped, counted as well.
func (f *front) outbound(from fiveTuple, packet []byte, now time.Time) (parcel, bool) {
	a := f.allocation(from)
	if a == nil {
		f.metrics.dropped(dropNoAllocation)
		return parcel{}, false
	}
	if packet[0]>>6 == 1 {
		return a.outboundChannelData(packet, now)
	}
	return a.outboundIndication(packet, now)
}

// outboundChannelData decides about ChannelData (RFC 8656, section 12.6).
func (a *allocation) outboundChannelData(packet []byte, now time.Time) (parcel, bool) {
	number, payload, ok := a.channelPayload(packet)
	if !ok {
		return parcel{}, false
	}
	c := a.channelTo(number, now)
	if c == nil {
		a.front.metrics.dropped(dropNoChannel)
		return parcel{}, false
	}
	return a.address(c.relay, c.peer, payload, now)
}

// channelPayload takes ChannelData apart. Behind it there may be padding.
func (a *allocation) channelPayload(packet []byte) (number uint16, payload []byte, ok bool) {
	size := int(binary.BigEndian.Uint16(packet[2:]))
	if size > len(packet)-channelHeader {
		a.front.metrics.dropped(dropMalformed)
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(packet), packet[channelHeader : channelHeader+size], true
}

// outboundIndication decides about a Send indication (RFC 8656, section 11.2).
func (a *allocation) outboundIndication(packet []byte, now time.Time) (parcel, bool) {
	indication, err := parseSendIndication(packet)
	if err != nil {
		a.front.metrics.dropped(dropMalformed)
		return parcel{}, false
	}
	peer := indication.peer
	r := a.relayFor(peer.Addr())
	if r == nil || !a.permitted(peer.Addr(), now) {
		a.front.metrics.dropped(dropNoPermission)
		return parcel{}, false
	}
	p, ok := a.address(r, peer, indication.data, now)
	p.dontFragment = indication.dontFragment
	return p, ok
}

// address makes the parcel, if policy and bandwidth allow it.
func (a *allocation) address(r *relay, peer netip.AddrPort, payload []byte, now time.Time) (parcel, bool) {
	switch {
	case !a.front.policy.permits(peer):
		a.front.metrics.peersDenied.Inc()
		return parcel{}, false
	case !a.toPeer.pass(1, len(payload), now):
		a.front.metrics.dropped(dropBandwidth)
		return parcel{}, false
	}
	return parcel{relay: r, to: r.pool.address.translate(peer), payload: payload}, true
}

// relayToPeer sends data of a client at once.
func (f *front) relayToPeer(from fiveTuple, packet []byte) {
	if p, ok := f.outbound(from, packet, f.now()); ok {
		f.send(p)
	}
}

// send sends a parcel by itself.
func (f *front) send(p parcel) {
	r, v6 := p.relay, p.to.Addr().Is6()
	if p.dontFragment {
		r.fragments.Lock()
		defer r.fragments.Unlock()
		forbidFragments(r.conn, v6)
		defer allowFragments(r.conn, v6)
	}
	if _, _, err := r.conn.WriteMsgUDPAddrPort(p.payload, nil, p.to); err != nil {
		f.metrics.dropped(dropSendError)
		return
	}
	f.metrics.unlooped.sentToPeer(1, len(p.payload))
}

// inbound is what goes from a peer to a client.
type inbound struct {
	alloc   *allocation
	peer    netip.AddrPort // peer is as the client calls it.
	channel uint16         // channel is 0 where none is bound to the peer.
}

// inbound tells what becomes of packets from source. It reports false for a peer
// without a permission.
func (r *relay) inbound(source netip.AddrPort, now time.Time) (inbound, bool) {
	in := inbound{alloc: r.alloc, peer: r.pool.address.present(source)}
	if c := in.alloc.channelFrom(in.peer, now); c != nil {
		in.channel = c.number
	}
	return in, in.alloc.permitted(in.peer.Addr(), now)
}

// admit decides about a payload of n bytes, and counts it. It reports false for
// what is dropped, counted as well.
func (in *inbound) admit(n int, now time.Time) bool {
	switch {
	case n > maxPeerDatagram:
		in.alloc.front.metrics.dropped(dropOversize)
	case !in.alloc.fromPeers.pass(1, n, now):
		in.alloc.front.metrics.dropped(dropBandwidth)
	default:
		return true
	}
	return false
}

// appendHeader appends what goes in front of a payload of n bytes: a ChannelData
// header or that of a Data indication (RFC 8656, sections 11.3 and 12.7), which
// has to be padded.
func (in *inbound) appendHeader(header []byte, n int) (_ []byte, padding int) {
	if in.channel == 0 {
		return appendDataIndication(header, in.peer, n), padded(n) - n
	}
	return append(header, byte(in.channel>>8), byte(in.channel), byte(n>>8), byte(n)), 0
}

// relayToClient relays a payload of n bytes at relayHeadroom in buffer at once.
// Behind it there is room for the padding.
func (r *relay) relayToClient(source netip.AddrPort, buffer []byte, n int) {
	f := r.alloc.front
	now := f.now()
	in, ok := r.inbound(source, now)
	if !ok {
		f.metrics.dropped(dropNoPermission)
		return
	}
	if !in.admit(n, now) {
		return
	}
	var space [relayHeadroom]byte
	header, padding := in.appendHeader(space[:0], n)
	start, end := relayHeadroom-len(header), relayHeadroom+n+padding
	copy(buffer[start:], header)
	clear(buffer[relayHeadroom+n : end])
	if err := r.alloc.via.send(buffer[start:end]); err != nil {
		f.metrics.dropped(dropSendError)
		return
	}
	f.metrics.unlooped.receivedFromPeer(1, n)
}

// appendDataIndication appends the headers of a Data indication with a payload
// of n bytes.
func appendDataIndication(to []byte, peer netip.AddrPort, n int) []byte {
	addrSize := 8
	if peer.Addr().Is6() {
		addrSize = 20
	}
	var id [stun.TransactionIDSize]byte // Nobody answers an indication, so the id need not be a secret.
	binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	binary.NativeEndian.PutUint32(id[8:], rand.Uint32())
	to = binary.BigEndian.AppendUint16(to, typeDataIndication)
	to = binary.BigEndian.AppendUint16(to, uint16(attributeHeader+addrSize+attributeHeader+padded(n)))
	to = binary.BigEndian.AppendUint32(to, stunCookie)
	to = append(to, id[:]...)
	to = binary.BigEndian.AppendUint16(to, uint16(stun.AttrXORPeerAddress))
	to = binary.BigEndian.AppendUint16(to, uint16(addrSize))
	to = appendXORAddress(to, peer, id)
	to = binary.BigEndian.AppendUint16(to, uint16(stun.AttrData))
	return binary.BigEndian.AppendUint16(to, uint16(n))
}

// sendIndication is what a Send indication says. Its data is part of the packet.
type sendIndication struct {
	peer         netip.AddrPort
	data         []byte
	dontFragment bool
}

// parseSendIndication reads a whole packet as decodeMessage does, but without
// keeping anything, since it is called for every packet of some clients. Of
// repeated attributes the first counts.
func parseSendIndication(packet []byte) (sendIndication, error) {
	var s sendIndication
	if !stun.IsMessage(packet) || len(packet) != stunHeader+int(binary.BigEndian.Uint16(packet[2:])) {
		return s, errMessage
	}
	id := [stun.TransactionIDSize]byte(packet[8:stunHeader])
	hasData := false
	for at, count := stunHeader, 0; at < len(packet); count++ {
		if len(packet)-at < attributeHeader || count == maxAttributes {
			return s, errMessage
		}
		kind, size := stun.AttrType(binary.BigEndian.Uint16(packet[at:])), int(binary.BigEndian.Uint16(packet[at+2:]))
		value := packet[at+attributeHeader:]
		if padded(size) > len(value) {
			return s, errMessage
		}
		value = value[:size:size]
		switch {
		case kind == stun.AttrXORPeerAddress:
			peer, err := xorAddress(id, value)
			if err != nil {
				return s, err
			}
			if !s.peer.IsValid() {
				s.peer = peer
			}
		case kind == stun.AttrData && !hasData:
			s.data, hasData = value, true
		case kind == stun.AttrDontFragment:
			s.dontFragment = true
		case kind == stun.AttrFingerprint && !isFingerprint(packet, at):
			return s, errMessage
		}
		if kind < 0x8000 && !understood[kind] {
			return s, errMessage
		}
		at += attributeHeader + padded(size)
	}
	if !hasData || !s.peer.IsValid() {
		return s, errMessage
	}
	return s, nil
}

// isFingerprint says whether the attribute at that place of a packet is the last
// one and a right FINGERPRINT.
func isFingerprint(packet []byte, at int) bool {
	return at+attributeHeader+4 == len(packet) && binary.BigEndian.Uint16(packet[at+2:]) == 4 &&
		binary.BigEndian.Uint32(packet[at+attributeHeader:]) == crc32.ChecksumIEEE(packet[:at])^fingerprintXOR
}

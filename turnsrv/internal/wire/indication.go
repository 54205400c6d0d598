package wire

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"

	"github.com/pion/stun/v2"
)

// Types of the indications that carry data, as they stand in a message.
const (
	typeSendIndication = 0x0016
	typeDataIndication = 0x0017
)

const (
	// AttributeHeader is the size of what goes before an attribute's value.
	AttributeHeader = 4

	// DataIndicationHeader is the most that goes in front of the payload of a Data
	// indication: what an IPv6 address takes.
	DataIndicationHeader = STUNHeader + AttributeHeader + 20 + AttributeHeader

	// DataIndicationHeaderIPv4 is what an IPv4 address takes.
	DataIndicationHeaderIPv4 = STUNHeader + AttributeHeader + 8 + AttributeHeader

	// fingerprintXOR tells a FINGERPRINT from another CRC-32 (RFC 8489, section
	// 14.7).
	fingerprintXOR = 0x5354554e
)

// IsChannelData says whether a packet that is not empty is ChannelData, and not
// STUN (RFC 8656, section 12).
func IsChannelData(packet []byte) bool { return packet[0]>>6 == 1 }

// IsDataFromClient says whether a packet of a client is data to relay: ChannelData
// or a Send indication. It must not be shorter than a ChannelData header.
func IsDataFromClient(packet []byte) bool {
	return IsChannelData(packet) || binary.BigEndian.Uint16(packet) == typeSendIndication
}

// IsDataToClient says whether a packet to a client is relayed data, which may be
// lost, and not an answer: ChannelData or a Data indication.
func IsDataToClient(packet []byte) bool {
	return len(packet) > 1 && (IsChannelData(packet) || binary.BigEndian.Uint16(packet) == typeDataIndication)
}

// ParseChannelData takes ChannelData apart, behind which there may be padding. It
// is not ok when the packet is shorter than it says.
func ParseChannelData(packet []byte) (number uint16, payload []byte, ok bool) {
	size := int(binary.BigEndian.Uint16(packet[2:]))
	if size > len(packet)-ChannelHeader {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(packet), packet[ChannelHeader : ChannelHeader+size], true
}

// AppendDataIndication appends the headers of a Data indication with a payload
// of n bytes.
func AppendDataIndication(to []byte, peer netip.AddrPort, n int) []byte {
	addrSize := 8
	if peer.Addr().Is6() {
		addrSize = 20
	}
	var id [stun.TransactionIDSize]byte // Nobody answers an indication, so the id need not be a secret.
	binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	binary.NativeEndian.PutUint32(id[8:], rand.Uint32())
	to = binary.BigEndian.AppendUint16(to, typeDataIndication)
	to = binary.BigEndian.AppendUint16(to, uint16(AttributeHeader+addrSize+AttributeHeader+Padded(n)))
	to = binary.BigEndian.AppendUint32(to, stunCookie)
	to = append(to, id[:]...)
	to = binary.BigEndian.AppendUint16(to, uint16(stun.AttrXORPeerAddress))
	to = binary.BigEndian.AppendUint16(to, uint16(addrSize))
	to = appendXORAddress(to, peer, id)
	to = binary.BigEndian.AppendUint16(to, uint16(stun.AttrData))
	return binary.BigEndian.AppendUint16(to, uint16(n))
}

// SendIndication is what a Send indication says. Its data is part of the packet.
type SendIndication struct {
	Peer         netip.AddrPort
	Data         []byte
	DontFragment bool
}

// ParseSendIndication reads a whole packet as Decode does, but without
// keeping anything, since it is called for every packet of some clients. Of
// repeated attributes the first counts.
func ParseSendIndication(packet []byte) (SendIndication, error) {
	var s SendIndication
	if !IsWhole(packet) {
		return s, ErrMessage
	}
	id := [stun.TransactionIDSize]byte(packet[8:STUNHeader])
	hasData := false
	for at, count := STUNHeader, 0; at < len(packet); count++ {
		if len(packet)-at < AttributeHeader || count == maxAttributes {
			return s, ErrMessage
		}
		kind, size := stun.AttrType(binary.BigEndian.Uint16(packet[at:])), int(binary.BigEndian.Uint16(packet[at+2:]))
		value := packet[at+AttributeHeader:]
		if Padded(size) > len(value) {
			return s, ErrMessage
		}
		value = value[:size:size]
		switch {
		case kind == stun.AttrXORPeerAddress:
			peer, err := ParseXORAddress(id, value)
			if err != nil {
				return s, err
			}
			if !s.Peer.IsValid() {
				s.Peer = peer
			}
		case kind == stun.AttrData && !hasData:
			s.Data, hasData = value, true
		case kind == stun.AttrDontFragment:
			s.DontFragment = true
		case kind == stun.AttrFingerprint && !IsFingerprint(packet, at):
			return s, ErrMessage
		}
		if kind < 0x8000 && !understood[kind] {
			return s, ErrMessage
		}
		at += AttributeHeader + Padded(size)
	}
	if !hasData || !s.Peer.IsValid() {
		return s, ErrMessage
	}
	return s, nil
}

// IsFingerprint says whether the attribute at that place of a packet is the last
// one and a right FINGERPRINT.
func IsFingerprint(packet []byte, at int) bool {
	return at+AttributeHeader+4 == len(packet) && binary.BigEndian.Uint16(packet[at+2:]) == 4 &&
		binary.BigEndian.Uint32(packet[at+AttributeHeader:]) == crc32.ChecksumIEEE(packet[:at])^fingerprintXOR
}

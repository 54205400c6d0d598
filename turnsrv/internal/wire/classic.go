package wire

import (
	"encoding/binary"
	"net/netip"

	"github.com/pion/stun/v2"
)

// Types and attributes of RFC 3489, as they stand in a message.
const (
	typeBindingRequest  = 0x0001
	typeBindingResponse = 0x0101
	typeBindingError    = 0x0111

	attrChangeRequest = 0x0003
)

// classicUnderstood are the attributes of a classic request that need no answer of their
// own: those of a shared secret, which nobody has from here.
var classicUnderstood = map[stun.AttrType]bool{stun.AttrUsername: true, stun.AttrMessageIntegrity: true}

// IsClassicBinding says whether a datagram is a whole Binding request of RFC 3489, which
// knows no cookie: what is in its place belongs to the transaction id.
func IsClassicBinding(packet []byte) bool {
	return len(packet) >= STUNHeader && binary.BigEndian.Uint16(packet) == typeBindingRequest &&
		binary.BigEndian.Uint32(packet[4:]) != stunCookie && len(packet)%4 == 0 &&
		len(packet) == STUNHeader+int(binary.BigEndian.Uint16(packet[2:]))
}

// ClassicAnswer is what a classic request gets, with the client's address as it is (RFC
// 5389, section 12.2), and an error when it asks for what the server does not do, such
// as an answer from another address or to another one. It is nil for a malformed one.
func ClassicAnswer(packet []byte, client netip.AddrPort) []byte {
	unknown, err := classicUnknown(packet[STUNHeader:])
	if err != nil {
		return nil
	}
	kind, attr, value := uint16(typeBindingResponse), stun.AttrMappedAddress, appendAddress(nil, client)
	answer := make([]byte, STUNHeader, 2*STUNHeader+len(packet))
	if len(unknown) > 0 {
		kind, attr, value = typeBindingError, stun.AttrUnknownAttributes, unknown
		answer = appendAttribute(answer, stun.AttrErrorCode, []byte{0, 0, 4, 20})
	}
	answer = appendAttribute(answer, attr, value)
	binary.BigEndian.PutUint16(answer, kind)
	binary.BigEndian.PutUint16(answer[2:], uint16(len(answer)-STUNHeader))
	copy(answer[4:], packet[4:STUNHeader])
	return answer
}

// classicUnknown returns the types of the attributes that must be understood and are
// not, an even number of them, as RFC 3489, section 11.2.10, wants it.
func classicUnknown(attributes []byte) (unknown []byte, err error) {
	for len(attributes) > 0 {
		if len(attributes) < AttributeHeader {
			return nil, ErrMessage
		}
		kind, size := stun.AttrType(binary.BigEndian.Uint16(attributes)), int(binary.BigEndian.Uint16(attributes[2:]))
		if AttributeHeader+Padded(size) > len(attributes) {
			return nil, ErrMessage
		}
		value := attributes[AttributeHeader : AttributeHeader+size]
		changesNothing := kind == attrChangeRequest && size == 4 && binary.BigEndian.Uint32(value) == 0
		if kind < 0x8000 && !classicUnderstood[kind] && !changesNothing {
			unknown = binary.BigEndian.AppendUint16(unknown, uint16(kind))
		}
		attributes = attributes[AttributeHeader+Padded(size):]
	}
	if len(unknown)%4 != 0 {
		unknown = append(unknown, unknown[len(unknown)-2:]...)
	}
	return unknown, nil
}

func appendAttribute(to []byte, kind stun.AttrType, value []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, uint16(kind))
	to = binary.BigEndian.AppendUint16(to, uint16(len(value)))
	return append(to, value...)
}

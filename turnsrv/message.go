package turnsrv

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/pion/stun/v2"
)

// Attributes and values of RFC 8656 that package stun does not name.
const (
	attrAdditionalAddressFamily stun.AttrType = 0x8000
	attrAddressErrorCode        stun.AttrType = 0x8001

	familyIPv4 = 0x01
	familyIPv6 = 0x02

	protocolUDP = 17
)

// maxAttributes bounds how many attributes a message may have; the largest
// request of any use has some tens, for its peer addresses.
const maxAttributes = 128

var errMessage = errors.New("malformed message")

// decodeMessage decodes a whole packet as one STUN message, which keeps a copy
// of it. Trailing bytes, an absurd number of attributes and a wrong FINGERPRINT
// are errors (RFC 8489, sections 6.3 and 14.7).
func decodeMessage(packet []byte) (*stun.Message, error) {
	if !stun.IsMessage(packet) || len(packet) != stunHeader+int(binary.BigEndian.Uint16(packet[2:])) {
		return nil, errMessage
	}
	m := new(stun.Message)
	if _, err := m.Write(packet); err != nil {
		return nil, err
	}
	if len(m.Attributes) > maxAttributes {
		return nil, errMessage
	}
	if m.Contains(stun.AttrFingerprint) {
		last := m.Attributes[len(m.Attributes)-1]
		if last.Type != stun.AttrFingerprint || stun.Fingerprint.Check(m) != nil {
			return nil, errMessage
		}
	}
	return m, nil
}

// trimAfterIntegrity forgets what follows MESSAGE-INTEGRITY, which proves
// nothing about it (RFC 8489, section 14.5), FINGERPRINT excepted.
func trimAfterIntegrity(m *stun.Message) {
	for i, a := range m.Attributes {
		if a.Type == stun.AttrMessageIntegrity {
			fingerprint := m.Contains(stun.AttrFingerprint)
			m.Attributes = m.Attributes[: i+1 : i+1]
			if fingerprint {
				m.Attributes = append(m.Attributes, stun.RawAttribute{Type: stun.AttrFingerprint, Length: 4})
			}
			return
		}
	}
}

// understood are the comprehension-required attributes that the server knows.
var understood = map[stun.AttrType]bool{
	stun.AttrMappedAddress: true, stun.AttrUsername: true, stun.AttrMessageIntegrity: true, stun.AttrErrorCode: true,
	stun.AttrUnknownAttributes: true, stun.AttrRealm: true, stun.AttrNonce: true, stun.AttrXORMappedAddress: true,
	stun.AttrPriority: true, stun.AttrUseCandidate: true,
	stun.AttrChannelNumber: true, stun.AttrLifetime: true, stun.AttrXORPeerAddress: true, stun.AttrData: true,
	stun.AttrXORRelayedAddress: true, stun.AttrEvenPort: true, stun.AttrRequestedTransport: true,
	stun.AttrReservationToken: true, stun.AttrRequestedAddressFamily: true,
	stun.AttrDontFragment: dontFragmentSupported,
}

// unknownAttributes returns the comprehension-required attributes of m that the
// server does not know, each once.
func unknownAttributes(m *stun.Message) unknown {
	var unknown unknown
	seen := map[stun.AttrType]bool{}
	for _, a := range m.Attributes {
		if a.Type < 0x8000 && !understood[a.Type] && !seen[a.Type] {
			seen[a.Type] = true
			unknown = append(unknown, a.Type)
		}
	}
	return unknown
}

// xorAddress decodes the value of an XOR-…-ADDRESS attribute of the message with
// that transaction id. An IPv6 address stays one, whatever it stands for.
func xorAddress(id [stun.TransactionIDSize]byte, value []byte) (netip.AddrPort, error) {
	if len(value) < 8 {
		return netip.AddrPort{}, errMessage
	}
	port := binary.BigEndian.Uint16(value[2:]) ^ stunCookie>>16
	var mask [16]byte
	binary.BigEndian.PutUint32(mask[:], stunCookie)
	copy(mask[4:], id[:])
	size := len(value) - 4
	for i := range min(size, len(mask)) {
		mask[i] ^= value[4+i]
	}
	addr, ok := netip.AddrFromSlice(mask[:min(size, len(mask))])
	ok = ok && size <= len(mask)
	if !ok || value[1] != familyOf(addr) {
		return netip.AddrPort{}, errMessage
	}
	return netip.AddrPortFrom(addr, port), nil
}

// familyOf is the address family of an address on the wire.
func familyOf(addr netip.Addr) byte {
	if addr.Is4() {
		return familyIPv4
	}
	return familyIPv6
}

// unknown is a stun.Setter for UNKNOWN-ATTRIBUTES, a list of 16-bit types (RFC
// 8489, section 14.13). The one of package stun writes 32 bits for each.
type unknown []stun.AttrType

// AddTo implements stun.Setter.
func (u unknown) AddTo(m *stun.Message) error {
	var value []byte
	for _, t := range u {
		value = binary.BigEndian.AppendUint16(value, uint16(t))
	}
	m.Add(stun.AttrUnknownAttributes, value)
	return nil
}

// setXORAddress is a stun.Setter for an XOR-…-ADDRESS attribute.
type setXORAddress struct {
	attr stun.AttrType
	addr netip.AddrPort
}

// AddTo implements stun.Setter.
func (s setXORAddress) AddTo(m *stun.Message) error {
	m.Add(s.attr, appendXORAddress(nil, s.addr, m.TransactionID))
	return nil
}

// appendXORAddress appends the value of an XOR-…-ADDRESS attribute (RFC 8489,
// section 14.2).
func appendXORAddress(to []byte, addr netip.AddrPort, id [stun.TransactionIDSize]byte) []byte {
	to = append(to, 0, familyOf(addr.Addr()))
	to = binary.BigEndian.AppendUint16(to, addr.Port()^stunCookie>>16)
	var mask [16]byte
	binary.BigEndian.PutUint32(mask[:], stunCookie)
	copy(mask[4:], id[:])
	if addr.Addr().Is4() {
		ip := addr.Addr().As4()
		for i, b := range ip {
			to = append(to, b^mask[i])
		}
		return to
	}
	ip := addr.Addr().As16()
	for i, b := range ip {
		to = append(to, b^mask[i])
	}
	return to
}

// setRaw is a stun.Setter for an attribute with that value.
type setRaw struct {
	attr  stun.AttrType
	value []byte
}

// AddTo implements stun.Setter.
func (s setRaw) AddTo(m *stun.Message) error {
	m.Add(s.attr, s.value)
	return nil
}

func setLifetime(d time.Duration) setRaw {
	return setRaw{stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))}
}

// peersOf returns the XOR-PEER-ADDRESS attributes of a message, in order.
func peersOf(m *stun.Message) ([]netip.AddrPort, error) {
	var peers []netip.AddrPort
	for _, a := range m.Attributes {
		if a.Type != stun.AttrXORPeerAddress {
			continue
		}
		peer, err := xorAddress(m.TransactionID, a.Value)
		if err != nil {
			return nil, err
		}
		peers = append(peers, peer)
	}
	if len(peers) == 0 {
		return nil, errMessage
	}
	return peers, nil
}

// fixed returns the value of an attribute that must have that size.
func fixed(m *stun.Message, attr stun.AttrType, size int) (value []byte, present bool, err error) {
	value, err = m.Get(attr)
	if err != nil {
		return nil, false, nil
	}
	if len(value) != size {
		return nil, true, errMessage
	}
	return value, true, nil
}

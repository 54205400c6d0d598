package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"time"

	"github.com/pion/stun/v2"
)

// Attributes and values of RFC 8656 that package stun does not name.
const (
	AttrAdditionalAddressFamily stun.AttrType = 0x8000
	AttrAddressErrorCode        stun.AttrType = 0x8001

	// Address families, as REQUESTED-ADDRESS-FAMILY and addresses name them.
	FamilyIPv4 = 0x01
	FamilyIPv6 = 0x02

	ProtocolUDP = 17 // ProtocolUDP is the transport of relays in REQUESTED-TRANSPORT.
)

// maxAttributes bounds how many attributes a message may have; the largest
// request of any use has some tens, for its peer addresses.
const maxAttributes = 128

// ErrMessage is the error of a packet that is no STUN message as RFC 8489 wants it,
// and of an attribute whose value is not what its type says.
var ErrMessage = errors.New("malformed message")

// Decode decodes a whole packet as one STUN message, which keeps a copy
// of it. Trailing bytes, an absurd number of attributes and a wrong FINGERPRINT
// are errors (RFC 8489, sections 6.3 and 14.7).
func Decode(packet []byte) (*stun.Message, error) {
	if !IsWhole(packet) {
		return nil, ErrMessage
	}
	m := new(stun.Message)
	if _, err := m.Write(packet); err != nil {
		return nil, err
	}
	if len(m.Attributes) > maxAttributes {
		return nil, ErrMessage
	}
	if m.Contains(stun.AttrFingerprint) {
		last := m.Attributes[len(m.Attributes)-1]
		if last.Type != stun.AttrFingerprint || stun.Fingerprint.Check(m) != nil {
			return nil, ErrMessage
		}
	}
	return m, nil
}

// IsWhole says whether a packet is one STUN message by its header (RFC 8489, section
// 5): the first two bits are zero, the cookie is there, and the length is right.
func IsWhole(packet []byte) bool {
	return stun.IsMessage(packet) && packet[0]>>6 == 0 && len(packet) == STUNHeader+int(binary.BigEndian.Uint16(packet[2:]))
}

// TrimAfterIntegrity forgets what follows MESSAGE-INTEGRITY, which proves
// nothing about it (RFC 8489, section 14.5), FINGERPRINT excepted.
func TrimAfterIntegrity(m *stun.Message) {
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

// dontFragment says whether DONT-FRAGMENT is understood (RFC 8656, section 14).
// Only of Linux sockets it is known how to do what it asks; elsewhere it is
// answered with 420 (RFC 8656, section 7.2).
const dontFragment = runtime.GOOS == "linux"

// understood are the comprehension-required attributes that the server knows.
var understood = map[stun.AttrType]bool{
	stun.AttrMappedAddress: true, stun.AttrUsername: true, stun.AttrMessageIntegrity: true, stun.AttrErrorCode: true,
	stun.AttrUnknownAttributes: true, stun.AttrRealm: true, stun.AttrNonce: true, stun.AttrXORMappedAddress: true,
	stun.AttrPriority: true, stun.AttrUseCandidate: true,
	stun.AttrChannelNumber: true, stun.AttrLifetime: true, stun.AttrXORPeerAddress: true, stun.AttrData: true,
	stun.AttrXORRelayedAddress: true, stun.AttrEvenPort: true, stun.AttrRequestedTransport: true,
	stun.AttrReservationToken: true, stun.AttrRequestedAddressFamily: true,
	stun.AttrDontFragment: dontFragment,
}

// UnknownAttributes returns the comprehension-required attributes of m that the
// server does not know, each once.
func UnknownAttributes(m *stun.Message) Unknown {
	var unknown Unknown
	seen := map[stun.AttrType]bool{}
	for _, a := range m.Attributes {
		if a.Type < 0x8000 && !understood[a.Type] && !seen[a.Type] {
			seen[a.Type] = true
			unknown = append(unknown, a.Type)
		}
	}
	return unknown
}

// ParseXORAddress decodes the value of an XOR-…-ADDRESS attribute of the message with
// that transaction id. An IPv6 address stays one, whatever it stands for.
func ParseXORAddress(id [stun.TransactionIDSize]byte, value []byte) (netip.AddrPort, error) {
	if len(value) < 8 {
		return netip.AddrPort{}, ErrMessage
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
	if !ok || value[1] != FamilyOf(addr) {
		return netip.AddrPort{}, ErrMessage
	}
	return netip.AddrPortFrom(addr, port), nil
}

// FamilyOf is the address family of an address on the wire.
func FamilyOf(addr netip.Addr) byte {
	if addr.Is4() {
		return FamilyIPv4
	}
	return FamilyIPv6
}

// Unknown is a stun.Setter for UNKNOWN-ATTRIBUTES, a list of 16-bit types (RFC
// 8489, section 14.13). The one of package stun writes 32 bits for each.
type Unknown []stun.AttrType

// AddTo implements stun.Setter.
func (u Unknown) AddTo(m *stun.Message) error {
	var value []byte
	for _, t := range u {
		value = binary.BigEndian.AppendUint16(value, uint16(t))
	}
	m.Add(stun.AttrUnknownAttributes, value)
	return nil
}

// SetXORAddress sets an XOR-…-ADDRESS attribute.
func SetXORAddress(attr stun.AttrType, addr netip.AddrPort) stun.Setter {
	return xorAddress{attr, addr}
}

type xorAddress struct {
	attr stun.AttrType
	addr netip.AddrPort
}

// AddTo implements stun.Setter.
func (s xorAddress) AddTo(m *stun.Message) error {
	m.Add(s.attr, appendXORAddress(nil, s.addr, m.TransactionID))
	return nil
}

// SetAddress sets an attribute that holds an address as it is, such as MAPPED-ADDRESS (RFC
// 8489, section 14.1).
func SetAddress(attr stun.AttrType, addr netip.AddrPort) stun.Setter {
	return attribute{attr, appendAddress(nil, addr)}
}

func appendAddress(to []byte, addr netip.AddrPort) []byte {
	to = append(to, 0, FamilyOf(addr.Addr()))
	to = binary.BigEndian.AppendUint16(to, addr.Port())
	return append(to, addr.Addr().AsSlice()...)
}

// appendXORAddress appends the value of an XOR-…-ADDRESS attribute (RFC 8489,
// section 14.2).
func appendXORAddress(to []byte, addr netip.AddrPort, id [stun.TransactionIDSize]byte) []byte {
	to = append(to, 0, FamilyOf(addr.Addr()))
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

// SetValue sets an attribute to that value.
func SetValue(attr stun.AttrType, value ...byte) stun.Setter { return attribute{attr, value} }

type attribute struct {
	attr  stun.AttrType
	value []byte
}

// AddTo implements stun.Setter.
func (s attribute) AddTo(m *stun.Message) error {
	m.Add(s.attr, s.value)
	return nil
}

// SetLifetime sets LIFETIME, which is in whole seconds.
func SetLifetime(d time.Duration) stun.Setter {
	return attribute{stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))}
}

// PeerAddresses returns the XOR-PEER-ADDRESS attributes of a message, in order.
func PeerAddresses(m *stun.Message) ([]netip.AddrPort, error) {
	var peers []netip.AddrPort
	for _, a := range m.Attributes {
		if a.Type != stun.AttrXORPeerAddress {
			continue
		}
		peer, err := ParseXORAddress(m.TransactionID, a.Value)
		if err != nil {
			return nil, err
		}
		peers = append(peers, peer)
	}
	if len(peers) == 0 {
		return nil, ErrMessage
	}
	return peers, nil
}

// SizedValue returns the value of an attribute that must have that size.
func SizedValue(m *stun.Message, attr stun.AttrType, size int) (value []byte, present bool, err error) {
	value, err = m.Get(attr)
	if err != nil {
		return nil, false, nil
	}
	if len(value) != size {
		return nil, true, ErrMessage
	}
	return value, true, nil
}

// Unmapped returns an address in its own family, which a socket of both tells as one of IPv6.
func Unmapped(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

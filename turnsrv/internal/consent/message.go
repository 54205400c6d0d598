package consent

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// Attributes that package stun does not name.
const (
	attrIntegritySHA256 stun.AttrType = 0x001C
	attrIntegrity32     stun.AttrType = 0xC060 // Browsers sign their pings with it once they know that the other one does, too.
)

const (
	// maxAttributes is more than an agent sends, and bounds what a message costs.
	maxAttributes = 64

	// maxUfrag is how long that of an agent may be (RFC 8839, section 5.4), and maxUsername is two of them with a colon.
	maxUfrag, maxUsername = 256, 2*maxUfrag + 1

	leastSHA256, mostSHA256 = 16, 32
)

// transaction is the id of a request and of what answers it.
type transaction [stun.TransactionIDSize]byte

// idOf is the transaction id of a STUN message.
func idOf(packet []byte) transaction { return transaction(packet[8:wire.STUNHeader]) }

// message is what matters of a STUN message. Its username is part of the packet.
type message struct {
	kind     stun.MessageType
	id       transaction
	username []byte
	mapped   netip.AddrPort // mapped is XOR-MAPPED-ADDRESS.
	code     int            // code is that of ERROR-CODE.

	priority, role, integrity bool

	// pinged says that there is the short integrity of pings, which proves nothing to begin with.
	pinged bool

	// strange says that there is what ICE never sends: REALM or NONCE, other attributes that a receiver must understand, or something
	// behind the integrity that it does not cover.
	strange bool
}

// parse reads a whole packet as one STUN message without keeping or allocating anything. It is not ok for what only looks like one: the
// first byte is that of many protocols.
func parse(packet []byte) (m message, ok bool) {
	if !wire.IsWhole(packet) {
		return m, false
	}
	m.id = idOf(packet)
	m.kind.ReadValue(binary.BigEndian.Uint16(packet))
	for at, count := wire.STUNHeader, 0; at < len(packet); count++ {
		if len(packet)-at < wire.AttributeHeader || count == maxAttributes {
			return m, false
		}
		kind, size := stun.AttrType(binary.BigEndian.Uint16(packet[at:])), int(binary.BigEndian.Uint16(packet[at+2:]))
		end := at + wire.AttributeHeader + wire.Padded(size)
		if end > len(packet) || kind == stun.AttrFingerprint && !wire.IsFingerprint(packet, at) {
			return m, false
		}
		if !m.read(kind, packet[at+wire.AttributeHeader:][:size]) {
			return m, false
		}
		at = end
	}
	return m, true
}

// read reads one attribute. It reports false when the value is not what its type says.
func (m *message) read(kind stun.AttrType, value []byte) bool {
	signed := m.integrity
	size, fits := len(value), true
	switch kind {
	case stun.AttrUsername:
		m.username, fits = value, size <= maxUsername
	case stun.AttrPriority:
		m.priority, fits = true, size == 4
	case stun.AttrICEControlled, stun.AttrICEControlling:
		m.role, fits = true, size == 8
	case stun.AttrUseCandidate:
		fits = size == 0
	case stun.AttrMessageIntegrity:
		m.integrity, fits = true, size == 20 && !m.integrity
		signed = false
	case attrIntegritySHA256:
		m.integrity, fits = true, leastSHA256 <= size && size <= mostSHA256
		signed = false
	case attrIntegrity32:
		m.pinged, fits = true, size == 4
	case stun.AttrXORMappedAddress:
		fits = m.readMapped(value)
	case stun.AttrErrorCode:
		if fits = size >= 4; fits {
			m.code = int(value[2]&7)*100 + int(value[3])
		}
	case stun.AttrFingerprint:
		signed = false
	case stun.AttrMappedAddress, stun.AttrUnknownAttributes:
	default:
		m.strange = m.strange || kind < 0x8000
	}
	m.strange = m.strange || signed
	return fits
}

func (m *message) readMapped(value []byte) bool {
	mapped, err := wire.ParseXORAddress(m.id, value)
	m.mapped = wire.Unmapped(mapped)
	return err == nil
}

// isCheck says whether a message is a connectivity check (RFC 8445, section 7.1). A Binding request of another use has no USERNAME of two
// agents, no PRIORITY and no role; one that a server with long-term credentials would answer with integrity has REALM and NONCE.
func (m *message) isCheck() bool {
	of, by, two := bytes.Cut(m.username, []byte(":"))
	return m.kind == stun.BindingRequest && two && isUfrag(of) && isUfrag(by) && m.priority && m.role && m.integrity && !m.strange
}

func isUfrag(text []byte) bool { return len(text) > 0 && len(text) <= maxUfrag }

// answers says whether a message is what an agent answers to a check: success with the address that the check came from, or a role conflict.
func (m *message) answers() bool {
	switch m.kind {
	case stun.BindingSuccess:
		return m.integrity && m.mapped.IsValid() && !m.strange
	case stun.BindingError:
		return m.code == int(stun.CodeRoleConflict) && !m.strange
	}
	return false
}

// isSigned says whether a message claims to come from who knows the password of the session.
func (m *message) isSigned() bool { return m.integrity || m.pinged }

// ufrag is that of the agent which a check is for (RFC 8445, section 7.2.2).
func (m *message) ufrag() []byte {
	of, _, _ := bytes.Cut(m.username, []byte(":"))
	return of
}

package turnsrv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// describeAnswer names an answer the way errors and tables quote it.
func describeAnswer(m *stun.Message) string {
	switch {
	case m.Type.Class == stun.ClassSuccessResponse:
		return "success"
	case m.Type.Class != stun.ClassErrorResponse:
		return m.Type.String()
	case answerCode(m) == 0:
		return "an error without ERROR-CODE"
	}
	return fmt.Sprint(answerCode(m))
}

// answerCode returns the error code of an answer, or 0.
func answerCode(m *stun.Message) int {
	var code stun.ErrorCodeAttribute
	if m.Type.Class != stun.ClassErrorResponse || code.GetFrom(m) != nil {
		return 0
	}
	return int(code.Code)
}

func wantCode(m *stun.Message, code int) error {
	if answerCode(m) != code {
		return fmt.Errorf("%s: got %s, want %d%s", m.Type.Method, describeAnswer(m), code, quotedReason(m))
	}
	return nil
}

func wantSuccess(m *stun.Message) error {
	if m.Type.Class != stun.ClassSuccessResponse {
		return fmt.Errorf("%s: got %s, want success%s", m.Type.Method, describeAnswer(m), quotedReason(m))
	}
	return nil
}

// answerAddress reads an address that is XORed like XOR-MAPPED-ADDRESS.
func answerAddress(m *stun.Message, t stun.AttrType) (netip.AddrPort, error) {
	var xored stun.XORMappedAddress
	if err := xored.GetFromAs(m, t); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: %w", t, err)
	}
	addr, ok := netip.AddrFromSlice(xored.IP)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%s: %v is no address", t, xored.IP)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(xored.Port)), nil
}

// answerLifetime returns the seconds of the LIFETIME attribute.
func answerLifetime(m *stun.Message) (int, error) {
	value, err := m.Get(stun.AttrLifetime)
	if err != nil || len(value) != 4 {
		return 0, fmt.Errorf("%s without a LIFETIME of 4 bytes: %x", describeAnswer(m), value)
	}
	return int(binary.BigEndian.Uint32(value)), nil
}

// wantUnknown compares UNKNOWN-ATTRIBUTES, a list of 16-bit types (RFC 8489
// 14.13). The library reads and writes 32 bits for each.
func wantUnknown(m *stun.Message, types ...stun.AttrType) error {
	value, err := m.Get(stun.AttrUnknownAttributes)
	if err != nil {
		return fmt.Errorf("%s without UNKNOWN-ATTRIBUTES", describeAnswer(m))
	}
	var want []byte
	for _, t := range types {
		want = binary.BigEndian.AppendUint16(want, t.Value())
	}
	if !bytes.Equal(value, want) {
		return fmt.Errorf("%s with UNKNOWN-ATTRIBUTES %x, want %x", describeAnswer(m), value, want)
	}
	return nil
}

// quotedReason returns the reason phrase of an error for the end of a sentence.
func quotedReason(m *stun.Message) string {
	var code stun.ErrorCodeAttribute
	if code.GetFrom(m) != nil || len(code.Reason) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%q)", code.Reason)
}

// wantReason looks for the reason phrase of an error.
func wantReason(m *stun.Message) error {
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil {
		return errors.New("an error without ERROR-CODE")
	}
	if strings.TrimSpace(string(code.Reason)) == "" {
		return fmt.Errorf("%d without a reason phrase", code.Code)
	}
	return nil
}

func attrRaw(t stun.AttrType, value ...byte) stun.Setter {
	return stun.RawAttribute{Type: t, Value: value}
}

// attrTransport is REQUESTED-TRANSPORT with an IP protocol number.
func attrTransport(protocol byte) stun.Setter {
	return attrRaw(stun.AttrRequestedTransport, protocol, 0, 0, 0)
}

func attrLifetime(s uint32) stun.Setter {
	return attrRaw(stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, s)...)
}

// attrFamily is REQUESTED-ADDRESS-FAMILY: 1 is IPv4, 2 is IPv6.
func attrFamily(family byte) stun.Setter {
	return attrRaw(stun.AttrRequestedAddressFamily, family, 0, 0, 0)
}

func attrAdditionalFamily(family byte) stun.Setter {
	return attrRaw(wire.AttrAdditionalAddressFamily, family, 0, 0, 0)
}

// attrEvenPort is EVEN-PORT; reserve is its R bit.
func attrEvenPort(reserve bool) stun.Setter {
	if reserve {
		return attrRaw(stun.AttrEvenPort, 0x80)
	}
	return attrRaw(stun.AttrEvenPort, 0)
}

func attrChannel(number uint16) stun.Setter {
	return attrRaw(stun.AttrChannelNumber, byte(number>>8), byte(number), 0, 0)
}

// attrPeer is XOR-PEER-ADDRESS.
func attrPeer(peer netip.AddrPort) stun.Setter { return xorPeer(peer) }

type xorPeer netip.AddrPort

// AddTo implements stun.Setter.
func (p xorPeer) AddTo(m *stun.Message) error {
	addr := netip.AddrPort(p)
	xored := stun.XORMappedAddress{IP: addr.Addr().AsSlice(), Port: int(addr.Port())}
	return xored.AddToAs(m, stun.AttrXORPeerAddress)
}

// attrToken is a RESERVATION-TOKEN of eight times the same byte.
func attrToken(b byte) stun.Setter {
	return attrRaw(stun.AttrReservationToken, b, b, b, b, b, b, b, b)
}

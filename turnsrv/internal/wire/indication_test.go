package wire

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/pion/stun/v2"
)

// TestSendIndicationIsReadAsAMessage holds what reads an indication without
// allocating against what reads any message.
func TestSendIndicationIsReadAsAMessage(t *testing.T) {
	for _, attrs := range sendIndications() {
		packet := sendPacket(attrs...)
		checkSendIndication(t, packet)
		for i := range packet {
			changed := bytes.Clone(packet)
			changed[i] ^= 0x41
			checkSendIndication(t, changed)
			checkSendIndication(t, packet[:i])
		}
	}
}

func FuzzSendIndication(f *testing.F) {
	for _, attrs := range sendIndications() {
		f.Add(sendPacket(attrs...))
	}
	f.Fuzz(func(t *testing.T, packet []byte) { checkSendIndication(t, packet) })
}

// sendPacket is a Send indication.
func sendPacket(attrs ...stun.Setter) []byte {
	m := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication))
	for _, a := range attrs {
		_ = a.AddTo(m)
	}
	return m.Raw
}

func sendIndications() [][]stun.Setter {
	v4 := SetXORAddress(stun.AttrXORPeerAddress, netip.MustParseAddrPort("192.0.2.1:9"))
	v6 := SetXORAddress(stun.AttrXORPeerAddress, netip.MustParseAddrPort("[2001:db8::1]:9"))
	data := SetValue(stun.AttrData, []byte("hello")...)
	return [][]stun.Setter{
		{v4, data}, {data, v6}, {v4, v6, data, SetValue(stun.AttrData, []byte("again")...)},
		{v4, data, SetValue(stun.AttrDontFragment), stun.Fingerprint},
		{v4, SetValue(stun.AttrData)}, {v4}, {data}, {},
		{v4, data, stun.NewSoftware("any")}, {v4, data, SetValue(0x7F01)},
		{stun.Fingerprint, v4, data},
	}
}

func checkSendIndication(t *testing.T, packet []byte) {
	t.Helper()
	if m, err := Decode(packet); err == nil && m.Type != stun.NewType(stun.MethodSend, stun.ClassIndication) {
		return
	}
	want, wantErr := readSendIndication(packet)
	got, err := ParseSendIndication(packet)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%x: %v, as a message %v", packet, err, wantErr)
	}
	if err == nil && (got.Peer != want.Peer || !bytes.Equal(got.Data, want.Data) || got.DontFragment != want.DontFragment) {
		t.Fatalf("%x: %+v, as a message %+v", packet, got, want)
	}
}

// readSendIndication is the plain way.
func readSendIndication(packet []byte) (SendIndication, error) {
	m, err := Decode(packet)
	if err != nil {
		return SendIndication{}, err
	}
	data, err := m.Get(stun.AttrData)
	peers, peersErr := PeerAddresses(m)
	if err != nil || peersErr != nil || len(UnknownAttributes(m)) > 0 {
		return SendIndication{}, ErrMessage
	}
	return SendIndication{peers[0], data, m.Contains(stun.AttrDontFragment)}, nil
}

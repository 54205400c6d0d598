package consent

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

func messages() [][]byte {
	id := stun.NewTransactionIDSetter([12]byte{7})
	v6 := netip.MustParseAddrPort("[2001:db8::1]:5000")
	return [][]byte{
		check(7), checkOf("a:b:c", 7, stun.NewSoftware("any")), check(7, wire.SetValue(stun.AttrUseCandidate)), check(7, stun.NewRealm("r"), stun.NewNonce("n")),
		success(7, relayAddr), success(7, v6),
		stun.MustBuild(id, stun.BindingError, stun.CodeRoleConflict, password, stun.Fingerprint).Raw,
		stun.MustBuild(id, stun.NewType(0x80, stun.ClassRequest), wire.SetValue(attrIntegrity32, 1, 2, 3, 4)).Raw,
		stun.MustBuild(id, stun.BindingSuccess, wire.SetValue(attrIntegritySHA256, make([]byte, 32)...)).Raw,
		stun.MustBuild(id, stun.BindingRequest, stun.Fingerprint).Raw,
		stun.MustBuild(id, stun.NewType(stun.MethodSend, stun.ClassIndication), wire.SetValue(stun.AttrData, 1, 2, 3)).Raw,
	}
}

// FuzzParse holds what reads a message without allocating against what reads any message.
func FuzzParse(f *testing.F) {
	for _, packet := range messages() {
		f.Add(packet)
		f.Add(changed(bytes.Clone(packet), len(packet)/2))
		f.Add(packet[:len(packet)-1])
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		m, ok := parse(packet)
		if !ok {
			return
		}
		want, err := wire.Decode(packet)
		if err != nil {
			t.Fatalf("%x is no message: %v", packet, err)
		}
		if m.kind != want.Type || m.id != want.TransactionID {
			t.Fatalf("%x is read as %+v", packet, m)
		}
		for attr, told := range map[stun.AttrType]bool{stun.AttrRealm: m.strange, stun.AttrNonce: m.strange, stun.AttrData: m.strange, stun.AttrPriority: m.priority,
			stun.AttrMessageIntegrity: m.integrity, attrIntegritySHA256: m.integrity, attrIntegrity32: m.pinged} {
			if want.Contains(attr) && !told {
				t.Fatalf("%x: %v is not seen", packet, attr)
			}
		}
		if m.mapped.IsValid() && !want.Contains(stun.AttrXORMappedAddress) {
			t.Fatalf("%x has no address", packet)
		}
		if m.isCheck() && (want.Type != stun.BindingRequest || !bytes.Contains(m.username, []byte(":")) || m.strange || !m.integrity || len(m.ufrag()) == 0) {
			t.Fatalf("%x is no check", packet)
		}
		if m.isCheck() && m.answers() {
			t.Fatalf("%x is a check and an answer", packet)
		}
	})
}

// FuzzGate sends any packets either way to two peers, one of which never answers a check of the client.
func FuzzGate(f *testing.F) {
	for _, packet := range messages() {
		f.Add(packet, rtp, uint8(0))
		f.Add(packet, packet, uint8(1))
	}
	f.Fuzz(func(t *testing.T, one, two []byte, order uint8) {
		s := &scene{t, New(Rules{Mode: STUN, CheckSize: 548}, time.Now())}
		for i, packet := range [][]byte{one, two, one, rtp} {
			// What the client sends comes back: it may be anything that the peer made of it.
			out := s.pass(Direction(order>>i&1), peerAddr, packet)
			if _, ok := parse(packet); out == Passed && !ok {
				t.Fatalf("%x passes", packet)
			}
		}
		s.want("the other peer", Unproved, Out, otherPort, rtp)
		s.want("the other peer", Unproved, In, otherPort, rtp)
		if p := s.gate.peers[peerAddr]; p != nil && p.proved {
			m, _ := parse(one)
			n, _ := parse(two)
			if m.id != n.id || !m.isCheck() && !n.isCheck() || !m.answers() && !n.answers() {
				t.Fatalf("%x and %x prove something", one, two)
			}
		}
	})
}

func TestParseAllocatesNothing(t *testing.T) {
	for _, packet := range messages() {
		if n := testing.AllocsPerRun(100, func() { parse(packet) }); n != 0 {
			t.Errorf("%x: %v allocations", packet, n)
		}
	}
}

// TestParseTakesLittleOfMuch has as many attributes as fit in a datagram.
func TestParseTakesLittleOfMuch(t *testing.T) {
	m := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	for range 10_000 {
		m.Add(stun.AttrSoftware, nil)
	}
	if _, ok := parse(m.Raw); ok {
		t.Error("a message of 10,000 attributes is taken")
	}
}

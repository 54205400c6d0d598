package consent

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

var (
	peerAddr  = netip.MustParseAddrPort("192.0.2.1:5000")
	otherPort = netip.MustParseAddrPort("192.0.2.1:5001")
	relayAddr = netip.MustParseAddrPort("198.51.100.7:49152")
	password  = stun.MessageIntegrity("the peer's password")
	rtp       = []byte{0x80, 96, 0, 1}
)

// scene is a gate with the client and peers around it.
type scene struct {
	t    *testing.T
	gate *Gate
}

func newScene(t *testing.T, change ...func(*Rules)) *scene {
	t.Helper()
	rules := Rules{Mode: STUN, CheckSize: 548}
	for _, c := range change {
		c(&rules)
	}
	return &scene{t, New(rules, time.Now())}
}

// pass sends a packet and returns what became of it, asked of a new flow.
func (s *scene) pass(d Direction, peer netip.AddrPort, packet []byte) Verdict {
	f := s.gate.Flow(d, peer)
	return f.Admit(packet, time.Now())
}

func (s *scene) want(what string, want Verdict, d Direction, peer netip.AddrPort, packet []byte) {
	s.t.Helper()
	if got := s.pass(d, peer, packet); got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// check is a connectivity check with that number.
func check(number byte, more ...stun.Setter) []byte {
	return checkOf("peer:client", number, more...)
}

func checkOf(username string, number byte, more ...stun.Setter) []byte {
	setters := []stun.Setter{stun.NewTransactionIDSetter([12]byte{number}), stun.BindingRequest, stun.NewUsername(username),
		wire.SetValue(stun.AttrPriority, 0, 1, 2, 3), wire.SetValue(stun.AttrICEControlling, make([]byte, 8)...)}
	setters = append(append(setters, more...), password, stun.Fingerprint)
	return stun.MustBuild(setters...).Raw
}

// success answers the check of that number, which came from mapped.
func success(number byte, mapped netip.AddrPort) []byte {
	return stun.MustBuild(stun.NewTransactionIDSetter([12]byte{number}), stun.BindingSuccess,
		wire.SetXORAddress(stun.AttrXORMappedAddress, mapped), password, stun.Fingerprint).Raw
}

// prove has the peer consent.
func (s *scene) prove(peer netip.AddrPort) {
	s.t.Helper()
	s.want("check", Passed, Out, peer, check(200))
	s.want("answer", Passed, In, peer, success(200, relayAddr))
}

func TestOutNeedsThePeersAnswer(t *testing.T) {
	s := newScene(t)
	s.want("data before", Unproved, Out, peerAddr, rtp)
	s.want("answer to nothing", NoCheck, In, peerAddr, success(1, relayAddr))
	s.want("check", Passed, Out, peerAddr, check(1))
	s.want("data after a check", Unproved, Out, peerAddr, rtp)
	s.want("answer of another port", NoCheck, In, otherPort, success(1, relayAddr))
	s.want("answer to another check", NoCheck, In, peerAddr, success(2, relayAddr))
	s.want("data still", Unproved, Out, peerAddr, rtp)
	s.want("data of the peer", Unproved, In, peerAddr, rtp)
	s.want("answer", Passed, In, peerAddr, success(1, relayAddr))
	s.want("data", Passed, Out, peerAddr, rtp)
	s.want("data of the peer", Passed, In, peerAddr, rtp)
	s.want("another port of the host", Unproved, Out, otherPort, rtp)
	s.want("from another port of the host", Unproved, In, otherPort, rtp)
}

func TestInPassesOnceTheClientHasAnswered(t *testing.T) {
	s := newScene(t)
	dtls := []byte{22, 254, 253}
	s.want("answer to nobody", NoCheck, Out, peerAddr, success(1, peerAddr))
	s.want("the peer's check", Passed, In, peerAddr, check(1))
	s.want("data of the peer before", Unproved, In, peerAddr, dtls)
	s.want("answer to another", NoCheck, Out, peerAddr, success(2, peerAddr))
	s.want("answer to another port", NoCheck, Out, otherPort, success(1, otherPort))
	s.want("answer that names nobody", NoCheck, Out, peerAddr, success(1, relayAddr))
	s.want("answer", Passed, Out, peerAddr, success(1, peerAddr))
	s.want("data of the peer", Passed, In, peerAddr, dtls)
	s.want("data to the peer", Unproved, Out, peerAddr, dtls)
	s.want("check to the peer", Passed, Out, peerAddr, check(2))
	s.want("the peer's answer", Passed, In, peerAddr, success(2, relayAddr))
	s.want("data to the peer", Passed, Out, peerAddr, dtls)
}

// TestEchoProvesNothing sends to a server that sends back what it gets.
func TestEchoProvesNothing(t *testing.T) {
	s := newScene(t)
	for number := range byte(5) {
		for _, mapped := range []netip.AddrPort{peerAddr, relayAddr} {
			c, a := check(number), success(number, mapped)
			for _, packet := range [][]byte{c, a} {
				if s.pass(Out, peerAddr, packet) == Passed {
					s.pass(In, peerAddr, packet)
				}
			}
		}
		s.want("data", Unproved, Out, peerAddr, rtp)
	}
}

func TestNothingButChecksPassesBefore(t *testing.T) {
	s := newScene(t)
	asked := stun.NewTransactionIDSetter([12]byte{9})
	s.want("the peer's check", Passed, In, peerAddr, check(9))
	s.want("check", Passed, Out, peerAddr, check(9))
	for what, packet := range map[string][]byte{
		"a bare Binding":         stun.MustBuild(asked, stun.BindingRequest, stun.Fingerprint).Raw,
		"unsigned":               stun.MustBuild(asked, stun.BindingRequest, stun.NewUsername("a:b"), wire.SetValue(stun.AttrPriority, 0, 0, 0, 1), wire.SetValue(stun.AttrICEControlled, make([]byte, 8)...)).Raw,
		"with REALM":             check(9, stun.NewRealm("example.org")),
		"with NONCE":             check(9, stun.NewNonce("abc")),
		"with CHANGE-REQUEST":    check(9, wire.SetValue(stun.AttrType(3), 0, 0, 0, 6)),
		"with DATA":              check(9, wire.SetValue(stun.AttrData, rtp...)),
		"of one agent":           checkOf("peer", 9),
		"of nobody":              checkOf(":", 9),
		"too large":              check(9, stun.NewSoftware(string(make([]byte, 480)))),
		"Allocate":               retyped(check(9), stun.NewType(stun.MethodAllocate, stun.ClassRequest)),
		"indication":             retyped(check(9), stun.NewType(stun.MethodBinding, stun.ClassIndication)),
		"error":                  stun.MustBuild(asked, stun.BindingError, stun.CodeUnauthorized, password, stun.Fingerprint).Raw,
		"unsigned answer":        stun.MustBuild(asked, stun.BindingSuccess, wire.SetXORAddress(stun.AttrXORMappedAddress, peerAddr)).Raw,
		"answer without address": stun.MustBuild(asked, stun.BindingSuccess, password).Raw,
		"behind the integrity":   stun.MustBuild(asked, stun.BindingSuccess, wire.SetXORAddress(stun.AttrXORMappedAddress, peerAddr), password, stun.NewSoftware("x")).Raw,
	} {
		for d := range Direction(2) {
			s.want(what, NoCheck, d, peerAddr, packet)
		}
	}
	for what, packet := range map[string][]byte{
		"empty": {}, "TFTP": append([]byte{0, 1}, "/etc/passwd\x00octet\x00"...), "WireGuard": append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
		"a byte too many": append(check(9), 0), "a byte too few": check(9)[:len(check(9))-1], "no cookie": changed(check(9), 4),
		"wrong FINGERPRINT": changed(check(9), len(check(9))-1), "wrong length": changed(check(9), 3), "long attribute": changed(check(9), 22),
	} {
		for d := range Direction(2) {
			s.want(what, Unproved, d, peerAddr, packet)
		}
	}
	s.want("still", Unproved, Out, peerAddr, rtp)
	s.want("still", Unproved, In, peerAddr, rtp)
}

// retyped gives a message another type, for which it has no FINGERPRINT then.
func retyped(packet []byte, kind stun.MessageType) []byte {
	packet = packet[:len(packet)-8]
	binary.BigEndian.PutUint16(packet, kind.Value())
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)-wire.STUNHeader))
	return packet
}

func changed(packet []byte, at int) []byte {
	packet[at] ^= 0x40
	return packet
}

// TestRoleConflictIsSettled has both sides believe to be in control.
func TestRoleConflictIsSettled(t *testing.T) {
	s := newScene(t)
	conflict := func(number byte) []byte {
		return stun.MustBuild(stun.NewTransactionIDSetter([12]byte{number}), stun.BindingError, stun.CodeRoleConflict, password, stun.Fingerprint).Raw
	}
	s.want("conflict of nobody", NoCheck, In, peerAddr, conflict(1))
	s.want("check", Passed, Out, peerAddr, check(1))
	s.want("conflict", Passed, In, peerAddr, conflict(1))
	s.want("the peer's check", Passed, In, peerAddr, check(2))
	s.want("conflict", Passed, Out, peerAddr, conflict(2))
	s.want("data", Unproved, Out, peerAddr, rtp)
	s.want("data", Unproved, In, peerAddr, rtp)
}

func TestAfterProofPassesWhatWebRTCSends(t *testing.T) {
	s := newScene(t)
	s.prove(peerAddr)
	out, in := s.gate.Flow(Out, peerAddr), s.gate.Flow(In, peerAddr)
	for first := range 256 {
		want := Foreign
		if 20 <= first && first <= 79 || 128 <= first && first <= 191 {
			want = Passed
		}
		for _, f := range []*Flow{&out, &in} {
			if got := f.Admit([]byte{byte(first), 1, 2, 3}, time.Now()); got != want {
				t.Errorf("first byte %d: %q, want %q", first, got, want)
			}
		}
	}
	s.want("nothing", Foreign, Out, peerAddr, nil)
	s.want("a large check", Passed, Out, peerAddr, check(9, stun.NewSoftware(string(make([]byte, 700)))))
	s.want("a ping", Passed, In, peerAddr, retyped(check(9), stun.NewType(0x80, stun.ClassRequest)))
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		count := func(d Direction, peers int, span time.Duration) (passed int) {
			number := byte(0)
			for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				for i := range peers {
					number++
					if s.pass(d, netip.AddrPortFrom(peerAddr.Addr(), uint16(1000+i)), check(number)) == Passed {
						passed++
					}
				}
			}
			return passed
		}
		if got, want := count(Out, 1, 10*time.Second), 10*peerRate+peerBurst; got < want-1 || got > want {
			t.Errorf("%d checks to one peer passed, want %d", got, want)
		}
		time.Sleep(time.Minute)
		if got, want := count(Out, 40, 10*time.Second), 10*gateRate+gateBurst; got < want-5 || got > want {
			t.Errorf("%d checks to 40 peers passed, want %d", got, want)
		}
		time.Sleep(time.Minute)
		if got, want := count(In, 40, 2*time.Second), 40*(2*peerRate+peerBurst); got < want-40 || got > want {
			t.Errorf("%d checks of 40 peers passed, want %d", got, want)
		}
		if got := s.gate.Denied(Out, Rate); got.Packets == 0 || got.Bytes != got.Packets*uint64(len(check(1))) {
			t.Errorf("denied %+v", got)
		}
	})
}

func TestGatesLearnNothingOfEachOther(t *testing.T) {
	one, other := newScene(t), newScene(t)
	one.prove(peerAddr)
	other.want("data", Unproved, Out, peerAddr, rtp)
	other.want("data", Unproved, In, peerAddr, rtp)
	other.want("answer to the other's check", NoCheck, In, peerAddr, success(200, relayAddr))
}

func TestNoGatePassesEverything(t *testing.T) {
	var g *Gate
	f := g.Flow(Out, peerAddr)
	if got := f.Admit([]byte("anything"), time.Now()); got != Passed {
		t.Errorf("%q", got)
	}
}

func TestMediaAllocatesNothing(t *testing.T) {
	s := newScene(t)
	s.prove(peerAddr)
	if n := testing.AllocsPerRun(1000, func() {
		f := s.gate.Flow(Out, peerAddr)
		for range 2 {
			if f.Admit(rtp, time.Now()) != Passed {
				t.Fatal("denied")
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

func TestModes(t *testing.T) {
	for _, name := range Modes() {
		if got := ModeOf(name).String(); got != name {
			t.Errorf("%s is %s", name, got)
		}
	}
	if ModeOf("ice") != Off {
		t.Error("an unknown name asks for something")
	}
}

// TestNothingPassesBeforeTheGateIsMade has packets with a time before it, as those of a loop's turn that made the allocation.
func TestNothingPassesBeforeTheGateIsMade(t *testing.T) {
	s := newScene(t)
	before := s.gate.born.Add(-time.Millisecond)
	out, in := s.gate.Flow(Out, peerAddr), s.gate.Flow(In, peerAddr)
	for _, step := range []struct {
		what   string
		flow   *Flow
		packet []byte
		want   Verdict
	}{
		{"data", &out, rtp, Unproved},
		{"check", &out, check(1), Passed},
		{"data after a check", &out, rtp, Unproved},
		{"data of the peer", &in, rtp, Unproved},
	} {
		if got := step.flow.Admit(step.packet, before); got != step.want {
			t.Errorf("%s: %q, want %q", step.what, got, step.want)
		}
	}
}

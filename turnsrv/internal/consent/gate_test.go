package consent

import (
	"encoding/binary"
	"net/netip"
	"slices"
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

// TestAnswersCountForTheRate has somebody ask in a peer's name, to whom the client would answer.
func TestAnswersCountForTheRate(t *testing.T) {
	s := newScene(t)
	now := time.Now()
	in, out := s.gate.Flow(In, peerAddr), s.gate.Flow(Out, peerAddr)
	passed := 0
	for number := range byte(2 * peerBurst) {
		s.gate.mu.Lock()
		if p := s.gate.peers[peerAddr]; p != nil {
			p.meters[In] = 0
		}
		s.gate.mu.Unlock()
		if got := in.Admit(check(number), now); got != Passed {
			t.Fatalf("check %d: %q", number, got)
		}
		if out.Admit(success(number, peerAddr), now) == Passed {
			passed++
		}
	}
	if passed != peerBurst {
		t.Errorf("%d answers left, want %d", passed, peerBurst)
	}
}

func TestConsentLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.prove(peerAddr)
		out := s.gate.Flow(Out, peerAddr)
		if out.Admit(rtp, time.Now()) != Passed {
			t.Fatal("there is no consent")
		}
		time.Sleep(Life - 1)
		if got := out.Admit(rtp, time.Now()); got != Passed {
			t.Errorf("just before: %q", got)
		}
		time.Sleep(time.Nanosecond)
		if got := out.Admit(rtp, time.Now()); got != Lapsed {
			t.Errorf("then: %q", got)
		}
		s.want("data of the peer", Lapsed, In, peerAddr, rtp)
		s.want("the peer's check renews nothing that is over", Passed, In, peerAddr, check(1))
		s.want("data", Lapsed, Out, peerAddr, rtp)
		s.prove(peerAddr)
		s.want("data", Passed, Out, peerAddr, rtp)
	})
}

// TestNothingButAnswersRenewsConsent has all sent that passes, 20 s apart, the pings and the keepalives of agents and what an echo makes of them.
func TestNothingButAnswersRenewsConsent(t *testing.T) {
	ping, pong := stun.NewType(0x80, stun.ClassRequest), stun.NewType(0x80, stun.ClassSuccessResponse)
	short := wire.SetValue(attrIntegrity32, 1, 2, 3, 4)
	sent := func(kind stun.MessageType, n byte) []byte {
		return stun.MustBuild(stun.NewTransactionIDSetter([12]byte{n}), kind, short).Raw
	}
	echo := func(s *scene, packet []byte) {
		if s.pass(Out, peerAddr, packet) == Passed {
			s.pass(In, peerAddr, packet)
		}
	}
	for what, idle := range map[string]func(*scene, byte){
		"the client's checks":           func(s *scene, n byte) { s.pass(Out, peerAddr, check(n)) },
		"the client's data":             func(s *scene, _ byte) { s.pass(Out, peerAddr, rtp) },
		"the peer's data":               func(s *scene, _ byte) { s.pass(In, peerAddr, rtp) },
		"the peer's checks":             func(s *scene, n byte) { s.pass(In, peerAddr, checkOf("client:peer", n)) },
		"the client's keepalives":       func(s *scene, _ byte) { s.pass(Out, peerAddr, keepalive(stun.Fingerprint)) },
		"the peer's keepalives":         func(s *scene, _ byte) { s.pass(In, peerAddr, keepalive(stun.Fingerprint)) },
		"answers to nothing":            func(s *scene, n byte) { s.pass(In, peerAddr, success(n, relayAddr)) },
		"the same answer":               func(s *scene, _ byte) { s.pass(In, peerAddr, success(200, relayAddr)) },
		"an echo of checks":             func(s *scene, n byte) { echo(s, check(n)) },
		"an echo of the peer's checks":  func(s *scene, n byte) { echo(s, checkOf("client:peer", n)) },
		"an echo of keepalives":         func(s *scene, _ byte) { echo(s, keepalive(stun.Fingerprint)) },
		"an echo of checks and answers": func(s *scene, n byte) { echo(s, check(n)); echo(s, success(n, peerAddr)) },
		"an echo of forged answers":     func(s *scene, n byte) { echo(s, check(n)); echo(s, success(n, relayAddr)) },
		"an echo of pings":              func(s *scene, n byte) { echo(s, sent(ping, n)); echo(s, sent(pong, n)) },
		"answers of another port":       func(s *scene, n byte) { s.pass(Out, peerAddr, check(n)); s.pass(In, otherPort, success(n, relayAddr)) },
		"answers that nobody signed": func(s *scene, n byte) {
			s.pass(Out, peerAddr, check(n))
			s.pass(In, peerAddr, stun.MustBuild(stun.NewTransactionIDSetter([12]byte{n}), stun.BindingSuccess, wire.SetXORAddress(stun.AttrXORMappedAddress, relayAddr)).Raw)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t)
			s.prove(peerAddr)
			for n := range byte(3) {
				time.Sleep(Life / 3)
				idle(s, n)
			}
			s.want(what, Lapsed, Out, peerAddr, rtp)
		})
	}
}

func TestAnswersRenewConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.prove(peerAddr)
		for n := range byte(20) {
			time.Sleep(Life - time.Second)
			s.want("check", Passed, Out, peerAddr, check(n))
			s.want("answer", Passed, In, peerAddr, success(n, relayAddr))
		}
		s.want("data", Passed, Out, peerAddr, rtp)
		s.want("data of the peer", Passed, In, peerAddr, rtp)
	})
}

// keepalive is what an agent sends that does not ask again.
func keepalive(more ...stun.Setter) []byte {
	return stun.MustBuild(append([]stun.Setter{stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication)}, more...)...).Raw
}

// TestAnsweredLapses has a peer go on that the client no longer answers.
func TestAnsweredLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.want("check", Passed, In, peerAddr, check(1))
		s.want("answer", Passed, Out, peerAddr, success(1, peerAddr))
		time.Sleep(Life - 1)
		s.want("data", Passed, In, peerAddr, rtp)
		s.want("check", Passed, In, peerAddr, check(2))
		s.want("answer", Passed, Out, peerAddr, success(2, peerAddr))
		time.Sleep(Life - 1)
		s.want("data", Passed, In, peerAddr, rtp)
		time.Sleep(time.Nanosecond)
		s.want("data", Unproved, In, peerAddr, rtp)
	})
}

func TestRoomWantsAMembersSignature(t *testing.T) {
	known := map[string][][]byte{}
	var asked []string
	s := newScene(t, func(r *Rules) {
		r.Mode = Room
		r.Passwords = func(ufrag string) [][]byte {
			asked = append(asked, ufrag)
			return known[ufrag]
		}
	})
	round := func(number byte, username string) {
		t.Helper()
		s.want("check", Passed, Out, peerAddr, checkOf(username, number))
		s.want("answer", Passed, In, peerAddr, success(number, relayAddr))
	}
	round(1, "ann:client")
	s.want("no password is known", Unproved, Out, peerAddr, rtp)
	known["ann"] = [][]byte{[]byte("another password")}
	round(2, "ann:client")
	s.want("a wrong password", Unproved, Out, peerAddr, rtp)
	known["bob"] = [][]byte{password}
	round(3, "ann:client")
	s.want("another member's password", Unproved, Out, peerAddr, rtp)
	known["ann"] = [][]byte{[]byte("the next password"), password}
	round(4, "ann:client")
	s.want("her password", Passed, Out, peerAddr, rtp)
	if want := []string{"ann", "ann", "ann", "ann", "ann", "ann", "ann", "ann"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
	clear(known)
	asked = nil
	for i := range 100 {
		round(byte(i), "ann:client")
		s.want("data", Passed, Out, peerAddr, rtp)
	}
	if asked != nil {
		t.Errorf("asked for %v when nothing awaited a proof", asked)
	}
}

// TestRoomProvesWhatTheClientHasAnswered is the order in which the peer calls first.
func TestRoomProvesWhatTheClientHasAnswered(t *testing.T) {
	s := newScene(t, func(r *Rules) {
		r.Mode, r.Passwords = Room, func(string) [][]byte { return [][]byte{password} }
	})
	s.want("the peer's check", Passed, In, peerAddr, check(1))
	s.want("answer", Passed, Out, peerAddr, success(1, peerAddr))
	s.want("check", Passed, Out, peerAddr, check(2))
	s.want("the peer's answer", Passed, In, peerAddr, success(2, relayAddr))
	s.want("data", Passed, Out, peerAddr, rtp)
}

// TestStrangersDisplaceNobody has one permitted address call from thousands of ports, and the client call as many.
func TestStrangersDisplaceNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		proved := netip.MustParseAddrPort("192.0.2.9:9")
		s.prove(proved)
		s.want("check", Passed, Out, peerAddr, check(1))
		for port := range uint16(10 * maxPeers) {
			s.pass(In, netip.AddrPortFrom(otherPort.Addr(), 10_000+port), check(byte(port)))
		}
		s.want("answer", Passed, In, peerAddr, success(1, relayAddr))
		s.want("data", Passed, Out, peerAddr, rtp)
		for port := range uint16(10 * maxPeers) {
			s.pass(Out, netip.AddrPortFrom(otherPort.Addr(), 10_000+port), check(byte(port)))
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(s.gate.peers); n > maxPeers {
			t.Errorf("%d peers are known", n)
		}
		s.want("data", Passed, Out, proved, rtp)
		for port := range uint16(maxPeers) {
			p := netip.AddrPortFrom(otherPort.Addr(), 30_000+port)
			s.pass(Out, p, check(1))
			s.pass(In, p, success(1, relayAddr))
			time.Sleep(10 * time.Millisecond)
		}
		s.want("one too many", Rate, Out, netip.MustParseAddrPort("192.0.2.77:7"), check(1))
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

// TestStrangersKeepNoAnswerBack has one permitted address ask from many ports before the client has answered a peer whom it has called.
func TestStrangersKeepNoAnswerBack(t *testing.T) {
	s := newScene(t)
	s.want("check", Passed, Out, peerAddr, check(1))
	s.want("the peer's check", Passed, In, peerAddr, check(2))
	for port := range uint16(100) {
		for number := range byte(peerBurst) {
			s.want("check of a stranger", Passed, In, netip.AddrPortFrom(otherPort.Addr(), 10_000+port), check(number))
		}
	}
	s.want("answer", Passed, Out, peerAddr, success(2, peerAddr))
	s.want("data of the peer", Passed, In, peerAddr, rtp)
}

package consent

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

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

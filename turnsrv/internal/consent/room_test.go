package consent

import (
	"slices"
	"testing"
)

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

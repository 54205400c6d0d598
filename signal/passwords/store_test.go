package passwords

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ann      = "user-aaaaaaaa-0001"
	annTwice = "user-aaaaaaaa-0002" // another tab
	bob      = "user-bbbbbbbb-0001"
	eve      = "user-eeeeeeee-0001"
)

// told is what from tells to under a number.
func told(to, from string, number int) Told {
	return Told{to, from, "r", Password{fmt.Sprintf("ufrag%d", number), fmt.Sprintf("%s-%d-%s", from, number, chromium)}}
}

// has reports whether the user knows what was told.
func (s *Store) has(user string, t Told) bool {
	return slices.ContainsFunc(s.Of(user, t.Ufrag), func(p []byte) bool { return string(p) == t.Password.Password })
}

func TestOnlyWhoWasToldKnows(t *testing.T) {
	s := New(1 << 20)
	one := told(ann, bob, 1)
	s.Tell(one)
	for user, want := range map[string]bool{ann: true, annTwice: true, Session(ann): true, bob: false, eve: false, "": false, "static": false} {
		if got := s.has(user, one); got != want {
			t.Errorf("%q knows it: %v", user, got)
		}
	}
	if got := s.Of(ann, "ufrag2"); got != nil {
		t.Errorf("%q for another user name fragment", got)
	}
	if count := s.Len(); count != 1 {
		t.Errorf("%d are kept", count)
	}
	s.Tell(one)
	s.Tell(Told{To: ann, From: bob, Room: "r", Password: Password{"abcd", "short"}})
	if got := s.ToldTo(annTwice); !slices.Equal(got, []Told{one}) {
		t.Errorf("told %v", got)
	}
}

// TestRestartKeepsBoth tells new passwords, as ICE restarts do, under the same and under another user name fragment.
func TestRestartKeepsBoth(t *testing.T) {
	s := New(1 << 20)
	before, after, same := told(ann, bob, 1), told(ann, bob, 2), told(ann, eve, 1)
	for _, one := range []Told{before, after, same} {
		s.Tell(one)
	}
	for _, one := range []Told{before, after, same} {
		if !s.has(ann, one) {
			t.Errorf("%v is forgotten", one)
		}
	}
	if got := s.Of(ann, before.Ufrag); len(got) != 2 {
		t.Errorf("%q of two members with one user name fragment", got)
	}
}

// TestWhoTellsMuchLosesTheOwn has a member tell more than may be kept.
func TestWhoTellsMuchLosesTheOwn(t *testing.T) {
	s := New(1 << 20)
	s.Tell(told(ann, bob, 0))
	for i := range 3 * maxOfSender {
		s.Tell(told(ann, eve, i))
	}
	if !s.has(ann, told(ann, bob, 0)) {
		t.Error("what another had told was forgotten")
	}
	if all := s.ToldTo(ann); len(all) != 1+maxOfSender || all[len(all)-1] != told(ann, eve, 3*maxOfSender-1) {
		t.Errorf("%d are kept, the last is %v", len(all), all[len(all)-1])
	}
	for i := range 2 * maxOfSession {
		s.Tell(told(ann, fmt.Sprint("user-", i), 0))
	}
	if all := s.ToldTo(ann); len(all) != maxOfSession {
		t.Errorf("%d are kept of many members", len(all))
	}

	s.Tell(told(ann, bob, 0))
	for i := range 2 * maxOfSession {
		s.Tell(told(ann, fmt.Sprint("user-m", i%64), i))
	}
	if !s.has(ann, told("", bob, 0)) {
		t.Error("strangers who tell much displace what a member has told")
	}
}

// TestBytesAreBounded fills the store: it stays within its bytes, and who fills it loses most.
func TestBytesAreBounded(t *testing.T) {
	const limit = 256 << 10
	s := New(limit)
	for i := range 100 {
		s.Tell(told(fmt.Sprintf("user-%08d-0001", i), bob, 0))
	}
	for i := range 3000 {
		s.Tell(told(fmt.Sprintf("user-e%07d-0001", i%3), fmt.Sprint("user-", i/30), i))
	}
	if count := s.Len(); s.bytes > limit || count < limit/1000 {
		t.Errorf("%d in %d bytes", count, s.bytes)
	}
	kept := 0
	for i := range 100 {
		if s.has(fmt.Sprintf("user-%08d-0001", i), told("", bob, 0)) {
			kept++
		}
	}
	if kept < 90 {
		t.Errorf("%d of 100 honest ones are left", kept)
	}
	for _, of := range s.sessions {
		for i := range of.told {
			of.told[i].used = time.Time{}
		}
	}
	s.Sweep(func(Told) bool { return false })
	if s.bytes != 0 || len(s.sessions) != 0 {
		t.Errorf("%d bytes and %d sessions are left", s.bytes, len(s.sessions))
	}
}

func TestSweepForgetsWhatNobodyNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1 << 20)
		asked, idling, needed, again := told(ann, bob, 1), told(ann, bob, 2), told(ann, bob, 3), told(eve, bob, 4)
		for _, one := range []Told{asked, idling, needed, again} {
			s.Tell(one)
		}
		needs := func(one Told) bool {
			if one == asked {
				t.Error("whether it is needed was asked of one that is used")
			}
			if one == again {
				s.Tell(one) // It comes while this is asked.
			}
			return one == needed
		}
		time.Sleep(idle - 1)
		s.Sweep(func(Told) bool { t.Error("nothing idles yet"); return true })
		s.Of(ann, asked.Ufrag)
		time.Sleep(time.Nanosecond)
		s.Sweep(needs)
		for one, want := range map[Told]bool{asked: true, idling: false, needed: true, again: true} {
			if got := s.has(one.To, one); got != want {
				t.Errorf("%v is kept: %v", one, got)
			}
		}
	})
}

func TestSharesWithNodesThatAsk(t *testing.T) {
	s := New(1 << 20)
	if got := s.Share(ann, "n0"); got != nil || len(s.Sharing(ann)) != 0 {
		t.Errorf("of nobody: %v", got)
	}
	s.Tell(told(ann, bob, 1))
	for i := range maxRelays + 3 {
		if got := s.Share(annTwice, fmt.Sprint("n", i)); !slices.Equal(got, []Told{told(ann, bob, 1)}) {
			t.Errorf("node %d is told %v", i, got)
		}
		s.Share(ann, fmt.Sprint("n", i))
	}
	got := s.Sharing(ann)
	if len(got) != maxRelays || got[maxRelays-1] != fmt.Sprint("n", maxRelays+2) {
		t.Errorf("shares with %v", got)
	}
}

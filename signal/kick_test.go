package signal

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// TestKickEndsWhoeverHasTheUser kicks a user who is there, one who is away, and one whom somebody is taking over and gives up: the room is
// told at once, although there is an hour to come back.
func TestKickEndsWhoeverHasTheUser(t *testing.T) {
	s := start(t, func(c *Config) { c.ResumeGrace = time.Hour })
	stays := s.enter("r")
	for name, kick := range map[string]func(*peer, *participant){
		"there": func(u *peer, _ *participant) {
			s.Kick(t.Context(), u.user)
			if err := u.ended(); !websocket.IsCloseError(err, int(closeKicked)) {
				t.Errorf("the socket ended with %v", err)
			}
		},
		"away": func(u *peer, p *participant) {
			u.Cut()
			eventually(t, "the user is away", p.isDetached)
			s.Kick(t.Context(), u.user)
		},
		"being taken over": func(u *peer, p *participant) {
			if _, err := s.takeOver(t.Context(), u.user, p.epoch); err != nil {
				t.Fatal(err)
			}
			s.Kick(t.Context(), u.user)
			p.letGo()
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := s.enter("r")
			stays.expect("user_joined")
			kick(u, s.participant(u.user))
			var why struct{ Reason string }
			if left := stays.expect("user_left"); left.Document(&why) != nil || why.Reason != "kick" || left.UserID != u.user {
				t.Errorf("the room is told %s", left.Raw)
			}
		})
	}
}

// TestKickedOrphanIsAdoptedByNobody kicks a user whose node has died: the room is told at once, and a node that has not heard of the kick does
// not let it back.
func TestKickedOrphanIsAdoptedByNobody(t *testing.T) {
	nodes, dead := startMortals(t, 3)
	stays, orphan := together(nodes[0], nodes[1])
	if nodes[0].Kick(t.Context(), orphan.user) {
		t.Error("it is kicked where it is not, while its node lives")
	}
	dead.kill("n1", 0)
	if !nodes[0].Kick(t.Context(), orphan.user) || nodes[0].Kick(t.Context(), orphan.user) {
		t.Error("it is not kicked, or twice")
	}
	var why struct{ Reason string }
	if left := stays.expect("user_left"); left.Document(&why) != nil || why.Reason != "kick" || left.UserID != orphan.user {
		t.Errorf("the room is told %s", left.Raw)
	}
	if _, back, g := orphan.back(nodes[2]); g.Resumed || back.user == orphan.user {
		t.Errorf("it is back: %s", back.hub.Raw)
	}
}

// TestRemovedAreBounded removes more users than are remembered, and one who may come back for as long as that.
func TestRemovedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Minute
		var r removed
		r.add("user-x", life)
		time.Sleep(life)
		if r.add("user-y", life); !r.has("user-x") || r.has("user-z") {
			t.Errorf("x is removed: %v, and z: %v", r.has("user-x"), r.has("user-z"))
		}
		for i := range 5 * maxRemembered {
			r.add(fmt.Sprint("user-", i), life)
		}
		if n := len(r.users.young) + len(r.users.old); n > 2*maxRemembered {
			t.Errorf("%d are remembered", n)
		}
	})
}

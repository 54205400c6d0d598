package signal

import (
	"fmt"
	"testing"
	"time"
)

// adoptElsewhere has node B take x for one of a dead node, which lives.
func (g *gathering) adoptElsewhere() *participant {
	b := g.nodes["B"].srv
	x := deaf("x", 2)
	x.srv, x.conn.srv = b, b
	b.participants["x"] = x
	l := &localMember{participant: x}
	l.marks.opened = time.Now()
	x.room = b.addLocal("r", l)
	return x
}

// TestFormerConnectionIsTooLate lets what x has said at A come behind what it says at B, where it was adopted.
func TestFormerConnectionIsTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.x, "", "", "0")
		g.arrive("A", "C")
		g.hears(g.c, "in time", "0")
		say(g.x, "", "", "1")
		say(g.x, "2", "c", "2")
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		say(g.x, "2", "c", "2")
		g.arrive("B", "C")
		g.hears(g.c, "at the new node", "2")
		g.arrive("A", "C")
		g.hears(g.c, "too late")
		if !g.c.gap {
			t.Error("1 is missing, and no gap is told")
		}
		g.arrive("A", "B")
		g.hears(g.z, "who has heard nothing newer", "0", "1")
		if g.z.gap {
			t.Error("nothing is missing, but a gap was told")
		}
	})
}

// TestLateUnderTheSameIDIsNoGap lets only that come too late which has come in time as well.
func TestLateUnderTheSameIDIsNoGap(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.x, "1", "", "1")
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		say(g.x, "1", "", "1")
		g.arrive("B", "C")
		g.arrive("A", "C")
		g.hears(g.c, "once", "1")
		if g.c.gap {
			t.Error("nothing is missing, but a gap was told")
		}
	})
}

// TestVoicesMove lets the receiver move between the two connections of the sender.
func TestVoicesMove(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.x, "", "c", "1")
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		say(g.x, "", "c", "2")
		g.arrive("B", "C")
		g.hears(g.c, "at C", "2")
		g.c = g.hop(g.c, "B")
		g.show(g.view(3), "A")
		g.arrive("A", "C")
		g.arrive("C", "B")
		g.hears(g.c, "at B")
		if !g.c.gap {
			t.Error("1 is missing, and no gap is told")
		}
	})
}

// TestFormerNodeSaysNothing has A hear that x is at B, while x' former connection goes on to talk.
func TestFormerNodeSaysNothing(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		former := g.x
		g.x = g.adoptElsewhere()
		g.show(g.view(2))
		say(former, "1", "", "1")
		g.arrive("A", "C")
		g.hears(g.c, "nothing")
		g.hears(g.y, "nothing")
	})
}

// TestVoicesAreBounded has more senders come and go than are ever in the room.
func TestVoicesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		l := g.c.room.local["c"]
		for i := range 10 * fewVoices {
			l.hear(heldMessage{From: fmt.Sprint(i), Epoch: 1, Frame: []byte("x")})
			l.hear(heldMessage{From: "x", Epoch: 5, Frame: []byte("x")})
		}
		if len(l.voices) > fewVoices || !l.isLate(heldMessage{From: "x", Epoch: 4}) {
			t.Errorf("knows %v", l.voices)
		}
	})
}

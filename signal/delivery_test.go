package signal

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/state"
)

// TestBroadcastDuringAMove lets x move from A to B, where z is, while broadcasts are on all ways.
func TestBroadcastDuringAMove(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "", "1")
		g.arrive("C", "A")
		g.hears(g.x, "before the move", "1")
		say(g.c, "", "", "2")
		g.x = g.hop(g.x, "B")
		say(g.c, "", "", "3")
		say(g.y, "", "", "a")
		say(g.z, "", "", "b")
		g.show(g.view(2))
		say(g.c, "", "", "4")
		say(g.y, "", "", "c")
		say(g.z, "", "", "d")
		g.arrive("C", "B")
		g.hears(g.z, "the named member", "1", "2", "3", "4")
		g.hears(g.x, "what came too early")
		g.arrive("B", "A")
		g.arrive("C", "A")
		g.arrive("A", "B")
		g.hears(g.y, "who stayed", "1", "b", "d", "2", "3", "4")
		got := lines(g.x)
		slices.Sort(got)
		if want := []string{"2", "3", "4", "a", "b", "c", "d"}; !slices.Equal(got, want) {
			t.Errorf("x heard %q, want %q", got, want)
		}
		time.Sleep(2 * holeTimeout)
		synctest.Wait()
		if g.x.gap {
			t.Error("nothing is missing, but a gap was told")
		}
	})
}

// TestOrderDuringAMove lets what c says come by two ways.
func TestOrderDuringAMove(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		g.x = g.hop(g.x, "B")
		say(g.c, "", "x", "2")
		g.show(g.view(2))
		say(g.c, "", "x", "3")
		say(g.z, "", "x", "z")
		g.arrive("C", "B")
		g.hears(g.x, "before A has forwarded", "z")
		g.arrive("C", "A")
		if got := g.arrive("A", "B"); len(got) != 3 || got[0] != opFollowed {
			t.Errorf("A forwarded %q", got)
		}
		g.hears(g.x, "in the end", "1", "2", "3")
	})
}

// TestChainOfMoves lets x move on, and come back, before anything has followed it.
func TestChainOfMoves(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		say(g.y, "", "x", "y1")
		g.hears(g.x, "at A", "y1")
		g.x = g.hop(g.x, "B")
		say(g.y, "", "x", "y2")
		g.show(g.view(2), "C")
		say(g.y, "", "x", "y3")
		say(g.z, "", "x", "z1")
		g.x = g.hop(g.x, "C")
		say(g.z, "", "x", "z2")
		g.show(g.view(3), "A")
		say(g.c, "", "x", "2")
		g.hears(g.x, "c has come to say 2 at C")
		g.arrive("C", "A")
		g.arrive("A", "B")
		g.arrive("B", "C")
		g.show(g.view(4))
		g.arrive("A", "C")
		got := lines(g.x)
		for _, who := range []string{"y", "z", ""} {
			want := map[string][]string{"y": {"y2", "y3"}, "z": {"z2"}, "": {"1", "2"}}[who]
			var one []string
			for _, text := range got {
				if strings.Trim(text, "0123456789") == who {
					one = append(one, text)
				}
			}
			if !slices.Equal(one, want) {
				t.Errorf("of %q x heard %q, want %q, of %q", who, one, want, got)
			}
		}
	})
}

// TestLostBehindAMoveIsTold has A die with what it should have forwarded. Nothing follows, but the tip shows it.
func TestLostBehindAMoveIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		g.x = g.hop(g.x, "B")
		g.show(g.view(2), "A")
		g.cut("C", "A")
		g.arrive("C", "B")
		time.Sleep(holeTimeout + time.Second)
		synctest.Wait()
		if !g.x.gap || g.x.over {
			t.Errorf("gap: %v, over: %v", g.x.gap, g.x.over)
		}
		say(g.c, "", "x", "2")
		g.arrive("C", "B")
		if kept := g.x.kept.copies(); len(kept) == 0 || !strings.Contains(string(kept[len(kept)-1]), `"data":"2"`) {
			t.Errorf("what follows is not kept: %q", kept)
		}
	})
}

// TestRefusedLeavesNoHole has messages refused while others are under way behind them.
func TestRefusedLeavesNoHole(t *testing.T) {
	for _, refused := range []string{"A...", ".A..", "AA..", "..AA", "A.A.", "AAAA"} {
		bubble(t, func(t *testing.T, g *gathering) {
			g.holding = true
			var want []string
			for i, r := range refused {
				say(g.c, "", "x", fmt.Sprint(i))
				if r != 'A' {
					want = append(want, fmt.Sprint(i))
				}
			}
			for _, r := range refused {
				g.answer(string(r))
			}
			g.holding = false
			for len(g.pending) > 0 {
				g.answer()
			}
			synctest.Wait()
			say(g.c, "", "x", "9")
			g.arrive("C", "A")
			g.hears(g.x, refused, append(want, "9")...)
			time.Sleep(2 * holeTimeout)
			synctest.Wait()
			if g.x.gap {
				t.Errorf("%s: a gap was told", refused)
			}
		})
	}
}

// TestLossIsTold loses messages on the only way there is. The tips show it, but not where nothing is missing.
func TestLossIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "y", "1")
		g.arrive("C", "A")
		say(g.c, "", "x", "2")
		g.cut("C", "A")
		g.nodes["A"].srv.onLost("C")
		g.arrive("A", "C")
		g.arrive("C", "A")
		time.Sleep(holeTimeout + time.Second)
		synctest.Wait()
		if !g.x.gap || g.y.gap || len(g.nodes["A"].srv.doubts) > 0 {
			t.Errorf("gap of x: %v, of y: %v, doubts: %v", g.x.gap, g.y.gap, g.nodes["A"].srv.doubts)
		}
	})
}

// TestDeathInDoubtIsTold has a node die that may have lost something and cannot tell any more.
func TestDeathInDoubtIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"].srv
		a.onDied("C")
		if g.x.gap {
			t.Error("a death is no loss")
		}
		a.onLost("C")
		a.onDied("C")
		if !g.x.gap || !g.y.gap || len(a.doubts) > 0 {
			t.Errorf("gap of x: %v, of y: %v, doubts: %v", g.x.gap, g.y.gap, a.doubts)
		}
	})
}

// TestNumbersOutliveTheRoom lets a node leave a room and come back while x is on its way.
func TestNumbersOutliveTheRoom(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		g.arrive("C", "A")
		g.hears(g.x, "first", "1")
		say(g.c, "", "x", "2")
		say(g.c, "", "y", "lost")
		lost := g.cut("C", "A")[1]
		srv := g.nodes["C"].srv
		srv.removeLocal(g.c.room, g.c)
		delete(srv.participants, "c")
		time.Sleep(lineRetention / 2)
		g.c = srv.place("r", member("c", "C", 2))
		g.show(view(5, g.c.at(5), g.x.at(2), g.y.at(3), g.z.at(4)))
		say(g.c, "", "", "3")
		g.arrive("C", "A")
		g.hears(g.x, "one is missing")
		g.nodes["A"].srv.onMessage(lost)
		g.hears(g.y, "nothing is missing", "lost", "3")
		time.Sleep(holeTimeout + time.Second)
		synctest.Wait()
		if !g.x.gap || g.y.gap {
			t.Errorf("gap of x: %v, of y: %v", g.x.gap, g.y.gap)
		}
		srv.removeLocal(g.c.room, g.c)
		time.Sleep(lineRetention + time.Second)
		synctest.Wait()
		if len(srv.retired) != 0 {
			t.Error("the numbers are kept for ever")
		}
	})
}

// TestAdoptedTakesWhatComes has x at B without its watermarks, since A has died.
func TestAdoptedTakesWhatComes(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		for i := range 3 {
			say(g.c, "", "x", fmt.Sprint(i))
		}
		g.cut("C", "A")
		b := g.nodes["B"].srv
		x := deaf("x", 2)
		x.srv, x.conn.srv = b, b
		b.participants["x"] = x
		l := &localMember{participant: x}
		l.marks.opened = time.Now()
		x.room = b.addLocal("r", l)
		g.x = x
		g.show(g.view(2), "A")
		say(g.c, "", "x", "3")
		say(g.z, "", "x", "z")
		g.arrive("C", "B")
		g.hears(x, "at its new node", "z", "3")
		time.Sleep(2 * holeTimeout)
		synctest.Wait()
		if x.gap {
			t.Error("what it missed is told by its adoption, not by its numbers")
		}

		t.Log("it moves on at once, and the tips overtake what follows it")
		l.marks = watermarks{opened: time.Now()}
		say(g.z, "", "x", "z2")
		say(g.c, "", "x", "4")
		g.x = g.hop(x, "A")
		say(g.z, "", "x", "z3")
		g.nodes["A"].srv.onView(g.view(3))
		g.nodes["C"].srv.onView(g.view(3))
		say(g.y, "", "x", "y1")
		g.arrive("C", "A")
		say(g.c, "", "x", "5")
		g.arrive("C", "B")
		g.nodes["B"].srv.onView(g.view(3))
		say(g.z, "", "x", "z4")
		way := g.cut("B", "A")
		slices.SortStableFunc(way, func(a, b state.Message) int { return len(a.Op) - len(b.Op) }) // What B relays comes last.
		for _, m := range way {
			g.nodes["A"].srv.onMessage(m)
		}
		g.arrive("C", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		for _, m := range g.cut("B", "A") {
			g.nodes["A"].srv.onMessage(m)
		}
		got := lines(g.x)
		for _, want := range [][]string{{"4", "5"}, {"z3", "z4"}, {"y1"}} {
			heard := slices.DeleteFunc(slices.Clone(got), func(text string) bool { return !slices.Contains(want, text) })
			if !slices.Equal(heard, want) {
				t.Errorf("heard %q, want %q in it", got, want)
			}
		}
	})
}

// TestRefusedBehindAnAdoption has what was under way to the dead node refused while the tip is under way to the new one.
func TestRefusedBehindAnAdoption(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.holding = true
		for i := range 3 {
			say(g.c, "", "x", fmt.Sprint(i))
		}
		g.answer("A")
		synctest.Wait()
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		g.answer("A")
		g.answer("A")
		synctest.Wait()
		for len(g.pending) > 0 {
			g.answer()
			synctest.Wait()
		}
		g.holding = false
		say(g.c, "", "x", "3")
		g.arrive("C", "B")
		g.hears(g.x, "at its new node", "3")
		time.Sleep(2 * holeTimeout)
		synctest.Wait()
		if g.x.gap {
			t.Error("nothing is missing that was not refused, but a gap was told")
		}
	})
}

// TestLateForTheAdoptedIsTold lets x move on right after its adoption, and what came to its former node before follow
// later than the new one waits for it.
func TestLateForTheAdoptedIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "0")
		g.cut("C", "A")
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		say(g.c, "1", "x", "1")
		say(g.c, "2", "x", "2")
		g.x = g.hop(g.x, "A")
		g.show(g.view(3))
		g.arrive("B", "A")
		g.arrive("C", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		if g.x.gap {
			t.Error("nothing is known to be missing, but a gap was told")
		}
		say(g.c, "3", "x", "3")
		g.arrive("C", "A")
		g.hears(g.x, "after a while", "3")
		g.arrive("C", "B")
		g.arrive("B", "A")
		g.hears(g.x, "too late")
		if !g.x.gap {
			t.Error("two messages are missing, and no gap is told")
		}
	})
}

// TestForwardingBeginsWithAnyView shows A its own change of the room, in which x has moved already, before the view of
// that move, which is old then.
func TestForwardingBeginsWithAnyView(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.hop(g.x, "B")
		g.show(g.view(2), "A")
		say(g.y, "", "x", "1")
		g.nodes["A"].srv.room("r").apply(g.view(3))
		g.arrive("A", "B")
		g.hears(g.x, "at B", "1")
	})
}

// TestAdoptedWaitsForWhatFollows lets x move on right after its adoption from a node that takes its time.
func TestAdoptedWaitsForWhatFollows(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "0")
		g.cut("C", "A")
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		say(g.c, "", "x", "1")
		g.x = g.hop(g.x, "A")
		g.show(g.view(3), "B")
		say(g.c, "", "x", "2")
		g.arrive("C", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		g.hears(g.x, "before B has said that all has followed")
		g.arrive("C", "B")
		g.show(g.view(3))
		g.arrive("B", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		g.hears(g.x, "in the end", "1", "2")
		if g.x.gap {
			t.Error("nothing is missing, but a gap was told")
		}
	})
}

// TestLastWordsOfOneWhoLeft come behind the view that names the departure: they are not heard, which is told.
func TestLastWordsOfOneWhoLeft(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		gone := view(9, g.x.at(2), g.y.at(3), g.z.at(4))
		gone.Left = []state.Departure{{Member: g.c.at(1), Reason: state.ReasonLeave}}
		g.show(gone, "C")
		g.arrive("C", "A")
		time.Sleep(2 * earlyTimeout)
		synctest.Wait()
		g.hears(g.x, "too late")
		if !g.x.gap || g.y.gap {
			t.Errorf("gap of x: %v, of y: %v", g.x.gap, g.y.gap)
		}
	})
}

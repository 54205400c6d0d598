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

// TestDeathBeforeAllHasFollowed has y say something to x, who has just left their node, which dies with it.
func TestDeathBeforeAllHasFollowed(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.hop(g.x, "B")
		say(g.y, "1", "x", "1")
		g.answered(g.y, "ack 1")
		g.show(g.view(2), "A")
		b := g.nodes["B"].srv
		b.onDied("C")
		if g.x.gap {
			t.Error("a gap of a node where x was not")
		}
		b.onDied("A")
		if !g.x.gap || g.z.gap {
			t.Errorf("gap of x: %v, of z: %v", g.x.gap, g.z.gap)
		}
	})
}

// TestDeathAfterAllHasFollowed tells no gap, wherever x is by then.
func TestDeathAfterAllHasFollowed(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.hop(g.x, "B")
		say(g.y, "", "x", "1")
		g.show(g.view(2))
		g.x = g.hop(g.x, "C")
		g.show(g.view(3))
		g.arrive("A", "B")
		g.arrive("B", "C")
		g.hears(g.x, "at C", "1")
		for _, node := range []string{"A", "B"} {
			g.nodes["C"].srv.onDied(node)
		}
		if g.x.gap {
			t.Error("nothing is missing, but a gap was told")
		}
	})
}

// TestDepartureWaitsForWhatFollows has y say something to x, who has just left their node, and leave: x hears it, and then that y has left.
func TestDepartureWaitsForWhatFollows(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.hop(g.x, "B")
		say(g.y, "1", "x", "1")
		without := view(3, g.c.at(1), g.x.at(2), g.z.at(4))
		without.Left = []state.Departure{{Member: g.y.at(3), Reason: state.ReasonKick}}
		g.show(without, "A")
		g.nodes["B"].srv.onView(view(4, g.c.at(1), g.x.at(2), g.z.at(4))) // It does not name y any more.
		if got := heard(g.x); len(got) > 0 {
			t.Errorf("x was told %q before all had followed", got)
		}
		g.show(without, "B", "C")
		g.arrive("A", "B")
		got := heard(g.x)
		if len(got) != 2 || !strings.Contains(got[0], `"data":"1"`) || got[1] != string(userLeftFrame("r", "y", "kick")) {
			t.Errorf("x heard %q", got)
		}
		time.Sleep(2 * earlyTimeout)
		synctest.Wait()
		if got := heard(g.x); g.x.gap || len(got) > 0 {
			t.Errorf("x was told of a gap: %v, and %q", g.x.gap, got)
		}
	})
}

// TestDepartureDoesNotWaitForLong is the same with a node that says nothing, while x goes on to another.
func TestDepartureDoesNotWaitForLong(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.hop(g.x, "B")
		without := view(3, g.c.at(1), g.x.at(2), g.z.at(4))
		without.Left = []state.Departure{{Member: g.y.at(3), Reason: state.ReasonKick}}
		g.show(without, "A")
		g.x = g.hop(g.x, "C")
		g.show(view(4, g.c.at(1), g.x.at(2), g.z.at(4)), "A")
		time.Sleep(followTimeout - time.Millisecond)
		synctest.Wait()
		if got := heard(g.x); len(got) > 0 {
			t.Errorf("x was told %q", got)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if got := heard(g.x); !slices.Equal(got, []string{string(userLeftFrame("r", "y", "kick"))}) {
			t.Errorf("x was told %q", got)
		}
	})
}

// TestStayIsNamedAnewOnTheWay has Redis lose the room while x is on its way to B, where it does not arrive, but at C: what y says then is for the
// stay as the others call it by then.
func TestStayIsNamedAnewOnTheWay(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a, old := g.nodes["A"].srv, g.x
		g.hop(g.x, "B")
		anew := old.at(7)
		a.onView(view(8, g.c.at(1), g.y.at(3), g.z.at(4), anew))
		say(g.y, "1", "x", "1")
		g.answered(g.y, "ack 1")
		snap := g.asks("C", old.epoch)
		if !slices.Contains(snap.Stays, 7) {
			t.Errorf("its stays are %v", snap.Stays)
		}
		anew.Node, anew.Epoch = "C", old.epoch+1
		a.onView(view(9, g.c.at(1), g.y.at(3), g.z.at(4), anew))
		if what := g.arrive("A", "C"); !slices.ContainsFunc(what, func(m string) bool { return strings.Contains(m, `"data":"1"`) }) {
			t.Errorf("what follows is %q", what)
		}
	})
}

// TestAllFollowsBeforeTheRoomIsKnown has D, where nobody else is, hear that all has followed x before it knows whom the room has.
func TestAllFollowsBeforeTheRoomIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.hop(g.x, "D")
		g.show(g.view(2), "D")
		g.arrive("A", "D")
		if got := heard(g.x); len(got) > 0 {
			t.Errorf("x was told %q", got)
		}
		d := g.nodes["D"].srv
		d.onView(g.view(2))
		if got := heard(g.x); len(got) > 0 {
			t.Errorf("x was told %q of a room in which nothing is new", got)
		}
		d.onView(view(3, g.c.at(1), g.x.at(2), g.y.at(3)))
		if got := heard(g.x); !slices.Equal(got, []string{string(userLeftFrame("r", "z", "leave"))}) {
			t.Errorf("x was told %q", got)
		}
	})
}

// TestDepartureWaitsForWhatWasSaidBefore has y say something to z and leave, and z's node hear from C first that y has left.
func TestDepartureWaitsForWhatWasSaidBefore(t *testing.T) {
	without := func(g *gathering, from string, version uint64) state.View {
		v := view(version, g.c.at(1), g.x.at(2), g.z.at(4))
		v.From = from
		return v
	}
	left := []string{string(userLeftFrame("r", "y", "leave"))}
	bubble(t, func(t *testing.T, g *gathering) {
		b := g.nodes["B"].srv
		say(g.y, "1", "z", "1")
		b.onView(without(g, "C", 12))
		if got := heard(g.z); len(got) > 0 {
			t.Errorf("z was told %q before it has heard all", got)
		}
		with := g.view(5)
		with.From = "A"
		b.onSaid(with) // From before.
		g.arrive("A", "B")
		g.hears(g.z, "what y has said", "1")
		b.onSaid(without(g, "A", 11))
		if got := heard(g.z); !slices.Equal(got, left) {
			t.Errorf("z was told %q", got)
		}
	})
	for name, early := range map[string]func(g *gathering){
		"its own node says so": func(g *gathering) { g.nodes["B"].srv.onView(without(g, "A", 12)) },
		"its node has said so": func(g *gathering) {
			g.nodes["B"].srv.onSaid(without(g, "A", 11))
			g.nodes["B"].srv.onView(without(g, "B", 12))
		},
		"its node is dead":      func(g *gathering) { delete(g.nodes, "A"); g.nodes["B"].srv.onView(without(g, "C", 12)) },
		"its node has no order": func(g *gathering) { g.old["A"] = true; g.nodes["B"].srv.onView(without(g, "C", 12)) },
		"its node dies": func(g *gathering) {
			g.nodes["B"].srv.onView(without(g, "C", 12))
			delete(g.nodes, "A")
			g.nodes["B"].srv.onDied("A")
		},
		"all come in one order": func(g *gathering) { g.nodes["B"].srv.onView(without(g, "", 12)) },
		"its node says no more": func(g *gathering) {
			g.nodes["B"].srv.onView(without(g, "C", 12))
			time.Sleep(followTimeout)
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, g *gathering) {
				early(g)
				if got := heard(g.z); !slices.Equal(got, left) {
					t.Errorf("z was told %q", got)
				}
			})
		})
	}
}

// TestFormerNodesAreForgotten has one node after another speak of a room and end.
func TestFormerNodesAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		r := g.z.room
		for i := range uint64(20) {
			node := fmt.Sprint("N", i)
			g.nodes[node] = g.nodes["A"]
			v := g.view(10 + i)
			v.From = node
			r.apply(v)
			if said := r.said[node]; said.Version != v.Version {
				t.Errorf("what %s says is not noted", node)
			}
			delete(g.nodes, node)
		}
		if len(r.said) > 1 {
			t.Errorf("%d nodes are remembered", len(r.said))
		}
	})
}

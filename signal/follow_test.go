package signal

import "testing"

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

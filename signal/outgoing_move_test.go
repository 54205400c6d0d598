package signal

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/state"
)

// detach has the client of a participant go away.
func detach(p *participant) {
	p.conn.released = make(chan struct{})
	p.conn.closing = true
	p.detach(p.conn, true)
}

// asks has a node ask A for x by an epoch, and returns the answer.
func (g *gathering) asks(node string, epoch uint64) (snap snapshot) {
	g.t.Helper()
	question, err := json.Marshal(moveRequest{Ask: "7", Epoch: epoch})
	if err != nil {
		g.t.Fatal(err)
	}
	g.nodes["A"].srv.onControl(state.Message{Node: node, Op: opResume, From: "x", Frame: question})
	synctest.Wait()
	for _, m := range g.cut("A", node) {
		if m.Op == opHandover && json.Unmarshal(m.Frame, &snap) == nil {
			return snap
		}
	}
	g.t.Fatal("no answer")
	return snap
}

// TestMovesOnBeforeAllHasCome has x move on from B while what a node without numbers may have sent for it to A is still to come,
// for too long: that is a gap, and x stays in its room.
func TestMovesOnBeforeAllHasCome(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.old["C"] = true
		g.x = g.hop(g.x, "B")
		g.show(g.view(2))
		detach(g.x)
		b := g.nodes["B"]
		ctx, cancel := context.WithTimeout(t.Context(), resumeTimeout)
		defer cancel()
		snap, _, err := b.srv.release(ctx, "x", "A", moveRequest{Epoch: g.x.epoch})
		if err != nil || !snap.Gap || snap.Room != "r" {
			t.Errorf("handed over: %v, gap: %v, room: %q", err, snap.Gap, snap.Room)
		}
		if left := b.gone(); len(left) > 0 {
			t.Errorf("%v left", left)
		}
	})
}

// TestHandoverThatWasLostIsGivenAgain has a node ask once more, and another one, but not when the participant
// has arrived.
func TestHandoverThatWasLostIsGivenAgain(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"].srv
		detach(g.x)
		for _, node := range []string{"B", "B", "C"} {
			if snap := g.asks(node, 1); snap.Gone || snap.Room != "r" || !slices.Equal(snap.Stays, []uint64{2}) {
				t.Errorf("%s got %+v", node, snap)
			}
		}
		say(g.y, "", "x", "1")
		moved := g.view(2)
		moved.Members[1].Node, moved.Members[1].Epoch = "C", 2
		a.onView(moved)
		synctest.Wait()
		ms := g.cut("A", "C")
		at := func(op string) int { return slices.IndexFunc(ms, func(m state.Message) bool { return m.Op == op }) }
		if relayed := at(opRelay); relayed < 0 || at(opFollowed) < relayed {
			t.Errorf("forwarded %+v", ms)
		}
		if snap := g.asks("B", 1); !snap.Gone {
			t.Errorf("B got %+v of one who is at C", snap)
		}
	})
}

// TestNextNodeDies has the node die that was given a participant, before it has moved it: the client finds it as long as its grace
// lasts, and nobody sees it leave before.
func TestNextNodeDies(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"]
		detach(g.x)
		if snap := g.asks("B", 1); snap.Gone {
			t.Errorf("B got %+v", snap)
		}
		a.srv.onDied("B")
		time.Sleep(a.srv.cfg.ResumeGrace - time.Second)
		if snap := g.asks("C", 1); snap.Gone || snap.Room != "r" || len(a.gone()) > 0 {
			t.Errorf("C got %+v; %q left", snap, a.gone())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if snap := g.asks("C", 1); !snap.Gone || !slices.Equal(a.gone(), []string{"x"}) {
			t.Errorf("C got %+v in the end; %q left", snap, a.gone())
		}
	})
}

// TestLateRequestLeavesTheLiveAlone asks for a participant with what its client had got long ago.
func TestLateRequestLeavesTheLiveAlone(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a, late := g.nodes["A"].srv, uint64(0)
		g.x.confirmed(g.x.conn, strconv.FormatUint(g.x.sent, 10))
		_, _, err := a.release(t.Context(), "x", "B", moveRequest{Epoch: g.x.epoch, Got: &late})
		if !errors.Is(err, errGone) || a.participant("x") != g.x || g.x.conn.isClosing() {
			t.Errorf("%v; x is closing: %v", err, g.x.conn.isClosing())
		}
	})
}

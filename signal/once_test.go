package signal

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/state"
)

// answers returns the acks and errors that a deaf participant heard, in short.
func answers(p *participant) (out []string) {
	for _, text := range heard(p) {
		var m struct {
			Type, ID string
			Missed   []string
			Data     json.RawMessage
		}
		if json.Unmarshal([]byte(text), &m) == nil && (m.Type == "ack" || m.Type == "error") {
			code := ""
			if strings.Contains(string(m.Data), "503") {
				code = " 503"
			}
			out = append(out, strings.TrimSpace(m.Type+" "+m.ID+code+" "+strings.Join(m.Missed, ",")))
		}
	}
	return out
}

func (w *wire) answered(p *participant, want ...string) {
	w.t.Helper()
	synctest.Wait()
	if got := answers(p); !slices.Equal(got, want) {
		w.t.Errorf("%s was answered %q, want %q", p.user, got, want)
	}
}

// TestIDMeansOnce sends messages again after every answer and after none.
func TestIDMeansOnce(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		everywhere := func() {
			g.arrive("C", "A")
			g.arrive("C", "B")
		}
		t.Log("after an ack")
		say(g.c, "1", "", "1")
		g.answered(g.c, "ack 1")
		say(g.c, "1", "", "1")
		g.answered(g.c, "ack 1")
		everywhere()
		g.hears(g.x, "acked", "1")
		g.hears(g.y, "acked", "1")
		g.hears(g.z, "acked", "1")

		t.Log("after an ack that names who missed it")
		g.nodes["C"].off["A"] = true
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2 x,y")
		say(g.c, "2", "", "2") // Which z got, so this is no 503.
		g.answered(g.c, "ack 2 x,y")
		g.nodes["C"].off["A"] = false
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2")
		everywhere()
		g.hears(g.x, "missed", "2")
		g.hears(g.y, "missed", "2")
		g.hears(g.z, "not missed", "2")

		t.Log("after an error")
		g.nodes["C"].off["A"] = true
		say(g.c, "3", "x", "3")
		g.answered(g.c, "error 3 503")
		g.nodes["C"].off["A"] = false
		say(g.c, "3", "x", "3")
		g.answered(g.c, "ack 3")
		everywhere()
		g.hears(g.x, "refused", "3")

		t.Log("while it is under way: the answer comes once, when it comes")
		g.holding = true
		say(g.c, "4", "", "4")
		say(g.c, "4", "", "4")
		g.answered(g.c)
		g.answer()
		g.answered(g.c, "ack 4")
		g.holding = false
		everywhere()
		g.hears(g.x, "under way", "4")

		t.Log("when nobody knows whether it arrived: it did")
		g.holding = true
		say(g.c, "6", "x", "6")
		g.lose()
		g.holding = false
		g.answered(g.c, "ack 6 x")
		say(g.c, "6", "x", "6")
		g.answered(g.c, "ack 6")
		everywhere()
		g.hears(g.x, "told once", "6")

		t.Log("for each target it is another message")
		for _, to := range []string{"x", "y", "x", "y"} {
			say(g.c, "5", to, "5 for "+to)
			g.answered(g.c, "ack 5")
		}
		everywhere()
		g.hears(g.x, "targeted", "5 for x")
		g.hears(g.y, "targeted", "4", "5 for y")
		g.hears(g.z, "targeted", "4")
	})
}

// TestIDMeansOnceAfterAMove has senders and receivers move before a message is sent again.
func TestIDMeansOnceAfterAMove(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		before := g.x.sent
		t.Log("the sender moves while its message is under way: nobody knows what became of it")
		g.holding = true
		say(g.c, "1", "", "1")
		g.c = g.hop(g.c, "B")
		g.answer()
		g.holding = false
		g.show(g.view(2))
		for _, way := range []string{"CA", "CB"} {
			g.arrive(way[:1], way[1:])
		}
		g.x = g.hop(g.x, "C")
		g.show(g.view(3))
		say(g.c, "1", "", "1")
		g.answered(g.c, "ack 1")
		for _, way := range []string{"BC", "BA", "AC"} {
			g.arrive(way[:1], way[1:])
		}
		g.hears(g.y, "who stayed", "1")
		g.hears(g.z, "who is where the sender is", "1")
		if g.x.sent != before+1 {
			t.Errorf("x was sent %d frames, %d before", g.x.sent, before)
		}

		t.Log("the sender knows at its new node whom it missed")
		g.nodes["B"].off["A"] = true
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2 y")
		g.nodes["B"].off["A"] = false
		g.c = g.hop(g.c, "A")
		g.show(g.view(4))
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2")
		if again := append(g.cut("A", "B"), g.cut("A", "C")...); slices.ContainsFunc(again, func(m state.Message) bool { return bytes.Contains(m.Frame, []byte(`"2"`)) }) {
			t.Error("it was sent to those that have it")
		}
		for _, way := range []string{"BC", "BA"} {
			g.arrive(way[:1], way[1:])
		}
		g.hears(g.x, "not missed", "2")
		g.hears(g.y, "missed", "2")
		g.hears(g.z, "not missed", "2")
	})
}

// TestMemoryIsBounded sends more ids than are remembered, and then none.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory[uint64, struct{}]
		for i := range uint64(5 * maxRemembered) {
			m.put(i, struct{}{})
			if _, ok := m.get(max(i, maxRemembered-1) - maxRemembered + 1); !ok {
				t.Fatalf("number %d is forgotten too early", i)
			}
		}
		if n := len(m.young) + len(m.old); n > 2*maxRemembered {
			t.Errorf("%d are remembered", n)
		}
		for range 3 {
			time.Sleep(time.Minute)
			m.age(time.Minute)
		}
		if m.young != nil || m.old != nil {
			t.Error("an empty memory holds something")
		}
		m.put(1, struct{}{})
		time.Sleep(time.Minute - time.Second)
		m.age(time.Minute)
		time.Sleep(time.Second)
		m.age(time.Minute)
		if _, ok := m.get(1); !ok {
			t.Error("forgotten too early")
		}
	})
}

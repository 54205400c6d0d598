package signal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"cline-meet/signal/state"
)

// TestWindowHoldsTheSenderAlone has one who sends more than may be under way, and another who does not.
func TestWindowHoldsTheSenderAlone(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.holding = true
		other := g.nodes["C"].srv.place("r", member("d", "C", 1))
		g.show(view(2, g.c.at(1), g.x.at(2), g.y.at(3), g.z.at(4), other.at(5)))
		var sent sync.WaitGroup
		sent.Go(func() {
			for i := range maxFlying + 2 {
				env := envelope{Type: appMessage, TargetID: []byte("x"), Data: fmt.Append(nil, i)}
				if err := g.c.handle(env); err != errLater {
					t.Error(err)
				}
			}
		})
		synctest.Wait()
		if len(g.pending) != maxFlying {
			t.Errorf("%d are under way", len(g.pending))
		}
		if err := other.handle(envelope{Type: appMessage, Data: []byte("1")}); err != errLater {
			t.Error(err)
		}
		for range maxFlying + 3 {
			g.answer()
		}
		sent.Wait()
	})
}

// TestLastWordsAreAwaited has one leave whose last words are not answered: it stays, unless that is for an outage. Who
// says too much meanwhile is refused after a while.
func TestLastWordsAreAwaited(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.holding = true
		say := envelope{Type: appMessage, TargetID: []byte("x"), Data: []byte("1")}
		for range maxFlying {
			if err := g.c.handle(say); err != errLater {
				t.Fatal(err)
			}
		}
		for _, m := range []envelope{say, {Type: leaveRoom}} {
			var refused *clientError
			if err := g.c.handle(m); !errors.As(err, &refused) || refused.code != codeUnavailable {
				t.Errorf("%v instead of 503", err)
			}
		}
		g.nodes["C"].away = state.ErrUnavailable
		if err := g.c.handle(envelope{Type: leaveRoom}); err != nil || !slices.Equal(g.nodes["C"].gone(), []string{"c"}) {
			t.Errorf("%v, and %v have left", err, g.nodes["C"].gone())
		}
		for range maxFlying {
			g.answer()
		}
	})
}

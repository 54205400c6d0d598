package signal

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"cline-meet/signal/state"
)

// TestAnswersAreBounded has another node ask more than is answered at a time: what is too much gets no answer, and what comes later does.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &slowState{}
		s := socketless(t, shared)
		release := make(chan struct{})
		s.Answer(func(context.Context, string, []byte) []byte { <-release; return nil })
		ask := func() {
			s.onControl(state.Message{Node: "far", Op: opQuestion, Frame: []byte(`{"ask":"1","topic":"x"}`)})
		}
		for range 3 * maxAnswers {
			ask()
		}
		if sent := shared.since(); len(sent) > 0 {
			t.Errorf("it sent %q", sent)
		}
		close(release)
		if sent := shared.since(); !slices.Equal(sent, slices.Repeat([]string{"far reply "}, maxAnswers)) {
			t.Errorf("%d questions were answered: %q", len(sent), sent)
		}
		ask()
		if sent := shared.since(); len(sent) != 1 {
			t.Errorf("a later question is answered by %q", sent)
		}
	})
}

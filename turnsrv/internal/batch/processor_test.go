package batch

import (
	"runtime"
	"testing"
	"time"
)

// TestSpareIsThereWhileALoopIsBusy lets as many loops be busy as there are cores,
// and one of them quiet.
func TestSpareIsThereWhileALoopIsBusy(t *testing.T) {
	usual, now := Cores(), time.Now()
	loops := make([]spareProcessor, usual)
	for i := range loops {
		loops[i].note(true, now)
		loops[i].note(true, now)
	}
	for i := range loops {
		loops[i].changes.Wait()
		if !loops[i].there.Load() {
			t.Error("a busy loop does not know of its spare")
		}
	}
	if n := runtime.GOMAXPROCS(0); n != usual+1 {
		t.Errorf("%d processors for %d busy loops, want one more", n, usual)
	}
	loops[0].note(false, now.Add(spareLinger))
	if !loops[0].held {
		t.Error("a loop that is quiet for a moment gave its spare back")
	}
	loops[0].note(false, now.Add(2*spareLinger))
	if loops[0].held || loops[0].there.Load() {
		t.Error("a quiet loop keeps its spare")
	}
	for i := range loops {
		loops[i].close()
	}
	if n := runtime.GOMAXPROCS(0); n != usual {
		t.Errorf("%d processors at the end, want %d", n, usual)
	}
}

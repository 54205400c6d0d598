package batch

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// spareLinger is how long a loop that is quiet keeps its spare processor, since to
// change the number of processors stops everything for a moment.
const spareLinger = time.Second

// Cores is how many threads the process was meant to use when it began.
var Cores = sync.OnceValue(func() int { return runtime.GOMAXPROCS(0) })

// spares are processors of the Go scheduler beside those of the loops of this
// process that wait without telling it: a goroutine that becomes ready meanwhile
// has one to run on. While there are none, starting a goroutine wakes
// fewer threads, which is most of what an allocation would cost.
var spares struct {
	mu    sync.Mutex
	loops int // loops is how many wait so.
}

// addSpares tells that as many more loops wait without telling the scheduler,
// or fewer.
func addSpares(loops int) {
	spares.mu.Lock()
	defer spares.mu.Unlock()
	wanted := Cores()
	if spares.loops += loops; spares.loops > 0 {
		wanted = max(wanted, min(spares.loops, wanted)+1)
	}
	if wanted != runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(wanted)
	}
}

// spareProcessor is a loop's hold on a processor for others. The loop owns it.
type spareProcessor struct {
	held    bool
	busy    time.Time // busy is when it was needed last.
	changes sync.WaitGroup
	there   atomic.Bool // there says that the scheduler has it.
}

// note tells whether the loop is busy now. It does not wait, since the scheduler
// may be collecting garbage first.
func (s *spareProcessor) note(busy bool, now time.Time) {
	switch {
	case busy && !s.held:
		s.change(1)
	case !busy && s.held && now.Sub(s.busy) > spareLinger:
		s.change(-1)
	}
	if busy {
		s.busy = now
	}
}

func (s *spareProcessor) change(loops int) {
	s.held = loops > 0
	s.changes.Wait()
	s.there.Store(false)
	s.changes.Go(func() {
		addSpares(loops)
		s.there.Store(loops > 0)
	})
}

// close gives the processor back.
func (s *spareProcessor) close() {
	if s.held {
		s.change(-1)
	}
	s.changes.Wait()
}

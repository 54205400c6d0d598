package systemtest

import (
	"crypto/sha256"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Slowdown measures until the end of the test how many times longer work takes than it would if this machine had nothing
// else to do, and returns a function that tells, in whole numbers: 1 means that nobody was in the way. A test
// that must bound a time multiplies its bound by that. The measuring itself takes 4 % of a core.
func Slowdown(t testing.TB) func() int {
	var mu sync.Mutex
	var wall, cpu time.Duration
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // The thread ends with the goroutine.
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			w, c := work(10 * time.Millisecond)
			mu.Lock()
			wall, cpu = wall+w, cpu+c
			mu.Unlock()
			select {
			case <-tick.C:
			case <-ended:
				return
			}
		}
	}()
	t.Cleanup(func() { close(ended); <-done })
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return max(1, int(wall/max(cpu, 1)))
	}
}

// work keeps this thread busy for that much time of a core and returns how much time it took on the clock and of the
// core.
func work(d time.Duration) (wall, cpu time.Duration) {
	block := make([]byte, 4<<10)
	began, before := time.Now(), threadTime()
	for cpu < d {
		sha256.Sum256(block)
		cpu = threadTime() - before
	}
	return time.Since(began), cpu
}

// threadTime is the time of a core that this thread has used.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

package signal

import "sync"

// tasks runs what must not hold up its caller, in goroutines that are waited for at the end.
type tasks struct {
	mu      sync.Mutex
	ended   bool
	running sync.WaitGroup
}

// run runs f in a goroutine, or not at all after the end. It may be called under any lock.
func (t *tasks) run(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.running.Go(f)
	}
}

// end takes no more tasks and waits until the last is done.
func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.running.Wait()
}

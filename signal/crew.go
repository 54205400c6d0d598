package signal

import "sync"

// crew runs what must not hold up its caller, in goroutines that are waited for at the end.
type crew struct {
	mu   sync.Mutex
	gone bool
	work sync.WaitGroup
}

// do runs f in a goroutine, or not at all when the crew has gone. It may be called under any lock.
func (c *crew) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		c.work.Go(f)
	}
}

// leave takes no more work and waits until the last is done.
func (c *crew) leave() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.work.Wait()
}

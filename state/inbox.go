package state

import "sync"

// inbox calls functions in the order in which they come, by one goroutine that lives while there are any. It is
// not bounded: who adds does so on behalf of something that is.
type inbox struct {
	mu      sync.Mutex
	queue   []func()
	running bool
}

func (b *inbox) add(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, f)
	if !b.running {
		b.running = true
		go b.run()
	}
}

func (b *inbox) run() {
	for {
		b.mu.Lock()
		queue := b.queue
		b.queue, b.running = nil, len(queue) > 0
		b.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for _, f := range queue {
			f()
		}
	}
}

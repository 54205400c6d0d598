package signal

import "sync"

// flusher writes what sockets have queued. Who handles many frames in a row does so between begin and
// end, which flushes all sockets that were sent to meanwhile: several frames for a client, of one
// sender or of many, leave in one call. What is sent at another time is flushed at once by a goroutine
// of the flusher's.
type flusher struct {
	// mu is the innermost lock.
	mu      sync.Mutex
	touched []*socket // those with something to flush
	spare   []*socket // an empty slice to take the place of touched
	batches int       // how many are between begin and end
	woken   bool      // a goroutine will flush

	running sync.WaitGroup
}

func (f *flusher) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches++
}

func (f *flusher) end() {
	f.mu.Lock()
	f.batches--
	f.mu.Unlock()
	f.flush()
}

// batch calls a function between begin and end.
func (f *flusher) batch(run func()) {
	f.begin()
	defer f.end()
	run()
}

// add notes that a socket has something to flush. It may be called under any lock.
func (f *flusher) add(s *socket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.touched = append(f.touched, s)
	if f.batches == 0 && !f.woken {
		f.woken = true
		f.running.Go(f.flush)
	}
}

func (f *flusher) flush() {
	f.mu.Lock()
	sockets := f.touched
	f.touched, f.spare, f.woken = f.spare, nil, false
	f.mu.Unlock()
	for _, s := range sockets {
		s.link.flush(s)
	}
	clear(sockets)
	f.mu.Lock()
	f.spare = sockets[:0]
	f.mu.Unlock()
}

// wait returns when no goroutine of it runs any more. Nothing may be sent meanwhile.
func (f *flusher) wait() { f.running.Wait() }

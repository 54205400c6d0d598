package signal

import (
	"math"
	"sync"
)

const (
	// turnBytes is about how much is read or written at once before others have their turn: the system needs some 30 µs for it.
	turnBytes = 64 << 10

	// shortWrite is how much may wait for a client to be written in any case with what else a batch has sent.
	shortWrite = 8 << 10
)

// flusher writes what sockets have queued. Who handles many frames in a row does so between begin and
// end, which flushes all sockets that were sent to meanwhile: several frames for a client, of one
// sender or of many, leave in one call. What is sent at another time is flushed at once by a goroutine
// of the flusher's.
//
// Whoever must soon be back to hear others ends a batch by endShortly. A message of 64 KB for a room of ten is half a
// megabyte to write, and a word in another room must not stand behind it.
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
	f.leave()
	f.flush()
}

// endShortly ends a batch as well, but where much waits for clients it flushes only the first of them. The others are returned
// behind rest, and the caller must flush them.
func (f *flusher) endShortly(rest []*socket) []*socket {
	f.leave()
	sockets := f.take()
	room := turnBytes
	for _, s := range sockets {
		waiting := s.backlog()
		if waiting > shortWrite && waiting > room || s.link.flush(s, turnBytes) {
			rest = append(rest, s)
			continue
		}
		room -= waiting
	}
	f.giveBack(sockets)
	return rest
}

func (f *flusher) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches--
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
	sockets := f.take()
	for _, s := range sockets {
		s.link.flush(s, math.MaxInt)
	}
	f.giveBack(sockets)
}

// take returns all that have something to flush, and giveBack takes the slice for use again.
func (f *flusher) take() []*socket {
	f.mu.Lock()
	defer f.mu.Unlock()
	sockets := f.touched
	f.touched, f.spare, f.woken = f.spare, nil, false
	return sockets
}

func (f *flusher) giveBack(sockets []*socket) {
	clear(sockets)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spare = sockets[:0]
}

// wait returns when no goroutine of it runs any more. Nothing may be sent meanwhile.
func (f *flusher) wait() { f.running.Wait() }

package signal

import (
	"context"
	"sync"
	"time"
)

// wheelSlots is how many parts a wheel's turn is cut into, so that the work of one turn is spread.
const wheelSlots = 64

// wheel visits every connection once in a turn, with one timer for all of them.
type wheel struct {
	turn  time.Duration
	visit func(due []*conn)

	mu    sync.Mutex
	slots [wheelSlots]map[*conn]struct{}
	next  int
}

func newWheel(turn time.Duration, visit func(due []*conn)) *wheel {
	w := &wheel{turn: turn, visit: visit}
	for i := range w.slots {
		w.slots[i] = map[*conn]struct{}{}
	}
	return w
}

// add puts a connection where its first visit is one turn away.
func (w *wheel) add(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.slot = (w.next + wheelSlots - 1) % wheelSlots
	w.slots[c.slot][c] = struct{}{}
}

func (w *wheel) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.slots[c.slot], c)
}

// run turns the wheel until ctx ends. Visits must not block.
func (w *wheel) run(ctx context.Context) {
	tick := time.NewTicker(w.turn / wheelSlots)
	defer tick.Stop()
	var due []*conn
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due = due[:0]
		w.mu.Lock()
		for c := range w.slots[w.next] {
			due = append(due, c)
		}
		w.next = (w.next + 1) % wheelSlots
		w.mu.Unlock()
		w.visit(due)
		clear(due)
	}
}

// visit is what the wheel does to the connections that are due, if any.
func (s *Server) visit(due []*conn) {
	s.addrs.sweep()
	s.flusher.batch(func() {
		for _, c := range due {
			c.visit()
		}
	})
	if s.hasGarbage(time.Now()) {
		s.tasks.run(reclaim)
	}
}

package engine

import "sync"

// releases are allocations whose relays are closed and that the engine does not
// know about yet. Any goroutine adds to them; the loop on whose lane they are tells
// the engine when it has time. The zero value is ready.
type releases struct {
	mu     sync.Mutex
	closed []*Allocation
	awake  bool // awake says that the loop looks here before it waits.
	over   bool // over says that it never will again.
}

// add reports whether the loop has to be woken for it, and false for kept when
// it is too late: the engine has given up what is on the loop's lane.
func (r *releases) add(a *Allocation) (wake, kept bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false, false
	}
	r.closed = append(r.closed, a)
	return !r.awake, true
}

// rouse says that the loop is awake, and will look here.
func (r *releases) rouse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awake = true
}

// drain returns what there is. When that is nothing the loop may sleep, and with
// last there will never be any more.
func (r *releases) drain(last bool) []*Allocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	drained := r.closed
	r.closed = nil
	r.awake = len(drained) > 0
	r.over = last && len(drained) == 0
	return drained
}

package turnsrv

import "sync"

// releases are relays that are closed and that the engine does not know about
// yet. Any goroutine adds to them; the data loop on whose lane they are tells the
// engine when it has time. The zero value is ready.
type releases struct {
	mu     sync.Mutex
	relays []*relay
	awake  bool // awake says that the loop looks here before it waits.
	over   bool // over says that it never will again.
}

// add reports whether the loop has to be woken for it, and false for kept when
// it is too late: the engine has given up what is on the loop's lane.
func (r *releases) add(closed *relay) (wake, kept bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false, false
	}
	r.relays = append(r.relays, closed)
	return !r.awake, true
}

// rouse says that the loop is awake, and will take.
func (r *releases) rouse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awake = true
}

// take returns what there is. When that is nothing the loop may sleep, and with
// last there will never be any more.
func (r *releases) take(last bool) []*relay {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.relays
	r.relays = nil
	r.awake = len(taken) > 0
	r.over = last && len(taken) == 0
	return taken
}

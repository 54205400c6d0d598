package signal

import (
	"context"
	"fmt"

	"cline-meet/signal/state"
)

// The messages of one participant that may be on their way to other nodes: with more, its read loop waits. Nobody
// else does.
const (
	maxFlying      = 64
	maxFlyingBytes = 512 << 10
)

// window counts what a participant has sent to other nodes and that they have not taken yet.
type window struct {
	count, bytes int
	changed      chan struct{} // closed when something has landed, nil while nobody waits
}

func (w *window) full() bool { return w.count >= maxFlying || w.bytes >= maxFlyingBytes }

func (w *window) empty() bool { return w.count == 0 }

// launch notes that a message is on its way.
func (p *participant) launch(key uint64, size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying.count++
	p.flying.bytes += size
	if key != 0 {
		p.said.put(key, &outcome{flying: true})
	}
	p.noteLocked()
}

// landed notes what became of a message that was on its way. One that nobody got may be sent again as if it
// never had been.
func (p *participant) landed(key uint64, size int, missed []stay, reached bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying.count--
	p.flying.bytes -= size
	defer p.noteLocked()
	if p.flying.changed != nil {
		close(p.flying.changed)
		p.flying.changed = nil
	}
	switch {
	case key == 0:
	case !reached:
		p.said.remove(key)
	case len(missed) > 0:
		p.said.put(key, &outcome{missed: missed})
	default:
		p.said.put(key, nil)
	}
}

// awaitFlying waits, for some seconds, until what is on its way is little enough. It is called by the owner.
func (p *participant) awaitFlying(ctx context.Context, enough func(*window) bool) error {
	changed := p.crowded(enough)
	if changed == nil {
		return nil
	}
	p.yield()
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	for changed != nil {
		select {
		case <-changed:
			changed = p.crowded(enough)
		case <-ctx.Done():
			return fmt.Errorf("waiting for what was sent before: %w", state.ErrUnavailable)
		}
	}
	return nil
}

// crowded returns what is closed when something has landed, nil if what is on its way is little enough.
func (p *participant) crowded(enough func(*window) bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if enough(&p.flying) {
		return nil
	}
	if p.flying.changed == nil {
		p.flying.changed = make(chan struct{})
	}
	return p.flying.changed
}

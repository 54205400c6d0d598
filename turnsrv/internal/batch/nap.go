package batch

import (
	"math"
	"time"
)

const (
	// DefaultNap is small beside the delay of any network, and at a few thousand
	// packets a second lets several come together.
	DefaultNap = 300 * time.Microsecond

	// LongestNap keeps a batch from outgrowing the buffers of the sockets.
	LongestNap = 10 * time.Millisecond

	// napPackets is how many packets must be expected during a nap for it to be taken.
	// Fewer are a few calls, whose round trips would be several times as long.
	napPackets = 4

	// busyGap is the longest time between packets of a busy loop.
	busyGap = time.Millisecond

	// busyWait is how long a busy loop waits for the next packet before it gives
	// its thread back. It is longer than the kernel's tick, since a shorter wait
	// makes the kernel set a timer of its own, every time.
	busyWait = 10 * time.Millisecond

	// paceMemory is how long the rate takes to follow a change.
	paceMemory = 5 * time.Millisecond
)

// pace decides how a loop waits: several packets that are read together cost
// little more than one. The loop owns it.
type pace struct {
	maxNap  time.Duration // maxNap is fixed; 0 means no naps.
	rate    float64       // rate is the packets a nanosecond lately.
	latest  time.Time     // latest is when the turn before this one began.
	backlog bool          // backlog says that more waits than was read.
}

// turned notes a turn that began at now and passed so many packets on.
func (p *pace) turned(packets int, backlog bool, now time.Time) {
	elapsed := float64(max(now.Sub(p.latest), time.Microsecond))
	p.latest, p.backlog = now, backlog
	kept := math.Exp(-elapsed / float64(paceMemory))
	p.rate = kept*p.rate + (1-kept)*float64(packets)/elapsed
}

// nap returns how long to sleep before the next turn: not when few packets would
// gather, where it would only delay, and not when behind.
func (p *pace) nap() time.Duration {
	if p.backlog || p.rate*float64(p.maxNap) < napPackets {
		return 0
	}
	return p.maxNap
}

// busy says whether the next packet is expected within busyGap.
func (p *pace) busy() bool { return p.rate*float64(busyGap) > 1 }

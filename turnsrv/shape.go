package turnsrv

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// minShapeBurst lets the largest datagram, and a key frame of a video, pass at
// any rate.
const minShapeBurst = 64 << 10

// byteBucket is a token bucket in bytes, for any number of goroutines. A nil
// one is always full.
type byteBucket struct {
	// Guarded by mu.
	mu      sync.Mutex
	limiter *rate.Limiter
	latest  time.Time
}

// newByteBucket returns a bucket that fills at bytesPerSecond and holds what
// flows in within a tenth of a second, or nil when that is 0.
func newByteBucket(bytesPerSecond int) *byteBucket {
	if bytesPerSecond <= 0 {
		return nil
	}
	burst := max(bytesPerSecond/10, minShapeBurst)
	return &byteBucket{limiter: rate.NewLimiter(rate.Limit(bytesPerSecond), burst)}
}

// holds says whether n bytes are left at now, and makes now the time of the
// next spend. Only the holder of mu may call it. It never goes back in time: a
// limiter that is told an earlier time credits what came since then once more,
// and goroutines that ask the clock once for a batch of packets come out of
// order.
func (b *byteBucket) holds(n int, now time.Time) bool {
	if b == nil {
		return true
	}
	if now.After(b.latest) {
		b.latest = now
	}
	return b.limiter.TokensAt(b.latest) >= float64(n)
}

// spend takes n bytes that the bucket holds. Only the holder of mu may call it.
func (b *byteBucket) spend(n int) {
	if b != nil {
		b.limiter.AllowN(b.latest, n)
	}
}

// shaper decides which packets of one direction of an allocation may pass. A
// nil one lets all pass.
type shaper struct {
	own  *byteBucket // own is this direction's of the allocation.
	node *byteBucket // node is shared by all allocations in both directions.
}

// newShaper returns a shaper of bytesPerSecond, where 0 means no limit of its
// own, under the limit of node, which may be nil.
func newShaper(bytesPerSecond int, node *byteBucket) *shaper {
	if bytesPerSecond <= 0 && node == nil {
		return nil
	}
	return &shaper{own: newByteBucket(bytesPerSecond), node: node}
}

// allow takes n bytes at now from both buckets, or from none and returns false:
// a packet that one bucket refuses must not starve the other. What is refused
// is to be dropped, since a queue would only add delay to a stream that is too
// fast anyway.
func (s *shaper) allow(n int, now time.Time) bool {
	if s == nil {
		return true
	}
	// Own before node is the order of the locks.
	if s.own != nil {
		s.own.mu.Lock()
		defer s.own.mu.Unlock()
	}
	if s.node != nil {
		s.node.mu.Lock()
		defer s.node.mu.Unlock()
	}
	if !s.own.holds(n, now) || !s.node.holds(n, now) {
		return false
	}
	s.own.spend(n)
	s.node.spend(n)
	return true
}

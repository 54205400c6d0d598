package transport

import "time"

const (
	firstDelay = 5 * time.Millisecond
	lastDelay  = time.Second
)

// Backoff spaces the attempts after errors that pass by themselves, such as a
// lack of descriptors. Its zero value is ready.
type Backoff struct{ last time.Duration }

// Wait waits, longer each time. It returns false as soon as done is closed.
func (b *Backoff) Wait(done <-chan struct{}) bool {
	b.last = min(max(2*b.last, firstDelay), lastDelay)
	timer := time.NewTimer(b.last)
	defer timer.Stop()
	select {
	case <-done:
		return false
	case <-timer.C:
		return true
	}
}

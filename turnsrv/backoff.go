package turnsrv

import "time"

const (
	firstDelay = 5 * time.Millisecond
	lastDelay  = time.Second
)

// backoff spaces the attempts after errors that pass by themselves, such as a
// lack of descriptors. Its zero value is ready.
type backoff struct{ last time.Duration }

// wait waits, longer each time. It returns false as soon as done is closed.
func (b *backoff) wait(done <-chan struct{}) bool {
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

package service

import (
	"os"
	ossignal "os/signal"
	"sync"
	"syscall"
)

// Hangups are the SIGHUPs that ask a process to read again what it can. From Catch to Release none ends the
// process, whatever it does meanwhile: the default would, also while it starts or stops.
type Hangups struct {
	signals chan os.Signal
}

// CatchHangups catches SIGHUP from now on.
func CatchHangups() Hangups {
	h := Hangups{make(chan os.Signal, 1)} // One that waits stands for all that come before it is served.
	ossignal.Notify(h.signals, syscall.SIGHUP)
	return h
}

// Release gives SIGHUP back to the system.
func (h Hangups) Release() { ossignal.Stop(h.signals) }

// Serve calls f for every SIGHUP, one after the other, until the returned function is called, which waits
// for the last call.
func (h Hangups) Serve(f func()) (stop func()) {
	end := make(chan struct{})
	var served sync.WaitGroup
	served.Go(func() {
		for {
			select {
			case <-h.signals:
				f()
			case <-end:
				return
			}
		}
	})
	return func() {
		close(end)
		served.Wait()
	}
}

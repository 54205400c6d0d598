package service

import (
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// What systemd is told, see sd_notify(3). Without systemd nobody hears it.
const (
	Ready    = daemon.SdNotifyReady
	Stopping = daemon.SdNotifyStopping
)

// Tell tells systemd a state of the service.
func Tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling systemd", "error", err)
	}
}

// Reloading tells systemd that the service takes over new settings, until Ready.
func Reloading(log *slog.Logger) {
	Tell(log, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
}

// Watch tells systemd's watchdog that the service lives, as often as it wants, until the returned function is called.
// Each time alive must return first: while it does not, the service is taken for stuck, and restarted.
func Watch(log *slog.Logger, alive func()) (stop func()) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("watchdog", "error", err)
	}
	if interval == 0 {
		return func() {}
	}
	end := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(interval / 2)
		defer tick.Stop()
		for {
			alive()
			Tell(log, daemon.SdNotifyWatchdog)
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	return func() {
		close(end)
		watching.Wait()
	}
}

// Package measure is what the benchmarks of servers have in common: it starts the servers, weighs
// their processes, runs scenarios in turns, and shows what came out.
package measure

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"
)

// Options are what every benchmark can be told.
type Options struct {
	Duration time.Duration // Duration is that of a run after its warm-up.
	Runs     int           // Runs is how often each scenario is measured.
	Core     int           // Core is the one that this process is pinned to, negative for none.
	Pin      int           // Pin is the core of the servers that are started, negative for none.

	Progress func(text string, done, all int) // Progress is told what runs now; it may be nil.
}

// Flags returns the command line flags that fill o.
func (o *Options) Flags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: "duration", Usage: "`DURATION` of a run after its warm-up", Value: 5 * time.Second, Destination: &o.Duration},
		&cli.IntFlag{Name: "runs", Usage: "`NUMBER` of runs, whose medians are reported", Value: 1, Destination: &o.Runs},
		&cli.IntFlag{Name: "core", Usage: "core of the generator, negative for any (`NUMBER`)", Value: -1, Destination: &o.Core},
		&cli.IntFlag{Name: "pin", Usage: "core of the servers that are started, negative for any (`NUMBER`)", Value: -1, Destination: &o.Pin},
	}
}

// Warmup is how long the load of a run lasts before it counts.
func (o Options) Warmup() time.Duration { return o.Duration / 5 }

// Interleave calls run for every scenario, in each as often as the options say, and in each of those
// for every server: what else the machine does hits all servers alike. It ends with the first error.
func (o Options) Interleave(scenarios, servers []string, run func(scenario, server int) error) error {
	rounds := max(1, o.Runs)
	done, all := 0, len(scenarios)*rounds*len(servers)
	for i, scenario := range scenarios {
		for range rounds {
			for j, server := range servers {
				if o.Progress != nil {
					o.Progress(scenario+" "+server, done, all)
				}
				done++
				if err := run(i, j); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Pause returns when d is over or ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

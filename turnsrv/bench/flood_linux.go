//go:build linux && (amd64 || arm64)

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"cline-meet/signal/signal/bench/measure"
)

// floodSize is the payload of what floods.
const floodSize = 1100

// flooded measures a scenario without and with one more client that sends as fast
// as the system lets it. That is a process of its own that lets this one go first:
// what it costs here must not look like a delay of the server.
func flooded(ctx context.Context, e *engine, t *target, o Options) (result, error) {
	alone, err := e.run(ctx, o.Warmup(), o.Duration, noCPU)
	if err != nil {
		return result{}, err
	}
	flood, err := startFlood(ctx, e.scenario.flood, t, o)
	if err != nil {
		return result{}, err
	}
	r, err := e.run(ctx, o.Warmup(), o.Duration, noCPU)
	_ = flood.Process.Kill()
	_ = flood.Wait()
	r.P99Alone = alone.P99
	return r, err
}

func noCPU() time.Duration { return 0 }

// startFlood starts this program once more and waits until it floods.
func startFlood(ctx context.Context, train int, t *target, o Options) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the own executable: %w", err)
	}
	c := exec.CommandContext(ctx, self, "bench", "turn", "flood", "--server", t.Address, "--secret", o.Secret, "--user", o.User,
		"--train", strconv.Itoa(train), "--core", strconv.Itoa(o.Core))
	c.Stderr = os.Stderr
	ready, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("starting the flood: %w", err)
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("the flood did not begin: %w", err), c.Wait())
	}
	return c, nil
}

// serveFlood sends through one allocation as fast as the system lets it, until ctx
// ends, behind everything else on its core. It calls begun when it has begun.
func serveFlood(ctx context.Context, o Options, train int, begun func()) error {
	if err := errors.Join(yieldToOthers(), measure.PinProcess(o.Core)); err != nil {
		return err
	}
	f, err := openTURN(o.Server, o.credential())(0)
	if err != nil {
		return err
	}
	defer f.close()
	e := newSender(scenario{size: floodSize, train: train, way: up})
	begun()
	for ctx.Err() == nil {
		e.send(f, max(burst, train), time.Now())
	}
	return nil
}

// yieldToOthers lets everything else on its core go before this process.
func yieldToOthers() error {
	err := measure.EachThread(func(id int) error {
		return unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	})
	if err != nil {
		return fmt.Errorf("setting the priority of the flood: %w", err)
	}
	return nil
}

//go:build linux && (amd64 || arm64)

package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cline-meet/signal/signal/bench/measure"
)

// turnTime is how long the server goes on before the generator has its turn. Less
// must be under way than it works off meanwhile.
const turnTime = 10 * time.Millisecond

// takeTurns measures what a server relays on all cores of a machine: it is
// stopped while the generator fills its sockets and empties those of clients and
// peers, and while it goes on the generator sleeps. What it takes to stop and to
// go on counts as the server's time.
func (e *engine) takeTurns(ctx context.Context, warmup, length time.Duration, t *target) (result, error) {
	if err := t.halt(); err != nil {
		return result{}, err
	}
	defer func() { _ = unix.Kill(t.PID, unix.SIGCONT) }()
	if _, err := e.turns(ctx, warmup, t); err != nil {
		return result{}, err
	}
	from := e.counters(t.CPU)
	ran, err := e.turns(ctx, length, t)
	if err != nil {
		return result{}, err
	}
	to := e.counters(t.CPU)
	to.at = from.at.Add(ran)
	_ = unix.Kill(t.PID, unix.SIGCONT)
	if err := e.until(ctx, time.Now().Add(drainTime), false); err != nil {
		return result{}, err
	}
	return e.result(from, to), nil
}

// turns returns how long the server ran, which is at least that long.
func (e *engine) turns(ctx context.Context, length time.Duration, t *target) (ran time.Duration, err error) {
	for ran < length {
		e.fill()
		start := time.Now()
		if err := unix.Kill(t.PID, unix.SIGCONT); err != nil {
			return ran, fmt.Errorf("letting the server go on: %w", err)
		}
		measure.Pause(ctx, turnTime)
		if err := t.halt(); err != nil {
			return ran, err
		}
		ran += time.Since(start)
		if err := e.empty(ctx); err != nil {
			return ran, err
		}
	}
	return ran, nil
}

// halt returns when all threads of a server that was started here have stopped.
func (t *target) halt() error {
	if !t.Started() {
		return fmt.Errorf("%s is stopped again and again, so it has to be started by --command", t.Name)
	}
	if err := unix.Kill(t.PID, unix.SIGSTOP); err != nil {
		return fmt.Errorf("stopping the server: %w", err)
	}
	for {
		switch err := unix.Waitid(unix.P_PID, t.PID, nil, unix.WSTOPPED, nil); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("waiting until the server has stopped: %w", err)
		}
	}
}

// fill sends packets of all clients, in turns, until as many are under way as may
// be.
func (e *engine) fill() {
	now := time.Now()
	for more := true; more; {
		more = false
		for _, f := range e.flows {
			if f.sent-f.far(e.scenario.way).next < uint64(e.scenario.queue) {
				e.send(f, 1, now)
				more = true
			}
		}
	}
}

// empty receives all that has arrived.
func (e *engine) empty(ctx context.Context) error {
	for ctx.Err() == nil {
		if n, err := e.take(0); n == 0 || err != nil {
			return err
		}
	}
	return ctx.Err()
}

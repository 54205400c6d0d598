package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/signal/bench/measure"
	"cline-meet/signal/turnsrv/turnclient"
)

const (
	// cyclers is how many clients make and release allocations at once.
	cyclers = 16

	// openers is how many clients make the idle allocations at once.
	openers = 32

	// warmups is how many allocations a server has made before its memory counts.
	warmups = 100

	// settleTime is what a process gets to give memory back.
	settleTime = 10 * time.Second

	// drainTime is what packets under way get to arrive after a run.
	drainTime = 300 * time.Millisecond
)

// allocationCycles counts Allocate, 401, Allocate and Refresh with lifetime 0.
func allocationCycles(ctx context.Context, t *target, o Options) (result, error) {
	var done atomic.Uint64
	var failed atomic.Pointer[error]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	for range cyclers {
		who := o.credential()
		running.Go(func() {
			for ctx.Err() == nil {
				err := cycle(t.Address, who)
				if turnclient.Refused(err, stun.CodeAllocMismatch) {
					continue // A port came round that the server has not forgotten yet.
				}
				if err != nil {
					failed.Store(&err)
					cancel()
					return
				}
				done.Add(1)
			}
		})
	}
	measure.Pause(ctx, o.Warmup())
	start, count, cpu := time.Now(), done.Load(), t.CPU()
	measure.Pause(ctx, o.Duration)
	seconds, made, used := time.Since(start).Seconds(), done.Load()-count, t.CPU()-cpu
	cancel()
	running.Wait()
	if err := failed.Load(); err != nil {
		return result{}, *err
	}
	r := result{Scenario: cycles, Seconds: seconds, Cycles: float64(made) / seconds, Load: used.Seconds() / seconds}
	if made > 0 {
		r.CycleCPU = float64(used.Microseconds()) / float64(made)
	}
	return r, nil
}

func cycle(server string, who turnclient.Credential) error {
	c, err := dial("udp", server, who)
	if err != nil {
		return err
	}
	defer c.Recycle()
	defer c.Close()
	if err := c.Allocate(); err != nil {
		return err
	}
	return c.Release()
}

// idleAllocations measures the memory of allocations that relay nothing.
func idleAllocations(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	if t.PID == 0 {
		return result{}, errors.New(idle + " needs the process of the server")
	}
	// Their ports must not come round before the server has forgotten them.
	first, err := openAll(ctx, warmups, t.Address, o)
	defer closeAll(first)
	if err = errors.Join(err, releaseAll(first)); err != nil {
		return result{}, err
	}
	before := t.Memory()
	start := time.Now()
	clients, err := openAll(ctx, s.clients, t.Address, o)
	defer closeAll(clients)
	measure.Pause(ctx, settleTime)
	during := t.Memory()
	if err = errors.Join(err, releaseAll(clients)); err != nil {
		return result{}, err
	}
	measure.Pause(ctx, settleTime)
	after := t.Memory()
	n := float64(s.clients)
	return result{
		Scenario: idle, Seconds: time.Since(start).Seconds(),
		Idle: float64(during-before) / n, AfterwardB: float64(after-before) / n,
	}, ctx.Err()
}

func releaseAll(clients []*turnclient.Client) error {
	var failed error
	for _, c := range clients {
		failed = errors.Join(failed, c.Release())
	}
	return failed
}

func closeAll(clients []*turnclient.Client) {
	for _, c := range clients {
		c.Close()
	}
}

// openAll returns clients that have an allocation each, those it has made also
// after an error.
func openAll(ctx context.Context, count int, server string, o Options) ([]*turnclient.Client, error) {
	var mu sync.Mutex
	var clients []*turnclient.Client
	var failed error
	var left atomic.Int64
	left.Store(int64(count))
	var running sync.WaitGroup
	for range openers {
		running.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				c, err := dial("udp", server, o.credential())
				if err == nil {
					err = c.Allocate()
				}
				mu.Lock()
				if c != nil {
					clients = append(clients, c)
				}
				failed = errors.Join(failed, err)
				stop := failed != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	running.Wait()
	return clients, failed
}

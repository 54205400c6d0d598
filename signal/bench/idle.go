package bench

import (
	"context"
	"errors"
	"time"
)

// warmups is how many clients a server has had before its memory counts.
const warmups = 100

// idleClients measures what clients cost that say nothing. A server that was started here is started
// anew: what it kept of other loads would hide what these cost.
func idleClients(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	if err := t.restart(ctx, o); err != nil {
		return result{}, err
	}
	if t.PID == 0 {
		return result{}, errors.New("this needs the process of the server: say --pid")
	}
	first, err := openLoop(ctx, t, min(warmups, s.clients), nil)
	if err != nil {
		return result{}, err
	}
	first.close()
	before := t.Memory()
	l, err := openLoop(ctx, t, s.clients, nil)
	if err != nil {
		return result{}, err
	}
	defer l.close()
	if err := l.run(ctx, time.Now().Add(s.settle), nil); err != nil {
		return result{}, err
	}
	start, cpu := time.Now(), t.CPU()
	if err := l.run(ctx, start.Add(s.watch), nil); err != nil {
		return result{}, err
	}
	seconds, n := time.Since(start).Seconds(), float64(s.clients)
	return result{
		Seconds: seconds, Memory: float64(t.Memory()-before) / n,
		IdleCPU: (t.CPU() - cpu).Seconds() / seconds / n * 10_000,
		Errors:  uint64(l.errors), Trouble: l.trouble,
	}, nil
}

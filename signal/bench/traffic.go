package bench

import (
	"context"
	"os"
	"time"

	"cline-meet/signal/signal/bench/measure"
)

const (
	// drainTime is what messages under way get to arrive after a run.
	drainTime = 2 * time.Second

	// stalled is when what is under way counts as lost, so that a window opens again.
	stalled = time.Second

	maxSamples = 4 << 20
)

// generator makes the traffic of one run.
type generator struct {
	*loop
	target  *target
	flows   []*flow
	verdict verdict
	samples []time.Duration
}

// newGenerator sets up clients that send to each other.
func newGenerator(ctx context.Context, t *target, clients, size int) (*generator, error) {
	l, err := openLoop(ctx, t, clients, nil)
	if err != nil {
		return nil, err
	}
	g := &generator{loop: l, target: t, samples: make([]time.Duration, 0, 1<<16)}
	if g.flows, err = g.connect(l.sockets, size); err != nil {
		l.close()
		return nil, err
	}
	return g, nil
}

// connect returns the flows of sockets that are partners, both ways.
func (g *generator) connect(sockets []*socket, size int) ([]*flow, error) {
	var flows []*flow
	for i, from := range sockets {
		to := from
		if partner := i ^ 1; !from.dialect.alone && partner < len(sockets) {
			to = sockets[partner]
		}
		f, err := newFlow(g.loop, from.number, from, to, size, &g.verdict)
		if err != nil {
			return nil, err
		}
		flows = append(flows, f)
	}
	return flows, nil
}

func (g *generator) sample(sent, now time.Time) { g.samples = appendSample(g.samples, now.Sub(sent)) }

func appendSample(to []time.Duration, d time.Duration) []time.Duration {
	if len(to) >= maxSamples {
		return to
	}
	return append(to, d)
}

// sampleAll takes the time of every message of flows.
func (g *generator) sampleAll(flows []*flow) {
	for _, f := range flows {
		f.arrived = func(_ kind, sent, now time.Time) error { g.sample(sent, now); return nil }
	}
}

// traffic measures offers that pairs send to each other: as many as arrive, or so many a second.
func traffic(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	g, err := newGenerator(ctx, t, s.clients, o.Size)
	if err != nil {
		return result{}, err
	}
	defer g.close()
	rate := s.rate
	if rate == 0 {
		r, err := g.measure(ctx, o, g.saturate(s.window))
		if err != nil || s.name == saturated {
			return r, err
		}
		rate = int(r.Rate / 2)
	}
	g.sampleAll(g.flows)
	return g.measure(ctx, o, g.pace(g.flows, rate))
}

// counters is the state of a run at one moment.
type counters struct {
	at        time.Time
	delivered uint64
	cpu, own  time.Duration
}

func (g *generator) counters() counters {
	c := counters{at: time.Now(), cpu: g.target.CPU(), own: measure.CPU(os.Getpid())}
	for _, f := range g.flows {
		c.delivered += f.received
	}
	return c
}

// measure lets a load run, stops it and waits for what is under way. What it counts is between the
// warm-up and the stop.
func (g *generator) measure(ctx context.Context, o Options, stop func()) (result, error) {
	r, err := g.watch(ctx, o)
	if err != nil {
		return r, err
	}
	stop()
	if err := g.drain(ctx); err != nil {
		return r, err
	}
	g.judge(&r, g.flows)
	return r, nil
}

// watch measures what runs, after a warm-up.
func (g *generator) watch(ctx context.Context, o Options) (result, error) {
	if err := g.run(ctx, time.Now().Add(o.Warmup()), nil); err != nil {
		return result{}, err
	}
	g.samples, g.late = g.samples[:0], g.late[:0]
	from := g.counters()
	if err := g.run(ctx, time.Now().Add(o.Duration), nil); err != nil {
		return result{}, err
	}
	r := between(from, g.counters())
	r.setPercentiles(g.samples)
	r.Late = measure.Percentiles(g.late, .99)[0]
	return r, nil
}

func between(from, to counters) result {
	seconds := to.at.Sub(from.at).Seconds()
	r := result{Seconds: seconds, Delivered: to.delivered - from.delivered}
	r.Rate = float64(r.Delivered) / seconds
	if r.Delivered > 0 {
		r.CPU = float64((to.cpu - from.cpu).Microseconds()) / float64(r.Delivered)
	}
	r.Load = (to.cpu - from.cpu).Seconds() / seconds
	r.Generator = (to.own - from.own).Seconds() / seconds
	return r
}

// drain waits until all has arrived that was sent, or no longer.
func (g *generator) drain(ctx context.Context) error {
	return g.run(ctx, time.Now().Add(drainTime), func() bool {
		for _, f := range g.flows {
			if f.lost() > 0 {
				return false
			}
		}
		return true
	})
}

// judge notes what was wrong with what flows have carried.
func (g *generator) judge(r *result, flows []*flow) {
	r.Corrupt, r.Forged = g.verdict.corrupt, g.verdict.forged
	r.Errors, r.Trouble = uint64(g.errors), g.trouble
	for _, f := range flows {
		r.Lost += f.lost()
		r.Doubled += f.doubled
		r.Reordered += f.reordered
	}
}

// pace lets flows send offers in turns, so many a second together, until stop.
func (g *generator) pace(flows []*flow, rate int) (stop func()) {
	stopped := false
	every := time.Duration(len(flows)) * time.Second / time.Duration(max(rate, 1))
	start := time.Now()
	for i, f := range flows {
		a := new(alarm)
		a.do = func(at time.Time) error {
			if stopped {
				return nil
			}
			g.set(a, at.Add(every))
			return f.send(offer, "", at)
		}
		g.set(a, start.Add(every*time.Duration(i)/time.Duration(len(flows))))
	}
	return func() { stopped = true }
}

// saturate lets flows send offers as fast as they arrive, with a window of them under way, until stop.
func (g *generator) saturate(window int) (stop func()) {
	stopped := false
	for _, f := range g.flows {
		moved := time.Now()
		f.arrived = func(_ kind, sent, now time.Time) error {
			g.sample(sent, now)
			if moved = now; stopped {
				return nil
			}
			return f.send(offer, "", now)
		}
		open := new(alarm)
		open.do = func(at time.Time) error {
			if stopped {
				return nil
			}
			g.set(open, at.Add(stalled))
			if at.Sub(moved) < stalled && f.sent > 0 {
				return nil
			}
			for range window {
				if err := f.send(offer, "", at); err != nil {
					return err
				}
			}
			return nil
		}
		g.set(open, moved)
	}
	return func() { stopped = true }
}

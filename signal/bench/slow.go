package bench

import (
	"context"
	"time"
)

const (
	// feedRate is how many messages a second each client gets that stops to read.
	feedRate = 1

	// filling is how many it gets first, so that they wait in the server, and fillRate how many all of
	// them get in a second, which is no flood.
	filling  = 64
	fillRate = 10_000

	// catchUp is how long they have to read all that waited, and the server to work off the filling.
	catchUp = 20 * time.Second
)

// slowReaders measures pairs beside others of which one stops to read: first while it still reads,
// then when as much waits for it as the system and the server hold.
func slowReaders(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	if err := checkDescriptors(s.clients + 2*s.readers); err != nil {
		return result{}, err
	}
	g, err := newGenerator(ctx, t, s.clients, o.Size)
	if err != nil {
		return result{}, err
	}
	defer g.close()
	feeds, err := g.feeds(ctx, s.readers, o.Size)
	if err != nil {
		return result{}, err
	}
	g.sampleAll(g.flows)
	stop := g.pace(g.flows, s.rate)
	stopFeed := g.pace(feeds, feedRate*len(feeds))
	alone, err := g.watch(ctx, o)
	if err != nil {
		return result{}, err
	}
	if err := g.stick(ctx, feeds); err != nil {
		return result{}, err
	}
	r, err := g.watch(ctx, o)
	if err != nil {
		return result{}, err
	}
	stop()
	stopFeed()
	if err := g.drain(ctx); err != nil {
		return result{}, err
	}
	r.P99Alone = alone.P99
	if r.Dropped, err = g.release(ctx, feeds); err != nil {
		return result{}, err
	}
	g.judge(&r, append(g.flows, still(feeds)...))
	return r, nil
}

// feeds sets up clients that will stop to read, each with one that sends to it.
func (g *generator) feeds(ctx context.Context, readers, size int) ([]*flow, error) {
	sockets, err := openPairs(ctx, g.target, 2*readers, narrow)
	if err != nil {
		return nil, err
	}
	if err := g.add(sockets...); err != nil {
		hangUp(sockets)
		return nil, err
	}
	var feeds []*flow
	for i := 0; i < len(sockets); i += 2 {
		feeder, reader := sockets[i], sockets[i+1]
		feeder.lenient, reader.mayEnd = true, true
		f, err := newFlow(g.loop, feeder.number, feeder, reader, size, &g.verdict)
		if err != nil {
			return nil, err
		}
		feeds = append(feeds, f)
	}
	return feeds, nil
}

// stick stops reading and lets messages pile up.
func (g *generator) stick(ctx context.Context, feeds []*flow) error {
	for _, f := range feeds {
		if err := g.listen(f.to, false); err != nil {
			return err
		}
	}
	stop := g.pace(feeds, fillRate)
	err := g.run(ctx, time.Now().Add(time.Second*time.Duration(filling*len(feeds))/fillRate), nil)
	stop()
	if err != nil {
		return err
	}
	return g.run(ctx, time.Now().Add(catchUp), g.caughtUp)
}

// caughtUp reports whether next to nothing is under way that is read.
func (g *generator) caughtUp() bool {
	underWay := uint64(0)
	for _, f := range g.flows {
		underWay += f.lost()
	}
	return underWay <= uint64(len(g.flows))
}

// release reads again until all that waited has come. It returns how many clients the server has
// closed meanwhile.
func (g *generator) release(ctx context.Context, feeds []*flow) (dropped uint64, err error) {
	for _, f := range feeds {
		if err := g.listen(f.to, true); err != nil {
			return 0, err
		}
	}
	err = g.run(ctx, time.Now().Add(catchUp), func() bool {
		for _, f := range feeds {
			if f.lost() > 0 && !f.to.closed {
				return false
			}
		}
		return true
	})
	return uint64(len(feeds) - len(still(feeds))), err
}

// still returns the flows to clients that are connected: the others have lost no more than they know.
func still(feeds []*flow) []*flow {
	var out []*flow
	for _, f := range feeds {
		if !f.to.closed {
			out = append(out, f)
		}
	}
	return out
}

package auth

import (
	"context"
	"net/netip"
	"sync"
)

// places are for requests to the owner's backend that may be under way. One client address has half of them at most: who asks without end, of
// a backend that takes its time, waits for itself, and others find a place.
type places struct {
	all   chan struct{}
	share int

	mu     sync.Mutex
	shares map[netip.Prefix]*share
}

// share is what one address may have.
type share struct {
	places chan struct{}
	users  int // who have a place of it or wait for one
}

func newPlaces(n int) *places {
	return &places{all: make(chan struct{}, n), share: max(1, n/2), shares: map[netip.Prefix]*share{}}
}

// take waits for a place, which is given back by what it returns.
func (p *places) take(ctx context.Context, from netip.Prefix) (leave func(), err error) {
	mine := p.join(from)
	for i, queue := range []chan struct{}{mine.places, p.all} {
		select {
		case queue <- struct{}{}:
		case <-ctx.Done():
			if i > 0 {
				<-mine.places
			}
			p.leave(from)
			return nil, ctx.Err()
		}
	}
	return func() {
		<-p.all
		<-mine.places
		p.leave(from)
	}, nil
}

func (p *places) join(from netip.Prefix) *share {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shares[from]
	if s == nil {
		s = &share{places: make(chan struct{}, p.share)}
		p.shares[from] = s
	}
	s.users++
	return s
}

func (p *places) leave(from netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.shares[from]; s.users > 1 {
		s.users--
	} else {
		delete(p.shares, from)
	}
}

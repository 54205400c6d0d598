package state

import (
	"cmp"
	"slices"
	"time"
)

const (
	// maxEarly and maxEarlyBytes bound what is kept of one stream until what precedes it has come. What comes
	// then is dropped, and asked for later.
	maxEarly      = 128
	maxEarlyBytes = 4 << 20
)

// position is what a node knows of the stream from another. It is kept until that has said that it ends,
// since a node that comes back must not be heard twice. Redis' mu guards it.
type position struct {
	seen uint64 // the number of the last record that was delivered, or is void or lost
	// early are batches before which something is missing, by their first number.
	early  []packet
	bytes  int
	chased bool // somebody sees to it that what is missing is asked for
	// unsure says that something may be missing that is not known of, since this node was deaf; sure is when the other has
	// last said that nothing is.
	unsure bool
	sure   time.Time
}

// positionLocked returns what is known of the stream from a node.
func (r *Redis) positionLocked(source string) *position {
	at := r.positions[source]
	if at == nil {
		at = &position{}
		r.positions[source] = at
	}
	return at
}

// take takes a batch in and returns what is to be delivered now, in order. Lost says that something before it is
// missing and will not come.
func (at *position) take(p packet) (records []record, lost bool) {
	if at.seen < p.before && !p.lost {
		at.keep(p)
		return nil, false
	}
	if lost = at.seen < p.before; lost {
		records = at.skipTo(p.before)
	}
	records = append(records, at.advance(p)...)
	records = append(records, at.follow()...)
	if at.unsure && len(at.early) == 0 {
		at.unsure, at.sure = false, time.Now()
	}
	return records, lost
}

// advance goes on over a batch, nothing before which is missing, and returns what of it is new.
func (at *position) advance(p packet) []record {
	last := p.first + uint64(len(p.records)) - 1
	if last <= at.seen {
		return nil
	}
	skip := max(at.seen+1, p.first) - p.first
	at.seen = last
	return p.records[skip:]
}

// keep keeps a batch that came too early, unless it is there or there is no room.
func (at *position) keep(p packet) {
	i, _ := slices.BinarySearchFunc(at.early, p, byFirst)
	for _, o := range at.early[i:] {
		if o.first == p.first && o.before == p.before && len(o.records) >= len(p.records) {
			return
		}
	}
	if len(at.early) < maxEarly && at.bytes+p.size <= maxEarlyBytes {
		at.early = slices.Insert(at.early, i, p)
		at.bytes += p.size
	}
}

func byFirst(a, b packet) int { return cmp.Compare(a.first, b.first) }

// follow delivers what was kept and whose turn it is. A batch needs only what has lower numbers than its own, so
// that going through once is enough.
func (at *position) follow() (records []record) {
	return at.release(func(p packet) bool { return p.before <= at.seen })
}

// skipTo delivers what was kept up to a number, over what is missing, and goes on behind it.
func (at *position) skipTo(number uint64) []record {
	records := at.release(func(p packet) bool { return p.first <= number })
	at.seen = max(at.seen, number)
	return append(records, at.follow()...)
}

// release takes out of what was kept what ok says, in order.
func (at *position) release(ok func(packet) bool) (records []record) {
	var rest []packet
	for _, p := range at.early {
		if ok(p) {
			records = append(records, at.advance(p)...)
			at.bytes -= p.size
		} else {
			rest = append(rest, p)
		}
	}
	at.early = rest
	return records
}

// farthest returns the last number that was heard of.
func (at *position) farthest() uint64 {
	far := at.seen
	for _, p := range at.early {
		far = max(far, p.first+uint64(len(p.records))-1)
	}
	return far
}

package signal

import (
	"cmp"
	"context"
	"math"
	"math/bits"
	"os"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"cline-meet/signal/signal/setting"
)

// The budget of memory keeps strangers from making the node hold more than it may. What is held for clients is accounted to their
// participants: a fixed size for each, frames that are kept or queued, parts of messages that are still to come, messages that wait for
// others before them, ids, and the buffers of who waits for the shared state. Half of the memory is for that; the
// rest is for the queues of relay clients, of which package turnsrv keeps the bound, for what the garbage collector needs beside it all, and
// for what is held for nobody in particular. Participants that go to other nodes hold, until they have arrived, what was handed over and
// what is to follow. When the half is exceeded, those that
// hold most end, until an eighth is free. Nobody new comes in only when it is used up by the number of participants.

// participantSize is about what a participant and its connection hold besides what is counted.
const participantSize = 4 << 10

// rememberedSize is about what an id takes that is remembered.
const rememberedSize = 32

// accountStep is how far an account may be behind what is held: so messages that come and go cost no shared counter.
const accountStep = 4 << 10

// budget bounds the bytes that are held for all participants.
type budget struct {
	limit atomic.Int64 // 0 for any number
	used  atomic.Int64
	over  chan struct{} // something is received from it when the limit is exceeded
}

// init sets the limit before anything is held.
func (b *budget) init(limit int64) {
	b.over = make(chan struct{}, 1)
	b.limit.Store(limit)
}

func (b *budget) add(n int64) {
	limit := b.limit.Load()
	if used := b.used.Add(n); n > 0 && limit > 0 && used > limit {
		select {
		case b.over <- struct{}{}:
		default:
		}
	}
}

// isTight reports whether hardly anything is left.
func (b *budget) isTight() bool {
	limit := b.limit.Load()
	return limit > 0 && b.used.Load() > limit-limit/16
}

// excess returns how many bytes must go until an eighth of the limit is free.
func (b *budget) excess() int64 {
	limit := b.limit.Load()
	return b.used.Load() - (limit - limit/8)
}

// holding is what is held for one participant. Any goroutine may use it.
type holding struct {
	budget *budget
	bytes  atomic.Int64 // settled when it does not count any more
}

// settled stands for any number of bytes that are not counted.
const settled = math.MinInt64

func (h *holding) add(n int64) {
	for h.budget != nil {
		old := h.bytes.Load()
		if old == settled {
			return
		}
		if h.bytes.CompareAndSwap(old, old+n) {
			h.budget.add(n)
			return
		}
	}
}

// settle has it count no more, because its participant is gone or going.
func (h *holding) settle() {
	if h.budget == nil {
		return
	}
	if old := h.bytes.Swap(settled); old != settled {
		h.budget.add(-old)
	}
}

// account is one part of a holding. Who owns the part owns the account.
type account struct{ told int }

// note tells how much the part is now.
func (a *account) note(h *holding, now int) {
	changed := now - a.told
	if h == nil || changed > -accountStep && changed < accountStep && (now > 0 || changed == 0) {
		return
	}
	a.told = now
	h.add(int64(changed))
}

// noteLocked accounts for what the participant keeps.
func (p *participant) noteLocked() {
	ids := len(p.heard.young) + len(p.heard.old) + len(p.said.young) + len(p.said.old)
	p.account.note(&p.holding, p.kept.held+p.flying.bytes+ids*rememberedSize)
}

// heldMore and earlyMore account for messages that wait, or fewer of them.
func (l *localMember) heldMore(n int) {
	l.heldBytes += n
	l.participant.holding.add(int64(n))
}

func (l *localMember) earlyMore(n int) {
	l.earlyBytes += n
	l.participant.holding.add(int64(n))
}

// limitMemory returns the bytes that the process is to stay below, 0 for any number.
func (c *Config) limitMemory() int64 { return int64(derived(c.MaxMemory, setting.Memory())) << 20 }

// collectWithin has the garbage collector keep the process within the limit, unless the environment says how.
func (c *Config) collectWithin() {
	if limit := c.limitMemory(); limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// RelayMemory returns how many bytes may wait for all clients of the relay, 0 for any number.
func (c *Config) RelayMemory() int64 { return c.limitMemory() / 8 }

// ownSize is what a node may hold for itself and for what is not accounted, with the floor of its heap.
const ownSize = 48 << 20

// hasGarbage reports whether there is much to give back to the system. What was in use at the last collection may be
// garbage meanwhile, but hardly what is accounted.
func (s *Server) hasGarbage(now time.Time) bool {
	mapped, live, cycles := s.waste.measure()
	held := ownSize + 2*uint64(max(0, s.budget.used.Load()))
	many := s.memory.due(s.Connections(), now)
	return s.waste.due(mapped, min(live, held), cycles, now) || many
}

// isCrowded reports whether memory is short because there are many participants. If a few hold much, they go before
// somebody new is refused.
func (s *Server) isCrowded() bool {
	if !s.budget.isTight() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.participants))*participantSize > s.budget.limit.Load()/2
}

// keepBudget ends participants that hold most whenever too much is held, until ctx ends.
func (s *Server) keepBudget(ctx context.Context) {
	ended, told := 0, time.Time{}
	for {
		select {
		case <-s.budget.over:
			ended += s.shed()
			if time.Since(told) > shedNotice {
				s.cfg.Logger.Warn("memory is short: ended those who hold most", "ended", ended, "held", s.budget.used.Load(), "limit", s.budget.limit.Load())
				ended, told = 0, time.Now()
			}
		case <-ctx.Done():
			return
		}
	}
}

// shedNotice is the least time between two notices in the log that participants were ended.
const shedNotice = 10 * time.Second

// shed ends those that hold most and returns their number. Of those that hold about as much they come first who are away.
func (s *Server) shed() (ended int) {
	type candidate struct {
		drop  func()
		bytes int64
		away  int
	}
	var all []candidate
	for _, p := range s.everybody() {
		c := candidate{p.drop, p.holding.bytes.Load(), 0}
		if p.isDetached() {
			c.away = 1
		}
		all = append(all, c)
	}
	for _, move := range s.moves.all() {
		all = append(all, candidate{move.drop, move.holding.bytes.Load(), 1})
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return -cmp.Or(cmp.Compare(bits.Len64(uint64(max(a.bytes, 0))), bits.Len64(uint64(max(b.bytes, 0)))),
			cmp.Compare(a.away, b.away), cmp.Compare(a.bytes, b.bytes))
	})
	for _, c := range all {
		if s.budget.excess() <= 0 {
			break
		}
		c.drop()
		ended++
	}
	return ended
}

// drop ends a participant to have its memory back. Its client is told to come back as somebody new.
func (p *participant) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.srv.metrics.reached(limitMemory)
	p.over = true
	p.kept.drop(p.kept.count)
	p.holding.settle()
	if p.conn != nil {
		p.conn.cut(closeMemory, "the server is short of memory", lastWords)
	}
	p.expireLocked()
}

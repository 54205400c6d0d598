package signal

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/state"
)

func TestHolding(t *testing.T) {
	var b budget
	b.init(1000)
	h := holding{budget: &b}
	h.add(900)
	if b.isTight() || len(b.over) > 0 {
		t.Error("900 of 1000 are too much")
	}
	h.add(90)
	if !b.isTight() || len(b.over) > 0 {
		t.Error("990 of 1000 are not tight, or over")
	}
	h.add(20)
	h.add(20)
	if len(b.over) != 1 || b.excess() != 1030-875 {
		t.Errorf("%d of 1000 are not over, or by %d", b.used.Load(), b.excess())
	}
	h.settle()
	h.settle()
	h.add(5000)
	if b.used.Load() != 0 {
		t.Errorf("%d bytes are left of who is gone", b.used.Load())
	}
	var none holding // Of tests.
	none.add(1)
	none.settle()
}

// TestHoldingIsSettledOnce has all of it added and taken away by many while it is settled.
func TestHoldingIsSettledOnce(t *testing.T) {
	for range 100 {
		var b budget
		h := holding{budget: &b}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 100 {
					h.add(7)
				}
			})
		}
		wg.Go(h.settle)
		wg.Wait()
		if b.used.Load() != 0 {
			t.Fatalf("%d bytes are left", b.used.Load())
		}
	}
}

func TestAccount(t *testing.T) {
	b := new(budget)
	h := &holding{budget: b}
	var a account
	for _, step := range []struct{ now, told int }{{100, 0}, {5000, 5000}, {5100, 5000}, {100, 100}, {50, 100}, {0, 0}, {0, 0}} {
		a.note(h, step.now)
		if got := b.used.Load(); got != int64(step.told) {
			t.Errorf("%d are told as %d, want %d", step.now, got, step.told)
		}
	}
	a.note(nil, 1<<20)
}

func (s *testServer) held() int64 { return s.budget.used.Load() }

// TestEverythingIsAccounted holds memory in each way that a client can, and has it back when the client is gone.
func TestEverythingIsAccounted(t *testing.T) {
	const size = 200 << 10
	half := append([]byte{0x01, 0xff, 0, 0, 0, 0, 0, size >> 16, size >> 8 & 0xff, size & 0xff, 1, 2, 3, 4}, make([]byte, size/2)...)
	for name, hold := range map[string]func(s *testServer, a, b *peer){
		"kept for one who is away": func(s *testServer, a, b *peer) {
			b.cookie()
			b.Cut()
			s.tell(a, b.user, size/2)
		},
		"kept for one who does not confirm": func(s *testServer, a, b *peer) {
			b.WebSocket().SetPingHandler(func(string) error { return nil })
			s.tell(a, b.user, size/2)
		},
		"a part of a frame": func(s *testServer, a, _ *peer) {
			if _, err := a.WebSocket().NetConn().Write(half); err != nil {
				s.t.Fatal(err)
			}
		},
		"a part of a message": func(s *testServer, a, _ *peer) {
			frame := bytes.Clone(half)
			frame[7], frame[8], frame[9] = size/2>>16, size/2>>8&0xff, size/2&0xff
			if _, err := a.WebSocket().NetConn().Write(frame); err != nil {
				s.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, func(c *Config) { c.MaxFrame, c.MaxQueue = 2*size, 8*size })
			a, b := s.enter("r"), s.enter("r")
			before := s.held()
			if before < 2*participantSize {
				t.Fatalf("two members hold %d bytes", before)
			}
			hold(s, a, b)
			eventually(t, "what is held is accounted", func() bool { return s.held() >= before+size/2 })
			_ = a.Close()
			b.Cut()
			s.stop()
			if s.held() != 0 {
				t.Errorf("%d bytes are left", s.held())
			}
		})
	}
}

// tell has a peer send so much to a user, in an acknowledged message.
func (s *testServer) tell(from *peer, to string, size int) {
	s.t.Helper()
	from.say(fmt.Sprintf(`{"type":"message","id":"1","target_id":%q,"data":%q}`, to, strings.Repeat("x", size)))
	for from.next().Type != "ack" {
		continue
	}
}

// TestShedding: they end who hold most, and nobody else. Who is away gets 410, who is there a code.
func TestShedding(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxFrame, c.MaxQueue, c.ResumeGrace = 1<<20, 4<<20, time.Hour })
	a, away, small, there := s.enter("r"), s.enter("r"), s.enter("r"), s.enter("r")
	for _, p := range []*peer{away, small} {
		p.cookie()
		p.Cut()
	}
	there.WebSocket().SetPingHandler(func(string) error { return nil })
	s.tell(a, small.user, 1<<10)
	s.tell(a, away.user, 600<<10)
	s.tell(a, there.user, 600<<10)
	eventually(t, "all is written", func() bool { // What waits to be written is held as well, and not for long.
		p := s.participant(there.user)
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.conn.idle()
	})
	s.budget.limit.Store(s.held() - 1) // Seven eighths are left when the first is gone.
	s.budget.add(1)
	s.budget.add(-1)
	eventually(t, "who is away is gone", func() bool { return s.participant(away.user) == nil })
	if s.participant(there.user) == nil || s.participant(small.user) == nil {
		t.Error("more than necessary are gone")
	}
	if s.reached(limitMemory) != 1 {
		t.Errorf("%d are counted", s.reached(limitMemory))
	}
	if _, back, g := away.back(s); g.Resumed {
		t.Errorf("who is gone came back: %s", back.hub.Raw)
	} else {
		back.expectError(codeGone)
	}
	s.budget.limit.Store(s.held() - 1)
	s.budget.add(1)
	s.budget.add(-1)
	if err := there.ended(); !websocket.IsCloseError(err, int(closeMemory)) {
		t.Errorf("who was there ended with %v", err)
	}
	if _, back, g := small.back(s); !g.Resumed {
		t.Errorf("who holds little is gone: %s", back.hub.Raw)
	}
}

// TestNobodyNewWhenMemoryIsTight: members come back, and nobody else comes in.
func TestNobodyNewWhenMemoryIsTight(t *testing.T) {
	s := start(t, func(c *Config) { c.ResumeGrace = time.Hour })
	p := s.enter("r")
	p.cookie()
	p.Cut()
	eventually(t, "it is away", func() bool { return s.detached() == 1 })
	s.budget.limit.Store(s.held())
	if status, retry := s.refused(""); status != http.StatusServiceUnavailable || retry == "" {
		t.Errorf("got %d, Retry-After %q", status, retry)
	}
	if _, back, g := p.back(s); !g.Resumed {
		t.Errorf("a member did not come back: %s", back.hub.Raw)
	}
}

func TestWaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mb = 1 << 20
		var w waste
		for i, step := range []struct {
			after         time.Duration
			mapped, inUse uint64
			cycles        uint64
			due           bool
		}{
			{0, 100 * mb, 90 * mb, 1, false}, {time.Hour, 128 * mb, 90 * mb, 1, false}, // what a collector needs
			{0, 800 * mb, 90 * mb, 1, false}, {4 * time.Second, 800 * mb, 90 * mb, 1, false}, {time.Second, 800 * mb, 90 * mb, 1, true},
			{time.Second, 800 * mb, 90 * mb, 1, false}, {6 * time.Second, 800 * mb, 90 * mb, 1, false}, // not again so soon
			{15 * time.Second, 800 * mb, 90 * mb, 1, true},
			{time.Minute, 800 * mb, 90 * mb, 1, false}, {time.Second, 800 * mb, 700 * mb, 1, false}, {time.Minute, 800 * mb, 90 * mb, 1, false}, // in use meanwhile
			{5 * time.Second, 800 * mb, 90 * mb, 2, false}, {4 * time.Second, 800 * mb, 90 * mb, 2, false}, // somebody makes garbage
			{time.Second, 800 * mb, 90 * mb, 2, true},
		} {
			time.Sleep(step.after)
			if due := w.due(step.mapped, step.inUse, step.cycles, time.Now()); due != step.due {
				t.Errorf("step %d: %v, want %v", i, due, step.due)
			}
		}
		if mapped, live, _ := w.measure(); mapped == 0 || live > mapped {
			t.Errorf("%d of %d bytes are live", live, mapped)
		}
	})
}

// TestMovesAreAccounted has a participant go to another node and messages follow it, and memory become short before it has arrived.
func TestMovesAreAccounted(t *testing.T) {
	s := socketless(t, &slowState{})
	s.budget.init(1 << 30)
	p := s.place("r", member("a", "near", 1))
	p.kept.add(make([]byte, 10<<10))
	snap, move, err := s.pack(p, "far", nil)
	if err != nil || len(snap.Kept) != 1 {
		t.Fatalf("packed %+v: %v", snap, err)
	}
	held := func(what string, least, most int64) {
		t.Helper()
		if now := s.budget.used.Load(); now < least || now > most {
			t.Errorf("%s: %d bytes are accounted, want %d to %d", what, now, least, most)
		}
	}
	held("handed over", 10<<10, 20<<10)
	move.push(state.Message{Frame: make([]byte, 30<<10)})
	held("with what follows", 40<<10, 50<<10)
	move.dequeue()
	held("forwarded", 10<<10, 20<<10)
	move.begin()
	held("arrived", 0, 0)

	q := s.place("r", member("b", "near", 1))
	q.kept.add(make([]byte, 10<<10))
	_, lost, err := s.pack(q, "far", nil)
	if err != nil {
		t.Fatal(err)
	}
	lost.push(state.Message{Frame: make([]byte, 30<<10)})
	s.budget.limit.Store(s.budget.used.Load())
	if ended := s.shed(); ended != 1 {
		t.Errorf("%d have ended", ended)
	}
	held("given up", 0, 0)
	lost.push(state.Message{Frame: make([]byte, 30<<10)})
	held("nothing follows", 0, 0)
	if _, there := lost.again("far", false); there || len(lost.dequeue()) != 0 {
		t.Error("what was given up is there")
	}
}

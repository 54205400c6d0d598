package signal

import (
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/state"
)

// deaf returns a participant whose connection only records what is sent to it, as its queue.
func deaf(user string, epoch uint64) *participant {
	srv := &Server{cfg: DefaultConfig()}
	srv.cfg.Logger = slog.New(slog.DiscardHandler)
	p := newParticipant(srv, user, epoch)
	p.owner, p.conn = ownerConn, &conn{srv: srv, from: new(address)}
	p.conn.link = &sink{}
	p.conn.limits, p.conn.marked = &socketLimits{queue: srv.cfg.MaxQueue}, true // Nobody flushes it.
	return p
}

// heard returns the texts that were sent to a deaf participant since it was last asked.
func heard(p *participant) (texts []string) {
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	if p.conn.queue == nil {
		return nil
	}
	for rest := p.conn.queue.b; len(rest) > 0; {
		length, header := int(rest[1]), 2
		if length == 126 {
			length, header = int(binary.BigEndian.Uint16(rest[2:])), 4
		}
		texts = append(texts, string(rest[header:header+length]))
		rest = rest[header+length:]
	}
	p.conn.queue = nil
	return texts
}

func view(version uint64, members ...state.Member) state.View {
	return state.View{Room: "r", Version: version, Members: members}
}

func TestApplyConverges(t *testing.T) {
	a, b, x := state.Member{ID: "a", Epoch: 1}, state.Member{ID: "b", Epoch: 1}, state.Member{ID: "x", Node: "far", Epoch: 1}
	ca, cb := deaf("a", 1), deaf("b", 1)
	r := newRoom("r", socketless(t, &slowState{}))
	r.local["a"], r.local["b"] = &localMember{participant: ca}, &localMember{participant: cb}

	t.Log("one view that holds two joins tells both, in order, each joiner first of itself")
	r.apply(view(5, a, b))
	if got, want := heard(ca), []string{
		string(userJoinedFrame("r", "a", []string{"a"})), string(userJoinedFrame("r", "b", []string{"a", "b"})),
	}; !slices.Equal(got, want) {
		t.Errorf("a heard %q, want %q", got, want)
	}
	if got, want := heard(cb), []string{string(userJoinedFrame("r", "b", []string{"a", "b"}))}; !slices.Equal(got, want) {
		t.Errorf("b heard %q, want %q", got, want)
	}

	t.Log("views that are not newer change nothing")
	r.apply(view(4, a))
	r.apply(view(5, a))
	if got := append(heard(ca), heard(cb)...); len(got) != 0 {
		t.Errorf("a stale view caused %q", got)
	}

	t.Log("a member that came back with a new epoch left and joined")
	r.apply(view(6, a, b, x))
	heard(ca)
	x2 := x
	x2.Epoch = 2
	v := view(7, a, b, x2)
	v.Left = []state.Departure{{Member: x, Reason: state.ReasonNodeLost}}
	r.apply(v)
	if got, want := heard(ca), []string{
		string(userLeftFrame("r", "x", "node_lost")), string(userJoinedFrame("r", "x", []string{"a", "b", "x"})),
	}; !slices.Equal(got, want) {
		t.Errorf("a heard %q, want %q", got, want)
	}

	t.Log("who left does not hear of it, and hears nothing any more")
	heard(cb)
	r.apply(view(8, a, x2))
	if got := heard(cb); len(got) != 0 {
		t.Errorf("b heard %q", got)
	}
}

func TestWheelVisitsEverybodyOnceInATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		visits := map[*conn]int{}
		forget := func() {
			mu.Lock()
			defer mu.Unlock()
			clear(visits)
		}
		w := newWheel(25*time.Second, func(due []*conn) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range due {
				visits[c]++
			}
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.run(t.Context())
		}()
		var conns []*conn
		for range 200 {
			c := new(conn)
			conns = append(conns, c)
			w.add(c)
			time.Sleep(100 * time.Millisecond)
		}
		forget()
		time.Sleep(25 * time.Second)
		synctest.Wait()
		mu.Lock()
		for i, c := range conns {
			if visits[c] != 1 {
				t.Errorf("connection %d was visited %d times in one turn", i, visits[c])
			}
		}
		mu.Unlock()
		for _, c := range conns {
			w.remove(c)
		}
		forget()
		time.Sleep(25 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(visits) != 0 {
			t.Errorf("%d removed connections were visited", len(visits))
		}
	})
}

package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// wire is a stream from one node to another over a Redis that does with publishes what it likes. It sends as
// stream does, and checks what position makes of it.
type wire struct {
	t    *testing.T
	s    *stream
	at   position
	air  []*batch // on their way
	sent uint64   // how many messages were sent
	took map[string]bool
	got  []string
	lost int
}

func newWire(t *testing.T) *wire {
	s := &stream{r: &Redis{cfg: DefaultRedisConfig(), started: time.Now()}, limit: maxFlights, nudge: make(chan struct{}, 1), owed: map[string]*record{}, running: true}
	s.r.metrics = newRedisMetrics(s.r, nil)
	return &wire{t: t, s: s, took: map[string]bool{}}
}

// send queues messages and lets a publish leave.
func (w *wire) send(count int) {
	for range count {
		w.sent++
		w.s.push(&record{kind: recordMessage, at: time.Now(), message: Message{Frame: fmt.Append(nil, w.sent)}})
	}
	w.leave()
}

func (w *wire) leave() {
	if w.s.flying >= maxFlights {
		w.land(0, nil, false)
	}
	if b := w.s.next(); b != nil {
		w.air = append(w.air, b)
	}
}

// land ends a publish: the receiver hears it or not, and the sender learns err.
func (w *wire) land(i int, err error, heard bool) {
	if len(w.air) == 0 {
		return
	}
	b := w.air[i%len(w.air)]
	w.air = slices.DeleteFunc(w.air, func(o *batch) bool { return o == b })
	if heard {
		w.hear(b)
	}
	for _, rec := range b.records {
		w.took[string(rec.message.Frame)] = err == nil
	}
	w.s.land(b, err)
}

func (w *wire) hear(b *batch) {
	p, err := decodePacket(encodeBatch("n", b.before, b.first, b.lost, b.blobs))
	if err != nil {
		w.t.Fatal(err)
	}
	records, lost := w.at.take(p)
	if lost {
		w.lost++
	}
	for _, rec := range records {
		w.got = append(w.got, string(rec.message.Frame))
	}
}

// settle lets everything land, and the receiver ask until it has all. It returns how often it asked.
func (w *wire) settle() (asks int) {
	w.arrive()
	w.s.mu.Lock()
	w.s.hintLocked()
	w.s.mu.Unlock()
	for range 1000 {
		if w.arrive(); len(w.at.early) == 0 {
			return asks
		}
		asks++
		w.s.repeat(w.at.seen)
	}
	w.t.Fatalf("the receiver waits behind %d for %d batches, the stream ends at %d", w.at.seen, len(w.at.early), w.s.tip)
	return asks
}

// arrive lets everything leave and land.
func (w *wire) arrive() {
	for w.leave(); len(w.air) > 0; w.leave() {
		w.land(0, nil, true)
	}
}

// check looks at what was delivered: in order, once, and all that was taken unless a loss was told.
func (w *wire) check() {
	got := map[string]bool{}
	last := 0
	for _, text := range w.got {
		var n int
		_, _ = fmt.Sscan(text, &n)
		if n <= last {
			w.t.Fatalf("%d was delivered after %d", n, last)
		}
		last = n
		got[text] = true
	}
	for text, took := range w.took {
		if took && !got[text] && w.lost == 0 {
			w.t.Errorf("%s was taken and is lost without a word; got %v", text, w.got)
		}
	}
}

// FuzzReceive sends batches through a network that reorders, doubles, refuses and loses them, and forgets the window.
func FuzzReceive(f *testing.F) {
	for seed := range 8 {
		source := rand.New(rand.NewPCG(uint64(seed), 1))
		steps := make([]byte, 100+seed*100)
		for i := range steps {
			steps[i] = byte(source.Uint32())
		}
		f.Add(steps)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		w := newWire(t)
		for _, step := range steps[:min(len(steps), 1000)] {
			arg := int(step >> 4)
			switch step % 16 {
			case 0, 1, 2, 3, 4:
				w.send(arg % 4)
			case 5, 6, 7, 8:
				w.land(arg, nil, true)
			case 9: // It is on its way to the receiver for good.
				w.land(arg, nil, false)
			case 10:
				w.land(arg, ErrUnavailable, true)
			case 11:
				w.land(arg, ErrUnavailable, false)
			case 12: // Redis takes it, and there is another like it.
				if len(w.air) > 0 {
					w.hear(w.air[arg%len(w.air)])
				}
			case 13:
				w.s.repeat(w.at.seen)
			case 14:
				w.leave()
			case 15:
				if arg == 0 {
					w.s.trimLocked(time.Now().Add(time.Hour))
				}
			}
		}
		w.settle()
		w.check()
	})
}

// TestRefusedFlight refuses one of several publishes that are under way: the receiver goes on behind it without
// asking, whichever it was.
func TestRefusedFlight(t *testing.T) {
	for refused := range 8 {
		w := newWire(t)
		for range 8 {
			w.send(3)
		}
		for i := range 8 {
			if i == refused {
				w.land(0, ErrUnavailable, false)
			} else {
				w.land(0, nil, true)
			}
		}
		if asks := w.settle(); asks != 0 || len(w.got) != 21 || w.lost != 0 {
			t.Errorf("publish %d was refused: %d asks, %d delivered, %d losses", refused, asks, len(w.got), w.lost)
		}
		w.check()
	}
}

// TestAnswersComeInOrder has a publish answered before the one in front of it: the receiver cannot deliver it yet, and its
// sender is not told that it has arrived. That one is refused its sender is told at once.
func TestAnswersComeInOrder(t *testing.T) {
	w := newWire(t)
	var answered []string
	for _, name := range []string{"1", "2", "3"} {
		of := &sending{errs: make([]error, 1), done: func(errs []error) {
			answered = append(answered, fmt.Sprintf("%s %v %d", name, errs[0] == nil, len(w.got)))
		}}
		of.left.Store(1)
		w.s.push(&record{kind: recordMessage, at: time.Now(), message: Message{Frame: []byte(name)}, of: of})
		w.leave()
	}
	w.land(1, nil, true)
	w.land(1, ErrUnavailable, false)
	if want := []string{"3 false 0"}; !slices.Equal(answered, want) || len(w.got) > 0 {
		t.Errorf("answered are %v, want %v; delivered %v", answered, want, w.got)
	}
	w.land(0, nil, true)
	if want := []string{"3 false 0", "1 true 2", "2 true 2"}; !slices.Equal(answered, want) {
		t.Errorf("answered are %v, want %v", answered, want)
	}
}

// TestEarlyIsBounded never lets the first publish come: what is kept behind it stays within bounds, and nothing is
// missing in the end.
func TestEarlyIsBounded(t *testing.T) {
	w := newWire(t)
	w.send(1)
	for range 3 * maxEarly {
		w.send(1)
		w.land(1, nil, true)
		if len(w.at.early) > maxEarly || w.at.bytes > maxEarlyBytes {
			t.Fatalf("%d batches of %d bytes are kept", len(w.at.early), w.at.bytes)
		}
	}
	if len(w.got) > 0 {
		t.Errorf("delivered %v", w.got)
	}
	w.settle()
	w.check()
	if len(w.got) != 3*maxEarly+1 || w.at.bytes != 0 {
		t.Errorf("%d delivered, %d bytes are kept", len(w.got), w.at.bytes)
	}
}

// TestDelayOfManyMessages sends through a network that is far from Redis: those behind the first come within two
// round trips of it, though nobody waits for an answer, and they share publishes.
func TestDelayOfManyMessages(t *testing.T) {
	redis := redistest.Start(t)
	cfg := calm(single(redis))
	way := newProxy(t, redis.Addr)
	from, to := newSite(t, behind(cfg, way), "n1"), newSite(t, cfg, "n2")
	const trip = 300 * time.Millisecond
	way.delay.Store(int64(trip))
	from.must(from.send(to, "x0")) // How far Redis is shows.
	eventually(t, "the first arrives", func() bool { return len(to.heard()) == 1 })
	slowdown := systemtest.Slowdown(t)
	began := time.Now()
	results := make(chan error, 20)
	for i := range 20 {
		from.Send(Message{Room: "r", Frame: fmt.Append(nil, "x", i+1)}, []Copy{{Node: "n2"}}, func(errs []error) { results <- errs[0] })
		<-time.After(time.Millisecond)
	}
	eventually(t, "all arrive", func() bool { return len(to.heard()) == 21 })
	took := time.Since(began)
	for range 20 {
		from.must(<-results)
	}
	t.Logf("20 messages were there after %v, and acknowledged after %v", took, time.Since(began))
	if took > time.Duration(slowdown())*2*trip {
		t.Errorf("20 messages took %v", took)
	}
	for i, text := range to.heard() {
		if text != fmt.Sprint("x", i) {
			t.Fatalf("heard %v", to.heard())
		}
	}
}

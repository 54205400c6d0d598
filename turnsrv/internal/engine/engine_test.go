package engine

import (
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testRelay is a socket of which nothing comes until it is closed.
type testRelay struct {
	net.PacketConn
	looped bool // looped says that a loop reads it, as those on an own lane.
	closed chan struct{}
	once   sync.Once
}

func newRelay() *testRelay { return &testRelay{closed: make(chan struct{})} }

func (r *testRelay) ReadFrom([]byte) (int, net.Addr, error) {
	if r.looped {
		runtime.Goexit()
	}
	<-r.closed
	return 0, nil, net.ErrClosed
}

func (r *testRelay) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

func (r *testRelay) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9} }

// testLoop is a loop that does what it is told, on a lane of its own.
type testLoop struct {
	lane *Lane
	work chan func()
	wake chan struct{}
	done chan struct{}
}

func newTestLoop() *testLoop {
	l := &testLoop{work: make(chan func()), wake: make(chan struct{}, 1), done: make(chan struct{})}
	var once sync.Once
	l.lane = NewOwnLane(l.run, func() {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}, func() { once.Do(func() { close(l.work) }) })
	return l
}

func (l *testLoop) run() {
	defer close(l.done)
	for {
		select {
		case f, ok := <-l.work:
			if !ok {
				l.lane.ReleaseClosed(true)
				return
			}
			f()
		case <-l.wake:
		}
		l.lane.Rouse()
		l.lane.ReleaseClosed(false)
	}
}

// do has the loop call f and waits for it.
func (l *testLoop) do(f func()) {
	done := make(chan struct{})
	l.work <- func() { defer close(done); f() }
	<-done
}

func startEngine(t *testing.T, lanes ...*Lane) *Engine {
	t.Helper()
	e, err := New(lanes, 10*time.Minute, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var seen = netip.MustParseAddrPort("198.51.100.7:50000")

// live makes an allocation and does all that one can do with it.
func live(t *testing.T, lane *Lane, id uint64, relay *testRelay) *Allocation {
	t.Helper()
	a, err := lane.Allocate(id, relay, seen, 10*time.Minute)
	if err != nil {
		t.Errorf("allocating: %v", err)
		return nil
	}
	peers := make([]netip.AddrPort, 3*peersAtOnce/2)
	for i := range peers {
		peers[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{8, 8, 8, byte(i)}), 9)
	}
	for what, err := range map[string]error{
		"permitting": a.Permit(peers), "binding": a.Bind(0x4000, peers[0]), "refreshing": a.Refresh(time.Hour - time.Second),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := a.Bind(0x4000, peers[1]); err == nil {
		t.Error("a channel is bound twice")
	}
	return a
}

func waitFor(t *testing.T, e *Engine, open int) {
	t.Helper()
	for deadline := time.Now().Add(systemtest.Patience); e.Open() != open; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d allocations are open, want %d", e.Open(), open)
		}
	}
}

// TestSharedLane makes allocations from many goroutines.
func TestSharedLane(t *testing.T) {
	lane := NewLane()
	e := startEngine(t, lane)
	var all sync.WaitGroup
	for id := range uint64(20) {
		all.Go(func() {
			relay := newRelay()
			if a := live(t, lane, id, relay); a != nil {
				_ = relay.Close()
				a.Release()
			}
		})
	}
	all.Wait()
	waitFor(t, e, 0)
	open := newRelay()
	last := live(t, lane, 77, open)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	<-open.closed // The engine closes what is open.
	last.Release()
	if _, err := lane.Allocate(78, newRelay(), seen, 10*time.Minute); err == nil {
		t.Error("an engine that is closed allocates")
	}
	waitFor(t, e, 0)
}

// TestOwnLane makes allocations from a loop that runs in the engine, and releases
// them from elsewhere: before the loop ends, and after it.
func TestOwnLane(t *testing.T) {
	loop := newTestLoop()
	e := startEngine(t, NewLane(), loop.lane)
	var kept [2]*Allocation
	var relays [2]*testRelay
	for i := range kept {
		relays[i] = newRelay()
		relays[i].looped = true
		loop.do(func() { kept[i] = live(t, loop.lane, uint64(i), relays[i]) })
	}
	waitFor(t, e, 2)
	_ = relays[0].Close()
	kept[0].Release()
	waitFor(t, e, 1)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	<-loop.done
	_ = relays[1].Close()
	kept[1].Release()
	waitFor(t, e, 0)
}

package turnsrv

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// bytesPassed sends packets of a size until one is refused and returns their bytes.
// shapeStart is some time.
var shapeStart = time.Unix(1_700_000_000, 0)

func bytesPassed(s *shaper, size int, now time.Time) int {
	total := 0
	for s.allow(size, now) {
		total += size
	}
	return total
}

func TestShaperOff(t *testing.T) {
	for _, s := range []*shaper{nil, newShaper(0, nil), newShaper(-1, newByteBucket(0))} {
		if s != nil {
			t.Errorf("a shaper without limits: %v", s)
		}
		if !s.allow(1<<40, shapeStart) {
			t.Error("nothing passes without a limit")
		}
	}
}

func TestShaperRates(t *testing.T) {
	const packet = 1000
	for _, tt := range []struct {
		name             string
		own, total       int
		burst, perSecond int
	}{
		{"small", 10_000, 0, 64 << 10, 10_000},
		{"large", 10_000_000, 0, 1_000_000, 10_000_000},
		{"node", 0, 20_000, 64 << 10, 20_000},
		{"own below node", 10_000, 1_000_000, 64 << 10, 10_000},
		{"node below own", 10_000_000, 2_000_000, 200_000, 2_000_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShaper(tt.own, newByteBucket(tt.total))
			if got := bytesPassed(s, packet, shapeStart); got > tt.burst || got < tt.burst-packet {
				t.Errorf("%d bytes at once, want %d", got, tt.burst)
			}
			total := 0
			for ms := 10; ms <= 10_000; ms += 10 {
				total += bytesPassed(s, packet, shapeStart.Add(time.Duration(ms)*time.Millisecond))
			}
			if want := 10 * tt.perSecond; total < want-2*packet || total > want+2*packet {
				t.Errorf("%d bytes in ten seconds, want %d", total, want)
			}
			if got := bytesPassed(s, packet, shapeStart.Add(time.Hour)); got > tt.burst || got < tt.burst-packet {
				t.Errorf("%d bytes at once after an hour, want %d", got, tt.burst)
			}
		})
	}
}

// TestShaperTakesFromBothOrNone lets each bucket refuse what the other has.
func TestShaperTakesFromBothOrNone(t *testing.T) {
	const burst = 64 << 10
	node := newByteBucket(1000)
	greedy, modest := newShaper(1000, node), newShaper(1000, node)
	if !greedy.allow(burst-100, shapeStart) {
		t.Fatal("the burst does not pass")
	}
	// The node refuses, hence the allocation keeps all it has.
	for range 1000 {
		if modest.allow(101, shapeStart) {
			t.Fatal("more than the node has passes")
		}
	}
	if got := modest.own.limiter.TokensAt(shapeStart); got != burst {
		t.Errorf("the refused allocation has %v bytes left, want %d", got, burst)
	}
	// The allocation refuses, hence the node keeps all it has.
	for range 1000 {
		if greedy.allow(101, shapeStart) {
			t.Fatal("more than the allocation has passes")
		}
	}
	if got := node.limiter.TokensAt(shapeStart); got != 100 {
		t.Errorf("the node has %v bytes left, want 100", got)
	}
	if !modest.allow(100, shapeStart) || modest.allow(1, shapeStart) {
		t.Error("what the node has left is not what passes")
	}
	if !newShaper(1, nil).allow(65535, shapeStart) {
		t.Error("the largest datagram does not pass at the lowest rate")
	}
}

// TestShaperWithDisorderedTimes lets two readers of packets alternate whose
// batches began at different times. A bare rate.Limiter passes many times its
// rate here.
func TestShaperWithDisorderedTimes(t *testing.T) {
	const perSecond, packet = 1_000_000, 1000
	node := newByteBucket(perSecond)
	ahead, behind := newShaper(0, node), newShaper(0, node)
	bare := newByteBucket(perSecond).limiter
	total, unguarded := 0, 0
	for i := range 10_000 { // One second, in steps of 100 µs.
		now := shapeStart.Add(time.Duration(i) * 100 * time.Microsecond)
		for _, at := range []struct {
			s   *shaper
			now time.Time
		}{{ahead, now}, {behind, now.Add(-5 * time.Millisecond)}} {
			if at.s.allow(packet, at.now) {
				total += packet
			}
			if bare.AllowN(at.now, packet) {
				unguarded += packet
			}
		}
	}
	if limit := perSecond + perSecond/10 + packet; total > limit || total < perSecond {
		t.Errorf("%d bytes passed in a second, want at most %d", total, limit)
	}
	if unguarded < 2*perSecond {
		t.Errorf("a bare limiter passed %d bytes: the guard against disorder is not needed", unguarded)
	}
}

func TestShapersConcurrently(t *testing.T) {
	const burst, packet = 1_000_000, 100
	node := newByteBucket(10 * burst)
	var total atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		s := newShaper(10*burst, node)
		for range 2 {
			wg.Go(func() { total.Add(int64(bytesPassed(s, packet, shapeStart))) })
		}
	}
	wg.Wait()
	if total.Load() != burst {
		t.Errorf("%d bytes passed at once, want %d", total.Load(), burst)
	}
}

func BenchmarkShaper(b *testing.B) {
	for name, node := range map[string]*byteBucket{"own": nil, "own and node": newByteBucket(1 << 40)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				s, now := newShaper(1<<40, node), shapeStart
				for pb.Next() {
					now = now.Add(time.Microsecond)
					s.allow(1200, now)
				}
			})
		})
	}
}

func TestBandwidthOfAnAllocation(t *testing.T) {
	cfg := loopbackConfig()
	cfg.Bandwidth = 1000 // With a burst of 64 KiB.
	registry := prometheus.NewRegistry()
	cfg.Registerer = registry
	s := startServer(t, cfg)
	f := newFlow(t, s, "udp", "alice")
	payload := make([]byte, 1000)
	for range 100 {
		if err := f.client.sendOn(flowChannel, payload); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.client.exchange(wireRequest(stun.MethodBinding)); err != nil {
		t.Fatal(err)
	}
	a := s.List()[0]
	if a.PacketsToPeers < 50 || a.PacketsToPeers > 80 {
		t.Errorf("%d packets passed", a.PacketsToPeers)
	}
	if n := metric(t, registry, "signal_turn_drops_total", "bandwidth"); n < 20 {
		t.Errorf("%v drops were counted", n)
	}
}

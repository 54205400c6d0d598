package auth

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var limitStart = time.Unix(1700000000, 0)

// spoofed is the n-th of many addresses.
func spoofed(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// countAllowed counts how many of n answers are allowed at now.
func countAllowed(l *SourceLimit, addr netip.Addr, n int, now time.Time) int {
	count := 0
	for range n {
		if l.Allow(addr, now) {
			count++
		}
	}
	return count
}

func TestSourceLimit(t *testing.T) {
	l := NewSourceLimit(50, 100, 1<<16)
	a := netip.MustParseAddr("8.8.8.8")
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{
		{0, 100}, {0, 0}, {19 * time.Millisecond, 0}, {20 * time.Millisecond, 1}, {20 * time.Millisecond, 0},
		{120 * time.Millisecond, 5}, {1120 * time.Millisecond, 50}, {time.Hour, 100}, {time.Minute, 0}, {2 * time.Hour, 100},
	} {
		if got := countAllowed(l, a, 200, limitStart.Add(tt.after)); got != tt.want {
			t.Errorf("after %v: %d answers, want %d", tt.after, got, tt.want)
		}
	}
	steady := 0
	for i := range 1000 { // 1000 requests a second, for ten seconds.
		steady += countAllowed(l, a, 10, limitStart.Add(3*time.Hour+time.Duration(i)*10*time.Millisecond))
	}
	if steady < 599 || steady > 601 {
		t.Errorf("%d answers in ten seconds, want 100 at once and 50 a second", steady)
	}
}

func TestSourceLimitBySource(t *testing.T) {
	for _, tt := range []struct {
		first, second string
		shared        bool
	}{
		{"8.8.8.8", "::ffff:8.8.8.8", true},
		{"2a00::1", "2a00::ffff:ffff:ffff:ffff", true},
		{"fe80::1%eth0", "fe80::2", true},
		{"8.8.8.8", "8.8.8.9", false},
		{"2a00::1", "2a00:0:0:1::1", false},
	} {
		// A new seed may let two sources meet, rarely once and never always.
		met := 0
		for range 3 {
			l := NewSourceLimit(1, 1, 1<<16)
			l.Allow(netip.MustParseAddr(tt.first), limitStart)
			if !l.Allow(netip.MustParseAddr(tt.second), limitStart) {
				met++
			}
		}
		if shared := met == 3; shared != tt.shared {
			t.Errorf("%s and %s share a rate: %v", tt.first, tt.second, shared)
		}
	}
}

// TestSourceLimitUnderSpoofing floods with a million sources in a second. Sources
// that ask rarely go on being answered, and one that floods is still held.
func TestSourceLimitUnderSpoofing(t *testing.T) {
	const flood, rare = 1 << 20, 1000
	l := NewSourceLimit(50, 100, 1<<16)
	flooder := netip.MustParseAddr("203.0.113.1")
	answered, flooded := 0, 0
	for i := range uint32(flood) {
		now := limitStart.Add(time.Duration(i) * time.Second / flood)
		l.Allow(spoofed(i), now)
		if l.Allow(flooder, now) {
			flooded++
		}
		if i%(flood/rare) == 0 && l.Allow(spoofed(0xc0000000+i), now) {
			answered++
		}
	}
	if answered < rare*99/100 {
		t.Errorf("%d of %d rare sources were answered", answered, rare)
	}
	if flooded > 150 {
		t.Errorf("the flooder got %d answers in a second, want at most 150", flooded)
	}
	if len(l.full) != 1<<16 {
		t.Errorf("the table has %d places", len(l.full))
	}
}

func TestSourceLimitAtItsBounds(t *testing.T) {
	for _, tt := range []struct {
		perSecond        float64
		burst, maxSource int
		want             int
	}{
		{0, 100, 10, 1000}, {-1, 0, 0, 1000}, {50, 0, 10, 0}, {50, -1, 10, 0}, {1e-300, 1, 10, 1}, {1e300, 1, 1, 1}, {1e300, 1 << 62, 1, 1000}, {50, 7, 0, 7},
	} {
		l := NewSourceLimit(tt.perSecond, tt.burst, tt.maxSource)
		if got := countAllowed(l, netip.MustParseAddr("8.8.8.8"), 1000, limitStart); got != tt.want {
			t.Errorf("%+v: %d answers", tt, got)
		}
	}
	l := NewSourceLimit(50, 100, 1)
	if got := countAllowed(l, netip.Addr{}, 200, limitStart); got != 100 {
		t.Errorf("no address: %d answers", got)
	}
	// A clock that goes back neither gives nor takes.
	if got := countAllowed(l, netip.Addr{}, 200, limitStart.Add(-time.Hour)); got != 0 {
		t.Errorf("an hour before: %d answers", got)
	}
	if got := countAllowed(l, netip.Addr{}, 200, limitStart.Add(20*time.Millisecond)); got != 1 {
		t.Errorf("back again: %d answers", got)
	}
}

func TestSourceLimitConcurrently(t *testing.T) {
	l := NewSourceLimit(50, 1000, 1)
	var got atomic.Int64
	var wg sync.WaitGroup
	for g := range uint32(8) {
		wg.Go(func() {
			for i := range uint32(1000) {
				if l.Allow(spoofed(g<<16|i), limitStart) {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 1000 {
		t.Errorf("%d answers, want 1000", got.Load())
	}
}

func TestSourceLimitAllocatesNothing(t *testing.T) {
	l := NewSourceLimit(50, 100, 1<<16)
	next := uint32(0)
	if n := testing.AllocsPerRun(10000, func() {
		next++
		l.Allow(spoofed(next), limitStart)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSourceLimit(b *testing.B) {
	for _, sources := range []uint32{1, 1 << 20} {
		b.Run(fmt.Sprintf("sources=%d", sources), func(b *testing.B) {
			b.ReportAllocs()
			l := NewSourceLimit(50, 100, 1<<16)
			var next atomic.Uint32
			b.RunParallel(func(pb *testing.PB) {
				for i := next.Add(1 << 24); pb.Next(); i++ {
					l.Allow(spoofed(i%sources), limitStart.Add(time.Duration(i)*time.Microsecond))
				}
			})
		})
	}
}

// TestReturnToSource gives answers back: never more than were taken, and never to others.
func TestReturnToSource(t *testing.T) {
	l := NewSourceLimit(1, 2, 1<<16)
	a := netip.MustParseAddr("203.0.113.1")
	allowed := func() (n int) {
		for l.Allow(a, limitStart) {
			n++
		}
		return n
	}
	for range 5 {
		l.Return(a, limitStart)
	}
	if n := allowed(); n != 2 {
		t.Errorf("%d answers of a full bucket", n)
	}
	l.Return(a, limitStart)
	if n := allowed(); n != 1 {
		t.Errorf("%d answers after one was given back", n)
	}
	NewSourceLimit(0, 1, 1).Return(a, limitStart)
}

package turnsrv

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/turntest"
)

// manyTuples returns the 5-tuples of so many clients.
func manyTuples(n int) []transport.FiveTuple {
	tuples := make([]transport.FiveTuple, n)
	for i := range tuples {
		client := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		tuples[i] = transport.FiveTuple{Protocol: transport.UDP, Client: netip.AddrPortFrom(client, 40000), Server: netip.AddrPortFrom(loopbackIPv4, 3478)}
	}
	return tuples
}

// BenchmarkAllocationLookup is what every loop does for the packets of each
// client: with -cpu 1,2 it tells whether loops are in each other's way.
func BenchmarkAllocationLookup(b *testing.B) {
	tuples := manyTuples(10_000)
	f := &front{metrics: newMetrics(), memory: &reclaimer{give: func() {}}}
	for _, tuple := range tuples {
		f.add(&allocation{tuple: tuple})
	}
	b.ReportAllocs()
	var loops atomic.Int64
	b.RunParallel(func(p *testing.PB) {
		for i := int(loops.Add(1)) * 997; p.Next(); i++ {
			if f.allocation(tuples[i%len(tuples)]) == nil {
				b.Error("an allocation is not found")
			}
		}
	})
}

// BenchmarkRelayed is what every loop does for each batch that it sent.
func BenchmarkRelayed(b *testing.B) {
	m := newMetrics()
	var loops []*relayed
	for range 128 {
		loops = append(loops, m.newRelayed())
	}
	var next atomic.Int64
	b.RunParallel(func(p *testing.PB) {
		own := loops[next.Add(1)%int64(len(loops))]
		for p.Next() {
			own.sentToPeer(3, 3300)
		}
	})
}

// TestRelayedIsTheSumOfAllLoops asks for what several loops have counted.
func TestRelayedIsTheSumOfAllLoops(t *testing.T) {
	m := newMetrics()
	for _, r := range []*relayed{m.unlooped, m.newRelayed(), m.newRelayed()} {
		r.sentToPeer(1, 10)
		r.receivedFromPeer(100, 1000)
	}
	got := []float64{turntest.ValueOf(t, m.toPeerPackets), turntest.ValueOf(t, m.toPeerBytes), turntest.ValueOf(t, m.fromPeerPackets), turntest.ValueOf(t, m.fromPeerBytes)}
	for i, want := range []float64{3, 30, 300, 3000} {
		if got[i] != want {
			t.Errorf("counted %v, want %v", got[i], want)
		}
	}
}

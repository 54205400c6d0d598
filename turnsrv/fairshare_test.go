package turnsrv

import (
	"net/netip"
	"testing"
	"time"

	"cline-meet/signal/turnsrv/internal/transport"
)

// TestShareOfAListener reads a queue for a while and counts what each client loses.
func TestShareOfAListener(t *testing.T) {
	const ms = time.Millisecond
	for _, row := range []struct {
		name    string
		clients []int // clients are the packets of each in one read.
		gaps    int   // gaps is after how many reads the queue is empty, 0 for never.
		want    int   // want is who loses, -1 for nobody.
	}{
		{"one floods", []int{60, 2, 2}, 0, 0},
		{"the last floods", []int{2, 2, 60}, 0, 2},
		{"one floods in trains", []int{400, 1}, 0, 0},
		{"all are alike", []int{8, 8, 8, 8, 8, 8, 8, 8}, 0, -1},
		{"two are alike", []int{32, 32}, 0, -1},
		{"one is alone", []int{64}, 0, -1},
		{"the queue is short", []int{60, 4}, 2, -1},
	} {
		t.Run(row.name, func(t *testing.T) {
			var s fairShare
			now := time.Now()
			lost := make([]int, len(row.clients))
			for turn := range 1000 {
				now = now.Add(ms / 5)
				s.read(row.gaps == 0 || turn%row.gaps > 0, now)
				for i, packets := range row.clients {
					if s.drops(shareClient(i), packets, now) {
						lost[i] += packets
					}
				}
			}
			for i, n := range lost {
				if (n > 0) != (i == row.want) {
					t.Errorf("client %d lost %d packets", i, n)
				}
			}
			s.read(false, now)
			if s.drops(shareClient(max(row.want, 0)), 1, now) {
				t.Error("a packet is dropped though the queue was empty")
			}
		})
	}
}

// TestShareForgets lets the others go, and later another one flood.
func TestShareForgets(t *testing.T) {
	var s fairShare
	now := time.Now()
	read := func(takes, first, second int) (lost [2]int) {
		for range takes {
			now = now.Add(time.Millisecond)
			s.read(true, now)
			for i, packets := range []int{first, second} {
				if packets > 0 && s.drops(shareClient(i), packets, now) {
					lost[i] += packets
				}
			}
		}
		return lost
	}
	if lost := read(100, 60, 4); lost[0] == 0 || lost[1] != 0 {
		t.Errorf("lost %v, want what the first sends", lost)
	}
	read(int(shareMemory/time.Millisecond), 64, 0)
	if lost := read(100, 64, 0); lost[0] != 0 {
		t.Errorf("lost %v of a client that is alone", lost)
	}
	read(100, 4, 60)
	if lost := read(100, 4, 60); lost[0] != 0 || lost[1] == 0 {
		t.Errorf("lost %v, want what the second sends", lost)
	}
}

// TestShareOfALateLoop finds bursts of an honest client in the queue again and again, since
// the loop had to wait for a processor.
func TestShareOfALateLoop(t *testing.T) {
	var s fairShare
	now := time.Now()
	for range 1000 {
		for _, full := range []bool{true, true, false} {
			now = now.Add(10 * time.Millisecond)
			s.read(full, now)
			if s.drops(shareClient(0), 60, now) || s.drops(shareClient(1), 4, now) {
				t.Fatal("a burst is taken for a flood")
			}
		}
	}
}

func shareClient(i int) transport.FiveTuple {
	return transport.FiveTuple{Protocol: transport.UDP, Client: netip.AddrPortFrom(loopbackIPv4, uint16(1000+i)), Server: netip.AddrPortFrom(loopbackIPv4, 3478)}
}

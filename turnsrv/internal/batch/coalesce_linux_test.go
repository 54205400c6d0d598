package batch

import (
	"testing"
	"time"
)

// TestMergingIsUsedWhereItPays follows trains, single packets and trains again.
func TestMergingIsUsedWhereItPays(t *testing.T) {
	var m coalescing
	now := time.Unix(1, 0)
	see := func(datagrams, merged, run, times int) (changes int) {
		for range times {
			now = now.Add(time.Millisecond)
			if m.learn(arrived{datagrams: datagrams, merged: merged, run: run}, now) {
				changes++
			}
		}
		return changes
	}
	if see(64, 0, 3, 1000) != 0 || m.on {
		t.Error("on without anything like a train")
	}
	if see(64, 0, 20, 1) != 1 || !m.on {
		t.Error("not on for what looks like one")
	}
	if see(8, 8, 1, 1000) != 0 || !m.on {
		t.Error("off again under trains")
	}
	if see(8, 0, 8, 200) != 1 || m.on {
		t.Error("still on for single packets")
	}
	if see(64, 0, 20, 60_000) > 40 {
		t.Error("goes on and off all the time")
	}
}

// TestTrialWaitsForWhatIsOfBefore follows queues that never become empty.
func TestTrialWaitsForWhatIsOfBefore(t *testing.T) {
	train := arrived{datagrams: 8, merged: 8, run: 1, more: true}
	singles := arrived{datagrams: 8, run: 8, more: true}
	now := time.Unix(1, 0)
	var m coalescing
	see := func(a arrived, times int) (changes int) {
		for range times {
			if m.learn(a, now) {
				changes++
			}
		}
		return changes
	}
	if see(singles, 1) != 1 || !m.on {
		t.Fatal("not on for what looks like a train")
	}
	if see(singles, mergeTries) != 0 || see(train, 1+mergeTries) != 0 || !m.on {
		t.Error("judged by what was queued before")
	}
	if see(singles, mergeTries/8) != 1 || m.on {
		t.Error("still on for single packets")
	}
	now = m.retry
	if see(singles, 1) != 1 || see(singles, (queueLength+mergeTries)/8) != 1 || m.on {
		t.Error("a queue of single packets that never becomes empty is never judged")
	}
	now = m.retry
	short := singles
	short.more = false
	if see(singles, 1) != 1 || see(short, 1) != 0 || see(singles, mergeTries/8) != 1 || m.on {
		t.Error("not judged after the queue was empty")
	}
}

// TestMergingBeginsBehindAQueue fills the queue of a socket with trains before anybody
// reads it, and keeps it from becoming empty until they are read.
func TestMergingBeginsBehindAQueue(t *testing.T) {
	const packets, train = 2 * mergeTries, 8
	in, err := NewInbox()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Free()
	receiver, _ := socketPair(t)
	if err := receiver.SetReadBuffer(SocketBuffer); err != nil {
		t.Fatal(err)
	}
	source, _ := socketPair(t)
	out := NewOutbox(0, func(*Flushed) {})
	to := NewSlot(Destination{Socket: source, To: receiver.local.AddrPort()}, 0)
	packet := make([]byte, 100)
	send := func() {
		for range train {
			out.Add(&to, nil, packet, 0)
		}
		out.Flush()
	}
	for range packets / train {
		send()
	}
	merged, singles := 0, 0
	for deadline := time.Now().Add(patience); merged < 2*mergeTries && singles < 2*packets && time.Now().Before(deadline); in.Reset() {
		send()
		first, end, more, err := in.Read(receiver)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < end; i++ {
			if segment, _, _ := in.Details(receiver, i); segment > 0 {
				merged++
			} else {
				singles++
			}
		}
		in.Tune(receiver, first, end, more, time.Unix(1, 0))
	}
	if !receiver.coalesce.on || !receiver.coalesce.trial || merged < 2*mergeTries {
		t.Errorf("merging is on: %v, judged: %v, with %d merged datagrams behind %d", receiver.coalesce.on, receiver.coalesce.trial, merged, singles)
	}
}

package batch

import (
	"testing"
	"time"
)

// TestMarksAreToldWhereThereAreAny follows datagrams without marks, at two rates, and with them.
func TestMarksAreToldWhereThereAreAny(t *testing.T) {
	for _, row := range []struct {
		gap     time.Duration // gap is the time between two batches of 64.
		marked  int
		told    int // told is of how many of a thousand batches marks were told, about.
		without bool
	}{
		{gap: 100 * time.Microsecond, told: 16},
		{gap: 25 * time.Millisecond, told: 800},
		{gap: 100 * time.Microsecond, marked: 1, told: 1000},
		{gap: 100 * time.Microsecond, without: true},
	} {
		m := marking{wanted: !row.without, on: !row.without}
		now, told := time.Unix(1, 0), 0
		for range 1000 {
			if m.on {
				told++
			}
			marked := 0
			if m.on {
				marked = row.marked
			}
			on := m.on
			if change := m.learn(64, marked, now); change != (m.on != on) {
				t.Fatalf("%+v: says change %v, was %v, is %v", row, change, on, m.on)
			}
			now = now.Add(row.gap)
		}
		if told < row.told*3/4 || told > row.told*4/3 {
			t.Errorf("%+v: told %d times", row, told)
		}
	}
}

// TestATurnedOffSocketTellsMarksAgain lets a socket stop asking for marks, and looks that it asks again.
func TestATurnedOffSocketTellsMarksAgain(t *testing.T) {
	in, err := NewInbox()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Free()
	receiver, sender := socketPair(t)
	TellMarks(receiver, false)
	now := time.Unix(1, 0)
	read := func(mark Mark) (told Mark) {
		t.Helper()
		if _, _, err := sender.WriteMsgUDPAddrPort([]byte{1}, MarkControl(mark, false), receiver.local.AddrPort()); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			first, end, _, err := in.Read(receiver)
			if err != nil {
				t.Fatal(err)
			}
			for i := first; i < end; i++ {
				_, told, _ = in.Details(receiver, i)
			}
			in.Tune(receiver, first, end, false, now)
			in.Reset()
			if end > first {
				return told
			}
		}
		t.Fatal("nothing came")
		return 0
	}
	if read(0xB8) != 0xB8 {
		t.Error("the first mark is not told")
	}
	for range markTries {
		read(0)
	}
	if read(0xB8) != 0 {
		t.Error("marks are still told")
	}
	now = now.Add(markWait)
	if read(0); read(0xBB) != 0xBB {
		t.Error("marks are not told again")
	}
}

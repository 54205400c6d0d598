package batch

import (
	"testing"
	"time"
)

// TestInboxTakesTrainsApart sends a train that the kernel hands over merged.
func TestInboxTakesTrainsApart(t *testing.T) {
	in, err := NewInbox()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Free()
	receiver, sender := socketPair(t)
	receiver.coalesce.on = true
	receiver.merge(true)
	source, _ := socketPair(t)
	out := NewOutbox(0, func(*Flushed) {})
	to := NewSlot(Destination{Socket: source, To: receiver.local.AddrPort()}, 0)
	for i := range 20 {
		out.Add(&to, nil, numbered(3, i, 900+i/19), 0) // The last one begins another train.
	}
	out.Flush()
	if _, err := sender.WriteToUDPAddrPort(nil, receiver.local.AddrPort()); err != nil { // An empty datagram is one, too.
		t.Fatal(err)
	}
	var got [][]byte
	merged := 0
	for deadline := time.Now().Add(patience); len(got) < 21 && time.Now().Before(deadline); {
		first, end, _, err := in.Read(receiver)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < end; i++ {
			segment, _, _ := in.Details(receiver, i)
			if segment > 0 {
				merged++
			}
			for packet := range Packets(in.Datagram(i), segment) {
				got = append(got, packet)
			}
		}
	}
	if len(got) != 21 || len(got[20]) != 0 {
		t.Fatalf("%d packets arrived", len(got))
	}
	for i, packet := range got[:20] {
		if string(packet) != string(numbered(3, i, 900+i/19)) {
			t.Errorf("packet %d has %d bytes", i, len(packet))
		}
	}
	if merged == 0 {
		t.Error("nothing came merged")
	}
}

// TestKernelDropsAreTold floods a socket that nobody reads.
func TestKernelDropsAreTold(t *testing.T) {
	in, err := NewInbox()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Free()
	receiver, sender := socketPair(t)
	if err := receiver.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := sender.WriteToUDPAddrPort(numbered(1, i, 1000), receiver.local.AddrPort()); err != nil {
			t.Fatal(err)
		}
	}
	for in.used > 0 || !in.Full() { // What is said comes with the first datagram after the drops.
		first, end, _, err := in.Read(receiver)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < end; i++ {
			if _, _, dropped := in.Details(receiver, i); dropped > 0 {
				return
			}
		}
		in.Reset()
		if _, err := sender.WriteToUDPAddrPort([]byte("next"), receiver.local.AddrPort()); err != nil {
			t.Fatal(err)
		}
	}
}

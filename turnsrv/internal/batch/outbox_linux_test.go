package batch

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// patience is how long a packet of this machine may take.
const patience = 10 * time.Second

// numbered is a packet that no other is like: its content says which one it is.
func numbered(tag uint32, number, size int) []byte {
	packet := make([]byte, size)
	binary.BigEndian.PutUint32(packet, tag)
	binary.BigEndian.PutUint32(packet[4:], uint32(number))
	for i := 8; i < size; i++ {
		packet[i] = byte(int(tag) + number + i)
	}
	return packet
}

// socketPair returns a bare socket and a plain one to send to.
func socketPair(t *testing.T) (*Socket, *net.UDPConn) {
	t.Helper()
	s, err := Open(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	peer, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	return s, peer
}

// slotTo leads from a socket to another, with packets of class 1.
func slotTo(socket *Socket, peer *net.UDPConn) Slot {
	return NewSlot(Destination{Socket: socket, To: peer.LocalAddr().(*net.UDPAddr).AddrPort()}, 1)
}

// TestOutboxKeepsOrderOfEachDestination sends packets of many sizes to several
// peers from several relays, with and without the kernel's help, some of them marked.
func TestOutboxKeepsOrderOfEachDestination(t *testing.T) {
	for _, limit := range []int32{0, 700, 1 << 30} {
		t.Run(fmt.Sprint("limit=", limit), func(t *testing.T) {
			var sent Flushed
			flushes := 0
			out := NewOutbox(0, func(f *Flushed) { sent, flushes = *f, flushes+1 })
			var slots []Slot
			var peers []*net.UDPConn
			for range 6 {
				socket, peer := socketPair(t)
				socket.segmentLimit.Store(limit)
				slots = append(slots, slotTo(socket, peer))
				peers = append(peers, peer)
				TellMarks(peer, false)
			}
			want, marks := make([][][]byte, len(slots)), make([][]Mark, len(slots))
			bytes := 0
			for i := range 300 {
				at := rand.IntN(len(slots))
				packet := numbered(uint32(at), i, []int{1000, 1000, 1000, 500, 8}[rand.IntN(5)])
				slots[at].Mark = []Mark{0, 0, 0, 0xB8, 3}[rand.IntN(5)]
				out.Add(&slots[at], nil, packet, 0)
				want[at], marks[at] = append(want[at], packet), append(marks[at], slots[at].Mark)
				bytes += len(packet)
			}
			out.Flush()
			if got := sent[1]; flushes != 1 || got.Packets != 300 || got.Bytes != bytes || got.Failed != 0 || sent[0].Packets != 0 {
				t.Errorf("%d flushes sent %+v, want 300 packets of %d bytes of class 1", flushes, sent, bytes)
			}
			buffer, control := make([]byte, 2048), make([]byte, ControlSpace)
			for at, packets := range want {
				_ = peers[at].SetReadDeadline(time.Now().Add(patience))
				for i, packet := range packets {
					n, oobn, _, _, err := peers[at].ReadMsgUDPAddrPort(buffer, control)
					if err != nil || string(buffer[:n]) != string(packet) || MarkOf(control[:oobn]) != marks[at][i] {
						t.Fatalf("peer %d got %d bytes marked %x, %v, for packet %d of %d marked %x", at, n, MarkOf(control[:oobn]), err, i, len(packet), marks[at][i])
					}
				}
			}
		})
	}
}

// TestTrainsAboveTheMTU shows that packets which the kernel does not split go
// one by one, and that it is not asked again.
func TestTrainsAboveTheMTU(t *testing.T) {
	systemtest.InOwnNetwork(t, func(t *testing.T) {
		systemtest.IP(t, "link set lo mtu 1400 up", "")
		socket, peer := socketPair(t)
		AllowFragments(socket, false)
		out := NewOutbox(0, func(*Flushed) {})
		to := slotTo(socket, peer)
		buffer := make([]byte, 2048)
		_ = peer.SetReadDeadline(time.Now().Add(patience))
		for _, size := range []int{1600, 1600, 1300} {
			for i := range 10 {
				out.Add(&to, nil, numbered(1, i, size), 0)
			}
			out.Flush()
			for i := range 10 {
				if n, err := peer.Read(buffer); err != nil || string(buffer[:n]) != string(numbered(1, i, size)) {
					t.Fatalf("got %d bytes, %v, for packet %d of %d", n, err, i, size)
				}
			}
		}
		if limit := socket.segmentLimit.Load(); limit < 1300 || limit >= 1600 {
			t.Errorf("the kernel is asked to split into %d bytes", limit)
		}
	})
}

// TestFailuresAreTold sends to where no socket may.
func TestFailuresAreTold(t *testing.T) {
	socket, peer := socketPair(t)
	var sent Flushed
	out := NewOutbox(0, func(f *Flushed) { sent = *f })
	nowhere := NewSlot(Destination{Socket: socket, To: netip.MustParseAddrPort("255.255.255.255:9")}, 2)
	to := slotTo(socket, peer)
	for i := range 3 {
		out.Add(&nowhere, nil, numbered(1, i, 100), 0)
		out.Add(&to, nil, numbered(2, i, 100), 0)
	}
	if !out.Waiting(1) || !out.Waiting(2) || out.Waiting(0) {
		t.Error("it does not say which classes wait")
	}
	out.Flush()
	if sent[1].Packets != 3 || sent[2].Failed != 3 || sent[2].Packets != 0 || out.Waiting(1) {
		t.Errorf("sent %+v", sent)
	}
	_ = socket.Close()
	out.Add(&to, nil, numbered(2, 4, 100), 0)
	if out.Flush(); sent[1].Failed != 1 || sent[1].Packets != 0 {
		t.Errorf("a closed socket sent %+v", sent)
	}
}

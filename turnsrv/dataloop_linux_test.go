package turnsrv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"golang.org/x/sys/unix"

	"cline-meet/signal/turnsrv/internal/wire"
)

// TestRelaysComeAndGoUnderLoad closes and opens allocations, whose descriptors
// the kernel gives out again at once, and binds channels anew, while others
// relay. What arrives anywhere is what was sent there, in order.
func TestRelaysComeAndGoUnderLoad(t *testing.T) {
	for _, nap := range []time.Duration{0, defaultMaxNap} {
		t.Run("nap="+nap.String(), func(t *testing.T) {
			cfg := loopbackConfig()
			cfg.MaxNap, cfg.UserQuota, cfg.AllocateRate = nap, 0, 0
			s := startServer(t, cfg)
			t.Run("group", func(t *testing.T) {
				for i := range 3 {
					t.Run("steady", func(t *testing.T) {
						t.Parallel()
						f := newFlow(t, s, "udp", fmt.Sprint("steady", i))
						for range 200 {
							f.volley(t, 24)
						}
					})
					t.Run("brief", func(t *testing.T) {
						t.Parallel()
						for round := range 30 {
							beBrief(t, s, fmt.Sprint("brief", i), round)
						}
					})
				}
			})
		})
	}
}

// beBrief relays a little and ends, by its own wish or not, while more is under
// way.
func beBrief(t *testing.T, s *Server, user string, round int) {
	t.Helper()
	f := newFlow(t, s, "udp", user)
	f.volley(t, 8)
	for i := range 20 {
		_ = f.client.sendOn(flowChannel, numbered(0, i, 600))
		_, _ = f.peer.WriteToUDPAddrPort(numbered(1, i, 600), f.relay)
	}
	if round%2 == 1 {
		s.KillUser(user)
	} else if _, err := f.client.call(stun.MethodRefresh, attrLifetime(0)); err != nil {
		t.Error(err)
	}
	_, _ = f.client.conn.Close(), f.peer.Close()
}

// TestChannelsExpireAndAreBoundAgain lets a channel end under traffic and binds
// it anew.
func TestChannelsExpireAndAreBoundAgain(t *testing.T) {
	cfg := loopbackConfig()
	var ahead atomic.Int64
	cfg.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s := startServer(t, cfg)
	f := newFlow(t, s, "udp", "alice")
	f.volley(t, 8)
	ahead.Store(int64(channelLifetime + time.Second))
	f.dead(t)
	refused := s.front.metrics.dropCounters[dropNoPermission]
	before := valueOf(t, refused)
	if _, err := f.peer.WriteToUDPAddrPort([]byte("late"), f.relay); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the late packet is dropped", func() bool { return valueOf(t, refused) > before })
	peer := f.peer.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := f.client.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(peer)); err != nil {
		t.Fatal(err)
	}
	f.volley(t, 8) // The ghost is not among them.
}

// volley sends numbered packets of many sizes to the peer, then back.
func (f *flow) volley(t *testing.T, packets int) {
	t.Helper()
	sizes := make([]int, packets)
	for i := range sizes {
		if sizes[i] = 1100; rand.IntN(4) == 0 {
			sizes[i] = 8 + rand.IntN(1200)
		}
	}
	tag := rand.Uint32()
	for i, size := range sizes {
		if err := f.client.sendOn(flowChannel, numbered(tag, i, size)); err != nil {
			t.Fatal(err)
		}
	}
	buffer := make([]byte, 2048)
	_ = f.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	for i, size := range sizes {
		n, err := f.peer.Read(buffer)
		if err != nil || string(buffer[:n]) != string(numbered(tag, i, size)) {
			t.Fatalf("the peer got %d bytes, %v, for packet %d of %d bytes", n, err, i, size)
		}
	}
	for i, size := range sizes {
		if _, err := f.peer.WriteToUDPAddrPort(numbered(tag, i, size), f.relay); err != nil {
			t.Fatal(err)
		}
	}
	for i, size := range sizes {
		got, err := f.client.receive()
		if err != nil || string(got.data) != string(numbered(tag, i, size)) {
			t.Fatalf("the client got %d bytes, %v, for packet %d of %d bytes", len(got.data), err, i, size)
		}
	}
}

// numbered is a packet that no other is like.
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
func socketPair(t *testing.T) (*rawSocket, *net.UDPConn) {
	t.Helper()
	s, err := openRaw(netip.AddrPortFrom(loopbackIPv4, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	peer, _ := udpPeer(t)
	return s, peer
}

// TestOutboxKeepsOrderOfEachDestination sends packets of many sizes to several
// peers from several relays, with and without the kernel's help.
func TestOutboxKeepsOrderOfEachDestination(t *testing.T) {
	for _, limit := range []int32{0, 700, 1 << 30} {
		t.Run(fmt.Sprint("limit=", limit), func(t *testing.T) {
			out := newOutbox(newMetrics())
			var lots []lot
			var peers []*net.UDPConn
			for range 6 {
				socket, peer := socketPair(t)
				socket.segmentLimit.Store(limit)
				lots = append(lots, peerLot(&relay{relaySocket: &relaySocket{conn: socket}}, peer.LocalAddr().(*net.UDPAddr).AddrPort()))
				peers = append(peers, peer)
			}
			want := make([][][]byte, len(lots))
			for i := range 300 {
				at := rand.IntN(len(lots))
				packet := numbered(uint32(at), i, []int{1000, 1000, 1000, 500, 8}[rand.IntN(5)])
				out.add(&lots[at], nil, packet, 0)
				want[at] = append(want[at], packet)
			}
			out.flush()
			buffer := make([]byte, 2048)
			for at, packets := range want {
				_ = peers[at].SetReadDeadline(time.Now().Add(wirePatience))
				for i, packet := range packets {
					if n, err := peers[at].Read(buffer); err != nil || string(buffer[:n]) != string(packet) {
						t.Fatalf("peer %d got %d bytes, %v, for packet %d of %d", at, n, err, i, len(packet))
					}
				}
			}
		})
	}
}

// TestTrainsAboveTheMTU shows that packets which the kernel does not split go
// one by one, and that it is not asked again.
func TestTrainsAboveTheMTU(t *testing.T) {
	inOwnNetwork(t, func(t *testing.T) {
		runIP(t, "link", "set", "lo", "mtu", "1400", "up")
		socket, peer := socketPair(t)
		allowFragments(socket, false)
		out := newOutbox(newMetrics())
		to := peerLot(&relay{relaySocket: &relaySocket{conn: socket}}, peer.LocalAddr().(*net.UDPAddr).AddrPort())
		buffer := make([]byte, 2048)
		_ = peer.SetReadDeadline(time.Now().Add(wirePatience))
		for _, size := range []int{1600, 1600, 1300} {
			for i := range 10 {
				out.add(&to, nil, numbered(1, i, size), 0)
			}
			out.flush()
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

// TestInboxTakesTrainsApart sends a train that the kernel hands over merged.
func TestInboxTakesTrainsApart(t *testing.T) {
	in, err := newInbox()
	if err != nil {
		t.Fatal(err)
	}
	defer in.free()
	receiver, sender := socketPair(t)
	receiver.merge(true)
	source, _ := socketPair(t)
	out := newOutbox(newMetrics())
	to := peerLot(&relay{relaySocket: &relaySocket{conn: source}}, receiver.local.AddrPort())
	for i := range 20 {
		out.add(&to, nil, numbered(3, i, 900+i/19), 0) // The last one begins another train.
	}
	out.flush()
	if _, err := sender.WriteToUDPAddrPort(nil, receiver.local.AddrPort()); err != nil { // An empty datagram is one, too.
		t.Fatal(err)
	}
	var got [][]byte
	merged := 0
	for deadline := time.Now().Add(wirePatience); len(got) < 21 && time.Now().Before(deadline); {
		first, end, err := in.take(receiver, takeTrains)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < end; i++ {
			segment, _ := details(in.control(i))
			if segment > 0 {
				merged++
			}
			for packet := range segments(in.datagram(i), segment) {
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
	in, err := newInbox()
	if err != nil {
		t.Fatal(err)
	}
	defer in.free()
	receiver, sender := socketPair(t)
	if err := receiver.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := sender.WriteToUDPAddrPort(numbered(1, i, 1000), receiver.local.AddrPort()); err != nil {
			t.Fatal(err)
		}
	}
	for in.used > 0 || !in.full() { // What is said comes with the first datagram after the drops.
		first, end, err := in.take(receiver, takeBatch)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < end; i++ {
			if _, drops := details(in.control(i)); drops > 0 {
				return
			}
		}
		in.reset()
		if _, err := sender.WriteToUDPAddrPort([]byte("next"), receiver.local.AddrPort()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMergingIsUsedWhereItPays follows trains, single packets and trains again.
func TestMergingIsUsedWhereItPays(t *testing.T) {
	var m merging
	now := time.Unix(1, 0)
	see := func(datagrams, merged, run, times int) (changes int) {
		for range times {
			now = now.Add(time.Millisecond)
			if m.note(datagrams, merged, run, now) {
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

// TestFloodIsCutToItsShare floods with trains, which cost a sender less than any
// relay, beside a call. It looks for what the loop then drops, and that both relay
// again as soon as there is no more of it.
func TestFloodIsCutToItsShare(t *testing.T) {
	if !*dataPath {
		t.Skip("without a data loop every client has the kernel's share")
	}
	cfg := loopbackConfig()
	cfg.UDPSockets = 1
	s := startServer(t, cfg)
	call, flood := newFlow(t, s, "udp", "alice"), newFlow(t, s, "udp", "bob")
	stop := make(chan struct{})
	var flooding sync.WaitGroup
	flooding.Go(func() { inundate(t, flood.client.conn.(*net.UDPConn), stop) })
	dropped := s.front.metrics.dropCounters[dropShare]
	eventually(t, "data of the flood is dropped", func() bool {
		_ = call.client.sendOn(flowChannel, []byte("call"))
		return valueOf(t, dropped) > 0
	})
	close(stop)
	flooding.Wait()
	for _, f := range []*flow{call, flood} {
		eventually(t, "it relays again", f.calm)
	}
	newFlow(t, s, "udp", "carol").volley(t, 24)
}

// inundate sends trains of ChannelData until stop.
func inundate(t *testing.T, conn *net.UDPConn, stop <-chan struct{}) {
	const size, packets = 1100, 50
	system, err := conn.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	set := func(segment int) {
		_ = system.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment) })
	}
	set(wire.ChannelHeader + size)
	defer set(0)
	train := bytes.Repeat(wireChannelData(flowChannel, make([]byte, size), 0), packets)
	for {
		select {
		case <-stop:
			return
		default:
			_, _ = conn.Write(train) // A send buffer may be full.
		}
	}
}

// calm reads away what is left for the peer and says whether a text that is sent
// after it arrives.
func (f *flow) calm() bool {
	const text = "calm"
	if f.client.sendOn(flowChannel, []byte(text)) != nil {
		return false
	}
	buffer := make([]byte, 2000)
	_ = f.peer.SetReadDeadline(time.Now().Add(time.Second))
	defer func() { _ = f.peer.SetReadDeadline(time.Time{}) }()
	for {
		n, _, err := f.peer.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return false
		}
		if string(buffer[:n]) == text {
			return true
		}
	}
}

package turnsrv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"golang.org/x/sys/unix"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// TestRelaysComeAndGoUnderLoad closes and opens allocations, whose descriptors
// the kernel gives out again at once, and binds channels anew, while others
// relay. What arrives anywhere is what was sent there, in order.
func TestRelaysComeAndGoUnderLoad(t *testing.T) {
	for _, nap := range []time.Duration{0, batch.DefaultNap} {
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
	before := turntest.ValueOf(t, refused)
	if _, err := f.peer.WriteToUDPAddrPort([]byte("late"), f.relay); err != nil {
		t.Fatal(err)
	}
	systemtest.Eventually(t, "the late packet is dropped", func() bool { return turntest.ValueOf(t, refused) > before })
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
	_ = f.peer.SetReadDeadline(time.Now().Add(systemtest.Patience))
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

// TestFloodIsCutToItsShare floods with trains, which cost a sender less than any
// relay, beside a call. It looks for what the loop then drops, and that both relay
// again as soon as there is no more of it.
func TestFloodIsCutToItsShare(t *testing.T) {
	cfg := loopbackConfig()
	cfg.DataPath, cfg.UDPSockets = true, 1 // Without a data loop every client has the kernel's share.
	s := startServer(t, cfg)
	call, flood := newFlow(t, s, "udp", "alice"), newFlow(t, s, "udp", "bob")
	stop := make(chan struct{})
	var flooding sync.WaitGroup
	flooding.Go(func() { inundate(t, flood.client.conn.(*net.UDPConn), stop) })
	dropped := s.front.metrics.dropCounters[dropShare]
	systemtest.Eventually(t, "data of the flood is dropped", func() bool {
		_ = call.client.sendOn(flowChannel, []byte("call"))
		return turntest.ValueOf(t, dropped) > 0
	})
	close(stop)
	flooding.Wait()
	for _, f := range []*flow{call, flood} {
		systemtest.Eventually(t, "it relays again", f.calm)
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

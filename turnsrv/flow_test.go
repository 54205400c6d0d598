package turnsrv

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// flow is a client with a channel to a peer, both ways proven.
type flow struct {
	client *wireClient
	relay  netip.AddrPort
	peer   *net.UDPConn
}

const flowChannel = 0x4001

func newFlow(t testing.TB, s *Server, network, user string) *flow {
	t.Helper()
	f := new(flow)
	f.client, f.relay = allocated(t, s, network, user)
	f.bind(t)
	return f
}

// bind binds the channel to a peer of its own.
func (f *flow) bind(t testing.TB) {
	t.Helper()
	var addr netip.AddrPort
	f.peer, addr = udpPeer(t)
	if _, err := f.client.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(addr)); err != nil {
		t.Fatal(err)
	}
	if err := f.roundTrip("first"); err != nil {
		t.Fatal(err)
	}
}

// roundTrip sends a text to the peer and back.
func (f *flow) roundTrip(text string) error {
	if err := f.client.sendOn(flowChannel, []byte(text)); err != nil {
		return err
	}
	if err := f.arrives(text); err != nil {
		return err
	}
	if _, err := f.peer.WriteToUDPAddrPort([]byte(text), f.relay); err != nil {
		return err
	}
	got, err := f.client.receive()
	if err != nil {
		return err
	}
	if got.channel != flowChannel || string(got.data) != text {
		return fmt.Errorf("the client got %q on channel %x", got.data, got.channel)
	}
	return nil
}

func (f *flow) arrives(text string) error {
	_ = f.peer.SetReadDeadline(time.Now().Add(wirePatience))
	buf := make([]byte, 2000)
	n, from, err := f.peer.ReadFromUDPAddrPort(buf)
	if err != nil {
		return fmt.Errorf("waiting at the peer: %w", err)
	}
	if string(buf[:n]) != text || from != f.relay {
		return fmt.Errorf("the peer got %q from %v", buf[:n], from)
	}
	return nil
}

// dead fails if the peer gets anything that the client sends now. A Binding of
// the same client, answered later, proves that the server has seen it.
func (f *flow) dead(t *testing.T) {
	t.Helper()
	if err := f.client.sendOn(flowChannel, []byte("ghost")); err != nil {
		return // The connection is gone, all the better.
	}
	if _, err := f.client.exchange(wireRequest(stun.MethodBinding)); err != nil {
		return
	}
	_ = f.peer.SetReadDeadline(time.Now().Add(wireLate))
	if n, _, err := f.peer.ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
		t.Errorf("a packet of %d bytes was relayed", n)
	}
}

// load is a flow whose frames are built once, so that what it allocates is what
// the server allocates.
type load struct {
	*flow
	up, payload, buffer []byte
}

// newLoad returns a flow that sends on a channel, or in indications to a peer
// without one.
func newLoad(t testing.TB, s *Server, channel bool, size int) *load {
	t.Helper()
	l := &load{flow: newFlow(t, s, "udp", "alice"), payload: bytes.Repeat([]byte{7}, size), buffer: make([]byte, 4<<10)}
	l.up = append([]byte{flowChannel >> 8, flowChannel & 0xFF, byte(size >> 8), byte(size)}, l.payload...)
	if channel {
		return l
	}
	var addr netip.AddrPort
	l.peer, addr = udpPeer(t)
	l.up = wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication), attrPeer(addr), wire.SetValue(stun.AttrData, l.payload...)).Raw
	return l
}

// turn sends so many packets to the peer, and back if they are to come back.
func (l *load) turn(packets int, back bool) error {
	for range packets {
		if _, err := l.client.conn.Write(l.up); err != nil {
			return err
		}
	}
	for range packets {
		if _, _, err := l.peer.ReadFromUDPAddrPort(l.buffer); err != nil {
			return err
		}
	}
	if !back {
		return nil
	}
	return l.down(packets)
}

// down sends so many packets from the peer to the client.
func (l *load) down(packets int) error {
	for range packets {
		if _, err := l.peer.WriteToUDPAddrPort(l.payload, l.relay); err != nil {
			return err
		}
	}
	for range packets {
		if _, err := l.client.conn.Read(l.buffer); err != nil {
			return err
		}
	}
	return nil
}

// TestRelayingAllocatesNothing counts the allocations of the whole process while
// packets go to the peer and back.
func TestRelayingAllocatesNothing(t *testing.T) {
	s := startServer(t, loopbackConfig())
	for _, channel := range []bool{true, false} {
		t.Run(fmt.Sprintf("channel=%v", channel), func(t *testing.T) { newLoad(t, s, channel, 161).allocatesNothing(t) })
	}
}

func (l *load) allocatesNothing(t *testing.T) {
	t.Helper()
	for _, packets := range []int{1, 20} {
		n := allocations(200, func() {
			if err := l.turn(packets, true); err != nil {
				t.Error(err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations for %d packets each way", n, packets)
		}
	}
}

// TestCrossingAllocatesNothing does the same with packets that go from relay to relay.
func TestCrossingAllocatesNothing(t *testing.T) {
	s := startServer(t, loopbackConfig())
	a, relayA := allocated(t, s, "udp", "alice")
	b, relayB := allocated(t, s, "udp", "bob")
	for _, bind := range []struct {
		client *wireClient
		peer   netip.AddrPort
	}{{a, relayB}, {b, relayA}} {
		if _, err := bind.client.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(bind.peer)); err != nil {
			t.Fatal(err)
		}
	}
	_ = b.conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	payload, buffer := make([]byte, 161), make([]byte, 4<<10)
	for name, frame := range map[string][]byte{
		"channel":    wireChannelData(flowChannel, payload, 0),
		"indication": wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication), attrPeer(relayB), wire.SetValue(stun.AttrData, payload...)).Raw,
	} {
		for _, packets := range []int{1, 20} {
			n := allocations(200, func() {
				for range packets {
					if _, err := a.conn.Write(frame); err != nil {
						t.Error(err)
					}
				}
				for range packets {
					if _, err := b.conn.Read(buffer); err != nil {
						t.Error(err)
					}
				}
			})
			if n != 0 {
				t.Errorf("%v allocations for %d packets by %s", n, packets, name)
			}
		}
	}
}

// allocations is testing.AllocsPerRun with all processors, which a data loop
// that waits needs.
func allocations(runs uint64, f func()) uint64 {
	var before, after runtime.MemStats
	f()
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return (after.Mallocs - before.Mallocs) / runs
}

// BenchmarkRelay relays bursts through the whole server. The process is client,
// server and peer at once, so that ratios say more than the time itself.
func BenchmarkRelay(b *testing.B) {
	for _, channel := range []bool{true, false} {
		for _, burst := range []int{1, 40} {
			for _, direction := range []string{toPeer, fromPeer} {
				b.Run(fmt.Sprintf("channel=%v/%s/burst=%d", channel, direction, burst), func(b *testing.B) {
					benchmarkRelay(b, newLoad(b, startServer(b, loopbackConfig()), channel, 1100), direction, burst)
				})
			}
		}
	}
}

func benchmarkRelay(b *testing.B, l *load, direction string, burst int) {
	if err := l.turn(1, true); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(1100)
	for n := b.N; n > 0; n -= burst {
		var err error
		if packets := min(n, burst); direction == toPeer {
			err = l.turn(packets, false)
		} else {
			err = l.down(packets)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

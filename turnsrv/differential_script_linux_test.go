package turnsrv

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"golang.org/x/sys/unix"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/wire"
)

// step is what happens between two moments at which nothing is under way. All that is random in it was drawn before.
type step func(*stage)

// target is whom a client sends to: a peer of the stage or, behind them, a relay of a client.
type target int

// addr returns where the target is, which no path knows before the script is played. A relay that is closed is where it was.
func (w *stage) addr(to target) (netip.AddrPort, bool) {
	if int(to) < len(stagePeers) {
		return stagePeers[to], true
	}
	i := int(to) - len(stagePeers)
	relays := w.clients[i/2].relays
	if len(relays) < 2 {
		return netip.AddrPort{}, false
	}
	return relays[i%2], true
}

// draw draws the steps of a script.
type draw struct{ *rand.Rand }

func newScript(seed uint64, steps int) []step {
	d := draw{rand.New(rand.NewPCG(seed, 1))}
	var script []step
	for c := range actorNetworks { // Most of what follows needs permissions.
		script = append(script, d.bind(c), d.permit(c))
	}
	kinds := []struct {
		weight int
		draw   func(client int) step
	}{
		{20, d.channelData}, {20, d.indications}, {20, d.fromPeer}, {8, d.train}, {8, d.malformed}, {8, d.permit}, {12, d.bind},
		{4, d.refresh}, {3, d.again}, {3, d.pass}, {2, d.kill}, {2, d.leave},
	}
	total := 0
	for _, kind := range kinds {
		total += kind.weight
	}
	for range steps {
		n, client := d.IntN(total), d.IntN(len(actorNetworks))
		for _, kind := range kinds {
			if n -= kind.weight; n < 0 {
				script = append(script, kind.draw(client))
				break
			}
		}
	}
	return script
}

func (d draw) target() target { return target(d.IntN(len(stagePeers) + 2*len(actorNetworks))) }

// channel is one of a few numbers, so that they meet.
func (d draw) channel() uint16 { return uint16(minChannel + d.IntN(6)) }

// payloads are some of all sizes, together no more than the buffers of sockets hold.
func (d draw) payloads(most int) [][]byte {
	var all [][]byte
	for left := 64 << 10; left > 0 && len(all) < 24; {
		size := d.size()
		size = min(size, most)
		all = append(all, d.bytes(size))
		if left -= size + 500; d.IntN(10) == 0 {
			break
		}
	}
	return all
}

func (d draw) bytes(size int) []byte {
	all := make([]byte, 0, size+8)
	for len(all) < size {
		all = binary.NativeEndian.AppendUint64(all, d.Uint64())
	}
	return all[:size:size]
}

// marks are those of so many packets: mostly none, else any.
func (d draw) marks(packets int) []batch.Mark {
	all := make([]batch.Mark, packets)
	usual := batch.Mark(d.Uint32())
	for i := range all {
		switch d.IntN(4) {
		case 0:
			all[i] = usual
		case 1:
			all[i] = batch.Mark(d.IntN(4)) // The ECN alone.
		}
	}
	return all
}

// speak makes a client of UDP mark what it sends.
func (c *actor) speak(mark batch.Mark) {
	if conn, ok := c.wire.conn.(*net.UDPConn); ok {
		markAll(c.stage.t, conn, mark, c.v6)
	}
}

// markAll makes a socket mark all that it sends.
func markAll(t testing.TB, conn *net.UDPConn, mark batch.Mark, v6 bool) {
	t.Helper()
	level, option := unix.IPPROTO_IP, unix.IP_TOS
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, int(mark)) })
	if err != nil {
		t.Fatal(err)
	}
}

func (d draw) size() int {
	switch d.IntN(13) {
	case 0:
		return d.IntN(5)
	case 1:
		return 1200 + d.IntN(1000)
	case 2:
		return d.IntN(64 << 10)
	case 3:
		return maxPeerDatagram
	case 4, 5, 6:
		return 160
	}
	return 100 + d.IntN(1100)
}

// most is the longest payload that a client can send in a frame that has so many bytes beside it.
func most(client, header int) int {
	if actorNetworks[client] == "dtls" {
		return 8000 - header
	}
	return wire.MaxFrame - header - 3
}

// channelData sends on a channel, bound or not.
func (d draw) channelData(client int) step {
	number, payloads := d.channel(), d.payloads(most(client, wire.ChannelHeader))
	marks := d.marks(len(payloads))
	return func(w *stage) {
		for i, payload := range payloads {
			w.clients[client].speak(marks[i])
			if err := w.clients[client].wire.sendOn(number, payload); err != nil {
				w.t.Error(err)
			}
		}
		w.clients[client].speak(0)
	}
}

// indications sends to one peer or another, who may or may not be sent to.
func (d draw) indications(client int) step {
	payloads := d.payloads(most(client, wire.DataIndicationHeader+wire.AttributeHeader))
	to := []target{d.target(), d.target()}
	var choices []target
	for range payloads {
		choices = append(choices, to[d.IntN(2)])
	}
	dontFragment, marks := d.IntN(4) == 0, d.marks(len(payloads))
	return func(w *stage) {
		for i, payload := range payloads {
			peer, ok := w.addr(choices[i])
			if !ok {
				continue
			}
			var attrs []stun.Setter
			if dontFragment {
				attrs = append(attrs, attrRaw(stun.AttrDontFragment))
			}
			w.clients[client].speak(marks[i])
			if err := w.clients[client].wire.sendTo(peer, payload, attrs...); err != nil {
				w.t.Error(err)
			}
		}
		w.clients[client].speak(0)
	}
}

// fromPeer sends from a peer, or two in turns, to a relay.
func (d draw) fromPeer(client int) step {
	payloads := d.payloads(maxPeerDatagram)
	if d.IntN(3) == 0 {
		payloads = append(payloads, d.bytes(maxPeerDatagram)) // No message to a client has room for it.
	}
	peers, marks := []int{d.IntN(len(stagePeers)), d.IntN(len(stagePeers))}, d.marks(len(payloads))
	return func(w *stage) {
		for i, payload := range payloads {
			peer := peers[i%2]
			for _, relay := range w.clients[client].relays {
				if relay.Addr().Is4() == stagePeers[peer].Addr().Is4() {
					if _, _, err := w.peers[peer].WriteMsgUDPAddrPort(payload, batch.MarkControl(marks[i], relay.Addr().Is6()), relay); err != nil {
						w.t.Error(err)
					}
				}
			}
		}
	}
}

// train sends packets of one size with one call, which the kernel may hand over merged: of a client on a channel, and of a
// peer.
func (d draw) train(client int) step {
	size, packets, number, peer := 1+d.IntN(1200), 9+d.IntN(30), d.channel(), d.IntN(len(stagePeers))
	payload, short := d.bytes(size), d.IntN(size)
	frame, last := wireChannelData(number, payload, 0), wireChannelData(number, payload[:short], 0)
	return func(w *stage) {
		c := w.clients[client]
		if conn, ok := c.wire.conn.(*net.UDPConn); ok {
			sendTrain(w, conn, len(frame), append(bytes.Repeat(frame, packets), last...), netip.AddrPort{})
		}
		for _, relay := range c.relays {
			if relay.Addr().Is4() == stagePeers[peer].Addr().Is4() {
				sendTrain(w, w.peers[peer], size, bytes.Repeat(payload, packets), relay)
			}
		}
	}
}

// sendTrain sends packets of a size, to an address unless the socket is connected.
func sendTrain(w *stage, conn *net.UDPConn, size int, packets []byte, to netip.AddrPort) {
	control := batch.AppendSegmentSize(make([]byte, 0, unix.CmsgSpace(2)), size)
	if _, _, err := conn.WriteMsgUDPAddrPort(packets, control, to); err != nil {
		w.t.Errorf("sending a train: %v", err)
	}
}

// malformed sends what is no message, or none that means anything.
func (d draw) malformed(client int) step {
	noise := d.bytes(4 + d.IntN(100))
	noise[0] &= 0x3F
	which, number, to := d.IntN(9), d.channel(), d.target()
	return func(w *stage) {
		c := w.clients[client]
		peer, _ := w.addr(to)
		send := stun.NewType(stun.MethodSend, stun.ClassIndication)
		short := wireMessage(send, wire.SetValue(stun.AttrData, noise...)).Raw
		whole := []step{
			func(*stage) { c.sendAll(short) },
			func(*stage) { c.sendAll(wireMessage(send, attrRaw(stun.AttrXORPeerAddress, noise[:4]...)).Raw) },
			func(*stage) { c.sendAll(wireMessage(stun.NewType(0x77, stun.ClassRequest)).Raw) },
			func(*stage) {
				c.sendAll(wireMessage(send, attrRaw(0x7777, noise...), attrRaw(stun.AttrData, noise...)).Raw)
			},
		}
		// On a stream these would end the connection.
		broken := []step{
			func(*stage) { c.sendAll([]byte{byte(number >> 8), byte(number), 1, 0, 1, 2, 3}) },
			func(*stage) { c.sendAll(short[:len(short)-1]) },
			func(*stage) { c.sendAll(append(bytes.Clone(short), 1, 2, 3, 4)) },
			func(*stage) { c.sendAll(noise) },
			func(*stage) { c.sendAll(append(wireChannelData(number, noise, 0), 1, 2, 3, 4, 5)) },
		}
		if c.network == "udp" {
			whole = append(whole, broken...)
		}
		whole[which%len(whole)](w)
		if peer.IsValid() {
			_ = c.wire.sendTo(peer, noise) // What comes after it is understood.
		}
	}
}

// permit asks for permissions, all of them or none.
func (d draw) permit(client int) step {
	targets := make([]target, 1+d.IntN(3))
	for i := range targets {
		targets[i] = d.target()
	}
	return func(w *stage) {
		c := w.clients[client]
		var attrs []stun.Setter
		for _, to := range targets {
			if peer, ok := w.addr(to); ok {
				attrs = append(attrs, attrPeer(peer))
			}
		}
		c.request(stun.MethodCreatePermission, attrs...)
	}
}

// bind binds a channel, or refreshes it, or fails to.
func (d draw) bind(client int) step {
	number, to := d.channel(), d.target()
	if d.IntN(20) == 0 {
		number = 0x3FFF
	}
	return func(w *stage) {
		if peer, ok := w.addr(to); ok {
			w.clients[client].request(stun.MethodChannelBind, attrChannel(number), attrPeer(peer))
		}
	}
}

// refresh refreshes an allocation or releases it.
func (d draw) refresh(client int) step {
	lifetime := []uint32{600, 3000, 0}[d.IntN(3)]
	return func(w *stage) {
		c := w.clients[client]
		if answer := c.request(stun.MethodRefresh, attrLifetime(lifetime)); lifetime == 0 && answerCode(answer) == 0 {
			c.release()
		}
	}
}

// again asks for an allocation, which there mostly is.
func (d draw) again(client int) step { return func(w *stage) { w.clients[client].allocate() } }

// pass lets time pass, after which permissions and perhaps channels have expired.
func (d draw) pass(int) step {
	ahead := []time.Duration{time.Minute, permissionLifetime - time.Minute, permissionLifetime, channelLifetime}[d.IntN(4)]
	return func(w *stage) {
		w.ahead.Add(int64(ahead))
		for _, c := range w.clients {
			c.admitWardens()
		}
	}
}

// kill ends the allocation of a client, as an operator may.
func (d draw) kill(client int) step {
	return func(w *stage) {
		w.note("killed", "%d", w.s.KillUser(w.clients[client].name))
		w.clients[client].release()
	}
}

// leave closes the connection of a client, with which its allocation ends, and begins a new one. One of UDP only ends its
// allocation.
func (d draw) leave(client int) step {
	return func(w *stage) {
		c := w.clients[client]
		if c.network == "udp" {
			c.request(stun.MethodRefresh, attrLifetime(0))
		} else {
			left := w.s.Allocations()
			if len(c.relays) > 0 {
				left--
			}
			_ = c.wire.conn.Close()
			systemtest.Eventually(w.t, "the allocation has ended with its connection", func() bool { return w.s.Allocations() == left })
			c.connect()
		}
		c.release()
		c.allocate()
	}
}

package turnsrv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// firstChannel is the channel number that checks use.
const firstChannel uint16 = 0x4000

// wireAllocation is what a check that relays works with.
type wireAllocation struct {
	*wireClient
	bed   *testbed
	relay netip.AddrPort
}

// withAllocation runs f with an allocation made over network with attrs.
func withAllocation(network string, f func(*wireAllocation) error, attrs ...stun.Setter) wireCheck {
	return withClient(network, func(b *testbed, c *wireClient) error {
		relay, _, err := wireAllocate(c, attrs...)
		if err != nil {
			return err
		}
		return f(&wireAllocation{c, b, relay})
	})
}

// wireAllocate makes a UDP allocation and returns its relayed address.
func wireAllocate(c *wireClient, attrs ...stun.Setter) (netip.AddrPort, *stun.Message, error) {
	answer, err := c.accepts(stun.MethodAllocate, append([]stun.Setter{attrTransport(17)}, attrs...)...)
	if err != nil {
		return netip.AddrPort{}, answer, err
	}
	relay, err := answerAddress(answer, stun.AttrXORRelayedAddress)
	return relay, answer, err
}

// allocateRefused expects an Allocate request with just these attributes to fail.
func allocateRefused(code int, attrs ...stun.Setter) wireCheck {
	return withClient("udp", func(_ *testbed, c *wireClient) error {
		return c.refuses(code, stun.MethodAllocate, attrs...)
	})
}

// refusedWithAllocation expects a request to an allocation to fail.
func refusedWithAllocation(code int, method stun.Method, attrs ...stun.Setter) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error { return a.refuses(code, method, attrs...) })
}

// refusedWithoutAllocation expects a request without one to fail.
func refusedWithoutAllocation(code int, method stun.Method, attrs ...stun.Setter) wireCheck {
	return withClient("udp", func(_ *testbed, c *wireClient) error { return c.refuses(code, method, attrs...) })
}

// checkAllocate looks at all that a success must hold.
func checkAllocate(network string) wireCheck {
	return withClient(network, func(_ *testbed, c *wireClient) error {
		relay, answer, err := wireAllocate(c)
		if err != nil {
			return err
		}
		if relay.Port() == 0 || relay.Addr() != loopbackIPv4 {
			return fmt.Errorf("relayed address %s", relay)
		}
		mapped, err := answerAddress(answer, stun.AttrXORMappedAddress)
		if err != nil {
			return err
		}
		if mapped != c.local() {
			return fmt.Errorf("mapped address %s, want %s", mapped, c.local())
		}
		_, err = answerLifetime(answer)
		return err
	})
}

// checkRetransmission sends the same bytes twice.
func checkRetransmission(_ *testbed, c *wireClient) error {
	m := c.signed(stun.MethodAllocate, attrTransport(17))
	var relays [2]netip.AddrPort
	for i := range relays {
		answer, err := c.exchange(m)
		if err != nil {
			return err
		}
		if err := wantSuccess(answer); err != nil {
			return fmt.Errorf("transmission %d: %w", i+1, err)
		}
		if relays[i], err = answerAddress(answer, stun.AttrXORRelayedAddress); err != nil {
			return err
		}
	}
	if relays[0] != relays[1] {
		return fmt.Errorf("relayed address %s, then %s", relays[0], relays[1])
	}
	return nil
}

// checkFamilyIPv6 takes a relay of the right family, or a refusal with 440.
func checkFamilyIPv6(_ *testbed, c *wireClient) error {
	answer, err := c.call(stun.MethodAllocate, attrTransport(17), attrFamily(2))
	if err != nil {
		return err
	}
	if answerCode(answer) == 440 {
		return nil
	}
	if err := wantSuccess(answer); err != nil {
		return err
	}
	relay, err := answerAddress(answer, stun.AttrXORRelayedAddress)
	if err == nil && !relay.Addr().Is6() {
		err = fmt.Errorf("an IPv6 relay was asked for, the relayed address is %s", relay)
	}
	return err
}

// checkAdditionalIPv6 takes two relays, or an IPv4 relay and the reason why it
// is the only one.
func checkAdditionalIPv6(_ *testbed, c *wireClient) error {
	_, answer, err := wireAllocate(c, attrAdditionalFamily(2))
	if err != nil {
		return err
	}
	relays := 0
	for _, attr := range answer.Attributes {
		if attr.Type == stun.AttrXORRelayedAddress {
			relays++
		}
	}
	reason, err := answer.Get(wire.AttrAddressErrorCode)
	explained := err == nil && len(reason) >= 4 && reason[0] == 2 && reason[2]&7 == 4
	if relays != 2 && !explained {
		return fmt.Errorf("%d relayed addresses and ADDRESS-ERROR-CODE %x", relays, reason)
	}
	return nil
}

// checkIPv6Relay relays both ways over IPv6 where the server has such relays.
func checkIPv6Relay(b *testbed, c *wireClient) error {
	relay, answer, err := wireAllocate(c, attrFamily(2))
	if answer != nil && answerCode(answer) == 440 {
		return errNotHere
	}
	if err != nil {
		return err
	}
	if !relay.Addr().Is6() {
		return fmt.Errorf("an IPv6 relay was asked for, the relayed address is %s", relay)
	}
	ipv4 := netip.AddrPortFrom(loopbackIPv4, relay.Port())
	if err := c.refuses(443, stun.MethodCreatePermission, attrPeer(ipv4)); err != nil {
		return err
	}
	return (&wireAllocation{c, b, relay}).bothWays(loopbackIPv6)
}

// checkEvenPort asks several times, since every second port is even anyway.
func checkEvenPort(b *testbed) error {
	for range 3 {
		c, err := b.client("udp")
		if err != nil {
			return err
		}
		relay, _, err := wireAllocate(c, attrEvenPort(false))
		if err != nil {
			return err
		}
		if relay.Port()%2 != 0 {
			return fmt.Errorf("relay port %d", relay.Port())
		}
	}
	return nil
}

// reserve allocates an even port and returns the token of the next one.
func reserve(b *testbed) (relay netip.AddrPort, token stun.Setter, err error) {
	c, err := b.client("udp")
	if err != nil {
		return relay, nil, err
	}
	relay, answer, err := wireAllocate(c, attrEvenPort(true))
	if err != nil {
		return relay, nil, err
	}
	value, err := answer.Get(stun.AttrReservationToken)
	if err != nil || len(value) != 8 || relay.Port()%2 != 0 {
		return relay, nil, fmt.Errorf("relay port %d with RESERVATION-TOKEN %x", relay.Port(), value)
	}
	return relay, attrRaw(stun.AttrReservationToken, value...), nil
}

// checkReservation uses the token from another 5-tuple.
func checkReservation(b *testbed) error {
	first, token, err := reserve(b)
	if err != nil {
		return err
	}
	return withAllocation("udp", func(a *wireAllocation) error {
		if a.relay != netip.AddrPortFrom(first.Addr(), first.Port()+1) {
			return fmt.Errorf("reserved by %s, the token gave %s", first, a.relay)
		}
		return nil
	}, token)(b)
}

// checkTokenUsed uses a token twice.
func checkTokenUsed(b *testbed) error {
	_, token, err := reserve(b)
	if err != nil {
		return err
	}
	return withAllocation("udp", func(*wireAllocation) error {
		return allocateRefused(508, attrTransport(17), token)(b)
	}, token)(b)
}

// checkDontFragment takes support, or a 420 that names the attribute.
func checkDontFragment(_ *testbed, c *wireClient) error {
	answer, err := c.call(stun.MethodAllocate, attrTransport(17), attrRaw(stun.AttrDontFragment))
	if err != nil || answer.Type.Class == stun.ClassSuccessResponse {
		return err
	}
	return want420(answer, stun.AttrDontFragment)
}

// checkAllocateLifetime compares the granted time, in seconds.
func checkAllocateLifetime(want int, attrs ...stun.Setter) wireCheck {
	return withClient("udp", func(_ *testbed, c *wireClient) error {
		_, answer, err := wireAllocate(c, attrs...)
		if err != nil {
			return err
		}
		return wantLifetime(answer, want)
	})
}

// checkRefreshLifetime does the same for a Refresh.
func checkRefreshLifetime(want int, attrs ...stun.Setter) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		answer, err := a.accepts(stun.MethodRefresh, attrs...)
		if err != nil {
			return err
		}
		return wantLifetime(answer, want)
	})
}

func wantLifetime(answer *stun.Message, want int) error {
	got, err := answerLifetime(answer)
	if err == nil && got != want {
		err = fmt.Errorf("LIFETIME %d, want %d", got, want)
	}
	return err
}

// checkMaximumLifetime asks for more and more, and gets the same.
func checkMaximumLifetime(a *wireAllocation) error {
	var granted []int
	for _, asked := range []uint32{3600, 100000, 1<<32 - 1} {
		answer, err := a.accepts(stun.MethodRefresh, attrLifetime(asked))
		if err != nil {
			return err
		}
		got, err := answerLifetime(answer)
		if err != nil {
			return err
		}
		granted = append(granted, got)
	}
	if granted[0] < 3000 || granted[0] > 3600 || granted[1] != granted[0] || granted[2] != granted[0] {
		return fmt.Errorf("LIFETIME 3600, 100000, 4294967295 became %v", granted)
	}
	return nil
}

// checkDelete ends an allocation and opens another one from the same place.
func checkDelete(a *wireAllocation) error {
	answer, err := a.accepts(stun.MethodRefresh, attrLifetime(0))
	if err != nil {
		return err
	}
	if err := wantLifetime(answer, 0); err != nil {
		return err
	}
	if err := a.refuses(437, stun.MethodRefresh); err != nil {
		return fmt.Errorf("after the deletion: %w", err)
	}
	if _, _, err := wireAllocate(a.wireClient); err != nil {
		return fmt.Errorf("after the deletion: %w", err)
	}
	return nil
}

// checkNoHeritage gives a peer a permission, ends the allocation, and sends to
// the peer from the next one.
func checkNoHeritage(a *wireAllocation) error {
	p, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return err
	}
	if err := a.permitAndSend(p)([]byte("before")); err != nil {
		return err
	}
	if err := p.wants([]byte("before")); err != nil {
		return err
	}
	if _, err := a.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
		return err
	}
	if _, _, err := wireAllocate(a.wireClient); err != nil {
		return fmt.Errorf("after the deletion: %w", err)
	}
	early := []byte("early")
	if err := a.sendTo(p.addr(), early); err != nil {
		return err
	}
	return notRelayed(p, early, a.permitAndSend(p))
}

// checkOtherUser lets a second valid user touch an allocation, and the owner
// again afterwards.
func checkOtherUser(method stun.Method, attrs ...stun.Setter) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		username, credential := a.username, a.password
		a.username, a.password = a.bed.credentials("-other")
		if err := a.refuses(441, method, attrs...); err != nil {
			return err
		}
		a.username, a.password = username, credential
		_, err := a.accepts(stun.MethodRefresh)
		return err
	})
}

// checkQuota opens one allocation too many.
func checkQuota(b *testbed) error {
	for range conformanceQuota {
		c, err := b.client("udp")
		if err != nil {
			return err
		}
		if _, _, err := wireAllocate(c); err != nil {
			return err
		}
	}
	return allocateRefused(486, attrTransport(17))(b)
}

// notRelayed proves that a packet of the client did not reach the peer: packets
// of one socket stay in order, and the peer gets a later one first. forward
// makes the relay forward to the peer, and sends that later one.
func notRelayed(p *wirePeer, lost []byte, forward func(fence []byte) error) error {
	fence := []byte("fence")
	if err := forward(fence); err != nil {
		return err
	}
	got, _, err := p.receive()
	if err != nil {
		return err
	}
	if bytes.Equal(got, lost) {
		return errors.New("the peer got what it must not")
	}
	if !bytes.Equal(got, fence) {
		return fmt.Errorf("the peer got %s, want %s", brief(got), brief(fence))
	}
	return nil
}

// permitAndSend gives the peer a permission and sends data to it.
func (a *wireAllocation) permitAndSend(p *wirePeer) func([]byte) error {
	return func(data []byte) error {
		if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(p.addr())); err != nil {
			return err
		}
		return a.sendTo(p.addr(), data)
	}
}

// checkAllOrNothing asks for a good and a bad peer at once.
func checkAllOrNothing(bad netip.AddrPort, code int) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		p, err := a.bed.peer(loopbackIPv4)
		if err != nil {
			return err
		}
		refused := a.refuses(code, stun.MethodCreatePermission, attrPeer(p.addr()), attrPeer(bad))
		early := []byte("early")
		if err := a.sendTo(p.addr(), early); err != nil {
			return err
		}
		return errors.Join(refused, notRelayed(p, early, a.permitAndSend(p)))
	})
}

// checkSendWithoutPermission sends first and permits afterwards.
func checkSendWithoutPermission(a *wireAllocation) error {
	p, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return err
	}
	early := []byte("early")
	if err := a.sendTo(p.addr(), early); err != nil {
		return err
	}
	return notRelayed(p, early, a.permitAndSend(p))
}

// checkIgnoredSend sends an indication that must be dropped although the peer
// is permitted.
func checkIgnoredSend(attrs ...stun.Setter) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		p, err := a.bed.peer(loopbackIPv4)
		if err != nil {
			return err
		}
		if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(p.addr())); err != nil {
			return err
		}
		lost := []byte("lost")
		if err := a.sendTo(p.addr(), lost, attrs...); err != nil {
			return err
		}
		return notRelayed(p, lost, func(fence []byte) error { return a.sendTo(p.addr(), fence) })
	})
}

// checkSendDontFragment accepts that the data is relayed if the server supports
// DONT-FRAGMENT, and wants it dropped otherwise.
func checkSendDontFragment(b *testbed) error {
	c, err := b.client("udp")
	if err != nil {
		return err
	}
	answer, err := c.call(stun.MethodAllocate, attrTransport(17), attrRaw(stun.AttrDontFragment))
	if err != nil {
		return err
	}
	if answerCode(answer) == 420 {
		return checkIgnoredSend(attrRaw(stun.AttrDontFragment))(b)
	}
	return withAllocation("udp", func(a *wireAllocation) error {
		p, err := a.bed.peer(loopbackIPv4)
		if err != nil {
			return err
		}
		if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(p.addr())); err != nil {
			return err
		}
		if err := a.sendTo(p.addr(), []byte("whole"), attrRaw(stun.AttrDontFragment)); err != nil {
			return err
		}
		return p.wants([]byte("whole"))
	})(b)
}

// checkPeerWithoutPermission lets a peer without permission and then one with
// it send to the relay, whose socket keeps their order.
func checkPeerWithoutPermission(a *wireAllocation) error {
	stranger, err := a.bed.peer(otherLoopback)
	if err != nil {
		return err
	}
	friend, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return err
	}
	if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(friend.addr())); err != nil {
		return err
	}
	if err := errors.Join(stranger.send(a.relay, []byte("stranger")), friend.send(a.relay, []byte("friend"))); err != nil {
		return err
	}
	return a.wants(wirePayload{peer: friend.addr(), data: []byte("friend")})
}

// wants makes sure that the next packet from the relay is this one.
func (a *wireAllocation) wants(want wirePayload) error {
	got, err := a.receive()
	if err != nil {
		return err
	}
	if got.peer != want.peer || got.channel != want.channel || !bytes.Equal(got.data, want.data) {
		return fmt.Errorf("got %s of peer %v, channel %#x; want %s of peer %v, channel %#x",
			brief(got.data), got.peer, got.channel, brief(want.data), want.peer, want.channel)
	}
	return nil
}

// checkSendAndData relays both ways with indications.
func checkSendAndData(a *wireAllocation) error { return a.bothWays(loopbackIPv4) }

// bothWays relays between the client and a peer at addr. The permission names
// another port of the peer, since it is one for the address.
func (a *wireAllocation) bothWays(addr netip.Addr) error {
	p, err := a.bed.peer(addr)
	if err != nil {
		return err
	}
	neighbour, err := a.bed.peer(addr)
	if err != nil {
		return err
	}
	if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(neighbour.addr())); err != nil {
		return err
	}
	if err := a.sendTo(p.addr(), []byte("there")); err != nil {
		return err
	}
	got, from, err := p.receive()
	if err != nil {
		return err
	}
	if string(got) != "there" || from != a.relay {
		return fmt.Errorf("the peer got %s from %s, want it from %s", brief(got), from, a.relay)
	}
	if err := p.send(a.relay, []byte("back")); err != nil {
		return err
	}
	return a.wants(wirePayload{peer: p.addr(), data: []byte("back")})
}

// bindChannel opens a peer on a channel.
func (a *wireAllocation) bindChannel(channel uint16) (*wirePeer, error) {
	p, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return nil, err
	}
	_, err = a.accepts(stun.MethodChannelBind, attrChannel(channel), attrPeer(p.addr()))
	return p, err
}

// checkChannelData relays payloads of all paddings both ways, in order.
func checkChannelData(a *wireAllocation) error {
	p, err := a.bindChannel(firstChannel)
	if err != nil {
		return err
	}
	for _, size := range []int{4, 0, 1, 2, 3, 5, 100} {
		data := pattern(size)
		if err := a.sendOn(firstChannel, data); err != nil {
			return err
		}
		if err := p.wants(data); err != nil {
			return fmt.Errorf("to the peer: %w", err)
		}
		if err := p.send(a.relay, data); err != nil {
			return err
		}
		if err := a.wants(wirePayload{channel: firstChannel, data: data}); err != nil {
			return fmt.Errorf("from the peer: %w", err)
		}
	}
	return nil
}

// checkPaddedDatagrams pads ChannelData over UDP, which a client may do.
func checkPaddedDatagrams(a *wireAllocation) error {
	p, err := a.bindChannel(firstChannel)
	if err != nil {
		return err
	}
	for size := range 5 {
		if err := a.send(wireChannelData(firstChannel, pattern(size), -size&3)); err != nil {
			return err
		}
		if err := p.wants(pattern(size)); err != nil {
			return err
		}
	}
	return nil
}

// checkBadChannelData sends frames that are to be dropped. make gets the data
// that would be relayed.
func checkBadChannelData(make func([]byte) []byte) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		p, err := a.bindChannel(firstChannel)
		if err != nil {
			return err
		}
		lost := []byte("lost")
		if err := a.send(make(lost)); err != nil {
			return err
		}
		return notRelayed(p, lost, func(fence []byte) error { return a.sendOn(firstChannel, fence) })
	})
}

// unboundChannel is ChannelData on a number that no ChannelBind has named.
func unboundChannel(data []byte) []byte { return wireChannelData(firstChannel+1, data, 0) }

// shortChannelData claims to hold more than it does.
func shortChannelData(data []byte) []byte {
	frame := wireChannelData(firstChannel, data, 0)
	binary.BigEndian.PutUint16(frame[2:], uint16(len(data)+1))
	return frame
}

// checkChannelPermits uses the permission that a ChannelBind installs.
func checkChannelPermits(a *wireAllocation) error {
	p, err := a.bindChannel(firstChannel)
	if err != nil {
		return err
	}
	neighbour, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return err
	}
	if err := a.sendTo(neighbour.addr(), []byte("hello")); err != nil {
		return err
	}
	if err := neighbour.wants([]byte("hello")); err != nil {
		return err
	}
	if err := a.sendTo(p.addr(), []byte("by Send")); err != nil {
		return err
	}
	return p.wants([]byte("by Send"))
}

// checkRebind binds the same pair again, which is no conflict.
func checkRebind(a *wireAllocation) error {
	p, err := a.bindChannel(firstChannel)
	if err != nil {
		return err
	}
	if _, err := a.accepts(stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(p.addr())); err != nil {
		return err
	}
	if err := p.send(a.relay, []byte("once")); err != nil {
		return err
	}
	if err := p.send(a.relay, []byte("twice")); err != nil {
		return err
	}
	if err := a.wants(wirePayload{channel: firstChannel, data: []byte("once")}); err != nil {
		return err
	}
	return a.wants(wirePayload{channel: firstChannel, data: []byte("twice")})
}

// checkChannelTaken binds the channel of one peer to another one.
func checkChannelTaken(a *wireAllocation) error {
	if _, err := a.bindChannel(firstChannel); err != nil {
		return err
	}
	p, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return err
	}
	return a.refuses(400, stun.MethodChannelBind, attrChannel(firstChannel), attrPeer(p.addr()))
}

// checkPeerTaken binds a peer to a second channel.
func checkPeerTaken(a *wireAllocation) error {
	p, err := a.bindChannel(firstChannel)
	if err != nil {
		return err
	}
	return a.refuses(400, stun.MethodChannelBind, attrChannel(firstChannel+1), attrPeer(p.addr()))
}

// checkChannelNumber binds a number to a peer that is otherwise fine.
func checkChannelNumber(number uint16) wireCheck {
	return withAllocation("udp", func(a *wireAllocation) error {
		p, err := a.bed.peer(loopbackIPv4)
		if err != nil {
			return err
		}
		return a.refuses(400, stun.MethodChannelBind, attrChannel(number), attrPeer(p.addr()))
	})
}

// checkLastChannel binds the highest number there is.
func checkLastChannel(a *wireAllocation) error {
	p, err := a.bindChannel(0x4fff)
	if err != nil {
		return err
	}
	if err := a.sendOn(0x4fff, []byte("last")); err != nil {
		return err
	}
	return p.wants([]byte("last"))
}

// pattern is data in which a cut or a shift shows.
func pattern(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i + i>>8)
	}
	return data
}

// bigSizes goes past the MTU and past the buffers that servers like to have.
var bigSizes = []int{1, 1200, 1472, 1500, 1599, 1600, 1601, 2048, 2049, 3000, 4096, 8192, 9000}

// mustArrive is the size up to which a relay has no reason to lose packets.
const mustArrive = 1200

// checkWholeFromPeer sends packets of all sizes, each with a small one behind.
func checkWholeFromPeer(a *wireAllocation) error {
	p, err := a.bed.peer(loopbackIPv4)
	if err != nil {
		return err
	}
	if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(p.addr())); err != nil {
		return err
	}
	return a.wholeFromPeer(p)
}

// checkWholeOnChannel is the same with ChannelData.
func checkWholeOnChannel(a *wireAllocation) error {
	p, err := a.bindChannel(firstChannel)
	if err != nil {
		return err
	}
	return a.wholeFromPeer(p)
}

func (a *wireAllocation) wholeFromPeer(p *wirePeer) error {
	fence := []byte("fence")
	for _, size := range bigSizes {
		if err := errors.Join(p.send(a.relay, pattern(size)), p.send(a.relay, fence)); err != nil {
			return err
		}
		receive := func() ([]byte, error) {
			got, err := a.receive()
			return got.data, err
		}
		if err := wholeOrNothing(pattern(size), fence, receive); err != nil {
			return err
		}
	}
	return nil
}

// wholeOrNothing receives until the fence comes.
func wholeOrNothing(data, fence []byte, receive func() ([]byte, error)) error {
	got, err := receive()
	if err == nil && !bytes.Equal(got, fence) {
		if !bytes.Equal(got, data) {
			return fmt.Errorf("%d bytes became %d", len(data), len(got))
		}
		got, err = receive()
	} else if err == nil && len(data) <= mustArrive {
		return fmt.Errorf("%d bytes were lost", len(data))
	}
	if err != nil {
		return fmt.Errorf("%d bytes: %w", len(data), err)
	}
	if !bytes.Equal(got, fence) {
		return fmt.Errorf("after %d bytes came %s, want the fence", len(data), brief(got))
	}
	return nil
}

// checkWholeToPeer sends big ChannelData and Send indications to a peer.
func checkWholeToPeer(a *wireAllocation) error {
	p, err := a.bindChannel(firstChannel)
	if err != nil {
		return err
	}
	fence := []byte("fence")
	receive := func() ([]byte, error) {
		got, _, err := p.receive()
		return got, err
	}
	for _, size := range bigSizes {
		for _, send := range []func([]byte) error{
			func(data []byte) error { return a.sendOn(firstChannel, data) },
			func(data []byte) error { return a.sendTo(p.addr(), data) },
		} {
			if err := errors.Join(send(pattern(size)), send(fence)); err != nil {
				return err
			}
			if err := wholeOrNothing(pattern(size), fence, receive); err != nil {
				return err
			}
		}
	}
	return nil
}

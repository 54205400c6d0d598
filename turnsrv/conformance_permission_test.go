package turnsrv

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"github.com/pion/stun/v2"
)

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
	stranger, friend, err := a.permittingLast(otherLoopback, loopbackIPv4)
	if err != nil {
		return err
	}
	if err := errors.Join(stranger.send(a.relay, []byte("stranger")), friend.send(a.relay, []byte("friend"))); err != nil {
		return err
	}
	return a.wants(wirePayload{peer: friend.addr(), data: []byte("friend")})
}

// permittingLast returns two peers, of which the last one has a permission.
func (a *wireAllocation) permittingLast(one, last netip.Addr) (*wirePeer, *wirePeer, error) {
	first, err := a.bed.peer(one)
	if err != nil {
		return nil, nil, err
	}
	second, err := a.bed.peer(last)
	if err != nil {
		return nil, nil, err
	}
	_, err = a.accepts(stun.MethodCreatePermission, attrPeer(second.addr()))
	return first, second, err
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
	p, _, err := a.permittingLast(addr, addr)
	if err != nil {
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

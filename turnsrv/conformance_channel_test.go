package turnsrv

import (
	"encoding/binary"
	"fmt"

	"github.com/pion/stun/v2"
)

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

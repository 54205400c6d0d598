package turnsrv

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/pion/stun/v2"
)

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

package engine

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// Allocation is what the engine keeps of one relay: one with IPv4 and IPv6 is two.
// Only who may use its lane may call its methods, Release excepted.
type Allocation struct {
	// Fixed after construction.
	lane *Lane
	id   uint64
}

// Allocate makes relay an allocation, which pion closes when the lifetime is over.
// The id must be unique, and seen is the address that others know the relay by.
func (l *Lane) Allocate(id uint64, relay net.PacketConn, seen netip.AddrPort, lifetime time.Duration) (*Allocation, error) {
	a := &Allocation{lane: l, id: id}
	err := l.do(stun.MethodAllocate, a, &socket{relay, seen}, wire.SetLifetime(lifetime),
		wire.SetValue(stun.AttrRequestedTransport, wire.ProtocolUDP, 0, 0, 0))
	if err != nil {
		return nil, err
	}
	return a, nil
}

// socket is a relay that an Allocate is made with.
type socket struct {
	net.PacketConn
	seen netip.AddrPort
}

// client is what pion knows the client by, an address of nobody.
func (a *Allocation) client() net.Addr {
	ip := make(net.IP, net.IPv6len)
	ip[0] = 0xfd
	binary.BigEndian.PutUint64(ip[8:], a.id)
	return &net.UDPAddr{IP: ip, Port: 1}
}

// Refresh sets the lifetime anew. With 0 the allocation ends.
func (a *Allocation) Refresh(lifetime time.Duration) error {
	return a.lane.do(stun.MethodRefresh, a, nil, wire.SetLifetime(lifetime))
}

// Release ends an allocation whose relay is closed, if there is one any more: now,
// or as soon as the loop whose lane it is on has time. Any goroutine may call it.
func (a *Allocation) Release() {
	if !a.lane.Own() {
		_ = a.Refresh(0) // It fails when the lifetime was over, or the engine is closed.
		return
	}
	wake, kept := a.lane.released.add(a)
	if wake {
		a.lane.wake()
	}
	if !kept {
		a.lane.abandoned.Add(1)
	}
}

// Permit installs or refreshes permissions, in several requests if need be.
func (a *Allocation) Permit(peers []netip.AddrPort) error {
	for batch := range slices.Chunk(peers, peersAtOnce) {
		setters := make([]stun.Setter, 0, len(batch))
		for _, peer := range batch {
			setters = append(setters, wire.SetXORAddress(stun.AttrXORPeerAddress, peer))
		}
		if err := a.lane.do(stun.MethodCreatePermission, a, nil, setters...); err != nil {
			return err
		}
	}
	return nil
}

// Bind binds or refreshes a channel.
func (a *Allocation) Bind(number uint16, peer netip.AddrPort) error {
	return a.lane.do(stun.MethodChannelBind, a, nil,
		wire.SetValue(stun.AttrChannelNumber, byte(number>>8), byte(number), 0, 0),
		wire.SetXORAddress(stun.AttrXORPeerAddress, peer))
}

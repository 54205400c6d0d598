//go:build linux && (amd64 || arm64)

package bench

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"cline-meet/signal/turnsrv/bench/internal/udpio"
	"cline-meet/signal/turnsrv/turnclient"
)

// flow is one client with its allocation and its peer, both as bare sockets
// that are connected.
type flow struct {
	number       uint32
	client, peer int
	channel      uint16
	controls     []*turnclient.Client // controls are what holds its allocations: none with the floor, two of a pair.

	sent, base uint64    // base is the sequence number up to which nothing is under way.
	up, down   tally     // up is what the peer received, down the client.
	due        time.Time // due is when a client with a rate sends next.
	moved      time.Time
}

// opener makes the flows of a scenario at one server.
type opener func(number uint32) (*flow, error)

func opening(s scenario, t *target, o Options) opener {
	switch {
	case t.floor:
		return openFloor(t.Address, s.pair)
	case s.pair:
		return openPair(t.Address, o.credential())
	}
	return openTURN(t.Address, o.credential())
}

// openTURN makes a flow with an allocation and a channel.
func openTURN(server string, who turnclient.Credential) opener {
	return func(number uint32) (*flow, error) {
		f := &flow{number: number, channel: turnclient.FirstChannel + uint16(number)}
		err := f.allocate(server, who, &f.client)
		if err == nil {
			err = f.openPeer()
		}
		if err != nil {
			f.close()
			return nil, err
		}
		return f, nil
	}
}

// openPair makes a flow between two clients that have channels to each other's
// relays.
func openPair(server string, who turnclient.Credential) opener {
	return func(number uint32) (*flow, error) {
		f := &flow{number: number, channel: turnclient.FirstChannel + uint16(number)}
		for _, fd := range []*int{&f.client, &f.peer} {
			if err := f.allocate(server, who, fd); err != nil {
				f.close()
				return nil, err
			}
		}
		for i, c := range f.controls {
			if err := c.BindChannel(f.channel, f.controls[1-i].Relay); err != nil {
				f.close()
				return nil, err
			}
		}
		return f, nil
	}
}

// allocate makes an allocation and stores the socket of its client.
func (f *flow) allocate(server string, who turnclient.Credential, fd *int) error {
	c, err := dial("udp", server, who)
	if err != nil {
		return err
	}
	if err := c.Allocate(); err != nil {
		c.Close()
		return err
	}
	f.controls = append(f.controls, c)
	*fd, err = bare(c.Conn.(*net.UDPConn))
	return err
}

// openPeer makes a peer that is no client, and a channel to it.
func (f *flow) openPeer() error {
	c := f.controls[0]
	local := c.Conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)), net.UDPAddrFromAddrPort(c.Relay))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if f.peer, err = bare(conn); err != nil {
		return err
	}
	return c.BindChannel(f.channel, conn.LocalAddr().(*net.UDPAddr).AddrPort())
}

// bare returns the socket of a connection as a descriptor of its own.
func bare(conn *net.UDPConn) (int, error) {
	system, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, failed := -1, error(nil)
	err = system.Control(func(of uintptr) { fd, failed = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil || failed != nil {
		return -1, fmt.Errorf("taking a socket: %w, %w", err, failed)
	}
	udpio.SetBuffers(fd, socketSize)
	return fd, nil
}

// far is what has arrived of what is sent in that direction, not an echo.
func (f *flow) far(way direction) *tally {
	if way == down {
		return &f.down
	}
	return &f.up
}

func (f *flow) close() {
	for _, c := range f.controls {
		_ = c.Release()
		c.Close()
	}
	for _, fd := range []int{f.client, f.peer} {
		if fd > 0 {
			_ = unix.Close(fd)
		}
	}
}

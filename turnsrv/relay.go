package turnsrv

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// maxRelayBinds bounds the attempts for one relay when other programs hold
	// ports of the range.
	maxRelayBinds = 32

	// socketBuffer holds a burst of a video stream; the kernel may grant less.
	socketBuffer = 4 << 20
)

var (
	errNoRelayPort = errors.New("no relay port is free")
	errNoTCPRelay  = errors.New("relays over tcp are not supported")
)

// relays makes the sockets of allocations. It implements
// turn.RelayAddressGenerator.
type relays struct {
	// Fixed after construction.
	bind             netip.Addr // bind is the address of the sockets.
	seen             netip.Addr // seen is the address peers and clients are told.
	minPort, maxPort uint16
	policy           *peerPolicy
	metrics          *metrics
	log              *slog.Logger

	open sync.WaitGroup // open counts the sockets that are not closed.

	// Guarded by mu.
	mu    sync.Mutex
	taken map[uint16]bool
}

// newRelays finds the relay address of cfg and makes sure that sockets can be
// bound to it.
func newRelays(cfg Config) (*relays, error) {
	r := &relays{
		minPort: uint16(cfg.MinPort),
		maxPort: uint16(cfg.MaxPort),
		log:     cfg.logger(),
		taken:   map[uint16]bool{},
	}
	r.bind = addressOr(cfg.RelayIP, primaryIPv4)
	r.seen = addressOr(cfg.ExternalIP, func() netip.Addr { return r.bind })
	r.policy = newPeerPolicy(r.minPort, r.maxPort, r.bind, r.seen)
	probe, err := r.listen(0)
	if err != nil {
		return nil, fmt.Errorf("--turn-relay-ip: binding a relay to %s: %w", r.bind, err)
	}
	_ = probe.Close()
	return r, nil
}

// addressOr parses text, which was validated, or takes the fallback.
func addressOr(text string, fallback func() netip.Addr) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return fallback()
	}
	return addr.Unmap()
}

func (r *relays) listen(port uint16) (*net.UDPConn, error) {
	return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.bind, port)))
}

// Validate implements turn.RelayAddressGenerator.
func (r *relays) Validate() error { return nil }

// AllocateConn implements turn.RelayAddressGenerator.
func (r *relays) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	return nil, nil, errNoTCPRelay
}

// AllocatePacketConn implements turn.RelayAddressGenerator. A requested port of
// 0 means any.
func (r *relays) AllocatePacketConn(_ string, requested int) (net.PacketConn, net.Addr, error) {
	conn, port, err := r.bindRelay(requested)
	if err != nil {
		return nil, nil, fmt.Errorf("allocating a relay: %w", err)
	}
	if err := conn.SetReadBuffer(socketBuffer); err != nil {
		r.log.Debug("turn relay keeps its small receive buffer", "error", err)
	}
	r.open.Add(1)
	relay := &relayConn{UDPConn: conn, relays: r, port: port}
	return relay, net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.seen, port)), nil
}

func (r *relays) bindRelay(requested int) (*net.UDPConn, uint16, error) {
	if requested != 0 {
		return r.bindPort(uint16(requested))
	}
	var errs error = errNoRelayPort
	start := r.minPort + uint16(rand.IntN(int(r.maxPort)-int(r.minPort)+1))
	for range maxRelayBinds {
		port, ok := r.nextFree(start)
		if !ok {
			return nil, 0, errNoRelayPort
		}
		conn, port, err := r.bindPort(port)
		if err == nil {
			return conn, port, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, errNoRelayPort) {
			return nil, 0, err
		}
		errs, start = err, r.after(port)
	}
	return nil, 0, errs
}

// bindPort takes one port of the range and binds it. The port is returned with
// an error, too.
func (r *relays) bindPort(port uint16) (*net.UDPConn, uint16, error) {
	if !r.take(port) {
		return nil, port, errNoRelayPort
	}
	conn, err := r.listen(port)
	if err != nil {
		r.release(port)
		return nil, port, err
	}
	return conn, port, nil
}

// nextFree returns the first port from start on, around the range, that no
// relay of ours has.
func (r *relays) nextFree(start uint16) (uint16, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := int(r.maxPort) - int(r.minPort) + 1
	if len(r.taken) >= size {
		return 0, false
	}
	port := start
	for r.taken[port] {
		port = r.after(port)
	}
	return port, true
}

func (r *relays) after(port uint16) uint16 {
	if port == r.maxPort {
		return r.minPort
	}
	return port + 1
}

// take marks a port of the range as in use, unless it is already.
func (r *relays) take(port uint16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port < r.minPort || port > r.maxPort || r.taken[port] {
		return false
	}
	r.taken[port] = true
	return true
}

func (r *relays) release(port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.taken, port)
}

// permits implements turn.PermissionHandler.
func (r *relays) permits(client net.Addr, peer net.IP) bool {
	if r.policy.allowsIP(peer) {
		return true
	}
	r.metrics.peersDenied.Inc()
	r.log.Debug("turn peer denied", "client", client.String(), "peer", peer.String())
	return false
}

// relayConn is the socket of one allocation. It counts what passes.
type relayConn struct {
	// Fixed after construction.
	*net.UDPConn
	relays *relays
	port   uint16

	used   atomic.Bool // used is set by the first read.
	closed atomic.Bool
}

// ReadFrom returns a packet of a peer. The first call makes it an allocation:
// the engine also opens sockets only to look for an even port.
func (c *relayConn) ReadFrom(p []byte) (int, net.Addr, error) {
	if !c.used.Load() && c.used.CompareAndSwap(false, true) {
		c.relays.metrics.created.Inc()
	}
	n, addr, err := c.UDPConn.ReadFrom(p)
	if err == nil {
		c.relays.metrics.receivedFromPeer(n)
	}
	return n, addr, err
}

// WriteTo sends a packet to a peer. One that the policy forbids is lost, as on
// any network, and not an error.
func (c *relayConn) WriteTo(p []byte, peer net.Addr) (int, error) {
	addr, ok := peer.(*net.UDPAddr)
	if !ok || !c.relays.policy.reaches(addr.AddrPort()) {
		c.relays.metrics.peersDenied.Inc()
		return len(p), nil
	}
	n, err := c.UDPConn.WriteTo(p, peer)
	if err == nil {
		c.relays.metrics.sentToPeer(n)
	}
	return n, err
}

// Close ends the allocation. It never fails, since the engine, closing all its
// allocations, stops at the first one that does.
func (c *relayConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	_ = c.UDPConn.Close()
	c.relays.release(c.port)
	c.relays.open.Done()
	return nil
}

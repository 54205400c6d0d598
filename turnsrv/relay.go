package turnsrv

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/relayaddr"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

const (
	// maxRelayBinds bounds the attempts for one relay when other programs hold
	// ports of the range.
	maxRelayBinds = 32

	// maxPeerDatagram is the largest payload that a datagram can have.
	maxPeerDatagram = 65_507

	// usualDatagram is the largest payload that the buffer of a relay has room for
	// until a longer one comes.
	usualDatagram = 2000
)

var errNoRelayPort = errors.New("no relay port is free")

// relayPool opens the sockets of one address family's relays on the ports of the
// range. Its methods may be called by any goroutine.
type relayPool struct {
	// Fixed after construction.
	address          relayaddr.Address
	minPort, maxPort uint16
	marks            bool // marks says that packets of peers keep their marks.
	log              *slog.Logger
	listen           func(netip.AddrPort) (batch.Conn, error) // listen is fixed before the first client.

	// relays are those that relay now, by their port above minPort. They are looked up
	// with packets on all cores, hence without a lock.
	relays []atomic.Pointer[relay]

	mu   sync.Mutex
	free *freePorts // free are the ports that none of our sockets has.
}

func newRelayPool(address relayaddr.Address, minPort, maxPort uint16, marks bool, log *slog.Logger) *relayPool {
	return &relayPool{
		address: address, minPort: minPort, maxPort: maxPort, marks: marks, log: log, listen: listenRelay,
		relays: make([]atomic.Pointer[relay], max(int(maxPort)-int(minPort)+1, 0)), free: newFreePorts(minPort, maxPort),
	}
}

// listenRelay opens the socket of a relay that a goroutine of its own reads.
func listenRelay(at netip.AddrPort) (batch.Conn, error) {
	network := "udp4"
	if at.Addr().Is6() {
		network = "udp6"
	}
	return net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
}

// relaySocket is a bound socket and its port, which goes back to the pool with
// it.
type relaySocket struct {
	conn batch.Conn
	pool *relayPool
	port uint16
	once sync.Once
}

// close may be called again.
func (s *relaySocket) close() {
	s.once.Do(func() {
		_ = s.conn.Close()
		s.pool.release(s.port)
	})
}

// bound is the address that the socket sends from.
func (s *relaySocket) bound() netip.AddrPort { return netip.AddrPortFrom(s.pool.address.Bind, s.port) }

// seen is the address that others know the socket by.
func (s *relaySocket) seen() netip.AddrPort { return netip.AddrPortFrom(s.pool.address.Seen, s.port) }

// open returns a socket on any port.
func (p *relayPool) open() (*relaySocket, error) {
	s, _, err := p.search(func(uint16) bool { return true }, false)
	return s, err
}

// openEven returns a socket on an even port and, with pair, one on the port
// above it (RFC 8656, section 7.2).
func (p *relayPool) openEven(pair bool) (even, next *relaySocket, err error) {
	return p.search(func(port uint16) bool { return port%2 == 0 && (!pair || p.free.has(port+1)) }, pair)
}

// search tries the ports that fit, the one that has been free for longest first,
// until one can be had, and with pair the one above it as well. A port that another
// program has becomes the last one. Fits is asked with mu held.
func (p *relayPool) search(fits func(port uint16) bool, pair bool) (s, next *relaySocket, err error) {
	for range maxRelayBinds {
		port, ok := p.claim(fits, pair)
		if !ok {
			return nil, nil, errNoRelayPort
		}
		if s, err = p.bind(port); err == nil && pair {
			if next, err = p.bind(port + 1); err != nil {
				s.close()
			}
		} else if err != nil && pair {
			p.release(port + 1)
		}
		if err == nil {
			return s, next, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, nil, err
}

// bind opens a socket on a port that was claimed, and gives it back on error.
func (p *relayPool) bind(port uint16) (*relaySocket, error) {
	conn, err := p.listen(netip.AddrPortFrom(p.address.Bind, port))
	if err != nil {
		p.release(port)
		return nil, err
	}
	if err := conn.SetReadBuffer(batch.SocketBuffer); err != nil {
		p.log.Debug("turn relay keeps its small receive buffer", "error", err)
	}
	batch.AllowFragments(conn, p.address.Bind.Is6())
	if p.marks {
		batch.TellMarks(conn, p.address.Bind.Is6())
	}
	return &relaySocket{conn: conn, pool: p, port: port}, nil
}

// claim takes a port that fits, and with pair the one above it.
func (p *relayPool) claim(fits func(port uint16) bool, pair bool) (uint16, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	port, ok := p.free.oldest(fits)
	if !ok {
		return 0, false
	}
	p.free.take(port)
	if pair {
		p.free.take(port + 1)
	}
	return port, true
}

func (p *relayPool) release(port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free.add(port)
}

// relay is one relayed transport address of an allocation. To the engine it is
// the allocation's socket, which the engine closes when the allocation is over.
// The engine's goroutine for it relays what peers send, or ends where a data loop
// does that. It implements net.PacketConn.
type relay struct {
	// Fixed after construction.
	*relaySocket
	id    uint64
	alloc *allocation
	loop  *dataLoop // loop reads the socket; nil when ReadFrom does.

	kept *engine.Allocation // kept is what the engine has of it, set before others know the allocation; nil without that.

	number uint32 // number is the loop's.

	fragments sync.Mutex // fragments is held while the socket's DF setting is not its usual one.
	done      sync.Once
}

// begin makes the relay an allocation of the engine and starts to relay.
func (r *relay) begin(lifetime time.Duration) (err error) {
	r.pool.know(r)
	if r.kept, err = r.alloc.lane.Allocate(r.id, r, r.seen(), lifetime); err != nil || r.loop == nil {
		return err
	}
	return r.loop.watch(r)
}

// release makes the engine forget a relay that was closed.
func (r *relay) release() {
	if r.kept != nil {
		r.kept.Release()
	}
}

// ReadFrom returns when the relay is closed. The engine never gets a packet. With
// a data loop there is nothing to do for the engine's goroutine: it ends here,
// and gives back its stack and its buffer, which were most of the memory of an
// allocation. To the engine it seems to wait.
func (r *relay) ReadFrom([]byte) (int, net.Addr, error) {
	if r.loop != nil {
		runtime.Goexit()
	}
	return r.read()
}

// read relays packets of peers until the relay is closed.
func (r *relay) read() (int, net.Addr, error) {
	buffer, control := peerBuffer(usualDatagram), make([]byte, batch.ControlSpace)
	var delay transport.Backoff
	for {
		room := buffer[wire.DataIndicationHeader : len(buffer)-3]
		n, oobn, _, peer, err := r.conn.ReadMsgUDPAddrPort(room, control)
		switch {
		case err == nil && n == len(room):
			r.alloc.front.metrics.dropped(dropOversize)
			if _, ok := r.inbound(wire.Unmapped(peer), r.alloc.front.now()); ok { // Strangers must not make it grow.
				buffer = peerBuffer(maxPeerDatagram)
			}
		case err == nil:
			delay = transport.Backoff{}
			r.relayToClient(wire.Unmapped(peer), buffer, n, batch.MarkOf(control[:oobn]))
		case errors.Is(err, net.ErrClosed) || !delay.Wait(r.alloc.ended):
			return 0, nil, net.ErrClosed
		}
	}
}

// peerBuffer is a buffer for payloads of n bytes: a header goes in front, and behind
// there is one byte to see what is too long, and three to pad.
func peerBuffer(n int) []byte { return make([]byte, wire.DataIndicationHeader+n+4) }

// WriteTo implements net.PacketConn. The engine gets no data to write.
func (r *relay) WriteTo([]byte, net.Addr) (int, error) { return 0, errors.ErrUnsupported }

// Close ends the relay, and with its last relay the allocation. Whoever is not the
// engine has to release it there, too. It never fails, since the engine, closing
// all its allocations, stops at the first that does.
func (r *relay) Close() error {
	r.done.Do(func() {
		r.pool.forget(r)
		if r.loop != nil {
			r.loop.forget(r)
		}
		r.relaySocket.close()
		r.alloc.lose(r)
		if r.loop != nil {
			r.loop.closed()
		}
	})
	return nil
}

// LocalAddr implements net.PacketConn.
func (r *relay) LocalAddr() net.Addr { return r.conn.LocalAddr() }

// SetDeadline implements net.PacketConn; the engine never calls it.
func (r *relay) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.PacketConn; the engine never calls it.
func (r *relay) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.PacketConn; the engine never calls it.
func (r *relay) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

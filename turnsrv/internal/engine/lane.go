package engine

import (
	"crypto/hmac"
	"crypto/sha1" // RFC 8489 wants it.
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// Lane is a socket that leads into the engine. One read loop of pion serves it,
// hence one request is under way on a lane at a time, and the relay that pion asks
// for meanwhile is that request's. It implements net.PacketConn and
// turn.RelayAddressGenerator for pion.
type Lane struct {
	// Fixed after construction.
	requests chan laneRequest
	handled  chan struct{} // handled receives when pion comes back for more.
	closed   chan struct{}
	once     sync.Once // once guards closed.

	// Of an own lane, nil for a shared one: the loop's, and what the engine makes of
	// run when it starts. Then next lets the loop go on until it asks something of the
	// engine, which yield does.
	run, wake, stop func()
	next            func() (laneRequest, bool)
	yield           func(laneRequest) bool

	released  releases     // released are allocations on an own lane.
	abandoned atomic.Int64 // abandoned counts allocations that were released too late: pion keeps count of them, and nothing else.

	// Owned by pion's read loop.
	busy bool

	// mu is held while a request is under way. The rest belongs to who holds it,
	// and to pion's read loop meanwhile.
	mu      sync.Mutex
	mac     hash.Hash
	nonce   stun.Nonce
	current *socket // current is the relay of an Allocate.
	sent    uint64  // sent counts requests.
	request stun.Message
	raw     []byte // raw is pion's answer, and answer what it says.
	answer  stun.Message
}

type laneRequest struct {
	packet []byte
	from   net.Addr
}

// NewLane returns a lane for anybody.
func NewLane() *Lane {
	return &Lane{
		nonce:    stun.NewNonce("none"), // Pion will replace it.
		requests: make(chan laneRequest),
		handled:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
}

// NewOwnLane returns a lane for one loop alone, on which it runs. The loop reads the
// relays on it, so ReadFrom of them must end the goroutine that calls it. The engine calls
// run once, stop to make it return, and wake when there are allocations that
// ReleaseClosed has not seen; any goroutine calls the latter two.
func NewOwnLane(run, wake, stop func()) *Lane {
	l := NewLane()
	l.run, l.wake, l.stop = run, wake, stop
	return l
}

// Own says whether the lane is for one loop alone.
func (l *Lane) Own() bool { return l.run != nil }

// open gives the lane the key that its requests are signed with, and makes the loop
// of an own one ready to be resumed.
func (l *Lane) open(key []byte) {
	l.mac = hmac.New(sha1.New, key)
	if l.Own() {
		l.next, _ = iter.Pull(func(yield func(laneRequest) bool) {
			l.yield = yield
			l.run()
		})
	}
}

// Rouse says that the loop of an own lane is awake, and will call ReleaseClosed
// before it waits again.
func (l *Lane) Rouse() { l.released.rouse() }

// ReleaseClosed makes the engine forget the allocations that were released. The
// loop of the lane calls it, with last for the last time.
func (l *Lane) ReleaseClosed(last bool) {
	for {
		closed := l.released.drain(last)
		if len(closed) == 0 {
			return
		}
		for _, a := range closed {
			_ = a.Refresh(0) // It fails when the lifetime was over.
		}
	}
}

// do makes one request for an allocation and returns when it is handled. An
// Allocate brings its relay.
func (l *Lane) do(method stun.Method, a *Allocation, relay *socket, setters ...stun.Setter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = relay
	defer func() { l.current = nil }()
	// Pion's nonce lives for an hour, and there is none at first.
	for range 2 {
		if err := l.exchange(method, a.client(), setters); err != nil {
			return err
		}
		if l.answer.Type.Class == stun.ClassSuccessResponse {
			return nil
		}
		var code stun.ErrorCodeAttribute
		if err := code.GetFrom(&l.answer); err != nil {
			return errRefused
		}
		if code.Code != stun.CodeStaleNonce {
			return fmt.Errorf("%w: %d", errRefused, code.Code)
		}
		var nonce stun.Nonce
		if err := nonce.GetFrom(&l.answer); err != nil {
			return fmt.Errorf("%w: no nonce", errRefused)
		}
		l.nonce = append(l.nonce[:0], nonce...)
	}
	return fmt.Errorf("%w: its nonce does not last", errRefused)
}

// exchange makes one request and takes its answer.
func (l *Lane) exchange(method stun.Method, client net.Addr, setters []stun.Setter) error {
	m := &l.request
	m.Reset()
	l.sent++ // Nobody else knows the ids, so they need only differ.
	binary.BigEndian.PutUint64(m.TransactionID[:], l.sent)
	m.Type = stun.NewType(method, stun.ClassRequest)
	m.WriteHeader()
	m.Add(stun.AttrUsername, name)
	m.Add(stun.AttrRealm, name)
	m.Add(stun.AttrNonce, l.nonce)
	for _, s := range setters {
		if err := s.AddTo(m); err != nil {
			return fmt.Errorf("asking the turn engine: %w", err)
		}
	}
	l.sign(m)
	l.raw = l.raw[:0]
	if err := l.ask(laneRequest{m.Raw, client}); err != nil {
		return err
	}
	l.answer.Reset()
	if _, err := l.answer.Write(l.raw); err != nil || l.answer.TransactionID != m.TransactionID {
		return fmt.Errorf("%w: no answer", errRefused)
	}
	return nil
}

// sign adds MESSAGE-INTEGRITY as stun.MessageIntegrity does (RFC 8489, section
// 14.5), with a hash that is made once.
func (l *Lane) sign(m *stun.Message) {
	const attribute = wire.AttributeHeader + sha1.Size
	m.Length += attribute
	m.WriteLength()
	m.Length -= attribute
	l.mac.Reset()
	_, _ = l.mac.Write(m.Raw) // A hash never fails.
	m.Add(stun.AttrMessageIntegrity, l.mac.Sum(nil))
}

// ask hands a request to pion and returns when it is handled.
func (l *Lane) ask(request laneRequest) error {
	if l.Own() {
		if !l.yield(request) {
			return net.ErrClosed
		}
		return nil
	}
	select {
	case l.requests <- request:
	case <-l.closed:
		return net.ErrClosed
	}
	select {
	case <-l.handled:
	case <-l.closed:
		return net.ErrClosed
	}
	return nil
}

// ReadFrom implements net.PacketConn for pion's read loop. That it is
// called tells that the request before is handled.
func (l *Lane) ReadFrom(p []byte) (int, net.Addr, error) {
	if l.Own() {
		request, ok := l.next()
		if !ok {
			return 0, nil, net.ErrClosed
		}
		return copy(p, request.packet), request.from, nil
	}
	if l.busy {
		l.busy = false
		select {
		case l.handled <- struct{}{}:
		case <-l.closed:
		}
	}
	select {
	case request := <-l.requests:
		l.busy = true
		return copy(p, request.packet), request.from, nil
	case <-l.closed:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements net.PacketConn: it takes pion's answer to the request
// under way. Pion writes nothing else, as relays give it no data.
func (l *Lane) WriteTo(p []byte, _ net.Addr) (int, error) {
	l.raw = append(l.raw[:0], p...)
	return len(p), nil
}

// Close implements net.PacketConn. It may be called again.
func (l *Lane) Close() error {
	l.once.Do(func() { close(l.closed) })
	if l.Own() {
		l.stop()
	}
	return nil
}

// LocalAddr implements net.PacketConn; pion needs some address.
func (l *Lane) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv6loopback, Port: 1} }

// SetDeadline implements net.PacketConn; pion never calls it.
func (l *Lane) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.PacketConn; pion never calls it.
func (l *Lane) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.PacketConn; pion never calls it.
func (l *Lane) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// Validate implements turn.RelayAddressGenerator.
func (l *Lane) Validate() error { return nil }

// AllocatePacketConn implements turn.RelayAddressGenerator: it returns the relay
// of the request under way.
func (l *Lane) AllocatePacketConn(string, int) (net.PacketConn, net.Addr, error) {
	if l.current == nil {
		return nil, nil, errRefused
	}
	return l.current.PacketConn, net.UDPAddrFromAddrPort(l.current.seen), nil
}

// AllocateConn implements turn.RelayAddressGenerator. There are no relays over TCP.
func (l *Lane) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	return nil, nil, errors.ErrUnsupported
}

package turnsrv

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
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// lane is a socket that leads into the engine. One read loop of the engine
// serves it, hence one request is under way on a lane at a time, and the relay
// that the engine asks for meanwhile is that request's. It implements
// net.PacketConn and turn.RelayAddressGenerator.
type lane struct {
	// Fixed after construction.
	requests chan laneRequest
	handled  chan struct{} // handled receives when the engine comes back for more.
	closed   chan struct{}
	once     sync.Once // once guards closed.

	// loop is the only one to use the lane, nil for anybody. It runs inside of the
	// engine's read loop: next lets it go on until it asks something of the engine,
	// which yield does. To hand a request to another goroutine and wait for it
	// would wake threads.
	loop  *dataLoop
	next  func() (laneRequest, bool)
	yield func(laneRequest) bool // yield is the loop's.

	// Owned by the engine's read loop.
	busy bool

	// mu is held while a request is under way. The rest belongs to who holds it,
	// and to the engine's read loop meanwhile.
	mu      sync.Mutex
	mac     hash.Hash
	nonce   stun.Nonce
	current *relay
	sent    uint64 // sent counts requests.
	request stun.Message
	raw     []byte // raw is the engine's answer, and answer what it says.
	answer  stun.Message
}

type laneRequest struct {
	packet []byte
	from   net.Addr
}

func newLane(key []byte) *lane {
	return &lane{
		mac:      hmac.New(sha1.New, key),
		nonce:    stun.NewNonce("none"), // The engine will replace it.
		requests: make(chan laneRequest),
		handled:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
}

// carry makes the lane run a loop, whose alone it is then.
func (l *lane) carry(loop *dataLoop) {
	l.loop = loop
	l.next, _ = iter.Pull(func(yield func(laneRequest) bool) {
		l.yield = yield
		loop.run()
	})
}

// do makes one request of the engine for a relay and returns when it is handled.
// The lane of a loop is for that loop, to which all packets of its clients come.
func (l *lane) do(by *dataLoop, method stun.Method, r *relay, setters ...stun.Setter) error {
	if by != l.loop && l.loop != nil {
		return fmt.Errorf("%w: the client has come by another listener", errEngine)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = r
	defer func() { l.current = nil }()
	// The engine's nonce lives for an hour, and there is none at first.
	for range 2 {
		if err := l.exchange(method, r, setters); err != nil {
			return err
		}
		if l.answer.Type.Class == stun.ClassSuccessResponse {
			return nil
		}
		var code stun.ErrorCodeAttribute
		if err := code.GetFrom(&l.answer); err != nil {
			return errEngine
		}
		if code.Code != stun.CodeStaleNonce {
			return fmt.Errorf("%w: %d", errEngine, code.Code)
		}
		var nonce stun.Nonce
		if err := nonce.GetFrom(&l.answer); err != nil {
			return fmt.Errorf("%w: no nonce", errEngine)
		}
		l.nonce = append(l.nonce[:0], nonce...)
	}
	return fmt.Errorf("%w: its nonce does not last", errEngine)
}

// exchange makes one request and takes its answer.
func (l *lane) exchange(method stun.Method, r *relay, setters []stun.Setter) error {
	m := &l.request
	m.Reset()
	l.sent++ // Nobody else knows the ids, so they need only differ.
	binary.BigEndian.PutUint64(m.TransactionID[:], l.sent)
	m.Type = stun.NewType(method, stun.ClassRequest)
	m.WriteHeader()
	m.Add(stun.AttrUsername, engineName)
	m.Add(stun.AttrRealm, engineName)
	m.Add(stun.AttrNonce, l.nonce)
	for _, s := range setters {
		if err := s.AddTo(m); err != nil {
			return fmt.Errorf("asking the turn engine: %w", err)
		}
	}
	l.sign(m)
	l.raw = l.raw[:0]
	if err := l.ask(laneRequest{m.Raw, r.engineAddr()}); err != nil {
		return err
	}
	l.answer.Reset()
	if _, err := l.answer.Write(l.raw); err != nil || l.answer.TransactionID != m.TransactionID {
		return fmt.Errorf("%w: no answer", errEngine)
	}
	return nil
}

// sign adds MESSAGE-INTEGRITY as stun.MessageIntegrity does (RFC 8489, section
// 14.5), with a hash that is made once.
func (l *lane) sign(m *stun.Message) {
	const attribute = wire.AttributeHeader + sha1.Size
	m.Length += attribute
	m.WriteLength()
	m.Length -= attribute
	l.mac.Reset()
	_, _ = l.mac.Write(m.Raw) // A hash never fails.
	m.Add(stun.AttrMessageIntegrity, l.mac.Sum(nil))
}

// ask hands a request to the engine and returns when it is handled.
func (l *lane) ask(request laneRequest) error {
	if l.loop != nil {
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

// ReadFrom implements net.PacketConn for the engine's read loop. That it is
// called tells that the request before is handled.
func (l *lane) ReadFrom(p []byte) (int, net.Addr, error) {
	if l.loop != nil {
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

// WriteTo implements net.PacketConn: it takes the engine's answer to the request
// under way. The engine writes nothing else, as relays give it no data.
func (l *lane) WriteTo(p []byte, _ net.Addr) (int, error) {
	l.raw = append(l.raw[:0], p...)
	return len(p), nil
}

// Close implements net.PacketConn. It may be called again.
func (l *lane) Close() error {
	l.once.Do(func() { close(l.closed) })
	if l.loop != nil {
		l.loop.close()
	}
	return nil
}

// LocalAddr implements net.PacketConn; the engine needs some address.
func (l *lane) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv6loopback, Port: 1} }

// SetDeadline implements net.PacketConn; the engine never calls it.
func (l *lane) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetReadDeadline implements net.PacketConn; the engine never calls it.
func (l *lane) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.PacketConn; the engine never calls it.
func (l *lane) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// Validate implements turn.RelayAddressGenerator.
func (l *lane) Validate() error { return nil }

// AllocatePacketConn implements turn.RelayAddressGenerator: it returns the relay
// of the request under way, which the front has opened.
func (l *lane) AllocatePacketConn(string, int) (net.PacketConn, net.Addr, error) {
	if l.current == nil {
		return nil, nil, errEngine
	}
	return l.current, net.UDPAddrFromAddrPort(l.current.seen()), nil
}

// AllocateConn implements turn.RelayAddressGenerator. The front refuses relays
// over TCP.
func (l *lane) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	return nil, nil, errors.ErrUnsupported
}

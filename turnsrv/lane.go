package turnsrv

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v3"
)

const (
	engineUser  = "front"
	engineRealm = "engine"

	// engineMaxLifetime is below the hour at which the engine falls back to its
	// default.
	engineMaxLifetime = time.Hour - time.Second

	// engineChannelLifetime is a little below channelLifetime, so that the engine
	// never still holds a binding that the front has given up.
	engineChannelLifetime = channelLifetime - time.Second

	// enginePeers is how many peers a request of the engine names: it reads no
	// more than 1,600 bytes of one.
	enginePeers = 32
)

var errEngine = errors.New("the allocation engine refused")

// engine is pion/turn, which manages allocations and their lifetimes. It sees no
// client and no data: the front has proved and checked every request, and
// repeats it on a lane, under an id instead of an address.
type engine struct {
	server *turn.Server
	lanes  []*lane
}

// newEngine starts an engine with that many lanes.
func newEngine(lanes int, log *slog.Logger) (*engine, error) {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // Never fails, as its documentation says.
	e := new(engine)
	var configs []turn.PacketConnConfig
	for range lanes {
		l := newLane(key)
		e.lanes = append(e.lanes, l)
		configs = append(configs, turn.PacketConnConfig{PacketConn: l, RelayAddressGenerator: l})
	}
	var err error
	e.server, err = turn.NewServer(turn.ServerConfig{
		PacketConnConfigs:  configs,
		LoggerFactory:      engineLogs{log},
		Realm:              engineRealm,
		AuthHandler:        func(string, string, net.Addr) ([]byte, bool) { return key, true },
		ChannelBindTimeout: engineChannelLifetime,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the turn engine: %w", err)
	}
	return e, nil
}

func (e *engine) lane(id uint64) *lane { return e.lanes[id%uint64(len(e.lanes))] }

// allocate makes r an allocation of the engine, which closes r when the
// lifetime is over.
func (e *engine) allocate(r *relay, lifetime time.Duration) error {
	return e.lane(r.id).do(stun.MethodAllocate, r, setLifetime(lifetime),
		setRaw{stun.AttrRequestedTransport, []byte{protocolUDP, 0, 0, 0}})
}

// refresh sets the lifetime of r anew.
func (e *engine) refresh(r *relay, lifetime time.Duration) error {
	return e.lane(r.id).do(stun.MethodRefresh, r, setLifetime(lifetime))
}

// release ends the engine's allocation of r, if there is one any more.
func (e *engine) release(r *relay) {
	_ = e.refresh(r, 0) // It fails when the lifetime was over, or the engine is closed.
}

// permit installs or refreshes permissions, in several requests if need be.
func (e *engine) permit(r *relay, peers []netip.AddrPort) error {
	for batch := range slices.Chunk(peers, enginePeers) {
		setters := make([]stun.Setter, 0, len(batch))
		for _, peer := range batch {
			setters = append(setters, setXORAddress{stun.AttrXORPeerAddress, peer})
		}
		if err := e.lane(r.id).do(stun.MethodCreatePermission, r, setters...); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) bind(r *relay, number uint16, peer netip.AddrPort) error {
	return e.lane(r.id).do(stun.MethodChannelBind, r,
		setRaw{stun.AttrChannelNumber, binary.BigEndian.AppendUint32(nil, uint32(number)<<16)},
		setXORAddress{stun.AttrXORPeerAddress, peer})
}

// close ends the engine's read loops. Relays that are still open are closed by
// them.
func (e *engine) close() error {
	if err := e.server.Close(); err != nil {
		return fmt.Errorf("closing the turn engine: %w", err)
	}
	return nil
}

// lane is a socket that leads into the engine. One read loop of the engine
// serves it, hence one request is under way on a lane at a time, and the relay
// that the engine asks for meanwhile is that request's. It implements
// net.PacketConn and turn.RelayAddressGenerator.
type lane struct {
	// Fixed after construction.
	key      stun.MessageIntegrity
	requests chan laneRequest
	handled  chan struct{} // handled receives when the engine comes back for more.
	closed   chan struct{}
	once     sync.Once // once guards closed.

	// Owned by the engine's read loop.
	busy bool

	// mu is held while a request is under way. The rest belongs to who holds it,
	// and to the engine's read loop meanwhile.
	mu      sync.Mutex
	nonce   stun.Nonce
	current *relay
	answer  []byte
}

type laneRequest struct {
	packet []byte
	from   net.Addr
}

func newLane(key []byte) *lane {
	return &lane{
		key:      key,
		requests: make(chan laneRequest),
		handled:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
}

// do makes one request of the engine for a relay and returns when it is handled.
func (l *lane) do(method stun.Method, r *relay, setters ...stun.Setter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = r
	defer func() { l.current = nil }()
	// The engine's nonce lives for an hour, and there is none at first.
	for range 2 {
		answer, err := l.exchange(method, r, setters)
		if err != nil {
			return err
		}
		if answer.Type.Class == stun.ClassSuccessResponse {
			return nil
		}
		var code stun.ErrorCodeAttribute
		if err := code.GetFrom(answer); err != nil {
			return errEngine
		}
		if code.Code != stun.CodeStaleNonce {
			return fmt.Errorf("%w: %d", errEngine, code.Code)
		}
		if err := l.nonce.GetFrom(answer); err != nil {
			return fmt.Errorf("%w: no nonce", errEngine)
		}
	}
	return fmt.Errorf("%w: its nonce does not last", errEngine)
}

func (l *lane) exchange(method stun.Method, r *relay, setters []stun.Setter) (*stun.Message, error) {
	request, err := stun.Build(append([]stun.Setter{
		stun.TransactionID, stun.NewType(method, stun.ClassRequest), stun.NewUsername(engineUser),
		stun.NewRealm(engineRealm), l.nonceOrAny(),
	}, append(setters, l.key)...)...)
	if err != nil {
		return nil, fmt.Errorf("asking the turn engine: %w", err)
	}
	l.answer = l.answer[:0]
	select {
	case l.requests <- laneRequest{request.Raw, r.engineAddr()}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	select {
	case <-l.handled:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	answer := new(stun.Message)
	if _, err := answer.Write(l.answer); err != nil || answer.TransactionID != request.TransactionID {
		return nil, fmt.Errorf("%w: no answer", errEngine)
	}
	return answer, nil
}

// nonceOrAny returns the engine's nonce, or one that it will replace.
func (l *lane) nonceOrAny() stun.Nonce {
	if len(l.nonce) == 0 {
		return stun.NewNonce("none")
	}
	return l.nonce
}

// ReadFrom implements net.PacketConn for the engine's read loop. That it is
// called tells that the request before is handled.
func (l *lane) ReadFrom(p []byte) (int, net.Addr, error) {
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
	l.answer = append(l.answer[:0], p...)
	return len(p), nil
}

// Close implements net.PacketConn. It may be called again.
func (l *lane) Close() error {
	l.once.Do(func() { close(l.closed) })
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

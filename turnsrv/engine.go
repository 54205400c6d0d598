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
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v3"

	"cline-meet/signal/turnsrv/internal/wire"
)

const (
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

// engineName is the user and the realm of all requests of the engine.
var engineName = []byte(engineRealm)

var errEngine = errors.New("the allocation engine refused")

// engine is pion/turn, which manages allocations and their lifetimes. It sees no
// client and no data: the front has proved and checked every request, and
// repeats it on a lane, under an id instead of an address.
type engine struct {
	server *turn.Server
	lanes  []*lane // lanes are for anybody; loops have their own.

	// abandoned counts allocations that were closed when their lane was closed
	// already: the engine keeps count of them, and nothing else.
	abandoned atomic.Int64
}

// open returns how many allocations have to be waited for.
func (e *engine) open() int { return e.server.AllocationCount() - int(e.abandoned.Load()) }

// newEngine starts an engine with that many lanes for anybody, and one for each
// data loop, which runs on it.
func newEngine(lanes int, loops []*dataLoop, log *slog.Logger) (*engine, error) {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // Never fails, as its documentation says.
	e := new(engine)
	var configs []turn.PacketConnConfig
	add := func(l *lane) {
		configs = append(configs, turn.PacketConnConfig{PacketConn: l, RelayAddressGenerator: l})
	}
	for range lanes {
		l := newLane(key)
		e.lanes = append(e.lanes, l)
		add(l)
	}
	for _, loop := range loops {
		loop.lane = newLane(key)
		loop.lane.carry(loop)
		add(loop.lane)
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

// laneOf returns the lane of an allocation that is made by a loop, or by nobody
// in particular.
func (e *engine) laneOf(by *dataLoop, id uint64) *lane {
	if by != nil {
		return by.lane
	}
	return e.lanes[id%uint64(len(e.lanes))]
}

// allocate makes r an allocation of the engine, which closes r when the
// lifetime is over. As in the methods below, by is the loop that asks, nil for
// anybody else.
func (e *engine) allocate(by *dataLoop, r *relay, lifetime time.Duration) error {
	return r.lane.do(by, stun.MethodAllocate, r, wire.SetLifetime(lifetime),
		wire.SetValue(stun.AttrRequestedTransport, wire.ProtocolUDP, 0, 0, 0))
}

// refresh sets the lifetime of r anew.
func (e *engine) refresh(by *dataLoop, r *relay, lifetime time.Duration) error {
	return r.lane.do(by, stun.MethodRefresh, r, wire.SetLifetime(lifetime))
}

// release ends the engine's allocation of r, if there is one any more: now, or
// as soon as the loop whose it is has time.
func (e *engine) release(r *relay) {
	if loop := r.lane.loop; loop != nil {
		if !loop.release(r) {
			e.abandoned.Add(1)
		}
		return
	}
	_ = e.refresh(nil, r, 0) // It fails when the lifetime was over, or the engine is closed.
}

// permit installs or refreshes permissions, in several requests if need be.
func (e *engine) permit(by *dataLoop, r *relay, peers []netip.AddrPort) error {
	for batch := range slices.Chunk(peers, enginePeers) {
		setters := make([]stun.Setter, 0, len(batch))
		for _, peer := range batch {
			setters = append(setters, wire.SetXORAddress(stun.AttrXORPeerAddress, peer))
		}
		if err := r.lane.do(by, stun.MethodCreatePermission, r, setters...); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) bind(by *dataLoop, r *relay, number uint16, peer netip.AddrPort) error {
	return r.lane.do(by, stun.MethodChannelBind, r,
		wire.SetValue(stun.AttrChannelNumber, binary.BigEndian.AppendUint32(nil, uint32(number)<<16)...),
		wire.SetXORAddress(stun.AttrXORPeerAddress, peer))
}

// close ends the engine's read loops. Relays that are still open are closed by
// them.
func (e *engine) close() error {
	if err := e.server.Close(); err != nil {
		return fmt.Errorf("closing the turn engine: %w", err)
	}
	return nil
}

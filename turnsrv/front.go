package turnsrv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"
	"golang.org/x/time/rate"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/peers"
	"cline-meet/signal/turnsrv/internal/relayaddr"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

// noiseRate is how many lines a second may be logged about what clients send.
const noiseRate = 10

// Reasons for which an allocation ends, as the metric names them.
const (
	endExpired  = "expired"
	endReleased = "released" // The client refreshed it to 0.
	endGone     = "gone"     // The client's connection ended.
	endKilled   = "killed"
	endRevoked  = "revoked"
	endClosed   = "closed" // The server stopped.
)

// front answers clients. It proves and checks every request, lets the engine
// keep allocations, and relays data by what it learned from the requests that
// succeeded. It implements transport.Receiver; its methods may be called by any goroutine.
type front struct {
	// Fixed after construction.
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	auth      *auth.Authenticator
	engine    *engine.Engine
	lanes     []*engine.Lane // lanes are those that no loop owns.
	pools     []*relayPool   // pools are by family: IPv4 first, IPv6 if there is one.
	loops     []*dataLoop    // loops are empty where the data path is off.
	shared    []*dataLoop    // shared are those that read the relays of clients of streams, too.
	behaviour *behaviour     // behaviour is nil without a second address.
	reserved  *reservations
	quotas    *quotas
	rates     *allocateRates
	checks    *pace[owner] // checks is how fast the checks of users leave for peers that have not consented.
	strangers *auth.Strangers
	noise     *rate.Limiter // noise bounds what is logged at debug about strangers.
	alarms    *rate.Limiter // alarms bounds the warnings that requests cause.
	memory    *reclaimer
	total     *byteBucket // total shapes the node, both directions together.
	now       func() time.Time

	maxChannel uint16

	policy   atomic.Pointer[peers.Policy] // policy is replaced by SetPeers.
	draining atomic.Bool
	lastID   atomic.Uint64
	open     sync.WaitGroup // open counts relays that are not closed.

	// allocs holds the allocations by 5-tuple. They are looked up with every
	// packet on all cores, hence without a lock, whose state each would write.
	allocs sync.Map
	known  atomic.Int64 // known is how many there are.
}

// Receive implements transport.Receiver.
func (f *front) Receive(from transport.FiveTuple, via transport.Path, packet []byte, mark batch.Mark) {
	switch {
	case len(packet) < wire.ChannelHeader:
		f.metrics.dropped(dropMalformed)
	case wire.IsDataFromClient(packet):
		f.relayToPeer(from, packet, mark)
	default:
		f.Rest(from) // What came before leaves before.
		f.message(request{from: from, via: via}, packet)
	}
}

// Rest implements transport.Receiver.
func (f *front) Rest(from transport.FiveTuple) {
	if a := f.allocation(from); a != nil && a.waiting != nil {
		a.waiting.leave()
	}
}

// Gone implements transport.Receiver: an allocation ends with its connection (RFC 8656,
// section 3.1).
func (f *front) Gone(from transport.FiveTuple) {
	if a := f.allocation(from); a != nil {
		a.end(endGone)
	}
}

// allocation returns the allocation of a 5-tuple, or nil.
func (f *front) allocation(of transport.FiveTuple) *allocation {
	a, _ := f.allocs.Load(of)
	found, _ := a.(*allocation)
	return found
}

// allocations returns all that exist now.
func (f *front) allocations() []*allocation {
	all := make([]*allocation, 0, f.count())
	for _, a := range f.allocs.Range {
		all = append(all, a.(*allocation))
	}
	return all
}

func (f *front) count() int { return int(f.known.Load()) }

// add makes an allocation known.
func (f *front) add(a *allocation) {
	if _, replaced := f.allocs.Swap(a.tuple, a); !replaced {
		f.known.Add(1)
	}
	f.memory.note(f.count())
	f.metrics.allocated(a)
}

// forget is called once by an allocation that ended, known or not.
func (f *front) forget(a *allocation, why string) {
	known := f.allocs.CompareAndDelete(a.tuple, a)
	if known {
		f.known.Add(-1)
	}
	f.memory.note(f.count())
	if !known {
		return
	}
	if why == "" {
		why = endExpired
	}
	f.metrics.ended(a, why)
	f.log.Debug("turn allocation ended", "id", a.id, "user", a.owner().User, "reason", why)
}

// owner is whose an allocation is, and whom it counts for: a static user, or one with
// minted credentials, who may have the same name. Without a user in the credential
// that is the credential.
type owner struct {
	name   string
	static bool
}

func ownerOf(who auth.Identity) owner {
	if who.User == "" {
		return owner{name: who.Username}
	}
	return owner{who.User, !who.Minted()}
}

// message handles what is not data: a STUN message. What is malformed is dropped in
// silence, as are indications that cannot be served (RFC 8489, section 6.3). The
// request says where it came from.
func (f *front) message(q request, packet []byte) {
	if q.from.Protocol == transport.UDP && wire.IsClassicBinding(packet) {
		q.front, q.now = f, f.now()
		q.classicBinding(packet)
		return
	}
	m, err := wire.Decode(packet)
	if err != nil {
		f.metrics.dropped(dropMalformed)
		return
	}
	if m.Type.Class == stun.ClassRequest {
		q.front, q.m, q.now = f, m, f.now()
		f.request(&q)
	}
}

// debug logs what strangers cause, at a bounded rate.
func (f *front) debug(message string, args ...any) {
	if f.log.Enabled(context.Background(), slog.LevelDebug) && f.noise.Allow() {
		f.log.Debug(message, args...)
	}
}

// warn logs what an operator should know and clients can cause again and again.
func (f *front) warn(message string, args ...any) {
	if f.alarms.Allow() {
		f.log.Warn(message, args...)
	}
}

// revoke makes the credentials of a user void and ends what they opened. It
// returns how many allocations that were.
func (f *front) revoke(user string) int {
	f.auth.Revoke(user, f.now())
	return f.endAll(endRevoked, func(a *allocation) bool { return ownerOf(a.owner()) == owner{name: user} })
}

// endAll ends the allocations that match and returns their number.
func (f *front) endAll(why string, match func(*allocation) bool) int {
	n := 0
	var closed []*relay // They all stop relaying before the first is cleared away.
	for _, a := range f.allocations() {
		if match(a) {
			closed = append(closed, a.stop(why)...)
			n++
		}
	}
	f.release(closed)
	return n
}

// release clears relays away that are closed.
func (f *front) release(relays []*relay) {
	for _, r := range relays {
		r.release()
	}
}

// openPools makes a pool for each address family that relays have.
func (f *front) openPools(addresses ...relayaddr.Address) {
	for _, a := range addresses {
		if a.Bind.IsValid() {
			f.pools = append(f.pools, newRelayPool(a, uint16(f.cfg.MinPort), uint16(f.cfg.MaxPort), f.cfg.CopyDSCP, f.log))
		}
	}
}

var errNoDataLoop = errors.New("there are no data loops here")

// startLoops gives every UDP listener, and the relays of its clients, to a data
// loop. It comes before anybody is served.
func (f *front) startLoops(servers []*transport.UDPServer) {
	if !f.cfg.DataPath {
		return
	}
	var loops []*dataLoop
	for _, s := range servers {
		l, err := newDataLoop(f, s)
		if err != nil {
			f.log.Info("turn server relays without a data loop", "listener", s.Address(), "error", err)
			continue
		}
		loops = append(loops, l)
		if s.Protocol() == transport.UDP {
			f.shared = append(f.shared, l)
		}
	}
	if len(loops) == 0 {
		return
	}
	f.loops = loops
	if len(f.shared) == 0 {
		f.shared = loops
	}
	for _, p := range f.pools {
		p.listen = openRelay
	}
}

// startEngine starts the engine, with that many lanes for anybody and those of the
// loops, which run on them.
func (f *front) startEngine(shared int) error {
	for range shared {
		f.lanes = append(f.lanes, engine.NewLane())
	}
	all := slices.Clone(f.lanes)
	for _, l := range f.loops {
		all = append(all, l.lane)
	}
	var err error
	f.engine, err = engine.New(all, channelLifetime, f.log)
	return err
}

// close ends all allocations and the engine.
func (f *front) close() error {
	f.draining.Store(true)
	f.endAll(endClosed, func(*allocation) bool { return true })
	f.reserved.close()
	f.memory.close()
	if f.engine == nil { // The start failed.
		return nil
	}
	if err := f.engine.Close(); err != nil {
		return fmt.Errorf("closing the front: %w", err)
	}
	f.open.Wait()
	return nil
}

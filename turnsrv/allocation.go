package turnsrv

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/transport"
)

// Lifetimes of RFC 8656, sections 9 and 12.
const (
	permissionLifetime = 5 * time.Minute
	channelLifetime    = 10 * time.Minute
)

// Channel numbers. RFC 8656, section 12, ends the range of RFC 5766 early. Clients
// of RFC 5766 use all of theirs, coturn's at random.
const (
	minChannel     = 0x4000
	maxChannel     = 0x4FFF
	maxChannel5766 = 0x7FFF
)

// channel is a flow: what a client sends on a channel number goes to the peer,
// and the other way round.
type channel struct {
	number  uint16
	peer    netip.AddrPort
	relay   *relay
	expires time.Time
}

// allocation is what the front knows of an allocation: whose it is and where its
// packets go. The engine keeps its lifetime and closes its relays. Its methods
// may be called by any goroutine.
type allocation struct {
	// Fixed after construction.
	front   *front
	id      uint64
	tuple   transport.FiveTuple
	via     transport.Path
	lane    *engine.Lane // lane is where the engine keeps the relays.
	created time.Time
	family  string        // family is that of the relays, as the metrics name it.
	request [12]byte      // request is the transaction id of the Allocate.
	ended   chan struct{} // ended is closed with the last relay.
	gate    *consent.Gate // gate knows which peers have consented; nil where nobody asks.

	toPeer, fromPeers traffic

	changes atomic.Uint32 // changes counts what makes another decision about a flow possible.

	waiting *train // waiting is nil until a client of a stream has sent data, and owned by the goroutine that reads it.

	mu      sync.RWMutex
	who     auth.Identity
	answer  []byte // answer is the success response, for retransmissions.
	relays  []*relay
	expires time.Time
	why     string // why is the reason it ends for.

	// These are nil while there is nothing in them, as in an idle allocation.
	permits  map[netip.Addr]time.Time
	channels map[uint16]*channel
	byPeer   map[netip.AddrPort]*channel
}

// traffic counts what passed in one direction, and shapes it.
type traffic struct {
	bytes, packets atomic.Uint64
	shaper         *shaper
}

// pass counts packets that are n bytes together if the bandwidth allows them.
func (t *traffic) pass(packets, n int, now time.Time) bool {
	if t.shaper != nil && !t.shaper.allow(n, now) {
		return false
	}
	t.bytes.Add(uint64(n))
	t.packets.Add(uint64(packets))
	return true
}

// relayFor returns the relay of a peer's address family, or nil.
func (a *allocation) relayFor(peer netip.Addr) *relay {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.relayForLocked(peer)
}

func (a *allocation) relayForLocked(peer netip.Addr) *relay {
	for _, r := range a.relays {
		if r.pool.address.Bind.Is4() == peer.Is4() {
			return r
		}
	}
	return nil
}

// permit installs or refreshes permissions; it reports false, and changes
// nothing, when that were too many.
func (a *allocation) permit(peers []netip.AddrPort, limit int, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	fresh := map[netip.Addr]bool{}
	for _, p := range peers {
		if !a.permits[p.Addr()].After(now) {
			fresh[p.Addr()] = true
		}
	}
	maps.DeleteFunc(a.permits, func(_ netip.Addr, until time.Time) bool { return !until.After(now) })
	if len(a.permits)+len(fresh) > limit {
		return false
	}
	if a.permits == nil {
		a.permits = map[netip.Addr]time.Time{}
	}
	for _, p := range peers {
		a.permits[p.Addr()] = now.Add(permissionLifetime)
	}
	a.changes.Add(1)
	return true
}

// permitted returns until when a peer may send and be sent to, and whether it may.
func (a *allocation) permitted(peer netip.Addr, now time.Time) (until time.Time, ok bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	until = a.permits[peer]
	return until, until.After(now)
}

// bindable tells whether a channel number may be bound to a peer: neither is
// bound to another (RFC 8656, section 12.2), and there is room.
func (a *allocation) bindable(number uint16, peer netip.AddrPort, limit int, now time.Time) (free, room bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, c := range a.channels {
		if !c.expires.After(now) {
			delete(a.channels, n)
			delete(a.byPeer, c.peer)
		}
	}
	byNumber, byPeer := a.channels[number], a.byPeer[peer]
	return byNumber == byPeer, byNumber != nil || len(a.channels) < limit
}

// bind binds or refreshes a channel that is bindable.
func (a *allocation) bind(number uint16, peer netip.AddrPort, r *relay, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.channels == nil {
		a.channels, a.byPeer = map[uint16]*channel{}, map[netip.AddrPort]*channel{}
	}
	c := &channel{number: number, peer: peer, relay: r, expires: now.Add(channelLifetime)}
	a.channels[number], a.byPeer[peer] = c, c
	a.changes.Add(1)
}

// channelTo returns the live channel of a number, or nil.
func (a *allocation) channelTo(number uint16, now time.Time) *channel {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if c := a.channels[number]; c != nil && c.expires.After(now) {
		return c
	}
	return nil
}

// channelFrom returns the live channel of a peer, or nil.
func (a *allocation) channelFrom(peer netip.AddrPort, now time.Time) *channel {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if c := a.byPeer[peer]; c != nil && c.expires.After(now) {
		return c
	}
	return nil
}

// refreshed notes a new expiry and the credential that asked for it.
func (a *allocation) refreshed(who auth.Identity, expires time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.who, a.expires = who, expires
}

func (a *allocation) owner() auth.Identity {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.who
}

func (a *allocation) allRelays() []*relay {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Clone(a.relays)
}

// end closes the relays, for the first reason that is given, and tells the
// engine.
func (a *allocation) end(why string) { a.front.release(a.stop(why)) }

// stop closes the relays, which are to be released then.
func (a *allocation) stop(why string) []*relay {
	a.mu.Lock()
	if a.why == "" {
		a.why = why
	}
	a.mu.Unlock()
	relays := a.allRelays()
	for _, r := range relays {
		_ = r.Close()
	}
	return relays
}

// lose is called by a relay that was closed. Its channels and its place in the
// quotas go with it, and the allocation with its last relay.
func (a *allocation) lose(r *relay) {
	a.mu.Lock()
	a.relays = slices.DeleteFunc(slices.Clone(a.relays), func(o *relay) bool { return o == r })
	for n, c := range a.channels {
		if c.relay == r {
			delete(a.channels, n)
			delete(a.byPeer, c.peer)
		}
	}
	last, why := len(a.relays) == 0, a.why
	a.changes.Add(1)
	a.mu.Unlock()
	a.front.quotas.release(a.holder(), 1)
	if last {
		close(a.ended)
		a.front.forget(a, why)
	}
	a.front.open.Done()
}

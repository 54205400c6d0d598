package consent

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

const (
	// The checks and answers that pass to and from one peer that has not consented: so many a second, and so many at once.
	peerRate, peerBurst = 50, 20

	// Those that pass to all such peers of an allocation together. An agent paces its checks at 20 a second.
	gateRate, gateBurst = 100, 200

	// maxPeers is how many peers a gate knows at once. The first to go are those who have not consented.
	maxPeers = 256

	// maxChecks is how many checks of the client a gate remembers to await an answer, and maxAsked how many of the peers.
	maxChecks, maxAsked = 256, 128
)

// Direction is where a packet goes.
type Direction uint8

// The directions.
const (
	Out Direction = iota // Out is from the client to a peer.
	In                   // In is from a peer to the client.
)

// Rules are what a gate asks for.
type Rules struct {
	Mode      Mode
	CheckSize int // CheckSize bounds the checks and answers in bytes that pass before consent.

	// Passwords returns the ICE passwords of the members of the room with that ufrag. Only Room asks for them, for each check that
	// awaits a proof when it is sent and again when it is answered.
	Passwords func(ufrag string) [][]byte

	// Again sends a check of the client to a peer again, as if it came from the client. It is called without a lock. Nil means that nobody
	// can.
	Again func(peer netip.AddrPort, check []byte)

	// MayCheck is asked for each check or answer that is about to leave for a peer that has not consented, beside the gate's own rates: an
	// owner of many gates has no more than one of few. It is called with the gate's lock held. Nil means yes.
	MayCheck func(now time.Time) bool
}

// Gate decides what passes between the client of one allocation and its peers, each of which is an address and a port. It never learns
// from another gate.
//
// What goes out needs the peer's consent: its own success response to a check that this client has sent to exactly this peer, known by
// its transaction id and signed. Who answers so takes part in ICE, and no service of another kind can. A server that sends back what it
// gets cannot either: an answer names the address that the check came from, the client's answers pass only if they name the peer, and
// what names the peer itself proves nothing. Until then checks pass, and the client's answers to the peer's checks, few a second. What
// comes in needs as much, or that the client has answered a check of the peer, since the first flight of DTLS comes before the peer's own
// answer. Consent lapses, and is renewed as it was given: renewal.go tells who sees to that.
//
// With it the first byte still tells what WebRTC does not send. That is a fence, consent is the wall.
//
// Its methods may be called by any goroutine.
type Gate struct {
	// Fixed after construction.
	rules Rules
	born  time.Time

	denied [2][verdicts]tally

	mu     sync.Mutex
	peers  map[netip.AddrPort]*peer // peers is nil while there are none, as in an idle allocation.
	all    meter                    // all is that of the checks to peers that have not consented.
	checks memory                   // checks are those that the client has sent,
	drafts drafts                   // and drafts the last of them as they were.
	asked  memory                   // asked are those that peers have sent whom the client has called,
	others memory                   // and others those of other peers, of whom any number may be behind a permitted address.
}

// New returns the gate of an allocation that is made now.
func New(rules Rules, now time.Time) *Gate { return &Gate{rules: rules, born: now} }

// age is the time of the gate, which no change of the clock moves. It is never negative: a peer that has never consented passes until
// moment 0, and the turn of a data loop which makes an allocation and relays for it has the time when it began.
func (g *Gate) age(now time.Time) moment { return moment(max(0, now.Sub(g.born))) }

// moment is a time in nanoseconds since a gate was made.
type moment int64

// peer is what a gate knows of a peer.
type peer struct {
	until [2]atomic.Int64 // until is the moment from which on data must not pass in a direction.
	due   atomic.Int64    // due is the moment from which on the peer is asked for its consent.

	// Guarded by the gate's mu.
	meters [2]meter
	called bool   // called says that the client has sent it something.
	proved bool   // proved says that it has consented once.
	check  []byte // check is the last one of the client's that it has answered.
}

func (p *peer) passes(d Direction, now moment) bool { return p.until[d].Load() > int64(now) }

// open lets data pass in a direction.
func (p *peer) open(d Direction, now moment) { p.until[d].Store(int64(now) + int64(Life)) }

// Flow is one direction between a client and a peer, with a memory of what the gate knows of the peer. The memory ends with what its
// owner calls a moment, in which nobody else need be asked again. The zero Flow passes everything.
type Flow struct {
	gate      *Gate
	peer      netip.AddrPort
	direction Direction
	known     *peer // known has consented, when it was last looked up.
}

// Flow returns a direction between the client and a peer. A nil Gate passes everything.
func (g *Gate) Flow(d Direction, peer netip.AddrPort) Flow {
	return Flow{gate: g, peer: peer, direction: d}
}

// Admit decides about a packet, and counts it if it is denied.
func (f *Flow) Admit(payload []byte, at time.Time) Verdict {
	if f.gate == nil {
		return Passed
	}
	now := f.gate.age(at)
	if f.known != nil && isMedia(payload) && f.known.passes(f.direction, now) && !f.known.isDue(now) {
		return Passed
	}
	verdict, c := f.gate.decide(f, payload, now)
	if c.ufrag != "" {
		f.gate.settle(c, payload, now)
	}
	if verdict != Passed {
		f.gate.denied[f.direction][verdict].add(len(payload))
	} else if f.known != nil && f.known.isDue(now) {
		f.gate.renew(f, now)
	}
	return verdict
}

// decide is Admit for what is not known to pass. What is claimed is to be settled by who holds no lock.
func (g *Gate) decide(f *Flow, payload []byte, now moment) (Verdict, claim) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers[f.peer]
	if p == nil || !p.passes(f.direction, now) {
		return g.decideUnproved(f, p, payload, now)
	}
	f.known = p
	if isMedia(payload) {
		return Passed, claim{}
	}
	m, ok := parse(payload)
	switch {
	case !ok:
		return Foreign, claim{}
	case f.direction == Out && m.kind == stun.BindingSuccess && m.mapped != wire.Unmapped(f.peer):
		return NoCheck, claim{} // Sent back, it would look like the peer's.
	}
	return Passed, g.heed(f, p, &m, payload, now)
}

// decideUnproved decides about what goes to or comes from a peer that may be nobody's: p is nil when it is new.
func (g *Gate) decideUnproved(f *Flow, p *peer, payload []byte, now moment) (Verdict, claim) {
	m, ok := parse(payload)
	switch {
	case !ok && p != nil && p.proved:
		return Lapsed, claim{}
	case !ok:
		return Unproved, claim{}
	case len(payload) > g.rules.CheckSize || !m.isCheck() && !(p != nil && m.answers() && g.awaits(f, p, &m)):
		return NoCheck, claim{}
	case !g.mayPass(f, p, now):
		return Rate, claim{}
	}
	if p == nil {
		if p = g.admit(f, now); p == nil {
			return Rate, claim{}
		}
	}
	return Passed, g.heed(f, p, &m, payload, now)
}

// awaits says whether an answer is one to a check that has come the other way. The client's names whom it answers.
func (g *Gate) awaits(f *Flow, p *peer, m *message) bool {
	if f.direction == In {
		return g.checks.find(p, m.id) != nil
	}
	return g.hasAsked(p, m.id) && (m.kind == stun.BindingError || m.mapped == wire.Unmapped(f.peer))
}

// hasAsked says whether a peer has sent that check.
func (g *Gate) hasAsked(p *peer, id transaction) bool {
	return g.asked.find(p, id) != nil || g.others.find(p, id) != nil
}

// mayPass holds checks and answers down to the rate of a peer, nil for a new one, and those that leave to that of all peers and of the owner.
func (g *Gate) mayPass(f *Flow, p *peer, now moment) bool {
	if p != nil && !p.meters[f.direction].take(now, peerRate, peerBurst) {
		return false
	}
	return f.direction == In || g.all.take(now, gateRate, gateBurst) && (g.rules.MayCheck == nil || g.rules.MayCheck(g.born.Add(time.Duration(now))))
}

// admit makes a new peer known. When there are too many, one goes that has not consented; and whom the client has called does not go for a
// stranger who calls, of whom there may be any number behind a permitted address. Without one to go there is no new one.
func (g *Gate) admit(f *Flow, now moment) *peer {
	if len(g.peers) >= maxPeers && !g.evict(f.direction, now) {
		return nil
	}
	if g.peers == nil {
		g.peers = map[netip.AddrPort]*peer{}
	}
	p := new(peer)
	p.due.Store(int64(never))
	p.meters[f.direction].take(now, peerRate, peerBurst)
	g.peers[f.peer] = p
	return p
}

func (g *Gate) evict(d Direction, now moment) bool {
	for addr, p := range g.peers {
		if !p.passes(Out, now) && !p.passes(In, now) && (d == Out || !p.called) {
			delete(g.peers, addr)
			return true
		}
	}
	return false
}

// isMedia says whether WebRTC sends a payload beside STUN (RFC 7983): DTLS, TURN channel data, SRTP or SRTCP.
func isMedia(payload []byte) bool {
	if len(payload) == 0 {
		return false
	}
	b := payload[0]
	return 20 <= b && b < 80 || 128 <= b && b < 192
}

package turnsrv

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/wire"
)

// defaultLifetime is what an allocation lives without a LIFETIME (RFC 8656,
// section 3.2).
const defaultLifetime = 10 * time.Minute

// allocateRequest is what an Allocate asks for (RFC 8656, section 7.2).
type allocateRequest struct {
	family    byte
	both      bool // both wants an IPv6 relay beside the IPv4 one.
	even      bool
	reserve   bool // reserve wants the port above an even one held back.
	token     reservationToken
	hasToken  bool
	lifetime  time.Duration
	noRelayV6 bool // noRelayV6 is set when both cannot be had.
}

// places is how many the request needs in the quotas: one for each relay, and one
// for a port that is held back. A token comes with the place of its port.
func (a *allocateRequest) places() int {
	switch {
	case a.hasToken:
		return 0
	case a.reserve, a.both:
		return 2
	}
	return 1
}

var (
	errTransport = errors.New("unsupported transport")
	errFamily    = errors.New("unsupported address family")
)

// parseAllocate reads an Allocate. Its error is errTransport, errFamily or else a
// malformed request.
func (q *request) parseAllocate() (allocateRequest, error) {
	var a allocateRequest
	protocol, given, err := wire.SizedValue(q.m, stun.AttrRequestedTransport, 4)
	switch {
	case err != nil || !given:
		return a, wire.ErrMessage
	case protocol[0] != wire.ProtocolUDP:
		return a, errTransport
	}
	if a.lifetime, err = q.lifetime(); err != nil {
		return a, err
	}
	if err := a.parsePort(q.m); err != nil {
		return a, err
	}
	return a, a.parseFamily(q.m)
}

func (a *allocateRequest) parsePort(m *stun.Message) error {
	even, given, err := wire.SizedValue(m, stun.AttrEvenPort, 1)
	if err != nil {
		return err
	}
	a.even, a.reserve = given, given && even[0]&0x80 != 0
	token, given, err := wire.SizedValue(m, stun.AttrReservationToken, len(a.token))
	if err != nil || given && a.even {
		return wire.ErrMessage
	}
	a.hasToken = given
	copy(a.token[:], token)
	return nil
}

func (a *allocateRequest) parseFamily(m *stun.Message) error {
	family, given, err := requestedFamily(m)
	if err != nil {
		return err
	}
	a.family = family
	additional, both, err := wire.SizedValue(m, wire.AttrAdditionalAddressFamily, 4)
	if err != nil || both && (given || a.hasToken || a.reserve || additional[0] != wire.FamilyIPv6) || given && a.hasToken {
		return wire.ErrMessage
	}
	if family != wire.FamilyIPv4 && family != wire.FamilyIPv6 {
		return errFamily
	}
	a.both = both
	return nil
}

// allocate handles Allocate (RFC 8656, section 7.2).
func (q *request) allocate() {
	if q.alloc != nil {
		q.allocateAgain()
		return
	}
	want, err := q.parseAllocate()
	switch {
	case errors.Is(err, errTransport):
		q.fail(stun.CodeUnsupportedTransProto)
		return
	case errors.Is(err, errFamily):
		q.fail(stun.CodeAddrFamilyNotSupported)
		return
	case err != nil:
		q.fail(stun.CodeBadRequest)
		return
	}
	if q.front.draining.Load() {
		q.refuseDraining()
		return
	}
	places := want.places()
	if quota := q.acquire(places); quota != "" {
		q.exceeded(quota)
		return
	}
	sockets, reserved, code := q.openSockets(&want)
	if code != 0 {
		q.front.quotas.release(q.holder(), places)
		q.fail(code)
		return
	}
	if want.noRelayV6 {
		q.front.quotas.release(q.holder(), 1)
	}
	q.create(want, sockets, reserved)
}

// acquire takes places for an allocation, or names the quota that has none. Who is at
// a quota of its own takes nothing from what all share.
func (q *request) acquire(places int) (exceeded string) {
	f := q.front
	if quota := f.quotas.acquire(q.holder(), places); quota != "" {
		return quota
	}
	if quota := f.rates.take(q.holder(), q.now); quota != "" {
		f.quotas.release(q.holder(), places)
		return quota
	}
	return ""
}

// allocateAgain answers a retransmission with the same response, and refuses any
// other Allocate on a 5-tuple that is in use.
func (q *request) allocateAgain() {
	if q.alloc.request != q.m.TransactionID {
		q.fail(stun.CodeAllocMismatch)
		return
	}
	q.alloc.mu.RLock()
	answer := q.alloc.answer
	q.alloc.mu.RUnlock()
	q.send(answer)
}

// openSockets opens what an Allocate asks for: its relays, and the one to hold
// back. On failure it returns the error code and leaves nothing open.
func (q *request) openSockets(want *allocateRequest) (sockets []*relaySocket, reserved *relaySocket, code stun.ErrorCode) {
	f := q.front
	if want.hasToken {
		s := f.reserved.redeem(want.token, q.holder())
		if s == nil {
			return nil, nil, stun.CodeInsufficientCapacity
		}
		return []*relaySocket{s}, nil, 0
	}
	pool := f.pool(want.family)
	if pool == nil {
		return nil, nil, stun.CodeAddrFamilyNotSupported
	}
	var first *relaySocket
	var err error
	if want.even {
		first, reserved, err = pool.openEven(want.reserve)
	} else {
		first, err = pool.open()
	}
	if err != nil {
		f.warn("no turn relay could be opened", "error", err)
		return nil, nil, stun.CodeInsufficientCapacity
	}
	sockets = []*relaySocket{first}
	if want.both {
		sockets = f.addIPv6(sockets, want)
	}
	return sockets, reserved, 0
}

// addIPv6 adds the additional relay. Without one the allocation is made all the
// same (RFC 8656, section 7.2).
func (f *front) addIPv6(sockets []*relaySocket, want *allocateRequest) []*relaySocket {
	if pool := f.pool(wire.FamilyIPv6); pool != nil {
		if s, err := pool.open(); err == nil {
			return append(sockets, s)
		}
	}
	want.noRelayV6 = true
	return sockets
}

func (f *front) pool(family byte) *relayPool {
	for _, p := range f.pools {
		if wire.FamilyOf(p.address.Bind) == family {
			return p
		}
	}
	return nil
}

// create makes the allocation and answers. The places in the quotas are the
// allocation's and the reserved socket's from here on.
func (q *request) create(want allocateRequest, sockets []*relaySocket, reserved *relaySocket) {
	f := q.front
	a := f.newAllocation(q, want.lifetime, sockets)
	for _, r := range a.allRelays() {
		if err := r.begin(want.lifetime); err != nil {
			a.end(endClosed)
			if reserved != nil {
				f.reserved.discard(reserved, q.holder())
			}
			q.serverError("allocating", err)
			return
		}
	}
	var setters []stun.Setter
	for _, s := range sockets {
		setters = append(setters, wire.SetXORAddress(stun.AttrXORRelayedAddress, s.seen()))
	}
	setters = append(setters, wire.SetLifetime(want.lifetime), wire.SetXORAddress(stun.AttrXORMappedAddress, q.from.Client))
	if reserved != nil {
		token := f.reserved.hold(reserved, q.holder())
		setters = append(setters, wire.SetValue(stun.AttrReservationToken, token[:]...))
	}
	if want.noRelayV6 {
		setters = append(setters, wire.SetValue(wire.AttrAddressErrorCode, wire.FamilyIPv6, 0, 4, 40))
	}
	f.add(a)
	if f.auth.IsRevoked(q.who, q.now) { // A revocation that came meanwhile may not have seen the allocation.
		a.end(endRevoked)
		q.challenge(&auth.Failure{Code: stun.CodeUnauthorized, Reason: auth.FailRevoked})
		return
	}
	answer := q.succeed(setters...)
	a.mu.Lock()
	a.answer = answer
	a.mu.Unlock()
	f.log.Debug("turn allocation created", "id", a.id, "client", q.from.Client, "transport", q.from.Protocol.String(),
		"relay", sockets[0].seen(), "user", q.who.User)
}

// place returns the loop and the lane of a new allocation: those of the client's
// listener, to which all its packets come, or any for a client of a stream. The
// loop is nil without loops.
func (q *request) place(id uint64) (*dataLoop, *engine.Lane) {
	if q.loop != nil {
		return q.loop, q.loop.lane
	}
	f := q.front
	lane := f.lanes[id%uint64(len(f.lanes))]
	if len(f.shared) == 0 {
		return nil, lane
	}
	return f.shared[id%uint64(len(f.shared))], lane
}

func (f *front) newAllocation(q *request, lifetime time.Duration, sockets []*relaySocket) *allocation {
	a := &allocation{
		front:   f,
		id:      f.lastID.Add(1),
		tuple:   q.from,
		via:     q.via,
		created: q.now,
		request: q.m.TransactionID,
		ended:   make(chan struct{}),
		who:     q.who,
		expires: q.now.Add(lifetime),
	}
	a.toPeer.shaper = newShaper(f.cfg.Bandwidth, f.total)
	a.fromPeers.shaper = newShaper(f.cfg.Bandwidth, f.total)
	var loop *dataLoop
	loop, a.lane = q.place(a.id)
	for _, s := range sockets {
		f.open.Add(1)
		a.relays = append(a.relays, &relay{relaySocket: s, id: f.lastID.Add(1), alloc: a, loop: loop})
	}
	a.family = familyLabel(sockets)
	a.gate = f.newGate(a, q.now)
	return a
}

// newGate returns what asks the peers of a new allocation for consent, if the node and the credential ask for it, by what both ask
// for. What the allocation is refreshed with later changes nothing.
func (f *front) newGate(a *allocation, now time.Time) *consent.Gate {
	who := a.who
	mode := min(consent.ModeOf(f.cfg.PeerProof), who.Proof)
	if mode == consent.Off {
		return nil
	}
	user := ownerOf(who)
	return consent.New(consent.Rules{
		Mode:      mode,
		CheckSize: f.cfg.CheckSize,
		Passwords: func(ufrag string) [][]byte { return f.cfg.MemberPasswords(who.User, ufrag) },
		Again:     a.sendAgain,
		MayCheck:  func(now time.Time) bool { return f.checks.allow(user, now) },
	}, now)
}

// familyLabel is the address family of an allocation as the metrics name it.
func familyLabel(sockets []*relaySocket) string {
	switch {
	case len(sockets) > 1:
		return "both"
	case sockets[0].pool.address.Bind.Is4():
		return "ipv4"
	}
	return "ipv6"
}

// lifetime returns the lifetime that the request is granted: at least the
// default and at most the maximum (RFC 8656, section 7.2), or 0 for a Refresh
// that asks for it. With strict expiry it ends with the credential.
func (q *request) lifetime() (time.Duration, error) {
	value, given, err := wire.SizedValue(q.m, stun.AttrLifetime, 4)
	if err != nil {
		return 0, err
	}
	granted := defaultLifetime
	if given {
		asked := time.Duration(binary.BigEndian.Uint32(value)) * time.Second
		if asked == 0 && q.m.Type.Method == stun.MethodRefresh {
			return 0, nil
		}
		granted = max(defaultLifetime, min(asked, q.front.cfg.MaxLifetime))
	}
	if q.front.cfg.StrictExpiry && !q.who.Expiry.IsZero() {
		granted = min(granted, max(q.who.Expiry.Sub(q.now), time.Second))
	}
	return granted, nil
}

// requestedFamily reads REQUESTED-ADDRESS-FAMILY.
func requestedFamily(m *stun.Message) (family byte, given bool, err error) {
	value, given, err := wire.SizedValue(m, stun.AttrRequestedAddressFamily, 4)
	if err != nil || !given {
		return wire.FamilyIPv4, false, err
	}
	return value[0], true, nil
}

package turnsrv

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

// defaultLifetime is what an allocation lives without a LIFETIME (RFC 8656,
// section 3.2).
const defaultLifetime = 10 * time.Minute

var errOtherListener = errors.New("the client has come by another listener")

// request is one STUN request under way.
type request struct {
	front *front
	loop  *dataLoop // loop has read the request, and sends what answers it; nil without one.
	from  transport.FiveTuple
	via   transport.Path
	m     *stun.Message
	now   time.Time

	who   auth.Identity // who is set once the request is authenticated.
	alloc *allocation   // alloc is the allocation of the 5-tuple, or nil.
}

// request answers a request. A method that is none of ours is dropped.
func (f *front) request(q *request) {
	switch q.m.Type.Method {
	case stun.MethodBinding:
		q.binding()
	case stun.MethodAllocate:
		q.authenticated((*request).allocate)
	case stun.MethodRefresh:
		q.authenticated(forOwner((*request).refresh))
	case stun.MethodCreatePermission:
		q.authenticated(forOwner((*request).createPermission))
	case stun.MethodChannelBind:
		q.authenticated(forOwner((*request).channelBind))
	default:
		f.metrics.dropped(dropMethod)
	}
}

// binding answers a Binding request (RFC 8489, section 3).
func (q *request) binding() {
	if !q.mayAnswerStranger() {
		return
	}
	if unknown := wire.UnknownAttributes(q.m); len(unknown) > 0 {
		q.fail(stun.CodeUnknownAttribute, unknown)
		return
	}
	q.succeed(wire.SetXORAddress(stun.AttrXORMappedAddress, q.from.Client))
}

// mayAnswerStranger bounds the answers that a source address gets without having
// proved itself, since a source may be forged to flood its owner.
func (q *request) mayAnswerStranger() bool {
	if q.front.sources.Allow(q.from.Client.Addr(), q.now) {
		return true
	}
	q.front.metrics.dropped(dropSourceLimit)
	return false
}

// authenticated calls handle for a request that is proved and understood.
func (q *request) authenticated(handle func(*request)) {
	f := q.front
	q.alloc = f.allocation(q.from)
	var known *auth.Identity
	if q.alloc != nil {
		owner := q.alloc.owner()
		known = &owner
	}
	who, failure := f.auth.Authenticate(q.m, q.from.Client.Addr(), known, q.now)
	if failure != nil {
		q.challenge(failure)
		return
	}
	q.who = who
	if unknown := wire.UnknownAttributes(q.m); len(unknown) > 0 {
		q.fail(stun.CodeUnknownAttribute, unknown)
		return
	}
	handle(q)
}

// challenge refuses a request that is not proved. But for a malformed one it
// tells what the client needs to try again (RFC 8489, section 9.2.4).
func (q *request) challenge(failure *auth.Failure) {
	f := q.front
	f.metrics.authFailures.WithLabelValues(failure.Reason).Inc()
	if failure.Reason != auth.FailMissing {
		f.debug("turn authentication failed", "client", q.from.Client, "reason", failure.Reason)
	}
	if !q.mayAnswerStranger() {
		return
	}
	if failure.Code == stun.CodeBadRequest {
		q.fail(failure.Code)
		return
	}
	realm, nonce := f.auth.Challenge(q.from.Client.Addr(), q.now)
	q.fail(failure.Code, realm, nonce)
}

// lane returns the lane that the request came on, nil unless a loop has read it.
func (q *request) lane() *engine.Lane {
	if q.loop == nil {
		return nil
	}
	return q.loop.lane
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
	if len(f.loops) == 0 {
		return nil, lane
	}
	return f.loops[id%uint64(len(f.loops))], lane
}

// forOwner calls handle if the 5-tuple has an allocation, the request comes from its
// user (RFC 8656, section 5), and its lane may be used: an own lane by its loop
// alone.
func forOwner(handle func(*request)) func(*request) {
	return func(q *request) {
		switch {
		case q.alloc == nil:
			q.fail(stun.CodeAllocMismatch)
		case quotaKey(q.alloc.owner()) != quotaKey(q.who):
			q.fail(stun.CodeWrongCredentials)
		case q.alloc.lane.Own() && q.alloc.lane != q.lane():
			q.serverError("asking the engine", errOtherListener)
		default:
			handle(q)
		}
	}
}

// refresh handles Refresh (RFC 8656, section 8.2).
func (q *request) refresh() {
	family, given, err := requestedFamily(q.m)
	lifetime, lifeErr := q.lifetime()
	if err != nil || lifeErr != nil {
		q.fail(stun.CodeBadRequest)
		return
	}
	var relays []*relay
	for _, r := range q.alloc.allRelays() {
		if !given || wire.FamilyOf(r.pool.address.Bind) == family {
			relays = append(relays, r)
		}
	}
	if len(relays) == 0 {
		q.fail(stun.CodePeerAddrFamilyMismatch)
		return
	}
	if lifetime == 0 {
		q.release(relays)
		return
	}
	for _, r := range relays {
		if err := r.kept.Refresh(lifetime); err != nil {
			q.serverError("refreshing", err)
			return
		}
	}
	q.alloc.refreshed(q.who, q.now.Add(lifetime))
	q.front.metrics.refreshed.Inc()
	q.succeed(wire.SetLifetime(lifetime))
}

// release closes relays at the client's wish.
func (q *request) release(relays []*relay) {
	if len(relays) == len(q.alloc.allRelays()) {
		q.alloc.end(endReleased)
	} else {
		for _, r := range relays {
			_ = r.Close()
			r.release()
		}
	}
	q.succeed(wire.SetLifetime(0))
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

// createPermission handles CreatePermission: all of its peers or none (RFC 8656,
// section 10.2).
func (q *request) createPermission() {
	peers, err := wire.PeerAddresses(q.m)
	if err != nil {
		q.fail(stun.CodeBadRequest)
		return
	}
	if code := q.checkPeers(peers); code != 0 {
		q.fail(code)
		return
	}
	if !q.alloc.permit(peers, q.front.cfg.MaxPermissions, q.now) {
		q.exceeded(quotaPeers)
		return
	}
	for _, r := range q.alloc.allRelays() {
		if err := r.kept.Permit(peers); err != nil {
			q.serverError("permitting", err)
			return
		}
	}
	q.succeed()
}

// checkPeers returns the error code of the first peer that the allocation cannot
// or must not reach, 0 when there is none.
func (q *request) checkPeers(peers []netip.AddrPort) stun.ErrorCode {
	for _, peer := range peers {
		if !q.front.policy.Permits(peer) {
			q.front.metrics.peersDenied.Inc()
			q.front.debug("turn peer denied", "client", q.from.Client, "peer", peer)
			return stun.CodeForbidden
		}
		if q.alloc.relayFor(peer.Addr()) == nil {
			return stun.CodePeerAddrFamilyMismatch
		}
	}
	return 0
}

// channelBind handles ChannelBind (RFC 8656, section 12.2).
func (q *request) channelBind() {
	value, given, err := wire.SizedValue(q.m, stun.AttrChannelNumber, 4)
	peers, peersErr := wire.PeerAddresses(q.m)
	if err != nil || peersErr != nil || !given || len(peers) != 1 {
		q.fail(stun.CodeBadRequest)
		return
	}
	number, peer := binary.BigEndian.Uint16(value), peers[0]
	if number < minChannel || number > q.front.maxChannel {
		q.fail(stun.CodeBadRequest)
		return
	}
	if code := q.checkPeers(peers); code != 0 {
		q.fail(code)
		return
	}
	free, room := q.alloc.bindable(number, peer, q.front.cfg.MaxChannels, q.now)
	switch {
	case !free:
		q.fail(stun.CodeBadRequest)
		return
	case !room || !q.alloc.permit(peers, q.front.cfg.MaxPermissions, q.now):
		q.exceeded(quotaPeers)
		return
	}
	r := q.alloc.relayFor(peer.Addr())
	if r == nil { // It was closed a moment ago.
		q.fail(stun.CodeAllocMismatch)
		return
	}
	if err := r.kept.Bind(number, peer); err != nil {
		q.serverError("binding a channel", err)
		return
	}
	q.alloc.bind(number, peer, r, q.now)
	q.succeed()
}

// exceeded refuses a request for a quota.
func (q *request) exceeded(quota string) {
	q.front.metrics.quotaHits.WithLabelValues(quota).Inc()
	if quota == quotaUser {
		q.fail(stun.CodeAllocQuotaReached)
		return
	}
	q.fail(stun.CodeInsufficientCapacity)
}

// serverError answers a request that failed for no fault of the client.
func (q *request) serverError(doing string, err error) {
	q.front.warn("turn request failed", "doing", doing, "error", err)
	q.fail(stun.CodeServerError)
}

// reasons are the reason phrases of RFC 8489, section 14.8, and RFC 8656,
// section 19.
var reasons = map[stun.ErrorCode]string{
	stun.CodeBadRequest:             "Bad Request",
	stun.CodeUnauthorized:           "Unauthorized",
	stun.CodeForbidden:              "Forbidden",
	stun.CodeUnknownAttribute:       "Unknown Attribute",
	stun.CodeAllocMismatch:          "Allocation Mismatch",
	stun.CodeStaleNonce:             "Stale Nonce",
	stun.CodeAddrFamilyNotSupported: "Address Family not Supported",
	stun.CodeWrongCredentials:       "Wrong Credentials",
	stun.CodeUnsupportedTransProto:  "Unsupported Transport Protocol",
	stun.CodePeerAddrFamilyMismatch: "Peer Address Family Mismatch",
	stun.CodeAllocQuotaReached:      "Allocation Quota Reached",
	stun.CodeServerError:            "Server Error",
	stun.CodeInsufficientCapacity:   "Insufficient Capacity",
}

// fail answers with an error.
func (q *request) fail(code stun.ErrorCode, setters ...stun.Setter) {
	q.front.metrics.errors.WithLabelValues(q.m.Type.Method.String(), codeLabel(code)).Inc()
	reason := stun.ErrorCodeAttribute{Code: code, Reason: []byte(reasons[code])}
	q.answer(stun.ClassErrorResponse, append([]stun.Setter{reason}, setters...))
}

// succeed answers with success and returns the answer.
func (q *request) succeed(setters ...stun.Setter) []byte {
	return q.answer(stun.ClassSuccessResponse, setters)
}

// answer sends a response: with MESSAGE-INTEGRITY when the request is
// authenticated, and with FINGERPRINT when the request had one.
func (q *request) answer(class stun.MessageClass, setters []stun.Setter) []byte {
	all := append([]stun.Setter{
		stun.NewTransactionIDSetter(q.m.TransactionID), stun.NewType(q.m.Type.Method, class),
	}, setters...)
	if software := q.front.cfg.Software; software != "" {
		all = append(all, stun.NewSoftware(software))
	}
	if q.who.Key != nil {
		all = append(all, stun.MessageIntegrity(q.who.Key))
	}
	if q.m.Contains(stun.AttrFingerprint) {
		all = append(all, stun.Fingerprint)
	}
	response, err := stun.Build(all...)
	if err != nil {
		q.front.warn("building a turn response", "error", err)
		return nil
	}
	q.send(response.Raw)
	return response.Raw
}

// send sends an answer, which must not change any more.
func (q *request) send(answer []byte) {
	if q.loop != nil {
		q.loop.reply(q.via, answer)
		return
	}
	if err := q.via.Send(answer); err != nil {
		q.front.debug("turn response not sent", "client", q.from.Client, "error", err)
	}
}

// requestedFamily reads REQUESTED-ADDRESS-FAMILY.
func requestedFamily(m *stun.Message) (family byte, given bool, err error) {
	value, given, err := wire.SizedValue(m, stun.AttrRequestedAddressFamily, 4)
	if err != nil || !given {
		return wire.FamilyIPv4, false, err
	}
	return value[0], true, nil
}

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

// places is how many the request needs in the quotas: a port that is held back
// costs as much as an allocation, and a token comes with the place of its port.
func (a *allocateRequest) places() int {
	switch {
	case a.hasToken:
		return 0
	case a.reserve:
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
	transport, given, err := wire.SizedValue(q.m, stun.AttrRequestedTransport, 4)
	switch {
	case err != nil || !given:
		return a, wire.ErrMessage
	case transport[0] != wire.ProtocolUDP:
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
		q.exceeded(quotaDrain)
		return
	}
	if !q.front.rate.AllowN(q.now, 1) {
		q.exceeded(quotaRate)
		return
	}
	places := want.places()
	if quota := q.front.quotas.acquire(quotaKey(q.who), places); quota != "" {
		q.exceeded(quota)
		return
	}
	sockets, reserved, code := q.openSockets(&want)
	if code != 0 {
		q.front.quotas.release(quotaKey(q.who), places)
		q.fail(code)
		return
	}
	q.create(want, sockets, reserved)
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
		s := f.reserved.take(want.token, quotaKey(q.who))
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
				f.reserved.discard(reserved, quotaKey(q.who))
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
		token := f.reserved.hold(reserved, quotaKey(q.who))
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
	return a
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

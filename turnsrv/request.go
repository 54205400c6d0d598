package turnsrv

import (
	"errors"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/transport"
	"cline-meet/signal/turnsrv/internal/wire"
)

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
	if q.discover() {
		return
	}
	if !q.mayAnswer(auth.AnswerBinding, q.m.TransactionID) {
		return
	}
	if unknown := wire.UnknownAttributes(q.m); len(unknown) > 0 {
		q.fail(stun.CodeUnknownAttribute, unknown)
		return
	}
	q.succeed(wire.SetXORAddress(stun.AttrXORMappedAddress, q.from.Client))
}

// classicBinding answers a Binding request of a client of RFC 3489.
func (q *request) classicBinding(packet []byte) {
	answer := wire.ClassicAnswer(packet, q.from.Client)
	if answer == nil {
		q.front.metrics.dropped(dropMalformed)
		return
	}
	if q.mayAnswer(auth.AnswerBinding, [stun.TransactionIDSize]byte(packet[wire.STUNHeader-stun.TransactionIDSize:])) {
		q.send(answer)
	}
}

// mayAnswer bounds the answers that a source address gets without having proved
// itself. Who came over TCP, TLS or DTLS has shown that the address is its own, but
// may still guess at passwords.
func (q *request) mayAnswer(kind auth.Answer, id [stun.TransactionIDSize]byte) bool {
	if q.from.Protocol != transport.UDP && kind != auth.AnswerRefused {
		return true
	}
	if q.front.strangers.Allow(kind, q.from.Client, id, q.now) {
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
	if q.alloc == nil && q.from.Protocol == transport.UDP {
		f.strangers.Return(auth.AnswerUnauthorized, q.from.Client.Addr(), q.now)
	}
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
	if !failure.Known && !q.mayAnswer(failure.Answer(), q.m.TransactionID) {
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

// forOwner calls handle if the 5-tuple has an allocation, the request comes from its
// user (RFC 8656, section 5), and its lane may be used: an own lane by its loop
// alone.
func forOwner(handle func(*request)) func(*request) {
	return func(q *request) {
		switch {
		case q.alloc == nil:
			q.fail(stun.CodeAllocMismatch)
		case ownerOf(q.alloc.owner()) != ownerOf(q.who):
			q.fail(stun.CodeWrongCredentials)
		case q.alloc.lane.Own() && q.alloc.lane != q.lane():
			q.serverError("asking the engine", errOtherListener)
		default:
			handle(q)
		}
	}
}

// exceeded refuses a request for a quota.
func (q *request) exceeded(quota string) {
	q.front.metrics.quotaHits.WithLabelValues(quota).Inc()
	switch quota {
	case quotaUser, quotaUserRate, quotaAddress, quotaAddressRate:
		q.fail(stun.CodeAllocQuotaReached)
	default:
		q.fail(stun.CodeInsufficientCapacity)
	}
}

// serverError answers a request that failed for no fault of the client.
func (q *request) serverError(doing string, err error) {
	q.front.warn("turn request failed", "doing", doing, "error", err)
	q.fail(stun.CodeServerError)
}

// reasons are the reason phrases of RFC 8489, section 14.8, and RFC 8656,
// section 19.
var reasons = map[stun.ErrorCode]string{
	stun.CodeTryAlternate:           "Try Alternate",
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
	if err := q.via.Send(answer, 0); err != nil {
		q.front.debug("turn response not sent", "client", q.from.Client, "error", err)
	}
}

package signal

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"cline-meet/signal/state"
)

// stateTimeout bounds one operation on the shared state.
const stateTimeout = 5 * time.Second

// handlers are what handles each type of message, in the read loop of the sender's conn. A handler
// returns a *clientError for what the client must be told, nil when the message was handed on, and errLater when
// the answer comes by itself.
var handlers = [messageTypes]func(*participant, envelope) error{
	unknownType:  (*participant).refuseType,
	joinRoom:     (*participant).joinRoom,
	leaveRoom:    (*participant).leaveRoom,
	offer:        (*participant).relayDocument,
	answer:       (*participant).relayDocument,
	iceCandidate: (*participant).relayDocument,
	appMessage:   (*participant).relayMessage,
	stunConfig:   (*participant).freshICE,
	authMessage:  (*participant).renewClaims,
}

// handle decodes and handles one frame and answers it with an ack, an error or nothing.
func (c *conn) handle(op opcode, frame []byte) {
	if op != opText {
		c.refuse(envelope{}, codeBadRequest, []byte("send text frames, not binary ones"))
		return
	}
	if wait := c.throttle(); wait > 0 {
		c.hold(frame, wait)
		return
	}
	env, err := decode(frame)
	if len(frame) > c.largest {
		err = fault(codeTooLarge, "message too large for your token: %d bytes at most", c.largest)
	}
	if err == nil && (env.Type == stunConfig || env.Type == authMessage) {
		if wait := c.srv.mayMint(c.from); wait > 0 {
			c.hold(frame, wait)
			return
		}
	}
	if err == nil {
		err = c.participant.handle(env)
	}
	c.answer(env, err)
	if env.Type == joinRoom || env.Type == leaveRoom {
		c.participant.nameRoom()
	}
}

// handle does what a message asks for, unless that was done before under the same id.
func (p *participant) handle(env envelope) error {
	if env.Type == stunConfig || env.Type == authMessage { // Who asks again gets some again.
		return handlers[env.Type](p, env)
	}
	env.key = keyOf(p.user, env)
	before, known := p.recall(env.key)
	switch {
	case known && before == nil && p.rests(env):
		return nil
	case known && before.flying:
		return errLater
	case known:
		env.missed = before.missed
	}
	return handlers[env.Type](p, env)
}

// rests reports whether a message that was done before needs nothing more. To join is done again, for that tells
// once more who is there, and so is to leave where there is a room to leave.
func (p *participant) rests(env envelope) bool {
	return env.Type != joinRoom && (env.Type != leaveRoom || p.room == nil)
}

// errLater says that a message is under way and will be answered, or that its sender is at another node.
var errLater = errors.New("the answer comes later")

func (p *participant) refuseType(env envelope) error {
	return fault(codeBadRequest, "type: %q is unknown", truncate(string(env.Name)))
}

// hold refuses a message that comes too soon. It allocates nothing, because a client may send many.
func (c *conn) hold(frame []byte, wait time.Duration) {
	env, _ := decode(frame) // What is wrong with it besides does not matter.
	var space [64]byte
	text := strconv.AppendInt(append(space[:0], "rate limit: wait "...), wait.Milliseconds()+1, 10)
	c.refuse(env, codeRateLimited, append(text, " ms"...))
}

// throttle returns how long the client must wait before its next message, 0 when this one may pass.
func (c *conn) throttle() (wait time.Duration) {
	defer func() { c.hasty = wait > 0 }()
	now := time.Now()
	if c.rate.AllowN(now, 1) {
		return c.srv.mayMessage(c.from, now.Sub(started))
	}
	c.srv.metrics.reached(limitMessages)
	missing := 1 - c.rate.TokensAt(now)
	return max(time.Millisecond, time.Duration(missing/float64(c.rate.Limit())*float64(time.Second)))
}

func (c *conn) answer(env envelope, err error) {
	if err == nil {
		c.srv.metrics.messages[env.Type][outcomeOK].Inc()
		if len(env.ID) > 0 {
			var space [128]byte
			c.participant.send(appendAck(space[:0], env.ID))
		}
		return
	}
	if err == errLater {
		return
	}
	if errors.Is(err, errAnswered) {
		c.srv.metrics.messages[env.Type][outcomeRefused].Inc()
		return
	}
	var ce *clientError
	if !errors.As(err, &ce) {
		c.log.Warn("handling a message", "type", env.Type, "error", err)
		ce = &clientError{code: codeUnavailable, message: "try again"}
	}
	c.refuse(env, ce.code, []byte(ce.message))
}

// answerCast answers a message when the nodes of its receivers have taken it or not.
func (p *participant) answerCast(typ messageType, id string, missed []stay, reached bool) {
	if !reached {
		p.refuse(typ, []byte(id), codeUnavailable, []byte("nobody could be reached: try again"))
		return
	}
	p.srv.metrics.messages[typ][outcomeOK].Inc()
	if id != "" {
		p.send(appendAckMissed(nil, id, missed))
	}
}

// refuse answers a message with an error.
func (p *participant) refuse(typ messageType, id []byte, code int, text []byte) {
	p.srv.metrics.messages[typ][outcomeOf(code)].Inc()
	if p.log.Enabled(p.srv.ctx, slog.LevelDebug) {
		p.log.Debug("message refused", "type", typ, "code", code, "error", string(text))
	}
	var space [512]byte
	p.send(appendError(space[:0], id, code, text))
}

// refuse answers a message with an error. A client with too many of them is closed.
func (c *conn) refuse(env envelope, code int, text []byte) {
	c.participant.refuse(env.Type, env.ID, code, text)
	if !c.faults.AllowN(time.Now(), faultOf(code)) {
		c.participant.expel(closePolicy, "too many messages were refused")
	}
}

func truncate(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// joinRoom enters the new room before it leaves the old one, so that a refused join costs nothing.
func (p *participant) joinRoom(env envelope) error {
	id, err := roomID(env.Data)
	if err != nil {
		return err
	}
	if p.room != nil && p.room.id == id {
		p.room.welcome(p)
		return nil
	}
	claims, err := p.mayJoin(id)
	if err != nil {
		return err
	}
	if !p.awaitTrust(id) {
		return errLater
	}
	if err := p.awaitAnswers(); err != nil {
		return fromState(err)
	}
	p.yield()
	l := &localMember{participant: p, joining: true}
	r := p.srv.addLocal(id, l)
	ctx, cancel := context.WithTimeout(p.srv.ctx, stateTimeout)
	defer cancel()
	view, err := p.srv.state.Join(ctx, id, p.member(), p.srv.cfg.MaxRoomUsers)
	if err != nil {
		p.srv.removeLocal(r, p)
		return p.refuseJoin(id, env.ID, err)
	}
	p.leave(state.ReasonLeave)
	p.room = r
	r.joined(l, view)
	p.trust(claims)
	p.done(env.key)
	p.log.Debug("joined", "room", id, "version", view.Version, "members", len(view.Members))
	return nil
}

// refuseJoin tells the client why it is not in the room. A full room has a message of its own,
// which is the answer also to a request with an id.
func (p *participant) refuseJoin(room string, id []byte, err error) error {
	if errors.Is(err, state.ErrRoomFull) {
		p.send(appendRoomFull(nil, id, room))
		return errAnswered
	}
	return fromState(err)
}

// errAnswered says that a refusal has been told to the client already.
var errAnswered = errors.New("refusal is told")

func (p *participant) leaveRoom(env envelope) error {
	if p.room == nil {
		return fault(codeNoRoom, "you are in no room")
	}
	if !p.awaitTrust("") {
		return errLater
	}
	if err := p.awaitAnswers(); err != nil && p.srv.state.Ready() == nil {
		return fromState(err)
	}
	p.yield()
	p.leave(state.ReasonLeave)
	p.trust(p.visitor().claims)
	p.done(env.key)
	return nil
}

// awaitAnswers waits, in the read loop, until all that the participant said in its room is answered: it leaves
// after its last words, unless Redis is away.
func (p *participant) awaitAnswers() error {
	return p.awaitFlying(p.srv.ctx, (*window).empty)
}

// leave takes the participant out of its room, if it is in one.
func (p *participant) leave(why state.Reason) {
	r := p.room
	if r == nil {
		return
	}
	p.room = nil
	r.leaves(p)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.srv.ctx), stateTimeout)
	defer cancel()
	view, err := p.srv.state.Leave(ctx, r.id, p.user, p.epoch, why)
	switch {
	case err == nil:
		r.apply(view)
	case !errors.Is(err, state.ErrNotMember):
		p.log.Warn("leaving a room", "room", r.id, "error", err)
	}
	p.srv.removeLocal(r, p)
	p.log.Debug("left", "room", r.id, "reason", why, "version", view.Version)
}

// relayDocument relays an offer, answer or candidate to one member.
func (p *participant) relayDocument(env envelope) error {
	switch {
	case len(env.TargetID) == 0:
		return fault(codeBadRequest, "target_id: missing")
	case len(env.Data) == 0:
		return fault(codeBadRequest, "data: missing")
	case !hasDocument(env.Data):
		return fault(codeBadRequest, "data: must be an object or a string that encodes one")
	case p.receivesOnly() && sends(env.Type, env.Data):
		return p.mayNotPublish()
	}
	return p.relay(env)
}

// relayMessage relays an app message to one member, or to the room when it names no target.
func (p *participant) relayMessage(env envelope) error {
	if len(env.Data) == 0 {
		return fault(codeBadRequest, "data: missing")
	}
	if p.receivesOnly() {
		return p.mayNotPublish()
	}
	return p.relay(env)
}

func (p *participant) relay(env envelope) error {
	r := p.room
	if r == nil {
		return fault(codeNoRoom, "you are in no room: join_room first")
	}
	if !p.awaitTrust("") {
		return errLater
	}
	if err := p.awaitFlying(p.srv.ctx, func(w *window) bool { return !w.full() }); err != nil {
		return fromState(err)
	}
	frame := newBuffer(len(env.Data) + relayOverhead)
	defer frame.free()
	frame.b = appendRelay(frame.b, env, p.user, r.id)
	switch r.deliver(cast{p, env.Type, env.TargetID, env.ID, env.key, env.missed, frame.b}) {
	case notMember:
		return fault(codeNotMember, "target_id: not a member of your room")
	case underWay:
		return errLater
	}
	p.done(env.key)
	return nil
}

// fromState turns an error of the shared state into what the client is told; its cause is logged
// by answer when it is none of the contract's.
func fromState(err error) error {
	switch {
	case errors.Is(err, state.ErrStale):
		return fault(codeNoRoom, "a newer connection of yours is in the room")
	case errors.Is(err, state.ErrUnavailable):
		return fault(codeUnavailable, "shared state is unreachable: try again")
	}
	return err
}

func (p *participant) freshICE(envelope) error {
	p.sendICE()
	return nil
}

package signal

import (
	"context"
	"errors"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/state"
)

// stateTimeout bounds one operation on the shared state.
const stateTimeout = 5 * time.Second

// handlers are what handles each type of message. A handler returns a *clientError for what the
// client must be told, and nil when the message was handed on.
var handlers = [messageTypes]func(*conn, envelope) error{
	unknownType:  (*conn).refuseType,
	joinRoom:     (*conn).joinRoom,
	leaveRoom:    (*conn).leaveRoom,
	offer:        (*conn).relayDocument,
	answer:       (*conn).relayDocument,
	iceCandidate: (*conn).relayDocument,
	appMessage:   (*conn).relayMessage,
	stunConfig:   (*conn).freshICE,
}

// handle decodes and handles one frame and answers it with an ack, an error or nothing.
func (c *conn) handle(kind int, frame []byte) {
	env, err := c.admit(kind, frame)
	if err == nil {
		err = handlers[env.Type](c, env)
	}
	c.answer(env.Type, env.ID, err)
}

func (c *conn) refuseType(env envelope) error {
	return fault(codeBadRequest, "type: %q is unknown", truncate(string(env.Name)))
}

// admit decodes a frame if the client's rate allows it.
func (c *conn) admit(kind int, frame []byte) (envelope, error) {
	if wait := c.throttle(); wait > 0 {
		env, _ := decode(frame)
		return env, fault(codeRateLimited, "rate limit: wait %d ms", wait.Milliseconds()+1)
	}
	if kind != websocket.TextMessage {
		return envelope{}, fault(codeBadRequest, "send text frames, not binary ones")
	}
	return decode(frame)
}

// throttle returns how long the client must wait before its next message, 0 when this one may pass.
func (c *conn) throttle() time.Duration {
	now := time.Now()
	if c.rate.AllowN(now, 1) {
		return 0
	}
	missing := 1 - c.rate.TokensAt(now)
	return max(time.Millisecond, time.Duration(missing/float64(c.rate.Limit())*float64(time.Second)))
}

func (c *conn) answer(t messageType, id []byte, err error) {
	if err == nil {
		c.srv.metrics.messages[t][outcomeOK].Inc()
		if len(id) > 0 {
			c.send(appendAck(nil, id))
		}
		return
	}
	if errors.Is(err, errAnswered) {
		c.srv.metrics.messages[t][outcomeRefused].Inc()
		return
	}
	var ce *clientError
	if !errors.As(err, &ce) {
		c.log.Warn("handling a message", "type", t, "error", err)
		ce = &clientError{codeUnavailable, "try again"}
	}
	c.srv.metrics.messages[t][outcomeOf(ce.code)].Inc()
	c.log.Debug("message refused", "type", t, "code", ce.code, "error", ce.message)
	c.send(appendError(nil, id, ce.code, ce.message))
	if ce.code != codeUnavailable && !c.faults.Allow() {
		c.close(websocket.ClosePolicyViolation, "too many bad messages", state.ReasonDisconnect)
	}
}

func truncate(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// joinRoom enters the new room before it leaves the old one, so that a refused join costs nothing.
func (c *conn) joinRoom(env envelope) error {
	id, err := roomID(env.Data)
	if err != nil {
		return err
	}
	if c.room != nil && c.room.id == id {
		c.room.welcome(c)
		return nil
	}
	r := c.srv.sit(id, &seat{conn: c})
	ctx, cancel := context.WithTimeout(c.srv.ctx, stateTimeout)
	defer cancel()
	view, err := c.srv.state.Join(ctx, id, c.member(), c.srv.cfg.MaxRoomUsers)
	if err != nil {
		c.srv.unseat(r, c)
		return c.refuseJoin(id, env.ID, err)
	}
	c.depart(state.ReasonLeave)
	c.room = r
	r.apply(view)
	c.log.Debug("joined", "room", id, "version", view.Version, "members", len(view.Members))
	return nil
}

// refuseJoin tells the client why it is not in the room. A full room has a message of its own,
// which is the answer also to a request with an id.
func (c *conn) refuseJoin(room string, id []byte, err error) error {
	if errors.Is(err, state.ErrRoomFull) {
		c.send(appendRoomFull(nil, id, room))
		return errAnswered
	}
	return fromState(err)
}

// errAnswered says that a refusal has been told to the client already.
var errAnswered = errors.New("refusal is told")

func (c *conn) leaveRoom(envelope) error {
	if c.room == nil {
		return fault(codeNoRoom, "you are in no room")
	}
	c.depart(state.ReasonLeave)
	return nil
}

// depart takes the connection out of its room, if it is in one.
func (c *conn) depart(why state.Reason) {
	r := c.room
	if r == nil {
		return
	}
	c.room = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.srv.ctx), stateTimeout)
	defer cancel()
	view, err := c.srv.state.Leave(ctx, r.id, c.user, c.epoch, why)
	switch {
	case err == nil:
		r.apply(view)
	case !errors.Is(err, state.ErrNotMember):
		c.log.Warn("leaving a room", "room", r.id, "error", err)
	}
	c.srv.unseat(r, c)
	c.log.Debug("left", "room", r.id, "reason", why, "version", view.Version)
}

func (c *conn) member() state.Member { return state.Member{ID: c.user, Epoch: c.epoch} }

// relayDocument relays an offer, answer or candidate to one member.
func (c *conn) relayDocument(env envelope) error {
	switch {
	case len(env.TargetID) == 0:
		return fault(codeBadRequest, "target_id: missing")
	case len(env.Data) == 0:
		return fault(codeBadRequest, "data: missing")
	case !hasDocument(env.Data):
		return fault(codeBadRequest, "data: must be an object or a string that encodes one")
	}
	return c.relay(env)
}

// relayMessage relays an app message to one member, or to the room when it names no target.
func (c *conn) relayMessage(env envelope) error {
	if len(env.Data) == 0 {
		return fault(codeBadRequest, "data: missing")
	}
	return c.relay(env)
}

func (c *conn) relay(env envelope) error {
	if c.room == nil {
		return fault(codeNoRoom, "you are in no room: join_room first")
	}
	frame := appendRelay(make([]byte, 0, len(env.Data)+relayOverhead), env, c.user, c.room.id)
	to := string(env.TargetID)
	j, ok := c.room.deliver(c.user, to, frame)
	if len(j.nodes) > 0 {
		defer j.end()
	}
	if !ok {
		return fault(codeNotMember, "target_id: not a member of your room")
	}
	if len(j.nodes) == 0 {
		return nil
	}
	m := state.Message{Room: c.room.id, From: c.user, To: to, Frame: frame}
	ctx, cancel := context.WithTimeout(c.srv.ctx, stateTimeout)
	defer cancel()
	return fromState(c.srv.state.Send(ctx, j.nodes, m))
}

// fromState turns an error of the shared state into what the client is told; its cause is logged
// by answer when it is none of the contract's.
func fromState(err error) error {
	switch {
	case errors.Is(err, state.ErrNoNode):
		return fault(codeNotMember, "target_id: its node is gone")
	case errors.Is(err, state.ErrStale):
		return fault(codeNoRoom, "a newer connection of yours is in the room")
	case errors.Is(err, state.ErrUnavailable):
		return fault(codeUnavailable, "shared state is unreachable: try again")
	}
	return err
}

func (c *conn) freshICE(envelope) error {
	c.sendICE()
	return nil
}

// sendICE sends ICE servers with fresh credentials.
func (c *conn) sendICE() { c.sendAside(c.iceFrame(false)) }

// iceFrame returns a frame with ICE servers with fresh credentials, the token to resume with and, in
// the greeting of a resumed session, how many kept frames follow. It notes when the servers must be
// renewed.
func (c *conn) iceFrame(resumed bool) []byte {
	ice := c.srv.cfg.ICE(c.host, c.user)
	c.mu.Lock()
	c.iceRefresh = time.Time{}
	if ice.TTL > 0 {
		c.iceRefresh = time.Now().Add(ice.TTL * 3 / 4)
	}
	kept := 0
	if resumed {
		kept = len(c.kept)
	}
	c.mu.Unlock()
	token := ""
	if c.srv.cfg.ResumeGrace > 0 {
		token = c.token()
	}
	return objectFrame(typeSTUNConfig, c.user, struct {
		ICEServers     []ICEServer `json:"iceServers"`
		TTL            int         `json:"ttl,omitempty"`
		ResumeToken    string      `json:"resume_token,omitempty"`
		Resumed        bool        `json:"resumed"`
		Kept           int         `json:"kept,omitempty"`
		MaxRoomUsers   int         `json:"max_room_users"`
		PingIntervalMS int64       `json:"ping_interval_ms"`
	}{ice.servers(), ice.seconds(), token, resumed, kept, c.srv.cfg.MaxRoomUsers, c.srv.wheel.turn.Milliseconds()})
}

// iceDue reports whether the ICE servers must be renewed before the next visit of the wheel.
func (c *conn) iceDue(next time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.iceRefresh.IsZero() && !c.iceRefresh.After(next)
}

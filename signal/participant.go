package signal

import (
	"cmp"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"cline-meet/signal/signal/auth"
	"cline-meet/signal/state"
)

// participant is one user of this node, from the first connection until it has left for good or has
// moved to another node. It outlives its WebSockets: while the client is connected a conn is
// attached to it, and without one it keeps frames until the client comes back or the grace is over.
//
// At any time it has one owner, who alone may change its room: while it is live the read loop of its
// conn, while it is detached nobody, and while it is taken whoever took it.
type participant struct {
	// Fixed after construction.
	srv   *Server
	user  string
	epoch uint64
	log   *slog.Logger

	// Belongs to the owner.
	room *room
	home *address // where it holds a place while it has no conn, nil while it has one

	// mu is taken after a room's and before a send queue's.
	mu     sync.Mutex
	owner  ownership
	conn   *conn       // the attached one, nil unless live
	addr   netip.Addr  // of the client there, or of the last one
	secure bool        // it came by TLS
	wanted bool        // somebody waits to take it from its conn
	grace  *time.Timer // ends it while it is detached
	until  time.Time   // when the grace is over
	over   bool        // it ends with its conn and takes no more frames
	kicked bool        // it ends because somebody said so
	absent bool        // its connection had ended when the process ran again, and its client has not come since
	gap    bool        // it missed something for good, which greetings say until the client has got one
	former uint64      // the oldest epoch of which the client may show the token, 0 once it has got the one of here
	place  string      // its room as its token names it, see revive
	relays []string    // the nodes beside this one whose TURN servers its client was told last

	greetings uint64 // how many connections were attached in this epoch
	proved    uint64 // the last of them whose greeting the client has got for sure

	adopted adoption // where it comes from, if it was adopted

	flying window                   // what it has sent to other nodes
	heard  memory[uint64, struct{}] // the ids of the messages that it was sent
	said   memory[uint64, *outcome] // what became of its own, nil when all have got it

	holding holding // what is held for it, whatever lock guards that
	account account // of what it keeps itself

	sent       uint64    // how many frames that count were sent, ever
	kept       frameLog  // the last of them, which the client has not confirmed
	asked      bool      // a ping that asks for a confirmation is under way
	iceRefresh time.Time // when fresh ICE servers and a fresh token are due; zero for never

	claims *auth.Claims // those of its client; nil where everybody may come in
	warned bool         // the client knows that they expire soon
}

// ownership says who a participant belongs to.
type ownership int

const (
	ownerTaken    ownership = iota // whoever made it or took it
	ownerConn                      // the read loop of its conn: it is live
	ownerDetached                  // nobody: whoever comes first may take it
)

// newParticipant returns a participant that belongs to the caller.
func newParticipant(s *Server, user string, epoch uint64) *participant {
	p := &participant{srv: s, user: user, epoch: epoch, log: s.cfg.Logger.With("user", user)}
	p.holding.budget = &s.budget
	p.holding.add(participantSize)
	return p
}

// newEpoch returns an epoch above those of all connections before, on any node.
func newEpoch() uint64 { return uint64(time.Now().UnixNano()) }

func (p *participant) member() state.Member { return state.Member{ID: p.user, Epoch: p.epoch} }

// greeting is what the first message of a connection says of the session: whether it was resumed, whether
// something is missing all the same, and how many kept frames follow.
type greeting struct {
	Resumed bool `json:"resumed"`
	Gap     bool `json:"gap,omitempty"`
	Kept    int  `json:"kept,omitempty"`
}

// attach gives a participant, which is the caller's, to a conn and greets the client: first with its
// ICE servers, then with all that is kept and that it has not got. It fails with errGone, and the
// participant stays the caller's, when there is no going on.
func (p *participant) attach(c *conn, g greeting, got *uint64) error {
	claims := cmp.Or(c.inRoom, c.claims)
	ice := p.srv.ice(c.host, p.user, claims)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.rewindLocked(got); err != nil {
		return err
	}
	p.trustLocked(c, claims)
	if g.Resumed {
		g.Kept = p.kept.count
	}
	p.vacate()
	c.participant, c.log, c.holding, p.relays = p, p.log, &p.holding, ice.Nodes
	p.addr, p.secure = c.addr, c.secure
	p.conn, p.owner, p.wanted, p.asked = c, ownerConn, false, false
	p.absent = p.absent && c.link.hungUp() // Its client may have come, and gone again, while the process did not run.
	p.greetings++
	if g.Gap {
		p.adopted.warned = time.Now()
	}
	c.open(p.iceFrameLocked(ice, g), p.kept.frames())
	switch {
	case p.gap && !g.Gap: // It has missed something just now.
		c.close(closeLost, "messages may be missing")
	case g.Gap || p.former > 0 || !c.bound.shown && p.greetings > 1:
		p.askLocked() // The answer proves that the greeting has come.
	}
	return nil
}

// detach takes a participant from its conn, whose read loop has ended, and keeps it for a client
// that comes back. It reports false when the participant must go at once; then it is the caller's.
func (p *participant) detach(c *conn, mayReturn bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(c.released)
	p.conn = nil
	stays := mayReturn && !p.over && p.srv.cfg.ResumeGrace > 0
	if !stays && !p.wanted {
		p.owner = ownerTaken
		return false
	}
	p.home = c.from
	p.srv.addrs.hold(p.home)
	p.owner, p.wanted = ownerDetached, false
	p.until = time.Now().Add(p.srv.cfg.ResumeGrace)
	p.grace = time.AfterFunc(p.srv.cfg.ResumeGrace, p.graceEnds)
	return true
}

// seize makes the caller the owner of a detached participant. Of a live one it returns the conn that
// must let go of it first. It fails with errGone when somebody else has it.
func (p *participant) seize() (holder *conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owner == ownerConn {
		p.wanted = true
		return p.conn, nil
	}
	if !p.seizeLocked() {
		return nil, errGone
	}
	return nil, nil
}

func (p *participant) seizeLocked() bool {
	if p.owner != ownerDetached {
		return false
	}
	p.owner = ownerTaken
	p.grace.Stop()
	return true
}

// letGo gives up a participant, which is the caller's: it is detached again, with what is left of its grace, unless it was to end
// meanwhile.
func (p *participant) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owner = ownerDetached
	p.grace = time.AfterFunc(time.Until(p.until), p.graceEnds)
	if p.over {
		p.expireLocked()
	}
}

func (p *participant) isDetached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner == ownerDetached
}

func (p *participant) graceEnds() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !time.Now().Before(p.until) { // Else it has been back meanwhile.
		p.expireLocked()
	}
}

// expireLocked ends a participant for good if it is detached.
func (p *participant) expireLocked() {
	if p.seizeLocked() {
		p.srv.tasks.run(func() { p.end(state.ReasonDisconnect) }) // After the last task Shutdown does it.
	}
}

// yield says, in the read loop, that it is about to wait for the shared state. Without other nodes
// that answers at once.
func (p *participant) yield() {
	if p.srv.cfg.Clustered {
		p.yieldAnyway()
	}
}

// yieldAnyway says, in the read loop, that it is about to wait.
func (p *participant) yieldAnyway() {
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c != nil {
		c.link.yield()
	}
}

// end takes a participant, which is the caller's, out of everything.
func (p *participant) end(why state.Reason) {
	why = p.fateOr(why)
	p.leave(why)
	p.srv.forget(p)
	p.log.Debug("participant is gone", "reason", why)
}

// lose ends a participant that may have missed something: the client is told to join again.
func (p *participant) lose(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sendLocked(errorFrame("", codeGone, why+": join again"))
	p.closeLocked(closeLost, why)
	p.expireLocked()
}

// miss notes that a participant has missed something for good. Its client is to come back, and its greeting
// tells it then. Without a grace nobody can come back: the participant ends.
func (p *participant) miss(why string) {
	if p.srv.cfg.ResumeGrace == 0 {
		p.lose(why)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap = true
	if p.conn != nil {
		p.conn.close(closeLost, why)
	}
}

// close ends a participant that is live: behind all that waits its client gets a close frame.
func (p *participant) close(code closeCode, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.closeLocked(code, text)
	}
}

func (p *participant) closeLocked(code closeCode, text string) {
	p.over = true
	if p.conn != nil {
		p.conn.close(code, text)
	}
}

// dismiss ends the connection because the server ends. Where sessions outlive the process, the client may
// come back.
func (p *participant) dismiss() {
	if !p.srv.outlived() {
		p.close(closeGoingAway, goingAway)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.close(closeGoingAway, goingAway)
	}
}

// leaveBehind takes a participant, which is the caller's, off this node; it stays a member of its room.
func (p *participant) leaveBehind() {
	if p.room != nil {
		p.srv.removeLocal(p.room, p)
	}
	p.srv.forget(p)
	p.log.Debug("participant is left behind")
}

// abort cuts the connection without a word, if there is one.
func (p *participant) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.abort()
	}
}

// visit is what the wheel does: it pings the client, unless frames are waiting for it, which prove or
// disprove it as well, and renews its ICE servers if they expire before the next visit.
func (p *participant) visit() {
	p.mu.Lock()
	if p.conn != nil && p.conn.idle() {
		p.askLocked()
	}
	p.heard.age(p.srv.memorySpan())
	p.said.age(p.srv.memorySpan())
	due := !p.iceRefresh.IsZero() && !p.iceRefresh.After(time.Now().Add(p.srv.wheel.turn)) || p.expiresSoonLocked()
	p.mu.Unlock()
	if due {
		p.sendICE()
	}
}

// sendICE sends ICE servers with fresh credentials to a client that is there.
func (p *participant) sendICE() {
	p.mu.Lock()
	c, claims := p.conn, p.claims
	p.mu.Unlock()
	if c == nil {
		return
	}
	ice := p.srv.ice(c.host, p.user, claims)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.relays = ice.Nodes
		p.queueLocked(p.iceFrameLocked(ice, greeting{}))
	}
}

// iceFrameLocked returns a frame for the client, which is there, with ICE servers, the token to resume with and what a
// greeting says of the session. It notes when the servers or the token must be renewed.
func (p *participant) iceFrameLocked(ice ICEConfig, g greeting) []byte {
	token, life := "", ice.TTL*3/4
	if p.srv.cfg.ResumeGrace > 0 {
		token = p.tokenLocked()
		if !p.conn.bound.shown && (life == 0 || life > bearerLife/2) {
			life = bearerLife / 2
		}
	}
	p.iceRefresh = time.Time{}
	if life > 0 {
		p.iceRefresh = time.Now().Add(life)
	}
	limits := p.srv.limitsOf(p.claims)
	return objectFrame(typeSTUNConfig, p.user, struct {
		ICEServers  []ICEServer `json:"iceServers"`
		TTL         int         `json:"ttl,omitempty"`
		ResumeToken string      `json:"resume_token,omitempty"`
		greeting
		MaxRoomUsers    int     `json:"max_room_users"`
		PingIntervalMS  int64   `json:"ping_interval_ms"`
		MaxMessageBytes int     `json:"max_message_bytes"`
		MessageRate     float64 `json:"message_rate"`
		MessageBurst    int     `json:"message_burst"`
		AuthExpiresIn   int     `json:"auth_expires_in,omitempty"`
	}{ice.servers(), ice.seconds(), token, g, p.srv.cfg.MaxRoomUsers, p.srv.wheel.turn.Milliseconds(),
		limits.MaxMessageBytes, limits.MessageRate, limits.MessageBurst, p.announceExpiryLocked()})
}

// Package signal is the WebSocket signaling server: it puts browsers into rooms and relays their
// offers, answers and candidates. README.md says what it speaks and how.
//
// What is acknowledged arrives once and in order, or its receiver is told of a gap, whatever happens to nodes and
// wherever clients go meanwhile. On one node the room's lock and the send queues see to that. Between nodes it is
// numbers: a source, which is a node in one life of its room, numbers what it sends for each stay of a
// member (line.go), and the member has a watermark for each source (watermark.go). What is not above the watermark
// is a duplicate, what names a number above it as the one before is held: so no way that a message takes can
// double or reorder it. What is missing shows by what follows, or by the tip, which says where a line ends
// when its member has moved (move.go) or something may be lost (tips.go). Lines follow the member, watermarks move
// with it. A message that is sent again is known by its id, at both ends (once.go).
package signal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/signal/auth"
	"cline-meet/signal/state"
)

// State is what the server asks of the shared state; package state documents the guarantees.
type State interface {
	ID() string
	Join(ctx context.Context, room string, m state.Member, limit int) (state.View, error)
	Leave(ctx context.Context, room, id string, epoch uint64, why state.Reason) (state.View, error)
	Move(ctx context.Context, room string, old state.Member, epoch uint64, known ...state.Member) (state.View, error)
	Adopt(ctx context.Context, node, user string, old, epoch uint64) (state.View, error)
	Send(m state.Message, copies []state.Copy, done func([]error))
	Nodes() []state.NodeInfo
	Doubtful(room string) bool
	AwaitTrust(ctx context.Context, room string)
	Ready() error
	Admits() error
	Started() <-chan struct{}
	Problems() []string
}

// maxPingInterval keeps the connection alive through proxies that cut quiet ones after 30 s.
const maxPingInterval = 25 * time.Second

// Server is one node's signaling. New binds its addresses, Run serves until Shutdown.
type Server struct {
	// Fixed after construction.
	cfg      Config
	state    State
	sessions sessions
	trusted  trusted
	addrs    *addresses
	callers  *callers
	refusals noticeRate
	unmet    noticeRate // connections that could not be accepted
	door     *auth.Door // nil when everybody may come in
	upgrader websocket.Upgrader
	wheel    *wheel
	metrics  *metrics
	files    map[string]file
	listener net.Listener
	http     *http.Server
	ctx      context.Context // ends when the server stops
	cancel   context.CancelFunc
	begun    time.Time
	limits   socketLimits
	pollers  *pollers
	flusher  flusher
	memory   reclaimer
	waste    waste
	budget   budget

	leaving  atomic.Bool // clients are asked to go to other nodes
	draining atomic.Bool
	members  atomic.Int64
	open     atomic.Int64  // WebSockets
	asked    atomic.Uint64 // requests for one, ever
	outsider outsider
	peers    *peerPasswords // nil unless TURN servers need them
	reading  sync.WaitGroup // the read loops
	tasks    tasks
	reply    func(ctx context.Context, topic string, text []byte) []byte // answers other nodes, see Answer

	answering atomic.Int64 // questions of other nodes

	moves  outgoingMoves
	kicked removed

	// mu is the outermost lock: the server's is taken before a room's, a room's before a
	// participant's, a participant's before a send queue's. Who needs a lock that is not the innermost
	// one held has to let go first.
	mu           sync.Mutex
	participants map[string]*participant // by user id
	rooms        map[string]*room
	retired      map[string]*room         // those that were left a moment ago, for their numbers
	requests     map[string]request       // to other nodes, by their number
	doubts       map[string]*doubt        // nodes of which something may be missing
	resuming     map[string]chan struct{} // users that a connection resumes; closed when it has
	adopting     int                      // participants that are being adopted, whose rooms are not known
	aside        map[string]state.View    // of rooms that one of them may be in, the newest of each
}

// New validates the config and binds the addresses. It serves nothing yet, and hears nothing of other
// nodes before the state has its Events.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	files, err := readPage(cfg.Page)
	if err != nil {
		return nil, fmt.Errorf("reading the page: %w", err)
	}
	s := &Server{
		cfg:      cfg,
		state:    cfg.State,
		sessions: newSessions(cfg.SessionSecrets),
		addrs:    newAddresses(cfg.addressLimits(), cfg.maxConns()),
		files:    files,
		rooms:    map[string]*room{},
		retired:  map[string]*room{},
		requests: map[string]request{},
		aside:    map[string]state.View{},
		doubts:   map[string]*doubt{},
		resuming: map[string]chan struct{}{},
		begun:    time.Now(),

		participants: map[string]*participant{},
	}
	if s.door, err = openDoor(cfg); err != nil {
		return nil, err
	}
	s.peers = newPeerPasswords(&cfg)
	s.trusted.set(&cfg)
	s.moves.byUser = map[string]*outgoingMove{}
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: cfg.WriteTimeout,
		ReadBufferSize:   1, // Only the handshake is its business.
		WriteBufferSize:  4 << 10,
		WriteBufferPool:  new(sync.Pool),
		CheckOrigin:      func(*http.Request) bool { return true }, // serveWS has checked it.
		Subprotocols:     []string{auth.Subprotocol},
	}
	s.budget.init(cfg.limitMemory() / 2)
	s.wheel = newWheel(min(cfg.ReadTimeout*2/5, maxPingInterval), s.visit)
	s.limits = socketLimits{cfg.MaxFrame, cfg.MaxQueue, cfg.ReadTimeout, cfg.WriteTimeout}
	s.metrics = newMetrics(s, cfg.Registry)
	s.callers = newCallers(&cfg, &s.trusted, s.addrs, s.metrics.cut)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.pollers, err = newPollers(&s.flusher); err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		s.pollers.close()
		return nil, err
	}
	return s, nil
}

// Events is what the shared state is to call when other nodes act. Who builds the node subscribes with
// them when all its parts are there: an event may come before Run.
func (s *Server) Events() state.Events {
	return state.Events{
		View:    func(v state.View) { s.flusher.batch(func() { s.onView(v) }) },
		Said:    s.onSaid,
		Message: func(m state.Message) { s.flusher.batch(func() { s.onMessage(s.soundMessage(m)) }) },
		Lost:    s.onLost,
		Missed:  s.onMissed,
		Slept:   s.onSlept,
		Present: s.isPresent,
		Died:    s.onDied,
	}
}

// listen binds the public address.
func (s *Server) listen() error {
	var err error
	addr := net.JoinHostPort(s.cfg.Host, strconv.Itoa(s.cfg.Port))
	listen := net.Listen
	if s.cfg.Listen != nil {
		listen = s.cfg.Listen
	}
	if s.listener, err = listen("tcp", addr); err != nil {
		return fmt.Errorf("--server-host, --server-port: binding %s: %w", addr, err)
	}
	if s.cfg.TLS != nil && !s.cfg.OnePort {
		cfg := s.cfg.TLS.Clone()
		cfg.NextProtos = append([]string{"http/1.1"}, cfg.NextProtos...) // A WebSocket takes over its connection, which HTTP/2 does not allow.
		s.listener = tls.NewListener(s.listener, cfg)
	}
	s.http = s.newPublicServer()
	return nil
}

// Addr returns the address that browsers connect to.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until Shutdown, and its error is nil then, or until the listener fails. WebSockets live
// on until Shutdown. It may be called once.
func (s *Server) Run() error {
	var wg sync.WaitGroup
	s.cfg.collectWithin()
	wg.Go(func() { s.wheel.run(s.ctx) })
	wg.Go(func() { s.door.Run(s.ctx) })
	wg.Go(func() { s.keepBudget(s.ctx) })
	wg.Go(func() { s.keepPasswords(s.ctx) })
	defer wg.Wait()
	if err := s.http.Serve(s.watched(s.listener)); !errors.Is(err, http.ErrServerClosed) && !s.draining.Load() {
		s.cancel()
		return fmt.Errorf("serving %s: %w", s.listener.Addr(), err)
	}
	return nil
}

// Shutdown ends the server: it becomes not ready, accepts nobody, says 1001 to every client and
// waits for their connections to end. When ctx ends first, it cuts what is left and returns the
// context's error. Where sessions outlive the process, who may come back stays in its room, which is the
// shared state's to keep from then on.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	_ = s.listener.Close() // The HTTP server closes only what it serves already.
	for _, p := range s.everybody() {
		p.dismiss()
	}
	s.stopHTTP(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.reading.Wait()
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("waiting for clients: %w", ctx.Err())
		for _, p := range s.everybody() {
			p.abort()
		}
		<-done
	}
	s.cancel()
	s.tasks.end()
	for _, p := range s.everybody() { // Nobody owns them any more.
		if _, err := p.seize(); err == nil && s.outlived() {
			p.leaveBehind()
		} else {
			p.end(state.ReasonDisconnect)
		}
	}
	s.pollers.close()
	s.flusher.wait()
	return err
}

// outlived reports whether sessions may outlive the process.
func (s *Server) outlived() bool {
	return s.cfg.ResumeGrace > 0 && (s.cfg.Clustered || s.cfg.LastingSecret)
}

// goingAway is the text of close frames when the server ends.
const goingAway = "server is going away"

func (s *Server) everybody() []*participant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.participants))
}

func (s *Server) participant(user string) *participant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.participants[user]
}

// Connections returns the number of WebSockets that are open.
func (s *Server) Connections() int { return int(s.open.Load()) }

// detached returns how many participants wait for their clients.
func (s *Server) detached() int {
	n := 0
	for _, p := range s.everybody() {
		if p.isDetached() {
			n++
		}
	}
	return n
}

func (s *Server) roomCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rooms)
}

// admit counts a connection whose read loop Shutdown waits for. It reports false when the server
// takes no more.
func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return false
	}
	s.reading.Add(1)
	return true
}

// register makes a participant under a user id that nobody else has. It belongs to the caller.
func (s *Server) register(session string) *participant {
	s.mu.Lock()
	defer s.mu.Unlock()
	user := s.sessions.newUserID(session)
	for s.participants[user] != nil {
		user = s.sessions.newUserID(session)
	}
	p := newParticipant(s, user, newEpoch())
	s.participants[user] = p
	return p
}

func (s *Server) forget(p *participant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(p)
}

func (s *Server) forgetLocked(p *participant) {
	p.vacate()
	p.holding.settle()
	if s.participants[p.user] == p {
		delete(s.participants, p.user)
	}
}

// serve attaches a connection to a participant and begins to read. At the end, ended takes the
// participant out of everything unless its client may come back.
func (s *Server) serve(c *conn, want resumption) {
	s.open.Add(1)
	if s.enter(c, want) != nil {
		c.cut(closeUnavailable, "the session cannot be reached now: resume again", lastWords)
		c.finish()
		s.vacate(c)
		return
	}
	if s.draining.Load() { // Shutdown may not have seen it.
		c.participant.dismiss()
	}
	s.wheel.add(c)
	c.serve()
}

// ended finishes a connection that reads no more.
func (s *Server) ended(c *conn, err error) {
	defer s.vacate(c)
	s.wheel.remove(c)
	why, mayReturn := c.ending(err)
	c.finish()
	s.metrics.ended.WithLabelValues(string(why)).Inc()
	p := c.participant
	p.log.Debug("connection ended", "reason", why, "error", err)
	if !p.detach(c, mayReturn) {
		p.end(why)
	}
}

// addLocal makes a participant known to a room before it joins.
func (s *Server) addLocal(id string, l *localMember) *room {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[id]
	if r == nil {
		r = s.reviveLocked(id)
		s.rooms[id] = r
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.local[l.participant.user] == nil {
		s.members.Add(1)
	}
	r.local[l.participant.user] = l
	if l.room = r; len(l.early) > 0 {
		l.awaitView()
	}
	if l.hasHoles() {
		l.awaitHoles()
	}
	return r
}

// removeLocal makes a room forget a participant, and the server forget the room with its last one.
func (s *Server) removeLocal(r *room, p *participant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	s.removeLocalLocked(r, p)
}

func (s *Server) removeLocalLocked(r *room, p *participant) {
	l := r.local[p.user]
	if l == nil || l.participant != p {
		return
	}
	l.heldMore(-l.heldBytes)
	l.earlyMore(-l.earlyBytes)
	delete(r.local, p.user)
	s.members.Add(-1)
	if len(r.local) == 0 && s.rooms[r.id] == r {
		delete(s.rooms, r.id)
		s.retireLocked(r)
	}
}

func (s *Server) room(id string) *room {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rooms[id]
}

// onView takes over what another node changed.
func (s *Server) onView(v state.View) {
	r := s.roomOf(v)
	if r == nil {
		s.moves.begin(v) // Of one that was the last to leave the room.
		return
	}
	for _, p := range r.takeOver(v) {
		s.tasks.run(p.replaced)
	}
}

// onMessage delivers what another node relays, if both ends are members of the room. What is for
// members on other nodes than this the sender's node has sent there.
func (s *Server) onMessage(m state.Message) {
	if m.Op != "" {
		s.onControl(m)
		return
	}
	if r := s.room(m.Room); r != nil {
		r.receive(m)
		return
	}
	s.moves.forwardAll(m) // The last of the room may have moved a moment ago.
}

// ConsistencyCheck returns what is wrong between the participants and the rooms; tests call it when
// nothing moves.
func (s *Server) ConsistencyCheck() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []error
	for id, r := range s.rooms {
		r.mu.Lock()
		if len(r.local) == 0 {
			problems = append(problems, fmt.Errorf("room %s is empty", id))
		}
		for user, l := range r.local {
			if s.participants[user] != l.participant {
				problems = append(problems, fmt.Errorf("room %s holds %s, who is not here", id, user))
			}
			if !slices.ContainsFunc(r.members, l.participant.member().Is) {
				problems = append(problems, fmt.Errorf("room %s holds %s, who is no member", id, user))
			}
		}
		r.mu.Unlock()
	}
	return errors.Join(problems...)
}

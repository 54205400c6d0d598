// Package turnsrv is the STUN and TURN server of a node. A front answers clients
// on every transport and relays their data; pion/turn, behind it, is the engine
// that keeps allocations.
// README.md tells the path of a packet and how the rooms below it fit together.
package turnsrv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/peers"
	"cline-meet/signal/turnsrv/internal/relayaddr"
	"cline-meet/signal/turnsrv/internal/transport"
)

const (
	// closeLimit is how long Close waits for the engine's last goroutines, which
	// have nothing left to wait for themselves.
	closeLimit = 5 * time.Second

	// addressTimeout bounds the search for the relay addresses, which may ask a
	// STUN server.
	addressTimeout = 30 * time.Second

	// drainPoll is how often Shutdown looks whether allocations are left.
	drainPoll = 50 * time.Millisecond
)

// Server is a running STUN and TURN server. Its methods may be called by any
// goroutine. A nil Server is one that is turned off: it has no port, no
// allocation, and nothing to change or to end.
type Server struct {
	// Fixed after construction.
	cfg        Config
	log        *slog.Logger
	front      *front
	transports *transport.Transports

	closeOnce sync.Once
	closeErr  error
}

// New binds every listener of cfg and serves on them until Close. After an
// error nothing is left behind.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(cfg.Secrets) == 0 {
		return nil, errors.New("--turn-secret: a server needs a shared secret")
	}
	if cfg.ProvesMembers() && cfg.MemberPasswords == nil {
		return nil, fmt.Errorf("--turn-peer-proof: %s needs the passwords of members, of which nobody tells", cfg.PeerProof)
	}
	s := &Server{cfg: cfg, log: cfg.logger()}
	if err := s.start(); err != nil {
		return nil, err
	}
	s.log.Info("turn server listening", "addresses", cfg.Listen, "port", s.Port(), "tls_port", s.TLSPort(),
		"relays", s.relayTexts(), "min_port", cfg.MinPort, "max_port", cfg.MaxPort)
	return s, nil
}

func (s *Server) start() error {
	counters := transport.NewMetrics()
	m := newMetrics(counters.Collectors()...)
	m.tell(s.cfg)
	var err error
	if s.front, err = newFront(s.cfg, m); err != nil {
		return err
	}
	listeners := s.cfg.transports(counters)
	listeners.Bindings = bindings{s.front}
	if s.transports, err = transport.Bind(listeners, s.front); err != nil {
		return errors.Join(err, s.front.close())
	}
	if err := s.front.startBehaviour(s.transports); err != nil {
		return errors.Join(err, s.stop())
	}
	s.front.startLoops(s.transports.UDPServers())
	if err := s.front.startEngine(batch.Cores()); err != nil {
		return errors.Join(err, s.stop())
	}
	if err := s.front.decidePeers(s.cfg.peers(), s.ports()...); err != nil {
		return errors.Join(err, s.stop())
	}
	s.transports.Serve()
	if s.cfg.Registerer == nil {
		return nil
	}
	if err := s.cfg.Registerer.Register(m); err != nil {
		return errors.Join(fmt.Errorf("registering turn metrics: %w", err), s.stop())
	}
	return nil
}

func newFront(cfg Config, m *metrics) (*front, error) {
	ctx, cancel := context.WithTimeout(context.Background(), addressTimeout)
	defer cancel()
	v4, v6, err := relayaddr.Find(ctx, cfg.relayAddresses())
	if err != nil {
		return nil, err
	}
	f := &front{
		cfg:       cfg,
		log:       cfg.logger(),
		metrics:   m,
		auth:      auth.New(cfg.auth()),
		quotas:    newQuotas(cfg.UserQuota, cfg.addressQuota(), cfg.totalQuota()),
		rates:     newAllocateRates(&cfg),
		checks:    newPace[owner](checkRate),
		strangers: auth.NewStrangers(cfg.UnauthRate),
		noise:     rate.NewLimiter(noiseRate, noiseRate),
		alarms:    rate.NewLimiter(noiseRate, noiseRate),
		total:     newByteBucket(cfg.TotalBandwidth),
		now:       cfg.now,
		memory:    &reclaimer{give: debug.FreeOSMemory},
	}
	f.reserved = newReservations(f.quotas)
	f.maxChannel = maxChannel5766
	if cfg.StrictChannels {
		f.maxChannel = maxChannel
	}
	f.openPools(v4, v6)
	if err := f.probePools(); err != nil {
		return nil, err
	}
	return f, nil
}

// decidePeers makes the peer policy, which forbids the node's own listeners,
// hence it comes once their ports are known and before anybody is served.
func (f *front) decidePeers(cfg peers.Config, ports ...int) error {
	for _, port := range ports {
		if port == 0 { // There is no such listener. In a permission it stands for no port in particular.
			continue
		}
		cfg.Forbidden = append(cfg.Forbidden, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)))
	}
	var own []relayaddr.Address
	for _, p := range f.pools {
		own = append(own, p.address)
	}
	policy, err := peers.New(cfg, own...)
	if err == nil {
		f.policy.Store(policy)
	}
	return err
}

// SetPeers replaces what --turn-allow-peer and --turn-deny-peer say, for all that is relayed to peers from now
// on. On error the old policy holds.
func (s *Server) SetPeers(allow, deny []string) error {
	if s == nil {
		return nil
	}
	cfg := s.cfg.peers()
	cfg.Allow, cfg.Deny = allow, deny
	return s.front.decidePeers(cfg, s.ports()...)
}

// probePools makes sure that relays can be bound at all, before anybody asks.
func (f *front) probePools() error {
	for _, p := range f.pools {
		s, err := p.open()
		if err != nil {
			return fmt.Errorf("--turn-relay-ip: binding a relay to %s: %w", p.address.Bind, err)
		}
		s.close()
	}
	return nil
}

// HoldRecords returns a connection for TLS that the server is to get without it, see Config.OnePort. In it records gather to be
// written at once.
func HoldRecords(conn net.Conn) net.Conn { return transport.HoldRecords(conn) }

// Close ends every allocation, connection and socket, and returns when the
// goroutines that served them are gone. It may be called more than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		if s.cfg.Registerer != nil {
			s.cfg.Registerer.Unregister(s.front.metrics)
		}
		s.closeErr = s.stop()
	})
	return s.closeErr
}

// stop goes from the outside in: no request can come, then no relay can be
// opened, then the relays are closed and their readers end.
func (s *Server) stop() error {
	s.transports.Close()
	err := errors.Join(s.front.close(), s.waitForEngine())
	for _, l := range s.front.loops {
		l.free()
	}
	return err
}

// waitForEngine polls, since the engine offers nothing to wait on: the reader of
// a relay removes its allocation when it ends.
func (s *Server) waitForEngine() error {
	deadline := time.NewTimer(closeLimit)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.front.engine != nil && s.front.engine.Open() > 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			return fmt.Errorf("closing the turn engine: allocations are still open after %v", closeLimit)
		}
	}
	return nil
}

// Drain refuses new allocations from now on and lets old ones live.
func (s *Server) Drain() {
	if s != nil {
		s.front.draining.Store(true)
	}
}

// Shutdown drains, waits until no allocation is left or ctx ends, and closes the
// server. Its error is that of Close.
func (s *Server) Shutdown(ctx context.Context) error {
	if s == nil {
		return nil
	}
	s.Drain()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for s.Allocations() > 0 {
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	return s.Close()
}

// Port returns the port of UDP and TCP.
func (s *Server) Port() int {
	if s == nil {
		return 0
	}
	return s.transports.Port()
}

// TLSPort returns the port of TLS and DTLS, 0 without a certificate.
func (s *Server) TLSPort() int { return s.transports.TLSPort() }

// ports are those of all listeners, 0 for those that there are not.
func (s *Server) ports() []int { return []int{s.Port(), s.TLSPort(), s.transports.AlternatePort()} }

// RelayIP returns the address that relays are seen at, IPv4 if there is one.
func (s *Server) RelayIP() netip.Addr {
	if s == nil {
		return netip.Addr{}
	}
	return s.front.pools[0].address.Seen
}

func (s *Server) relayTexts() []string {
	var texts []string
	for _, p := range s.front.pools {
		texts = append(texts, p.address.Bind.String()+" seen as "+p.address.Seen.String())
	}
	return texts
}

// SetSecrets replaces the shared secrets, newest first: requests proved with any of them are accepted
// from now on. Allocations that exist live on. An empty list changes nothing.
func (s *Server) SetSecrets(secrets []string) {
	if s != nil && len(secrets) > 0 {
		s.front.auth.SetSecrets(slices.Clone(secrets))
	}
}

// SetUsers replaces the static users, "name:password". What was allocated by those that were there before lives on.
func (s *Server) SetUsers(users []string) {
	if s != nil {
		s.front.auth.SetUsers(users)
	}
}

// Allocations returns how many allocations exist now.
func (s *Server) Allocations() int {
	if s == nil {
		return 0
	}
	return s.front.count()
}

// Users returns the users who have allocations or reserved ports, those with minted credentials.
func (s *Server) Users() []string {
	if s == nil {
		return nil
	}
	return s.front.quotas.minted()
}

// Allocation describes one allocation to an operator.
type Allocation struct {
	ID        string
	User      string
	Username  string
	Client    netip.AddrPort
	Server    netip.AddrPort // Server is the address that the client uses.
	Transport string
	Relays    []netip.AddrPort
	Created   time.Time
	Expires   time.Time
	// Traffic in payload bytes and packets.
	BytesToPeers, PacketsToPeers     uint64
	BytesFromPeers, PacketsFromPeers uint64
	Denied                           []Denial // Denied is what did not pass for want of consent.
	// Permissions and Channels hold the peers of those that are alive.
	Permissions []netip.Addr
	Channels    []netip.AddrPort
}

// Denial is what did not pass in one direction for one reason.
type Denial struct {
	Direction, Reason string // Direction and Reason are named as in the metrics.
	Packets, Bytes    uint64
}

// List returns the allocations that exist now, oldest first.
func (s *Server) List() []Allocation {
	if s == nil {
		return nil
	}
	var list []Allocation
	for _, a := range s.front.allocations() {
		list = append(list, a.describe(s.front.now()))
	}
	slices.SortFunc(list, func(a, b Allocation) int { return a.Created.Compare(b.Created) })
	return list
}

func (a *allocation) describe(now time.Time) Allocation {
	a.mu.RLock()
	defer a.mu.RUnlock()
	d := Allocation{
		ID: strconv.FormatUint(a.id, 10), User: a.who.User, Username: a.who.Username,
		Client: a.tuple.Client, Server: a.tuple.Server, Transport: a.tuple.Protocol.String(),
		Created: a.created, Expires: a.expires,
		BytesToPeers: a.toPeer.bytes.Load(), PacketsToPeers: a.toPeer.packets.Load(),
		BytesFromPeers: a.fromPeers.bytes.Load(), PacketsFromPeers: a.fromPeers.packets.Load(),
	}
	for _, r := range a.relays {
		d.Relays = append(d.Relays, r.seen())
	}
	for peer, until := range a.permits {
		if until.After(now) {
			d.Permissions = append(d.Permissions, peer)
		}
	}
	for _, c := range a.channels {
		if c.expires.After(now) {
			d.Channels = append(d.Channels, c.peer)
		}
	}
	d.Denied = denials(a.gate)
	slices.SortFunc(d.Permissions, netip.Addr.Compare)
	slices.SortFunc(d.Channels, netip.AddrPort.Compare)
	return d
}

// denials are what a gate, which may be nil, has denied.
func denials(g *consent.Gate) (all []Denial) {
	for d, direction := range directions {
		for _, v := range consent.Denials() {
			if n := g.Denied(consent.Direction(d), v); n.Packets > 0 {
				all = append(all, Denial{direction, v.String(), n.Packets, n.Bytes})
			}
		}
	}
	return all
}

// Kill ends the allocation with that id; it reports whether there was one.
func (s *Server) Kill(id string) bool {
	return s.front.endAll(endKilled, func(a *allocation) bool { return strconv.FormatUint(a.id, 10) == id }) > 0
}

// KillUser ends all allocations of a user, who may come again, and returns their
// number.
func (s *Server) KillUser(user string) int {
	return s.front.endAll(endKilled, func(a *allocation) bool { return a.owner().User == user })
}

// Revoke ends a user's allocations and returns their number. Credentials that
// were minted for the user open nothing for --turn-ttl, the longest that one can
// live; new ones neither, so who may come back needs another name.
func (s *Server) Revoke(user string) int {
	if s == nil {
		return 0
	}
	return s.front.revoke(user)
}

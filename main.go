// Command signal is everything a WebRTC product needs between its browsers: a WebSocket signaling
// server and, beside it in the same process, a STUN/TURN server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	ossignal "os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/urfave/cli/v2"
	_ "golang.org/x/crypto/x509roots/fallback" // A container may hold no certificate authorities.

	"cline-meet/signal/assets"
	"cline-meet/signal/packaging"
	"cline-meet/signal/signal"
	"cline-meet/signal/signal/admin"
	wsbench "cline-meet/signal/signal/bench"
	"cline-meet/signal/signal/certificate"
	"cline-meet/signal/signal/check"
	"cline-meet/signal/signal/edge"
	"cline-meet/signal/signal/service"
	"cline-meet/signal/signal/setting"
	"cline-meet/signal/state"
	"cline-meet/signal/turnsrv"
	turnbench "cline-meet/signal/turnsrv/bench"
)

func main() {
	ctx, stop := ossignal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // A second signal ends the process at once.
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// run is the whole program; it returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if err := newApp(args, stdout, stderr).RunContext(ctx, args); err != nil {
		service.Fail(stderr, err)
		return 1
	}
	return 0
}

func newApp(args []string, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                 "signal",
		Usage:                "WebRTC signaling and STUN/TURN in one process",
		Version:              packaging.Version(),
		HideVersion:          true, // The command says it, and so does the flag of ours.
		EnableBashCompletion: true,
		Flags:                []cli.Flag{&cli.BoolFlag{Name: "version", Usage: "print the version"}},
		Action:               packaging.NoCommand(stdout),
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // run prints the error and picks the status.
		Commands: []*cli.Command{serveCommand(args, stdout, stderr), service.HealthCommand(), check.Command(stdout), admin.Command(stdout, stderr), service.InitCommand(stdout), turnsrv.CredentialsCommand(stdout),
			state.RotateCommand(stdout), benchCommand(stdout, stderr), packaging.VersionCommand(stdout), packaging.LicensesCommand(stdout), packaging.CompletionCommand(stdout), packaging.ManCommand(stdout)},
	}
}

func benchCommand(stdout, stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name:        "bench",
		Usage:       "Measure servers",
		Subcommands: []*cli.Command{turnbench.Command(stdout, stderr), wsbench.Command(stdout, stderr)},
	}
}

func serveCommand(args []string, stdout, stderr io.Writer) *cli.Command {
	s := service.NewSettings()
	var checks bool
	return &cli.Command{
		Name:  "serve",
		Usage: "Run one node",
		Description: "Every setting is a flag, an environment variable and a key of the config file (the flag's\n" +
			"name without the leading dashes), in that order of precedence.",
		Flags: append(s.Table.Flags(), &cli.BoolFlag{Name: service.CheckFlag, Destination: &checks,
			Usage: "read the settings and certificate files, say what is wrong with them and end"}),
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return s.UsageProblems(args, err) },
		Action: func(c *cli.Context) error {
			if err := s.Complete(c); err != nil {
				return err
			}
			if checks {
				return report(s, stdout)
			}
			return serve(c.Context, s, args, stdout, stderr)
		},
	}
}

// heapFloor is how many bytes of garbage may always wait, beside as much as is in
// use. Without it a node with a small heap that is busy would collect it dozens of
// times a second.
const heapFloor = 32 << 20

// serve runs one node until ctx ends.
func serve(ctx context.Context, s *service.Settings, args []string, stdout, stderr io.Writer) error {
	hangups := service.CatchHangups()
	defer hangups.Release()
	service.AllowLowPorts()
	floor := make([]byte, heapFloor) // It is never touched, hence takes no memory.
	defer runtime.KeepAlive(floor)
	level, current := new(slog.LevelVar), s.Table.Texts()
	service.SetLevel(level, s.LogLevel)
	log := service.NewLogger(stderr, s.LogFormat, level)
	n, err := newNode(s, log, level)
	if err != nil {
		return err
	}
	defer hangups.Serve(func() { n.reload(args, level, current) })()
	n.notes().Log(log)
	defer check.Self(log, n.issuer.Told(), n.turn.RelayIP())()
	defer service.Watch(log, func() { _, _ = n.registry.Gather() })() // A metric or another takes each part's locks.
	return n.run(ctx, func() {
		if s.LogFormat == service.FormatText {
			n.introduction().Print(stdout)
		}
		log.Info("serving", "http", n.signal.Addr().String(), "admin", text(n.admin.Addr()),
			"turn", n.turn.Port(), "relay", n.relayIP(), "version", packaging.Version())
		service.Tell(log, service.Ready)
	})
}

func text(a net.Addr) string {
	if a == nil {
		return "off"
	}
	return a.String()
}

// node is one running node: the parts and what they were built from.
type node struct {
	settings  *service.Settings
	log       *slog.Logger
	registry  *prometheus.Registry
	secrets   *state.Secrets
	signal    *signal.Server
	turn      *turnsrv.Server // nil when TURN is off
	issuer    *turnsrv.Issuer
	state     sharedState
	directory *signal.Directory
	certs     *certificate.Set
	edge      *edge.Edge
	admin     *admin.Server
}

// sharedState is what a node needs of memory or Redis.
type sharedState interface {
	signal.State
	Subscribe(state.Events)
	Announce(state.NodeInfo)
	Close(context.Context) error
}

// newNode builds every part and binds every address. When one fails, what was built is closed.
func newNode(s *service.Settings, log *slog.Logger, level *slog.LevelVar) (*node, error) {
	registry := prometheus.NewRegistry()
	n := &node{settings: s, log: log, registry: registry, secrets: state.NewSecrets()}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector())
	s.Signal.SessionSecrets = n.secrets.Provide(state.SessionSecret, s.Signal.SessionSecrets, s.Redis.Enabled())
	if s.TURN.Enabled || s.Redis.Enabled() {
		s.TURN.Secrets = n.secrets.Provide(state.TURNSecret, s.TURN.Secrets, s.Redis.Enabled())
	}
	cfg := s.Signal
	if err := n.loadCertificates(&cfg); err != nil {
		return nil, err
	}
	registry.MustRegister(n.certs)
	var err error
	if n.state, err = n.newState(); err != nil {
		return nil, err
	}
	n.edge = edge.New(s.Edge, edge.Surroundings{HTTPS: cfg.TLS, TURN: s.TURN.TLS, Under: turnsrv.HoldRecords, Log: log, Registerer: registry,
		Count: func(conn net.Conn, state http.ConnState) { n.signal.CountCaller(conn, state) }}) // Nobody comes before run.
	cfg.Listen = n.edge.ListenHTTP
	cfg.Logger, cfg.Registry, cfg.Page = log, registry, assets.FS()
	cfg.Clustered, cfg.State, cfg.LastingSecret = s.Redis.Enabled(), n.state, n.secrets.IsGiven(state.SessionSecret)
	cfg.ICE = func(host, user string) signal.ICEConfig { return n.directory.ICE(host, user) } // Nobody asks before run.
	cfg.RelayAddress = func() netip.Addr { return n.turn.RelayIP() }
	cfg.PeerPasswords, cfg.Relaying = s.TURN.ProvesMembers(), func() []string { return n.turn.Users() }
	if n.signal, err = signal.New(cfg); err != nil {
		return nil, errors.Join(err, n.state.Close(context.Background()))
	}
	if err = n.openCertificates(); err == nil {
		n.admin, err = admin.New(s.Admin)
	}
	if err == nil {
		err = n.buildTURN(s.TURN)
	}
	if err != nil {
		n.certs.Close()
		n.admin.Shutdown(context.Background())
		return nil, errors.Join(err, n.signal.Shutdown(context.Background()), n.state.Close(context.Background()))
	}
	n.secrets.Use(state.SessionSecret, n.setSessionSecrets)
	n.secrets.Use(state.TURNSecret, n.setTURNSecrets)
	n.directory = n.newDirectory()
	n.directory.Announce()
	n.admin.Attach(admin.Parts{Signal: n.signal, TURN: n.turn, State: n.state, Registry: registry, Level: level, Log: log, Version: packaging.Version(),
		URLs: n.directory.URLs, Drain: n.drain, Rotate: func(ctx context.Context, name string) error { return state.RotateSecret(ctx, s.Redis, name) }})
	n.state.Subscribe(n.signal.Events()) // The last step: other nodes act on this one from now on.
	return n, nil
}

// newState returns the shared state, which is not subscribed to yet. Redis need not be there then: the
// node says so, is not ready and goes on trying.
func (n *node) newState() (sharedState, error) {
	cfg := n.settings.Redis
	if !cfg.Enabled() {
		return state.NewMemory().Node(state.NewNodeID()), nil
	}
	cfg.Logger, cfg.Registerer, cfg.Grace = n.log, n.registry, n.settings.Signal.ResumeGrace
	n.secrets.Tell(&cfg)
	return state.NewRedis(cfg, state.NewNodeID())
}

// newDirectory puts the parts of the node that others are told of into one place among them.
func (n *node) newDirectory() *signal.Directory {
	return signal.NewDirectory(signal.DirectoryConfig{
		State: n.state, Beat: n.settings.Redis.Beat, Lost: n.signal.RefreshICE,
		Relaying: n.turn != nil, External: len(n.settings.TURN.TURNURLs) > 0,
		Own: func(host, user string) signal.ICEConfig {
			servers, ttl := n.issuer.ICEServers(host, user, time.Now())
			out := signal.ICEConfig{TTL: ttl}
			for _, s := range servers {
				out.Servers = append(out.Servers, signal.ICEServer(s))
			}
			return out
		},
		At: func(urls []string, user string) (signal.ICEServer, bool) {
			server, ok := n.issuer.At(urls, user, time.Now())
			return signal.ICEServer(server), ok
		},
		Load: func() int {
			return n.signal.Connections() + n.turn.Allocations()
		},
	})
}

func (n *node) setSessionSecrets(values []string) {
	n.signal.SetSessionSecrets(values)
	n.certs.SetSecrets(values)
}

func (n *node) setTURNSecrets(values []string) {
	n.turn.SetSecrets(values)
	n.issuer.SetSecrets(values)
}

// loadCertificates gives both parts their certificates, if there are any.
func (n *node) loadCertificates(web *signal.Config) (err error) {
	turn := &n.settings.TURN
	if n.certs, err = certificate.Load(n.settings.Certificate, n.log); err != nil {
		return err
	}
	web.TLS, web.Impaired = n.certs.HTTPS(), n.certs.Problems
	turn.TLS, turn.Covers = n.certs.TURN(), n.certs.Covers
	return nil
}

// openCertificates tells where they are kept: nodes with one Redis ask for them once.
func (n *node) openCertificates() error {
	at := certificate.Node{Hosts: n.settings.WebHosts(), Port: n.settings.Signal.Port}
	if addr, ok := n.signal.Addr().(*net.TCPAddr); ok { // The one port is bound later.
		at.Port = addr.Port
	}
	if redis, ok := n.state.(*state.Redis); ok {
		at.Shared = redis.Vault("certificates")
	}
	if n.secrets.IsGiven(state.SessionSecret) {
		n.certs.SetSecrets(n.settings.Signal.SessionSecrets)
	}
	return n.certs.Open(at)
}

func (n *node) buildTURN(cfg turnsrv.Config) error {
	cfg.Logger, cfg.Registerer, cfg.MaxQueued = n.log, n.registry, n.settings.Signal.RelayMemory()
	cfg.ListenStream = n.edge.ListenTURN
	cfg.ForbiddenPeers, cfg.MemberPasswords = n.ownServices(), n.signal.MemberPasswords
	if cfg.Enabled {
		var err error
		if n.turn, err = turnsrv.New(cfg); err != nil {
			return fmt.Errorf("starting TURN: %w", err)
		}
		cfg.Port, cfg.TLSPort = n.turn.Port(), n.turn.TLSPort()
		cfg.ExternalIP = []string{n.relayIP()} // It may have been asked for, or be one of several nodes'.
		cfg.PublicHost, _ = cfg.HostAt(n.turn.RelayIP())
	}
	n.issuer = turnsrv.NewIssuer(cfg, cfg.Port)
	return nil
}

// ownServices are the addresses that a relay must never reach.
func (n *node) ownServices() []netip.AddrPort {
	var own []netip.AddrPort
	for _, addr := range append(n.certs.PlainAddrs(), n.signal.Addr(), n.admin.Addr()) {
		if tcp, ok := addr.(*net.TCPAddr); ok {
			own = append(own, tcp.AddrPort())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return append(own, n.settings.Redis.AddrPorts(ctx)...)
}

// run serves until ctx ends or a part fails, then stops every part within the drain timeout. It calls serving when users can come.
func (n *node) run(ctx context.Context, serving func()) error {
	ended := make(chan error, 2)
	go func() { ended <- n.signal.Run() }()
	go func() { ended <- n.admin.Run() }()
	stopCertificates := n.certs.KeepCurrent()
	stopAnnouncing := n.directory.KeepAnnouncing()
	failure := n.await(ctx, ended, serving)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.settings.DrainTimeout)
	defer cancel()
	if failure == nil {
		most, cancel := context.WithTimeout(limit, n.settings.DrainTimeout*3/4) // The rest is for those who do not go.
		n.drain(most)
		cancel()
	}
	if err := n.signal.Shutdown(limit); err != nil {
		n.log.Warn("stopping signaling", "error", err)
	}
	stopAnnouncing()
	stopCertificates()
	n.closeState(limit) // From now on others may take in the clients that are left.
	err := n.drainTURN(limit)
	n.admin.Shutdown(limit)
	return errors.Join(failure, <-ended, <-ended, err)
}

// await returns when ctx ends, or why a part has ended, whose place it fills. It calls serving when the node has started.
func (n *node) await(ctx context.Context, ended chan error, serving func()) error {
	for started := n.state.Started(); ; {
		select {
		case <-started:
			serving()
			started = nil
		case <-ctx.Done():
			n.log.Info("stopping")
			service.Tell(n.log, service.Stopping)
			return nil
		case err := <-ended:
			ended <- nil
			return err
		}
	}
}

// drain has the clients go to other nodes.
func (n *node) drain(ctx context.Context) {
	n.directory.Drain()
	n.turn.Drain() // Who restarts ICE now must not end up here again.
	n.signal.Drain(ctx)
}

// closeState gives the shared state a moment also when the drain has used up its time.
func (n *node) closeState(ctx context.Context) {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
	}
	if err := n.state.Close(ctx); err != nil {
		n.log.Warn("leaving the shared state", "error", err) // The other nodes do the rest when the lease runs out.
	}
}

// drainTURN lets calls that are relayed end by themselves until ctx ends.
func (n *node) drainTURN(ctx context.Context) error {
	if left := n.turn.Allocations(); left > 0 {
		n.log.Info("waiting for relayed calls to end", "allocations", left, "at_most_s", n.settings.DrainTimeout.Seconds())
	}
	return n.turn.Shutdown(ctx)
}

func (n *node) relayIP() string {
	if n.turn == nil {
		return "off"
	}
	return n.turn.RelayIP().String()
}

// introduction is what a person reads who starts the node.
func (n *node) introduction() signal.Introduction {
	in := signal.Introduction{Version: packaging.Version(), State: n.settings.Redis.Where(n.state.Ready())}
	var hosts []string
	in.Pages, hosts = n.signal.Pages(n.turn.RelayIP())
	if n.turn != nil {
		in.Relay = fmt.Sprintf("%s, UDP ports %d-%d", n.relayIP(), n.settings.TURN.MinPort, n.settings.TURN.MaxPort)
	}
	servers, _ := n.issuer.ICEServers(hosts[0], "you", time.Now())
	for _, s := range servers {
		in.ICE = append(in.ICE, s.URLs)
	}
	if addr := n.admin.Addr(); addr != nil {
		in.Metrics = "http://" + addr.String() + "/metrics"
	}
	return in
}

// report says what is good about the settings, which are valid, and what is most likely not meant.
func report(s *service.Settings, w io.Writer) error {
	n := &node{settings: s, log: slog.New(slog.DiscardHandler)}
	if err := n.loadCertificates(&s.Signal); err != nil {
		return err
	}
	if err := s.Signal.Auth.CheckFiles(); err != nil {
		return err
	}
	var good setting.Report
	good.Addf("settings", "%s", s.Table.Sources())
	good.Addf("state", "%s", s.Redis.Where(nil))
	good.Addf("signaling", "%s", s.Signal.LocalURL())
	good.Addf("entry", "%s", s.Signal.Auth.Who())
	if s.TURN.Enabled {
		good.Addf("TURN", "%s port %d, relays on UDP ports %d-%d", strings.Join(s.TURN.Listen, ", "), s.TURN.Port, s.TURN.MinPort, s.TURN.MaxPort)
	}
	n.certs.Report(&good)
	return errors.Join(good.Print(w), n.notes().Print(w))
}

// notes tell what about the node is open, unsafe or most likely not meant. It need not be wholly built.
func (n *node) notes() setting.Notes {
	s := n.settings
	notes := slices.Concat(s.Table.Strangers(os.Environ()), s.Table.Quoted(os.Environ()), s.Table.Spaced(), s.Edge.Notes(), s.Signal.Notes(s.Edge.Proxied()), s.Signal.RelayNotes(s.TURN.Enabled, s.Edge.Proxied()), s.TURN.Notes(), s.Redis.Notes(), s.Admin.Notes(), n.turn.Notes())
	notes = append(notes, n.certs.Notes(time.Now())...)
	if host, ok := s.TURN.TLSHost(n.turn.RelayIP()); ok {
		notes = append(notes, n.certs.TURNNotes(host)...)
	}
	for _, name := range n.secrets.Generated() {
		notes.Warnf("generated_secret", "--%s is generated: what was signed with it is void after a restart", name)
	}
	return notes
}

// reload takes over what is set otherwise since the texts in current, as far as a running node can, and says
// what waits for a restart.
func (n *node) reload(args []string, level *slog.LevelVar, current map[string]string) {
	service.Reloading(n.log)
	defer service.Tell(n.log, service.Ready)
	s := service.NewSettings()
	if err := errors.Join(s.Reread(args).Err(), s.Validate()); err != nil {
		n.log.Warn("settings not reloaded, the old ones stay in use", "error", err)
		return
	}
	taken, waiting, err := s.Table.TakeOver(current, n.live(s, level))
	if err != nil {
		n.log.Warn("settings not reloaded, the old ones stay in use", "error", err)
	}
	if len(waiting) > 0 {
		n.log.Warn("settings have changed that need a restart", "settings", waiting)
	}
	n.log.Info("settings reloaded", "settings", taken)
}

// live takes over single settings of s.
func (n *node) live(s *service.Settings, level *slog.LevelVar) map[string]func() error {
	peers := func() error { return n.turn.SetPeers(s.TURN.AllowPeers, s.TURN.DenyPeers) }
	trusted := func() error { n.signal.SetTrusted(s.Signal); return nil }
	return map[string]func() error{
		"log-level":         func() error { service.SetLevel(level, s.LogLevel); return nil },
		state.SessionSecret: func() error { return n.replaceSecret(state.SessionSecret, s.Signal.SessionSecrets) },
		state.TURNSecret:    func() error { return n.replaceSecret(state.TURNSecret, s.TURN.Secrets) },
		"auth-secret":       func() error { return n.signal.SetAuthSecrets(s.Signal.Auth.Secrets) },
		"turn-users":        func() error { n.turn.SetUsers(s.TURN.Users); return nil },
		"allowed-origins":   trusted,
		"trusted-proxies":   trusted,
		"turn-allow-peer":   peers,
		"turn-deny-peer":    peers,
	}
}

// replaceSecret takes over a configured secret. What was generated, or will be, is not replaced in a running node.
func (n *node) replaceSecret(name string, values []string) error {
	if !n.secrets.IsGiven(name) || len(values) == 0 {
		return setting.ErrRestart
	}
	n.secrets.Set(name, values)
	if redis, ok := n.state.(*state.Redis); ok {
		redis.Configure(name, values)
	}
	return nil
}

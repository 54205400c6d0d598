// Command signal is everything a WebRTC product needs between its browsers: a WebSocket signaling
// server and, beside it in the same process, a STUN/TURN server.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	ossignal "os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
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
	wsbench "cline-meet/signal/signal/bench"
	"cline-meet/signal/signal/certificate"
	"cline-meet/signal/signal/client"
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
		_, _ = fmt.Fprintf(stderr, "signal: %v\n", err)
		return 1
	}
	return 0
}

func newApp(args []string, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                 "signal",
		Usage:                "WebRTC signaling and STUN/TURN in one process",
		Version:              buildVersion(),
		HideVersion:          true,
		EnableBashCompletion: true,
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // run prints the error and picks the status.
		Commands: []*cli.Command{serveCommand(args, stdout, stderr), healthCommand(), turnsrv.CredentialsCommand(stdout),
			state.RotateCommand(stdout), benchCommand(stdout, stderr), versionCommand(stdout), packaging.CompletionCommand(stdout), packaging.ManCommand(stdout)},
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
	s := newSettings()
	var check bool
	return &cli.Command{
		Name:  "serve",
		Usage: "Run one node",
		Description: "Every setting is a flag, an environment variable and a key of the config file (the flag's\n" +
			"name without the leading dashes), in that order of precedence.",
		Flags: append(s.table.Flags(), &cli.BoolFlag{Name: checkFlag, Destination: &check,
			Usage: "read the settings and certificate files, say what is wrong with them and end"}),
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return s.usageProblems(args, err) },
		Action: func(c *cli.Context) error {
			if err := s.complete(c); err != nil {
				return err
			}
			if check {
				return s.checkFiles()
			}
			return serve(c.Context, s, stdout, stderr)
		},
	}
}

// checkFlag is no setting, it changes what serve does with them.
const checkFlag = "check"

// configFlag names the file with the settings that neither flags nor variables set.
const configFlag = "config"

// checkFiles reads the files that the settings name.
func (s *settings) checkFiles() error {
	return (&node{settings: s, log: slog.New(slog.DiscardHandler)}).loadCertificate(&s.signal, &s.turn)
}

// healthCommand is the health check of containers that hold nothing but this executable.
func healthCommand() *cli.Command {
	s := newSettings()
	return &cli.Command{
		Name:        "health",
		Usage:       "Ask the node on this machine whether it takes new users",
		Description: "Give it the settings of the node. The exit status is 0 when /ready says yes, else 1.",
		Flags:       s.table.Flags(),
		Action: func(c *cli.Context) error {
			if err := s.complete(c); err != nil {
				return err
			}
			return client.AskReady(c.Context, s.signal.LocalURL())
		},
	}
}

// settings is all that `signal serve` can be told.
type settings struct {
	configFile   string
	logLevel     string
	logFormat    string
	drainTimeout time.Duration
	signal       signal.Config
	turn         turnsrv.Config
	redis        state.RedisConfig
	table        setting.Table // fills all of the above
}

func newSettings() *settings {
	s := &settings{
		logLevel:     "info",
		logFormat:    "text",
		drainTimeout: 30 * time.Second,
		signal:       signal.DefaultConfig(),
		turn:         turnsrv.DefaultConfig(),
		redis:        state.DefaultRedisConfig(),
	}
	s.table = slices.Concat(s.signal.Settings(), s.turn.Settings(), s.redis.Settings(), s.own())
	return s
}

// own are the settings of no part in particular.
func (s *settings) own() setting.Table {
	return setting.Category("Operation",
		setting.Text(configFlag, &s.configFile, "YAML `FILE` with settings").From("SIGNAL_CONFIG"),
		setting.Choice("log-level", &s.logLevel, []string{"debug", "info", "warn", "error"}, "`LEVEL`: debug, info, warn or error"),
		setting.Choice("log-format", &s.logFormat, []string{"text", "json"}, "`FORMAT`: text (for people) or json (logs and nothing else)"),
		setting.Duration("drain-timeout", &s.drainTimeout, time.Second, setting.Longest, "`SECONDS` that a stop may take"),
	)
}

// complete adds the config file to what the flags and the environment set, and returns every
// problem of all three in one error.
func (s *settings) complete(c *cli.Context) error {
	var stray error
	if c.NArg() > 0 {
		stray = fmt.Errorf("%q: unexpected argument", c.Args().First())
	}
	return setting.Wrong(stray, s.table.ReadFile(configFlag, s.configFile).Err(), s.validate())
}

func (s *settings) validate() error {
	var p setting.Problems
	s.own().Check(&p)
	return errors.Join(p.Err(), s.signal.Validate(), s.turn.Validate(), s.redis.Validate())
}

// usageProblems finds all that is wrong after the CLI has stopped at the first value that it could
// not read.
func (s *settings) usageProblems(args []string, first error) error {
	set := flag.NewFlagSet("serve", flag.ContinueOnError)
	set.Bool(checkFlag, false, "")
	problems := s.table.Reread(set, args[slices.Index(args, "serve")+1:])
	problems = append(problems, s.table.ReadFile(configFlag, s.configFile)...)
	if len(problems) == 0 {
		problems = append(problems, first)
	}
	return setting.Wrong(problems.Err(), s.validate())
}

func (s *settings) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.logLevel)) // validate has seen it.
	options := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// heapFloor is how many bytes of garbage may always wait, beside as much as is in
// use. Without it a node with a small heap that is busy would collect it dozens of
// times a second.
const heapFloor = 32 << 20

// serve runs one node until ctx ends.
func serve(ctx context.Context, s *settings, stdout, stderr io.Writer) error {
	floor := make([]byte, heapFloor) // It is never touched, hence takes no memory.
	defer runtime.KeepAlive(floor)
	log := s.logger(stderr)
	n, err := newNode(s, log)
	if err != nil {
		return err
	}
	if s.logFormat == "text" {
		n.introduce(stdout)
	}
	log.Info("serving", "http", n.signal.Addr().String(), "admin", text(n.signal.AdminAddr()),
		"turn", n.turnPort(), "relay", n.relayIP(), "version", buildVersion())
	return n.run(ctx)
}

func text(a net.Addr) string {
	if a == nil {
		return "off"
	}
	return a.String()
}

// node is one running node: the parts and what they were built from.
type node struct {
	settings  *settings
	log       *slog.Logger
	registry  *prometheus.Registry
	generated []string       // the secrets that nobody configured
	shared    *state.Secrets // those of them that the cluster agrees on
	signal    *signal.Server
	turn      *turnsrv.Server // nil when TURN is off
	issuer    *turnsrv.Issuer
	state     sharedState
	directory *signal.Directory
	cert      *certificate.Files // nil without TLS
}

// sharedState is what a node needs of memory or Redis.
type sharedState interface {
	signal.State
	Subscribe(state.Events)
	Announce(state.NodeInfo)
	Nodes() []state.NodeInfo
	Close(context.Context) error
}

// newNode builds every part and binds every address. When one fails, what was built is closed.
func newNode(s *settings, log *slog.Logger) (*node, error) {
	registry := prometheus.NewRegistry()
	n := &node{settings: s, log: log, registry: registry, shared: state.NewSecrets()}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector())
	n.generate(state.SessionSecret, &s.signal.SessionSecrets)
	if s.turn.Enabled || s.redis.Enabled() {
		n.generate(state.TURNSecret, &s.turn.Secrets)
	}
	cfg := s.signal
	if err := n.loadCertificate(&cfg, &s.turn); err != nil {
		return nil, err
	}
	var err error
	if n.state, err = n.newState(); err != nil {
		return nil, err
	}
	cfg.Logger, cfg.Registry, cfg.Page = log, registry, assets.FS()
	cfg.ICE, cfg.Clustered, cfg.State = n.ice, s.redis.Enabled(), n.state
	if n.signal, err = signal.New(cfg); err != nil {
		return nil, errors.Join(err, n.state.Close(context.Background()))
	}
	if err := n.buildTURN(s.turn, registry); err != nil {
		return nil, errors.Join(err, n.signal.Shutdown(context.Background()), n.state.Close(context.Background()))
	}
	n.shared.Use(state.SessionSecret, n.signal.SetSessionSecrets)
	n.shared.Use(state.TURNSecret, n.setTURNSecrets)
	n.directory = n.newDirectory()
	n.directory.Announce()
	n.state.Subscribe(n.signal.Events()) // The last step: other nodes act on this one from now on.
	return n, nil
}

// newState returns the shared state, which is not subscribed to yet. Redis need not be there then: the
// node says so, is not ready and goes on trying.
func (n *node) newState() (sharedState, error) {
	cfg := n.settings.redis
	if !cfg.Enabled() {
		return state.NewMemory().Node(rand.Text()), nil
	}
	cfg.Logger, cfg.Registerer = n.log, n.registry
	cfg.Secrets, cfg.OnSecret = n.shared.Proposals(), n.shared.Set
	return state.NewRedis(cfg, rand.Text())
}

// newDirectory puts the parts of the node that others are told of into one place among them.
func (n *node) newDirectory() *signal.Directory {
	return signal.NewDirectory(signal.DirectoryConfig{
		State: n.state, Beat: n.settings.redis.Beat, Lost: n.signal.RefreshICE,
		Relaying: n.turn != nil, External: len(n.settings.turn.TURNURLs) > 0,
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
			if n.turn == nil {
				return n.signal.Connections()
			}
			return n.signal.Connections() + n.turn.Allocations()
		},
	})
}

// ice names ICE servers to clients; nobody asks before the node is built.
func (n *node) ice(host, user string) signal.ICEConfig { return n.directory.ICE(host, user) }

func (n *node) setTURNSecrets(values []string) {
	if n.turn != nil {
		n.turn.SetSecrets(values)
	}
	n.issuer.SetSecrets(values)
}

// loadCertificate gives both parts the certificate, if there is one.
func (n *node) loadCertificate(web *signal.Config, turn *turnsrv.Config) error {
	if web.TLSCert == "" {
		return nil
	}
	var err error
	if n.cert, err = certificate.Load(web.TLSCert, web.TLSKey, n.log); err != nil {
		return err
	}
	web.TLS, turn.TLS = n.cert.TLSConfig(), n.cert.TLSConfig()
	return nil
}

func (n *node) buildTURN(cfg turnsrv.Config, registry prometheus.Registerer) error {
	cfg.Logger, cfg.Registerer = n.log, registry
	cfg.ForbiddenPeers = n.ownServices()
	if cfg.Enabled {
		var err error
		if n.turn, err = turnsrv.New(cfg); err != nil {
			return fmt.Errorf("starting TURN: %w", err)
		}
		cfg.Port, cfg.TLSPort = n.turn.Port(), n.turn.TLSPort()
		cfg.ExternalIP = []string{n.relayIP()} // It may have been asked for, or be one of several nodes'.
		if cfg.PublicHost == turnsrv.Auto {
			cfg.PublicHost = n.relayIP()
		}
	}
	n.issuer = turnsrv.NewIssuer(cfg, cfg.Port)
	return nil
}

// ownServices are the addresses that a relay must never reach.
func (n *node) ownServices() []netip.AddrPort {
	var own []netip.AddrPort
	for _, addr := range []net.Addr{n.signal.Addr(), n.signal.AdminAddr()} {
		if tcp, ok := addr.(*net.TCPAddr); ok {
			own = append(own, tcp.AddrPort())
		}
	}
	if !n.settings.redis.Enabled() {
		return own
	}
	for _, addr := range n.settings.redis.Addrs() {
		own = append(own, resolve(addr)...)
	}
	return own
}

// resolve returns the addresses of a host:port, none when its name is unknown now.
func resolve(addr string) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return out
}

// generate makes a secret where none is configured. With Redis it is a proposal: the whole cluster
// uses the first node's.
func (n *node) generate(name string, values *[]string) {
	if len(*values) > 0 {
		return
	}
	*values = []string{rand.Text()}
	if n.settings.redis.Enabled() {
		n.shared.Propose(name, (*values)[0])
		return
	}
	n.generated = append(n.generated, "--"+name)
}

// run serves until ctx ends or a part fails, then stops every part within the drain timeout.
func (n *node) run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- n.signal.Run() }()
	defer n.watchCertificate(ctx)()
	stopAnnouncing := n.directory.KeepAnnouncing()
	var failure error
	select {
	case <-ctx.Done():
		n.log.Info("stopping")
	case failure = <-ended:
		ended <- nil
	}
	drainTime := n.settings.drainTimeout
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	n.directory.Drain()
	if n.turn != nil {
		n.turn.Drain() // Who restarts ICE now must not end up here again.
	}
	if failure == nil {
		n.drainSignaling(limit, drainTime*3/4)
	}
	if err := n.signal.Shutdown(limit); err != nil {
		n.log.Warn("stopping signaling", "error", err)
	}
	failure = errors.Join(failure, <-ended, n.drainTURN(limit))
	stopAnnouncing()
	return errors.Join(failure, n.closeState(limit))
}

// drainSignaling moves the clients to other nodes, and leaves time for those who do not go.
func (n *node) drainSignaling(ctx context.Context, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	n.signal.Drain(ctx)
}

// closeState gives the shared state a moment also when the drain has used up its time.
func (n *node) closeState(ctx context.Context) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
	}
	if err := n.state.Close(ctx); err != nil {
		n.log.Warn("leaving the shared state", "error", err) // The other nodes do the rest when the lease runs out.
	}
	return nil
}

// drainTURN lets calls that are relayed end by themselves until ctx ends.
func (n *node) drainTURN(ctx context.Context) error {
	if n.turn == nil {
		return nil
	}
	if left := n.turn.Allocations(); left > 0 {
		n.log.Info("waiting for relayed calls to end", "allocations", left, "at_most_s", n.settings.drainTimeout.Seconds())
	}
	return n.turn.Shutdown(ctx)
}

// watchCertificate keeps the certificate current until the returned function is
// called.
func (n *node) watchCertificate(ctx context.Context) (stop func()) {
	if n.cert == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	hangup := make(chan os.Signal, 1)
	ossignal.Notify(hangup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.cert.Watch(ctx, hangup)
	}()
	return func() {
		cancel()
		ossignal.Stop(hangup)
		<-done
	}
}

func (n *node) turnPort() int {
	if n.turn == nil {
		return 0
	}
	return n.turn.Port()
}

func (n *node) relayIP() string {
	if n.turn == nil {
		return "off"
	}
	return n.turn.RelayIP().String()
}

// introduce tells a person what runs and where, and what about it is open or unsafe.
func (n *node) introduce(w io.Writer) {
	line := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "  %-8s %s\n", what, fmt.Sprintf(format, args...))
	}
	_, _ = fmt.Fprintf(w, "signal %s: WebRTC signaling and TURN\n\n", buildVersion())
	scheme, hosts := "http", n.pageHosts()
	if n.cert != nil {
		scheme = "https"
	}
	port := strconv.Itoa(n.signal.Addr().(*net.TCPAddr).Port)
	for _, host := range hosts {
		line("page", "%s://%s/", scheme, net.JoinHostPort(host, port))
	}
	servers, _ := n.issuer.ICEServers(hosts[0], "you", time.Now())
	for _, s := range servers {
		line("ICE", "%s", strings.Join(s.URLs, "  "))
	}
	if n.turn != nil {
		line("relay", "%s, UDP ports %d-%d", n.relayIP(), n.settings.turn.MinPort, n.settings.turn.MaxPort)
	}
	line("state", "%s", n.stateText())
	if addr := n.signal.AdminAddr(); addr != nil {
		line("metrics", "http://%s/metrics", addr)
	}
	for _, warning := range n.warnings() {
		line("note", "%s", warning)
	}
	_, _ = fmt.Fprintln(w)
}

func (n *node) stateText() string {
	if !n.settings.redis.Enabled() {
		return "in memory: this node is alone"
	}
	where := "Redis at " + strings.Join(n.settings.redis.Addrs(), ", ")
	if err := n.state.Ready(); err != nil {
		return where + ", which is away; joins meanwhile: " + n.settings.redis.Outage
	}
	return where
}

// pageHosts returns the hosts under which this machine's browsers, and others, reach the page.
func (n *node) pageHosts() []string {
	ip := n.signal.Addr().(*net.TCPAddr).IP
	switch {
	case ip.IsLoopback():
		return []string{"localhost"}
	case !ip.IsUnspecified():
		return []string{ip.String()}
	case n.turn == nil || n.turn.RelayIP().IsLoopback():
		return []string{"localhost"}
	}
	return []string{"localhost", n.relayIP()}
}

func (n *node) warnings() []string {
	var out []string
	if n.cert == nil {
		out = append(out, "no TLS: browsers open cameras on http://localhost only; set --tls-cert and --tls-key, or put a TLS proxy in front")
	}
	for _, name := range n.generated {
		out = append(out, name+" is generated: what was signed with it is void after a restart")
	}
	if n.turn == nil {
		return out
	}
	if slices.ContainsFunc(n.settings.turn.Secrets, func(s string) bool { return len(s) < 16 }) {
		out = append(out, "--turn-secret is short: whoever gets one credential can find it by trial; use at least 16 characters")
	}
	if addr, err := netip.ParseAddr(n.relayIP()); err == nil && (addr.IsPrivate() || addr.IsLoopback()) {
		out = append(out,
			fmt.Sprintf("relay address %s is private: clients elsewhere cannot reach it; set --turn-relay-ip or --turn-external-ip", addr),
			"peers on private addresses are denied; open your network with --turn-allow-peer, such as 192.168.0.0/16")
	}
	return out
}

func versionCommand(stdout io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "Print the version",
		Action: func(*cli.Context) error {
			_, err := fmt.Fprintf(stdout, "signal %s\n", buildVersion())
			return err
		},
	}
}

// buildVersion is the module's version, or the commit when it was built from a checkout.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	of := map[string]string{}
	for _, s := range info.Settings {
		of[s.Key] = s.Value
	}
	version := info.Main.Version
	if rev := of["vcs.revision"]; version == "(devel)" && len(rev) >= 12 {
		version = rev[:12]
		if of["vcs.modified"] == "true" {
			version += "+dirty"
		}
	}
	return fmt.Sprintf("%s (%s %s/%s)", version, info.GoVersion, of["GOOS"], of["GOARCH"])
}

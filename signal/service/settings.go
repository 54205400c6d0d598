package service

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal"
	"cline-meet/signal/signal/admin"
	"cline-meet/signal/signal/certificate"
	"cline-meet/signal/signal/edge"
	"cline-meet/signal/signal/setting"
	"cline-meet/signal/state"
	"cline-meet/signal/turnsrv"
)

// Settings are all that `signal serve` can be told.
type Settings struct {
	configFile   string
	LogLevel     string
	LogFormat    string
	DrainTimeout time.Duration
	Signal       signal.Config
	Certificate  certificate.Config
	TURN         turnsrv.Config
	Redis        state.RedisConfig
	Edge         edge.Config
	Admin        admin.Config
	Table        setting.Table // fills all of the above
}

// NewSettings returns those that nobody has set.
func NewSettings() *Settings {
	s := &Settings{
		LogLevel:     "info",
		LogFormat:    FormatText,
		DrainTimeout: 30 * time.Second,
		Signal:       signal.DefaultConfig(),
		TURN:         turnsrv.DefaultConfig(),
		Redis:        state.DefaultRedisConfig(),
		Edge:         edge.DefaultConfig(),
		Admin:        admin.DefaultConfig(),
	}
	s.Table = slices.Concat(s.Edge.Settings(), s.Signal.Settings(), s.Certificate.Settings(), s.TURN.Settings(), s.Redis.Settings(), s.Admin.Settings(), s.own())
	return s
}

// own are the settings of no part in particular.
func (s *Settings) own() setting.Table {
	return setting.Category("Operation",
		setting.Text(configFlag, &s.configFile, "YAML `FILE` with settings").From("SIGNAL_CONFIG"),
		setting.Choice("log-level", &s.LogLevel, Levels, "`LEVEL`: debug, info, warn or error"),
		setting.Choice("log-format", &s.LogFormat, []string{FormatText, FormatJSON}, "`FORMAT`: text (for people) or json (logs and nothing else)"),
		setting.Duration("drain-timeout", &s.DrainTimeout, time.Second, setting.Longest, "`SECONDS` that a stop may take"),
	)
}

// Complete adds the config file to what the flags and the environment set, and returns every
// problem of all three in one error.
func (s *Settings) Complete(c *cli.Context) error {
	stray, file := s.Table.Stray(c.Args().First()), s.Table.ReadFile(configFlag, s.configFile).Err()
	return setting.Wrong(stray, file, s.derive().Err(), s.Validate())
}

// Validate returns every problem that can be seen without a look at anything else.
func (s *Settings) Validate() error {
	var p setting.Problems
	s.own().Check(&p)
	if s.TURN.Enabled && !s.TURN.OnePort {
		s.Signal.CheckPort(&p, "turn-port", s.TURN.Port, s.TURN.Listen...)
	}
	if host, port := s.Admin.HostPort(); port > 0 {
		s.Signal.CheckPort(&p, "admin-addr", port, host)
	}
	s.Signal.CheckPort(&p, "http-port", s.Certificate.HTTPPort, s.WebHosts()...)
	if s.TURN.Enabled && !s.TURN.OnePort && s.Certificate.TURN() {
		s.Signal.CheckPort(&p, "turn-tls-port", s.TURN.TLSPort, s.TURN.Listen...)
	}
	p.Check(s.TURN.Enabled || s.Redis.Enabled() || len(s.TURN.TURNURLs) == 0 || len(s.TURN.Secrets) > 0, "turn-url",
		"%s: the server there needs credentials: set its shared secret as --turn-secret", strings.Join(s.TURN.TURNURLs, ","))
	return errors.Join(p.Err(), s.Edge.Validate(), s.Signal.Validate(), s.Certificate.Validate(s.Redis.Enabled()), s.TURN.Validate(), s.Redis.Validate(), s.Admin.Validate())
}

// UsageProblems finds all that is wrong after the CLI has stopped at the first value that it could
// not read.
func (s *Settings) UsageProblems(args []string, first error) error {
	problems := s.Reread(args)
	if len(problems) == 0 {
		problems = append(problems, first)
	}
	return setting.Wrong(problems.Err(), s.Validate())
}

// Reread reads all sources of settings by itself, and finds all that is wrong with them.
func (s *Settings) Reread(args []string) setting.Problems {
	set := flag.NewFlagSet("serve", flag.ContinueOnError)
	set.Bool(CheckFlag, false, "")
	problems := s.Table.Reread(set, args[slices.Index(args, "serve")+1:])
	return slices.Concat(problems, s.Table.ReadFile(configFlag, s.configFile), s.derive())
}

// sharePort gives every part the one port, if there is one. It finds what says otherwise.
func (s *Settings) sharePort() setting.Problems {
	var p setting.Problems
	if !s.Edge.IsOnePort() {
		return nil
	}
	p.Check(s.TURN.Enabled, "one-port", "without TURN there is nothing to share %d with: use --server-port", s.Edge.OnePort)
	web, turn := signal.DefaultConfig(), turnsrv.DefaultConfig()
	for _, other := range []struct {
		name              string
		port, unlessGiven int
	}{{"server-port", s.Signal.Port, web.Port}, {"turn-port", s.TURN.Port, turn.Port}, {"turn-tls-port", s.TURN.TLSPort, turn.TLSPort}} {
		p.Check(slices.Contains([]int{0, other.unlessGiven, s.Edge.OnePort}, other.port), other.name,
			"%d is not --one-port %d: leave one of them out", other.port, s.Edge.OnePort)
	}
	p.Check(s.Signal.Host == web.Host || slices.Contains(s.TURN.Listen, s.Signal.Host), "server-host",
		"--one-port listens at --turn-listen %s, not at %s", strings.Join(s.TURN.Listen, ","), s.Signal.Host)
	if len(p) == 0 && len(s.TURN.Listen) > 0 {
		s.Signal.Host, s.Signal.Port, s.TURN.Port = s.TURN.Listen[0], s.Edge.OnePort, s.Edge.OnePort
	}
	s.Signal.OnePort, s.TURN.OnePort = true, true
	return p
}

// WebHosts are the addresses at which browsers find the node, for whom plain HTTP is, too.
func (s *Settings) WebHosts() []string {
	if s.Edge.IsOnePort() {
		return s.TURN.Listen
	}
	return []string{s.Signal.Host}
}

// followDomain sets what follows from --domain: one port for all, unless something is said of ports or there is no TURN.
func (s *Settings) followDomain() {
	follows := s.Certificate.Derived()
	own := !s.TURN.Enabled || s.Table.Given("server-host", "server-port", "turn-port", "turn-tls-port")
	if follows != nil && (!own || s.Edge.IsOnePort()) {
		follows["one-port"] = follows["server-port"]
		delete(follows, "server-port")
	}
	for name, value := range follows {
		s.Table.Derive(name, value)
	}
}

// derive sets what follows from the settings of another part, when all sources have been read.
func (s *Settings) derive() setting.Problems {
	s.followDomain()
	s.Signal.HTTPS = s.Certificate.HTTPS()
	s.Certificate.OpenSecret = s.Redis.Enabled() && len(s.Signal.SessionSecrets) == 0
	return s.sharePort()
}

// CheckFlag is no setting, it changes what serve does with them.
const CheckFlag = "check"

// configFlag names the file with the settings that neither flags nor variables set.
const configFlag = "config"

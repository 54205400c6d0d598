package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal"
	"cline-meet/signal/signal/service"
	"cline-meet/signal/signal/setting"
	"cline-meet/signal/state"
	"cline-meet/signal/turnsrv"
)

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
		logFormat:    service.FormatText,
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
		setting.Choice("log-level", &s.logLevel, service.Levels, "`LEVEL`: debug, info, warn or error"),
		setting.Choice("log-format", &s.logFormat, []string{service.FormatText, service.FormatJSON}, "`FORMAT`: text (for people) or json (logs and nothing else)"),
		setting.Duration("drain-timeout", &s.drainTimeout, time.Second, setting.Longest, "`SECONDS` that a stop may take"),
	)
}

// complete adds the config file to what the flags and the environment set, and returns every
// problem of all three in one error.
func (s *settings) complete(c *cli.Context) error {
	return setting.Wrong(s.table.Stray(c.Args().First()), s.table.ReadFile(configFlag, s.configFile).Err(), s.validate())
}

func (s *settings) validate() error {
	var p setting.Problems
	s.own().Check(&p)
	if s.turn.Enabled {
		s.signal.CheckPort(&p, "turn-port", s.turn.Port, s.turn.Listen...)
	}
	if s.turn.Enabled && s.signal.TLSCert != "" {
		s.signal.CheckPort(&p, "turn-tls-port", s.turn.TLSPort, s.turn.Listen...)
	}
	p.Check(s.turn.Enabled || s.redis.Enabled() || len(s.turn.TURNURLs) == 0 || len(s.turn.Secrets) > 0, "turn-url",
		"%s: the server there needs credentials: set its shared secret as --turn-secret", strings.Join(s.turn.TURNURLs, ","))
	return errors.Join(p.Err(), s.signal.Validate(), s.turn.Validate(), s.redis.Validate())
}

// usageProblems finds all that is wrong after the CLI has stopped at the first value that it could
// not read.
func (s *settings) usageProblems(args []string, first error) error {
	problems := s.reread(args)
	if len(problems) == 0 {
		problems = append(problems, first)
	}
	return setting.Wrong(problems.Err(), s.validate())
}

// reread reads all sources of settings by itself, and finds all that is wrong with them.
func (s *settings) reread(args []string) setting.Problems {
	set := flag.NewFlagSet("serve", flag.ContinueOnError)
	set.Bool(checkFlag, false, "")
	problems := s.table.Reread(set, args[slices.Index(args, "serve")+1:])
	return append(problems, s.table.ReadFile(configFlag, s.configFile)...)
}

// checkFlag is no setting, it changes what serve does with them.
const checkFlag = "check"

// configFlag names the file with the settings that neither flags nor variables set.
const configFlag = "config"

// report says what is good about the settings, which are valid, and what is most likely not meant.
func (s *settings) report(w io.Writer) error {
	n := &node{settings: s, log: slog.New(slog.DiscardHandler)}
	if err := n.loadCertificate(&s.signal, &s.turn); err != nil {
		return err
	}
	if err := s.signal.Auth.CheckFiles(); err != nil {
		return err
	}
	var good setting.Report
	good.Addf("settings", "%s", s.table.Sources())
	good.Addf("state", "%s", s.redis.Where(nil))
	good.Addf("signaling", "%s", s.signal.LocalURL())
	good.Addf("entry", "%s", s.signal.Auth.Who())
	if s.turn.Enabled {
		good.Addf("TURN", "%s port %d, relays on UDP ports %d-%d", strings.Join(s.turn.Listen, ", "), s.turn.Port, s.turn.MinPort, s.turn.MaxPort)
	}
	if n.cert != nil {
		good.Addf("TLS", "%v", n.cert)
	}
	return errors.Join(good.Print(w), n.notes().Print(w))
}

// notes tell what about the node is open, unsafe or most likely not meant. It need not be wholly built.
func (n *node) notes() setting.Notes {
	s := n.settings
	notes := slices.Concat(s.table.Strangers(os.Environ()), s.table.Quoted(os.Environ()), s.signal.Notes(), s.signal.RelayNotes(s.turn.Enabled), s.turn.Notes(), s.redis.Notes(), n.turn.Notes())
	if tls := turnsrv.DefaultConfig().TLSPort; n.cert == nil && s.turn.Enabled && s.turn.TLSPort != tls && s.turn.TLSPort != 0 {
		notes.Warnf("no_certificate", "--turn-tls-port %d is closed without a certificate: set --tls-cert and --tls-key", s.turn.TLSPort)
	}
	host := s.turn.PublicHost
	if host == turnsrv.Auto || !s.turn.Enabled {
		host = ""
	}
	notes = append(notes, n.cert.Notes(time.Now(), host)...)
	for _, name := range n.secrets.Generated() {
		notes.Warnf("generated_secret", "--%s is generated: what was signed with it is void after a restart", name)
	}
	return notes
}

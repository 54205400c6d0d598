package service

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal"
	"cline-meet/signal/signal/certificate"
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
	}
	s.Table = slices.Concat(s.Signal.Settings(), s.Certificate.Settings(), s.TURN.Settings(), s.Redis.Settings(), s.own())
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
	s.derive()
	return setting.Wrong(stray, file, s.Validate())
}

// Validate returns every problem that can be seen without a look at anything else.
func (s *Settings) Validate() error {
	var p setting.Problems
	s.own().Check(&p)
	if s.TURN.Enabled {
		s.Signal.CheckPort(&p, "turn-port", s.TURN.Port, s.TURN.Listen...)
	}
	if s.TURN.Enabled && s.Certificate.TURN() {
		s.Signal.CheckPort(&p, "turn-tls-port", s.TURN.TLSPort, s.TURN.Listen...)
	}
	p.Check(s.TURN.Enabled || s.Redis.Enabled() || len(s.TURN.TURNURLs) == 0 || len(s.TURN.Secrets) > 0, "turn-url",
		"%s: the server there needs credentials: set its shared secret as --turn-secret", strings.Join(s.TURN.TURNURLs, ","))
	return errors.Join(p.Err(), s.Signal.Validate(), s.Certificate.Validate(), s.TURN.Validate(), s.Redis.Validate())
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
	problems = append(problems, s.Table.ReadFile(configFlag, s.configFile)...)
	s.derive()
	return problems
}

// derive sets what follows from the settings of another part.
func (s *Settings) derive() { s.Signal.HTTPS = s.Certificate.HTTPS() }

// CheckFlag is no setting, it changes what serve does with them.
const CheckFlag = "check"

// configFlag names the file with the settings that neither flags nor variables set.
const configFlag = "config"

package main

import (
	"errors"
	"log/slog"

	"cline-meet/signal/signal/service"
	"cline-meet/signal/signal/setting"
	"cline-meet/signal/state"
)

// reload takes over what is set otherwise since the texts in current, as far as a running node can, and says
// what waits for a restart.
func (n *node) reload(args []string, level *slog.LevelVar, current map[string]string) {
	service.Reloading(n.log)
	defer service.Tell(n.log, service.Ready)
	s := newSettings()
	if err := errors.Join(s.reread(args).Err(), s.validate()); err != nil {
		n.log.Warn("settings not reloaded, the old ones stay in use", "error", err)
		return
	}
	taken, waiting, err := s.table.TakeOver(current, n.live(s, level))
	if err != nil {
		n.log.Warn("settings not reloaded, the old ones stay in use", "error", err)
	}
	if len(waiting) > 0 {
		n.log.Warn("settings have changed that need a restart", "settings", waiting)
	}
	n.log.Info("settings reloaded", "settings", taken)
}

// live takes over single settings of s.
func (n *node) live(s *settings, level *slog.LevelVar) map[string]func() error {
	peers := func() error { return n.turn.SetPeers(s.turn.AllowPeers, s.turn.DenyPeers) }
	return map[string]func() error{
		"log-level":         func() error { service.SetLevel(level, s.logLevel); return nil },
		state.SessionSecret: func() error { return n.replaceSecret(state.SessionSecret, s.signal.SessionSecrets) },
		state.TURNSecret:    func() error { return n.replaceSecret(state.TURNSecret, s.turn.Secrets) },
		"auth-secret":       func() error { return n.signal.SetAuthSecrets(s.signal.Auth.Secrets) },
		"turn-users":        func() error { n.turn.SetUsers(s.turn.Users); return nil },
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

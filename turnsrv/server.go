// Package turnsrv is the STUN and TURN server of a node: its transports,
// credentials, peer policy and relay addresses around an allocation engine.
package turnsrv

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/turn/v3"
)

// closeLimit is how long Close waits for the engine's last goroutines, which
// have nothing left to wait for themselves.
const closeLimit = 5 * time.Second

// Server is a running STUN and TURN server.
type Server struct {
	// Fixed after construction.
	cfg        Config
	log        *slog.Logger
	metrics    *metrics
	relays     *relays
	transports *transports
	engine     *turn.Server

	closeOnce sync.Once
	closeErr  error
}

// New binds every listener of cfg and serves on them until Close. After an
// error nothing is left behind.
func New(cfg Config) (*Server, error) {
	return newServer(cfg, systemSockets())
}

func newServer(cfg Config, make sockets) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(cfg.Secrets) == 0 {
		return nil, errors.New("--turn-secret: a server needs a shared secret")
	}
	s := &Server{cfg: cfg, log: cfg.logger()}
	s.metrics = newMetrics(s.Allocations)
	if err := s.start(make); err != nil {
		return nil, err
	}
	s.log.Info("turn server listening", "addresses", cfg.Listen, "port", s.Port(),
		"relay", s.relays.bind, "seen_as", s.relays.seen, "min_port", cfg.MinPort, "max_port", cfg.MaxPort)
	return s, nil
}

func (s *Server) start(make sockets) (err error) {
	if s.relays, err = newRelays(s.cfg); err != nil {
		return err
	}
	s.relays.metrics = s.metrics
	requests := newInflight()
	if s.transports, err = listen(s.cfg, requests, make); err != nil {
		return err
	}
	if err = s.startEngine(requests); err != nil {
		s.transports.close()
		return err
	}
	if err = s.register(); err != nil {
		return errors.Join(err, s.stop())
	}
	return nil
}

func (s *Server) startEngine(requests *inflight) (err error) {
	auth := &authenticator{
		secrets:  s.cfg.Secrets,
		realm:    s.cfg.Realm,
		requests: requests,
		metrics:  s.metrics,
		log:      s.log,
		now:      time.Now,
	}
	packets, listeners := s.transports.engineConfigs(s.relays)
	s.engine, err = turn.NewServer(turn.ServerConfig{
		PacketConnConfigs: packets,
		ListenerConfigs:   listeners,
		LoggerFactory:     engineLogs{s.log},
		Realm:             s.cfg.Realm,
		AuthHandler:       auth.key,
	})
	if err != nil {
		return fmt.Errorf("starting the turn engine: %w", err)
	}
	return nil
}

func (s *Server) register() error {
	if s.cfg.Registerer == nil {
		return nil
	}
	if err := s.cfg.Registerer.Register(s.metrics); err != nil {
		return fmt.Errorf("registering turn metrics: %w", err)
	}
	return nil
}

// Close ends every allocation, connection and socket, and returns when the
// goroutines that served them are gone. It may be called more than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		if s.cfg.Registerer != nil {
			s.cfg.Registerer.Unregister(s.metrics)
		}
		s.closeErr = s.stop()
	})
	return s.closeErr
}

// stop goes from the outside in: no request can come, then no relay can be
// opened, then the relays are closed and their readers end.
func (s *Server) stop() error {
	err := s.engine.Close()
	s.transports.wait()
	s.relays.open.Wait()
	if err != nil {
		return fmt.Errorf("closing the turn engine: %w", err)
	}
	return s.waitForEngine()
}

// waitForEngine polls, since the engine offers nothing to wait on: the reader of
// a relay removes its allocation when it ends.
func (s *Server) waitForEngine() error {
	deadline := time.NewTimer(closeLimit)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.Allocations() > 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			return fmt.Errorf("closing the turn engine: %d allocations still open after %v", s.Allocations(), closeLimit)
		}
	}
	return nil
}

// Port returns the port of UDP and TCP.
func (s *Server) Port() int { return s.transports.port }

// RelayIP returns the address that relays are seen at.
func (s *Server) RelayIP() netip.Addr { return s.relays.seen }

// Allocations returns how many allocations exist now.
func (s *Server) Allocations() int { return s.engine.AllocationCount() }

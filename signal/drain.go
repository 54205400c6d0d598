package signal

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"cline-meet/signal/state"
)

// drainPoll is how often a drain looks whether everybody has gone.
const drainPoll = 50 * time.Millisecond

// othersTimeout is how long a drain waits for a node that clients can go to.
const othersTimeout = 5 * time.Second

// Drain moves the clients to other nodes: the server becomes not ready, waits for the load
// balancers to see that, and asks its clients, one after another, to reconnect. It returns when
// nobody is left, when ctx ends, or when there is no other node to go to. Shutdown comes
// after it.
func (s *Server) Drain(ctx context.Context) {
	s.leaving.Store(true)
	if !s.cfg.Clustered || !pause(ctx, s.cfg.DrainSettle) || !s.occupied() || !s.awaitOthers(ctx) {
		return
	}
	s.askToLeave(ctx)
	for s.occupied() && pause(ctx, drainPoll) {
		continue
	}
}

// awaitOthers waits a moment for another node, which may have started just now. It reports false
// when there is none, or none can be heard of.
func (s *Server) awaitOthers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, othersTimeout)
	defer cancel()
	for !s.othersAreThere() {
		if s.state.Ready() != nil || !pause(ctx, drainPoll) {
			return false
		}
	}
	return true
}

// othersAreThere reports whether any other node takes clients.
func (s *Server) othersAreThere() bool {
	return slices.ContainsFunc(s.state.Nodes(), func(n state.NodeInfo) bool { return !n.Draining })
}

// askToLeave spreads the moves of the clients over half of the time that is left, so that the other
// nodes are not stormed.
func (s *Server) askToLeave(ctx context.Context) {
	spread := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		spread = max(0, time.Until(deadline)/2)
	}
	clients := s.everybody()
	// A few clients need no more time than each of them a moment.
	spread = min(spread, time.Duration(len(clients))*10*time.Millisecond)
	for _, p := range clients {
		after := time.Duration(rand.Float64() * float64(spread))
		p.sendAside(objectFrame(typeReconnect, "", struct {
			AfterMS int64  `json:"after_ms"`
			Reason  string `json:"reason"`
		}{after.Milliseconds(), "drain"}))
	}
	s.cfg.Logger.Info("asked clients to go to other nodes", "clients", len(clients), "within_ms", spread.Milliseconds())
}

// refreshTime is how long a node takes to give all its clients fresh ICE servers.
const refreshTime = 2 * time.Second

// RefreshICE gives all clients fresh ICE servers soon, one after another.
func (s *Server) RefreshICE() {
	s.tasks.run(func() {
		clients := s.everybody()
		for _, p := range clients {
			p.sendICE()
			if !pause(s.ctx, refreshTime/time.Duration(len(clients))) {
				return
			}
		}
	})
}

// occupied reports whether anybody, or a message for somebody, is still here.
func (s *Server) occupied() bool {
	return len(s.everybody()) > 0 || slices.ContainsFunc(s.moves.all(), func(move *outgoingMove) bool { return !move.quiet() })
}

// pause waits; it reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

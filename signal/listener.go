package signal

import (
	"context"
	"net"
	"time"
)

// lastRequests is how long a stop waits for requests that are under way. The HTTP server takes a connection that has
// asked nothing yet, as browsers keep some, for a request under way.
const lastRequests = time.Second

// watchedListener counts the connections that cannot be accepted, which the HTTP server tries on without a word.
type watchedListener struct {
	net.Listener
	server *Server
}

func (s *Server) watched(l net.Listener) net.Listener { return watchedListener{l, s} }

// Accept tells a failure as often as a person wants to read it. While the process has no descriptor left every try
// is one.
func (l watchedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if s := l.server; err != nil && !s.draining.Load() {
		s.metrics.acceptErrors.Inc()
		if s.unmet.allow(time.Now()) {
			s.cfg.Logger.Warn("connections cannot be accepted: raise the limit of open files, or lower --max-connections or --turn-total-quota",
				"address", l.Addr().String(), "error", err, "code", "accept_failed")
		}
	}
	return conn, err
}

// stopHTTP ends the HTTP server, which WebSockets have left.
func (s *Server) stopHTTP(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastRequests)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
}

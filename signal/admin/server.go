// Package admin is the owner's side of a node: metrics, the API under /v1 that lists and changes rooms, users, relays and nodes, and
// profiles. It listens on an address of its own.
//
// A caller reaches one node and means all of them, so each request that concerns more than its node is asked of all nodes at once
// (cluster.go) and the answers are put together. A node that does not answer in time is named in missing_nodes: an answer never keeps
// silent about what it lacks.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cline-meet/signal/signal"
	"cline-meet/signal/turnsrv"
)

// Parts are what of a node its owner sees and commands.
type Parts struct {
	Signal   *signal.Server
	TURN     *turnsrv.Server // nil when TURN is off
	State    signal.State
	Registry *prometheus.Registry
	Level    *slog.LevelVar // of the log
	Log      *slog.Logger
	Version  string
	// URLs returns those of the TURN server that the node tells others.
	URLs func() []string
	// Drain has the node's clients go to other nodes, until ctx ends.
	Drain func(ctx context.Context)
	// Rotate makes a new secret of that name for all nodes.
	Rotate func(ctx context.Context, name string) error
}

// Server is the owner's side of one node. New binds its address, Attach gives it the node, Run serves until Shutdown.
type Server struct {
	cfg      Config
	access   *access
	begun    time.Time
	listener net.Listener // nil for none
	http     *http.Server
	parts    Parts
	topics   topics
	requests *prometheus.CounterVec

	ctx    context.Context // ends with the server
	cancel context.CancelFunc
	drains sync.WaitGroup
}

// New binds the address of a valid config. Without one nobody can ask here, but the other nodes can.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, access: newAccess(&cfg), begun: time.Now()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.Addr == "" {
		return s, nil
	}
	var err error
	if s.listener, err = listen(&cfg); err != nil {
		return nil, fmt.Errorf("--admin-addr: binding %s: %w", cfg.Addr, err)
	}
	return s, nil
}

// Attach gives the server its node, whose questions from other nodes it answers from then on. The node is not subscribed to the
// shared state yet.
func (s *Server) Attach(parts Parts) {
	s.parts, s.topics = parts, s.answers()
	s.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signal_admin_requests_total", Help: "Requests of the admin API, by operation and status."}, []string{"operation", "status"})
	parts.Registry.MustRegister(s.requests)
	parts.Signal.Answer(s.topics.answer)
	s.http = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(parts.Log.Handler(), slog.LevelDebug)}
}

// listen binds the address. A socket is for the user of the process alone; one that a dead process has left is replaced.
func listen(cfg *Config) (net.Listener, error) {
	path, ok := cfg.socket()
	if !ok {
		return net.Listen("tcp", cfg.Addr)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, errors.New("another process listens there")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(path)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Addr returns the address, nil when there is none.
func (s *Server) Addr() net.Addr {
	if s == nil || s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Run serves until Shutdown, and its error is nil then. It may be called once.
func (s *Server) Run() error {
	if s.listener == nil {
		<-s.ctx.Done()
		return nil
	}
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) && s.ctx.Err() == nil {
		return fmt.Errorf("serving %s: %w", s.listener.Addr(), err)
	}
	return nil
}

// lastRequests is how long a stop waits for requests that are under way.
const lastRequests = time.Second

// Shutdown ends the server. It need not have a node yet.
func (s *Server) Shutdown(ctx context.Context) {
	if s == nil {
		return
	}
	s.cancel()
	s.drains.Wait()
	if s.listener == nil {
		return
	}
	_ = s.listener.Close() // It may not be served yet.
	if s.http == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastRequests)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
}

// handler serves everything on the address.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", need(roleMetrics, promhttp.HandlerFor(s.parts.Registry, promhttp.HandlerOpts{})))
	if s.cfg.isLocal() || s.cfg.Pprof {
		least := roleWrite
		if len(s.access.tokens) == 0 {
			least = roleRead // Who is on this machine may look at the process.
		}
		profiles := http.NewServeMux()
		profiles.HandleFunc("/debug/pprof/", pprof.Index)
		profiles.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		profiles.HandleFunc("/debug/pprof/profile", pprof.Profile)
		profiles.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		profiles.HandleFunc("/debug/pprof/trace", pprof.Trace)
		mux.Handle("/debug/pprof/", need(least, profiles))
	}
	s.register(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path+": see /v1/openapi.json")
	})
	return s.access.guard(mux)
}

package certificate

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"cline-meet/signal/signal/setting"
)

// plainConns bounds the connections of plain HTTP, which are short.
const plainConns = 512

// plainTimeout bounds each of them.
const plainTimeout = 10 * time.Second

// plain is the port of plain HTTP: it answers HTTP-01 and sends browsers to HTTPS.
type plain struct {
	host    string // the host to bind to
	wanted  int    // the port
	domains []string
	log     *slog.Logger

	listener net.Listener // nil without one
	taken    error        // why there is none
	server   *http.Server
}

func newPlain(c Config, log *slog.Logger) *plain {
	return &plain{wanted: c.HTTPPort, domains: c.Domains, log: log}
}

// listen binds the port, if there is one. Where it need not be had there is no redirect then, and no HTTP-01.
func (p *plain) listen(host string, must bool) error {
	p.host = host
	if p.wanted == 0 {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(p.wanted)))
	if err != nil && must {
		return fmt.Errorf("--http-port: %w", err)
	}
	if p.taken = err; err == nil {
		p.listener = netutil.LimitListener(l, plainConns)
	}
	return nil
}

// PlainAddr is the address of plain HTTP, nil for none.
func (s *Set) PlainAddr() net.Addr {
	if s.plain.listener == nil {
		return nil
	}
	return s.plain.listener.Addr()
}

// port is the one that is bound, 0 for none.
func (p *plain) port() int {
	if p.listener == nil {
		return 0
	}
	return p.listener.Addr().(*net.TCPAddr).Port
}

func (p *plain) note(n *setting.Notes) {
	if p.taken != nil {
		n.Warnf("http_port_taken", "--http-port %d cannot be bound: %v; nobody is sent to HTTPS from there, and names are not proved by HTTP-01", p.wanted, p.taken)
	}
}

// prepare makes the server, which sends browsers to a port of HTTPS.
func (p *plain) prepare(https int, m *managed) {
	p.server = &http.Server{
		Handler:     m.answer(p.redirect(https)),
		ReadTimeout: plainTimeout, WriteTimeout: plainTimeout, IdleTimeout: plainTimeout, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
}

// serve serves until close.
func (p *plain) serve() {
	if p.listener == nil {
		return
	}
	if err := p.server.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		p.log.Warn("plain HTTP has ended", "error", err)
	}
}

func (p *plain) close() {
	if p.listener != nil {
		_ = p.listener.Close() // The server closes only what it serves already.
	}
	if p.server != nil {
		_ = p.server.Close()
	}
}

// redirect sends browsers to HTTPS: to the name that they came by, if it is one of ours.
func (p *plain) redirect(https int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostOf(r)
		if len(p.domains) > 0 && !slices.Contains(p.domains, host) {
			host = p.domains[0]
		}
		if https != 443 || strings.Contains(host, ":") {
			host = strings.TrimSuffix(net.JoinHostPort(host, strconv.Itoa(https)), ":443")
		}
		w.Header().Set("Connection", "close")
		http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect)
	})
}

// hostOf is the host that a request is for, without port and brackets.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.Trim(r.Host, "[]")
	}
	return strings.ToLower(host)
}

// answer wraps a handler of plain HTTP so that an authority which comes for HTTP-01 gets its answer. It may be nil.
func (m *managed) answer(next http.Handler) http.Handler {
	if m == nil {
		return next
	}
	challenges := m.http.HTTPChallengeHandler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(m.config.Domains, hostOf(r)) {
			challenges.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

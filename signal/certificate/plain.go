package certificate

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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
	wanted  int // the port to bind
	domains []string
	log     *slog.Logger

	listeners []net.Listener
	taken     error // why there are not all
	server    *http.Server
}

func newPlain(c Config, log *slog.Logger) *plain {
	return &plain{wanted: c.HTTPPort, domains: c.Domains, log: log}
}

// listen binds the port, if there is one, at every host. Where it need not be had there is no redirect then, and no HTTP-01.
func (p *plain) listen(hosts []string, must bool) error {
	if p.wanted == 0 {
		return nil
	}
	for _, host := range hosts {
		l, err := net.Listen(network(host), net.JoinHostPort(host, strconv.Itoa(p.wanted)))
		switch {
		case err == nil:
			p.listeners = append(p.listeners, netutil.LimitListener(l, plainConns))
		case lacksIPv6(host, err) && len(hosts) > 1:
		case must:
			p.close()
			return fmt.Errorf("--http-port: %w", err)
		default:
			p.taken = err
		}
	}
	return nil
}

// network is that of the family of an address alone, since an IPv6 socket would take IPv4 too, which has one of its own where it is wanted.
func network(host string) string {
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return "tcp"
	case addr.Is4():
		return "tcp4"
	}
	return "tcp6"
}

// lacksIPv6 says whether an address cannot be bound because this machine has no IPv6.
func lacksIPv6(host string, err error) bool {
	return network(host) == "tcp6" && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPROTONOSUPPORT))
}

// PlainAddrs are the addresses of plain HTTP.
func (s *Set) PlainAddrs() []net.Addr {
	var all []net.Addr
	for _, l := range s.plain.listeners {
		all = append(all, l.Addr())
	}
	return all
}

// port is the one that is bound, 0 for none.
func (p *plain) port() int {
	if len(p.listeners) == 0 {
		return 0
	}
	return p.listeners[0].Addr().(*net.TCPAddr).Port
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
	var serving sync.WaitGroup
	for _, l := range p.listeners {
		serving.Go(func() {
			if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				p.log.Warn("plain HTTP has ended", "address", l.Addr().String(), "error", err)
			}
		})
	}
	serving.Wait()
}

func (p *plain) close() {
	for _, l := range p.listeners {
		_ = l.Close() // The server closes only what it serves already.
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

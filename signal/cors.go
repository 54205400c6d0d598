package signal

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Pages of another origin that --allowed-origins has may use more than the WebSocket: they import signal.js, and
// fetch /ice and /health (CORS, the Fetch standard, section 3.3). Cookies come along only for origins that are there by name: with * any
// page that a user visits could read what the user's cookie opens.

// preflightAge is for how long a browser may remember what it was allowed.
const preflightAge = "600"

// noticeInterval is how often at most the log tells of a page that is refused. A page that is left open tries for ever.
const noticeInterval = time.Minute

// noticeRate keeps the interval. Its zero value is ready.
type noticeRate struct{ last atomic.Int64 }

func (n *noticeRate) allow(now time.Time) bool {
	last := n.last.Load()
	return (last == 0 || now.UnixNano()-last >= int64(noticeInterval)) && n.last.CompareAndSwap(last, now.UnixNano())
}

// longestOrigin is how much of an origin, which anybody can make up, is logged.
const longestOrigin = 200

// isModule reports whether a static file is one of those that pages of other origins import.
func isModule(name string) bool { return name == "signal.js" || strings.HasPrefix(name, "signal/") }

// shared has pages of allowed origins read what a handler answers, and with credentials what depends on the cookie.
func (s *Server) shared(credentials bool, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.allowOrigin(w.Header(), r, credentials)
		serve(w, r)
	}
}

// allowOrigin says in the header of an answer whether the page that asks may read it.
func (s *Server) allowOrigin(h http.Header, r *http.Request, credentials bool) {
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "Retry-After")
	origin := r.Header.Get("Origin")
	switch allows(*s.trusted.origins.Load(), origin) {
	case allowedByName:
		h.Set("Access-Control-Allow-Origin", origin)
		if credentials {
			h.Set("Access-Control-Allow-Credentials", "true")
		}
	case allowedAsAll:
		h.Set("Access-Control-Allow-Origin", "*")
	case notAllowed:
		if who := s.identify(r); origin != "" && !who.isOwn(origin) {
			s.noteRefusal(origin, who)
		}
	}
}

// preflight answers what a browser asks before a request that a form could not make, such as one with a bearer token.
func (s *Server) preflight(credentials bool) http.HandlerFunc {
	return s.shared(credentials, func(w http.ResponseWriter, _ *http.Request) {
		if h := w.Header(); h.Get("Access-Control-Allow-Origin") != "" {
			h.Set("Access-Control-Allow-Methods", "GET")
			h.Set("Access-Control-Allow-Headers", "Authorization")
			h.Set("Access-Control-Max-Age", preflightAge)
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// noteRefusal tells the owner, who may have forgotten a setting, of a page that is refused. For a fault of a client it
// would be too loud, and what strangers do must not fill the log, hence the interval.
func (s *Server) noteRefusal(origin string, who clientID) {
	if s.refusals.allow(time.Now()) {
		s.cfg.Logger.Info("origin refused", "origin", bounded(origin), "host", bounded(who.host), "secure", who.secure, "client", who.addr,
			"set", who.remedy(origin))
	}
}

// remedy is what to set if the page of that origin is meant to be let in.
func (c clientID) remedy(origin string) string {
	u, err := url.Parse(origin)
	for _, host := range c.hosts {
		if own := (&url.URL{Host: host}).Hostname(); err == nil && own != "" && strings.EqualFold(own, u.Hostname()) {
			return "--trusted-proxies, if a proxy speaks TLS for us, or --allowed-origins"
		}
	}
	return "--allowed-origins, if that page is yours, or --trusted-proxies, if it is ours and a proxy has another name for us"
}

func bounded(text string) string { return text[:min(len(text), longestOrigin)] }

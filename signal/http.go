package signal

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// contentPolicy lets the page use itself and its WebSocket, nothing else.
const contentPolicy = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; " +
	"media-src 'self' blob: mediastream:; frame-ancestors 'self'; base-uri 'none'; form-action 'self'"

// requestTimeout bounds the reading of a public request with its body, although none needs one: the
// HTTP server waits for it before it answers. A WebSocket leaves the bound behind.
const requestTimeout = 10 * time.Second

// newPublicServer returns the server of what browsers ask for. Who does not read an answer loses it. Connections are callers until they are
// WebSockets.
func (s *Server) newPublicServer() *http.Server {
	h := s.newHTTPServer(s.wantTLS(s.handler()), requestTimeout)
	h.WriteTimeout = s.cfg.WriteTimeout
	h.ConnState = s.callers.note
	return h
}

// newHTTPServer returns a server of requests that are read within limit, 0 for none but for their
// headers. The limit would also end a handler that takes longer, such as a profile.
func (s *Server) newHTTPServer(h http.Handler, limit time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadTimeout:       limit,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// wantTLS refuses requests in clear text where there is TLS, which come to a port that others share.
func (s *Server) wantTLS(h http.Handler) http.Handler {
	if s.cfg.TLS == nil || !s.cfg.OnePort {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		http.Error(w, "this port speaks TLS: use https:// and wss://", http.StatusBadRequest)
	})
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", s.whenStarted(s.serveWS))
	mux.HandleFunc("GET /health", s.shared(false, s.serveHealth))
	mux.HandleFunc("GET /ready", s.serveReady)
	mux.HandleFunc("GET /ice", s.shared(true, s.whenStarted(s.serveICE)))
	mux.HandleFunc("GET /reach", s.serveReachWanted)
	mux.HandleFunc("POST /reach", s.serveReach)
	mux.HandleFunc("GET /", s.whenStarted(s.servePage))
	mux.HandleFunc("OPTIONS /ice", s.preflight(true))
	for _, path := range []string{"/health", "/signal.js", "/signal/"} {
		mux.HandleFunc("OPTIONS "+path, s.preflight(false))
	}
	return s.strictly(s.paced(mux))
}

// whenStarted refuses requests until it is known whether the shared state is there: with it come the secrets of the cluster, which sign
// what clients get here.
func (s *Server) whenStarted(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-s.state.Started():
			next(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the server is starting: try again", http.StatusServiceUnavailable)
		}
	}
}

// strictly tells browsers that came by HTTPS to come by nothing else, if that was asked for.
func (s *Server) strictly(next http.Handler) http.Handler {
	if s.cfg.HSTS == 0 {
		return next
	}
	value := fmt.Sprintf("max-age=%d", int(s.cfg.HSTS.Seconds()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.identify(r).secure {
			w.Header().Set("Strict-Transport-Security", value)
		}
		next.ServeHTTP(w, r)
	})
}

// serveWS upgrades a request to a WebSocket and returns; the connection lives on in a goroutine of
// its own, so that an idle one costs no HTTP buffers.
func (s *Server) serveWS(w http.ResponseWriter, r *http.Request) {
	number := s.asked.Add(1)
	who := s.identify(r)
	origin := r.Header.Get("Origin")
	if err := checkOrigin(origin, who, *s.trusted.origins.Load(), s.cfg.RequireOrigin); err != nil {
		if errors.Is(err, errOrigin) {
			s.noteRefusal(origin, who)
		}
		s.refuse(w, "origin", http.StatusForbidden, err.Error())
		return
	}
	if s.draining.Load() || s.leaving.Load() && s.othersAreThere() {
		s.refuse(w, "draining", http.StatusServiceUnavailable, "server is going away")
		return
	}
	want := wanted(r.URL.Query())
	from := s.connect(w, who, s.isBack(s.presumedSession(r, who, want.token), want.token))
	if from == nil {
		return
	}
	visitor, header, err := s.knock(r, who)
	if err != nil {
		s.addrs.disconnect(from)
		s.turnAway(w, err)
		return
	}
	ws, err := s.upgrader.Upgrade(w, r, header)
	if err != nil { // The upgrader has answered.
		s.addrs.disconnect(from)
		s.metrics.refused.WithLabelValues("handshake").Inc()
		s.cfg.Logger.Debug("upgrading to WebSocket", "client", who.addr, "error", err)
		return
	}
	if !s.admit() {
		s.addrs.disconnect(from)
		_ = ws.NetConn().Close()
		return
	}
	visitor.addr, visitor.secure = who.addr, who.secure
	c := newConn(s, s.link(ws.NetConn()), visitor, who.host, from)
	c.number = number
	s.cfg.Logger.Debug("connected", "client", who.addr)
	s.metrics.accepted.Inc()
	go s.serve(c, want)
}

// link returns what a socket uses of a connection: on systems where a poller can wait for it, no
// goroutine is needed.
func (s *Server) link(conn net.Conn) link {
	if l := s.pollers.link(conn); l != nil {
		return l
	}
	return newStream(conn, s.cfg.WriteTimeout, &s.flusher)
}

// wanted reads what a client says of the session that it resumes. What it got is unknown when it
// is no number.
func wanted(query url.Values) resumption {
	want := resumption{token: query.Get("resume")}
	if got, err := strconv.ParseUint(query.Get("got"), 10, 64); err == nil {
		want.got = &got
	}
	return want
}

func (s *Server) refuse(w http.ResponseWriter, reason string, status int, message string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	s.cfg.Logger.Debug("WebSocket refused", "reason", reason, "error", message)
	http.Error(w, message, status)
}

// serveHealth answers as long as the process serves; it looks at nothing, because a restart would
// mend nothing that lies outside.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// serveReady tells a load balancer whether to send new users, and everybody what is impaired.
func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	reasons, problems := s.Readiness()
	if len(reasons) > 0 {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "reasons": reasons})
		return
	}
	answer := map[string]any{"status": "ready"}
	if len(problems) > 0 {
		answer["problems"] = problems
	}
	writeJSON(w, http.StatusOK, answer)
}

// Readiness returns why no new users should come, by part, and what does not work for those who do. A Redis that all nodes share and
// miss is no reason while they let users in without it: a balancer would have nobody left.
func (s *Server) Readiness() (reasons map[string]string, problems []string) {
	reasons, problems = map[string]string{}, append(s.state.Problems(), s.door.Problems()...)
	if s.cfg.Impaired != nil {
		problems = append(problems, s.cfg.Impaired()...)
	}
	select {
	case <-s.state.Started():
	default:
		reasons["server"] = "starting"
	}
	if s.leaving.Load() || s.draining.Load() {
		reasons["server"] = "draining"
	}
	if err := s.state.Admits(); err != nil {
		reasons["state"] = err.Error()
	} else if err := s.state.Ready(); err != nil {
		problems = append(problems, err.Error())
	}
	if err := s.door.Ready(); err != nil {
		reasons["auth"] = err.Error()
	}
	return reasons, problems
}

// serveICE issues ICE servers for the session of the request's cookie, or for the user of a bearer token.
func (s *Server) serveICE(w http.ResponseWriter, r *http.Request) {
	who := s.identify(r)
	if wait := s.mayMint(s.addrs.of(who.prefix())); wait > 0 { // Before the owner's backend is asked, which may cost more.
		w.Header().Set("Retry-After", inSeconds(wait))
		writeJSON(w, http.StatusTooManyRequests, iceRefusal{Error: "too many requests of your address: wait"})
		return
	}
	user, claims, err := s.knockForICE(r, who)
	if err != nil {
		writeJSON(w, challenge(w, err), newICERefusal(err))
		return
	}
	ice := s.ice(who.host, user, claims)
	writeJSON(w, http.StatusOK, struct {
		ICEServers []ICEServer `json:"iceServers"`
		TTL        int         `json:"ttl,omitempty"`
	}{ice.servers(), ice.seconds()})
}

// iceUser returns the user that ICE servers are for, none for a stranger.
func (s *Server) iceUser(r *http.Request, who clientID) string {
	if session, _ := s.sessions.find(r, who.secure); session != "" {
		return s.sessions.userPrefix(session)
	}
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	t, err := s.readToken("", strings.TrimSpace(text)) // What is bound to a cookie is of no session then.
	if err != nil {
		s.cfg.Logger.Debug("no ICE servers", "client", who.addr, "error", err)
		return ""
	}
	return t.User
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // A client that is gone needs no answer.
}

// file is one static file, with the tag by which browsers know that theirs is current.
type file struct {
	name    string
	content []byte
	etag    string
}

// readPage reads the static files, keyed by the path they are served at.
func readPage(root fs.FS) (map[string]file, error) {
	files := map[string]file{}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		files["/"+name] = file{name, content, strconv.Quote(base64.RawURLEncoding.EncodeToString(sum[:12]))}
		return nil
	})
	files["/"] = files["/index.html"]
	return files, err
}

// servePage serves the static files; the page itself also brings the session cookie.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	f, ok := s.files[r.URL.Path]
	if !ok || f.name == "" {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	if r.URL.Path == "/" {
		if _, cookie := s.sessions.ensure(r, s.identify(r).secure); cookie != nil {
			http.SetCookie(w, cookie)
		}
		h.Set("Content-Security-Policy", contentPolicy)
	}
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if isModule(f.name) {
		s.allowOrigin(h, r, false)
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	}
	h.Set("Content-Type", mime.TypeByExtension(path.Ext(f.name)))
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", f.etag)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(f.content))
}

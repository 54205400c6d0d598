package signal

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state"
)

func (s *testServer) get(path string, header http.Header) (*http.Response, string) {
	s.t.Helper()
	return get(s.t, s.url+path, header)
}

func get(t testing.TB, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// value returns the sum of a metric over its labels, and whether it is more than nothing.
func (s *testServer) value(name string) (float64, bool) {
	families, err := s.cfg.Registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum, sum > 0
}

func TestPage(t *testing.T) {
	s := start(t)
	res, body := s.get("/", nil)
	if res.StatusCode != 200 || body != "<title>page</title>" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Errorf("page: %s %q", res.Status, body)
	}
	if len(res.Cookies()) != 1 || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("page headers: %v", res.Header)
	}
	res, _ = s.get("/signal.js", nil)
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/javascript") {
		t.Errorf("signal.js: %v", res.Header)
	}
	if res, _ = s.get("/signal.js", http.Header{"If-None-Match": {res.Header.Get("ETag")}}); res.StatusCode != 304 {
		t.Errorf("with the current tag: %s", res.Status)
	}
	if res, _ = s.get("/nothing", nil); res.StatusCode != 404 {
		t.Errorf("unknown path: %s", res.Status)
	}
}

func TestHealthReadyAndDrain(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/health", "/ready"} {
		if res, body := s.get(path, nil); res.StatusCode != 200 || !json.Valid([]byte(body)) {
			t.Errorf("%s: %s %s", path, res.Status, body)
		}
	}
	s.draining.Store(true)
	if res, body := s.get("/ready", nil); res.StatusCode != 503 || !strings.Contains(body, "draining") {
		t.Errorf("draining: %s %s", res.Status, body)
	}
	if res, _ := s.get("/health", nil); res.StatusCode != 200 {
		t.Errorf("health while draining: %s", res.Status)
	}
	if _, err := client.Dial(t.Context(), s.url+"/ws", nil); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("dialing a draining server: %v", err)
	}
}

func TestICEEndpoint(t *testing.T) {
	s := start(t)
	if res, _ := s.get("/ice", nil); res.StatusCode != 401 {
		t.Errorf("without a cookie: %s", res.Status)
	}
	page, _ := s.get("/", nil)
	cookie := page.Cookies()[0]
	res, body := s.get("/ice", http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}})
	if res.StatusCode != 200 || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("with a cookie: %s", res.Status)
	}
	var got struct {
		ICEServers []ICEServer
		TTL        int
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.ICEServers) != 2 || got.TTL != 3600 {
		t.Errorf("got %s (%v)", body, err)
	}
}

// metricsText returns what a Prometheus would read.
func (s *testServer) metricsText() string {
	s.t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

func TestMetricsCountWhatIsThere(t *testing.T) {
	s := start(t)
	s.enter("r")
	for _, line := range []string{
		"signal_connections 1", "signal_rooms 1", "signal_members 1",
		`signal_messages_total{outcome="ok",type="join_room"} 1`,
	} {
		eventually(t, line, func() bool { return strings.Contains(s.metricsText(), line+"\n") })
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/v1/rooms"} {
		if res, _ := s.get(path, nil); res.StatusCode != 404 {
			t.Errorf("%s on the public address: %s", path, res.Status)
		}
	}
}

// lateState is one of which it is not known yet whether it is there.
type lateState struct {
	*state.MemoryNode
	started chan struct{}
}

func (s lateState) Started() <-chan struct{} { return s.started }

// TestNobodyComesInBeforeTheStart asks a server that does not know its shared state yet. What says that it lives, or that it is not ready,
// answers at once.
func TestNobodyComesInBeforeTheStart(t *testing.T) {
	started := make(chan struct{})
	s := start(t, func(c *Config) { c.State = lateState{state.NewMemory().Node("n1"), started} })
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
	for path, want := range map[string]int{"/health": 200, "/ready": 503, "/ws": 503, "/ice": 503, "/": 503, "/signal.js": 503} {
		if res, body := s.get(path, upgrade); res.StatusCode != want || want == 503 && !strings.Contains(body, "starting") {
			t.Errorf("%s: %s %s, want %d", path, res.Status, body, want)
		}
	}
	close(started)
	if res, body := s.get("/ready", nil); res.StatusCode != http.StatusOK {
		t.Errorf("/ready: %s %s", res.Status, body)
	}
	s.enter("r")
}

func TestStrictTransportIsAskedFor(t *testing.T) {
	secure := http.Header{"X-Forwarded-Proto": {"https"}}
	for _, test := range []struct {
		age    time.Duration
		header http.Header
		want   string
	}{{0, secure, ""}, {time.Hour, secure, "max-age=3600"}, {time.Hour, nil, ""}} {
		s := start(t, func(c *Config) { c.TrustedProxies, c.HSTS = []string{"127.0.0.1"}, test.age })
		if res, _ := s.get("/", test.header); res.Header.Get("Strict-Transport-Security") != test.want {
			t.Errorf("%v, %v: %v", test.age, test.header, res.Header)
		}
	}
}

func TestAddressLimit(t *testing.T) {
	s := start(t, func(c *Config) { c.AddrConns = 2 })
	first := s.dial(nil)
	s.dial(nil)
	_, err := client.Dial(t.Context(), s.url+"/ws", nil)
	if err == nil || !strings.Contains(err.Error(), "429") {
		t.Fatalf("third connection: %v", err)
	}
	_ = first.Close()
	eventually(t, "a place is free again", func() bool { return s.Connections() == 1 })
	eventually(t, "a connection is accepted again", func() bool {
		c, err := client.Dial(t.Context(), s.url+"/ws", nil)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func TestStartStop(t *testing.T) {
	for range 3 {
		s := start(t)
		a, b := s.enter("r"), s.enter("r")
		s.stop()
		for _, p := range []*peer{a, b} {
			if err := p.ended(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
				t.Errorf("ended with %v", err)
			}
		}
	}
}

func TestShutdownCutsTheStubborn(t *testing.T) {
	cfgd := start(t)
	deaf, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(cfgd.url, "http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = deaf.Close() }()
	if _, _, err := deaf.ReadMessage(); err != nil { // It reads no more, so it does not answer the close.
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if err := cfgd.Shutdown(ctx); err == nil && time.Since(began) < closeGrace { // Later the client has been cut anyway.
		t.Error("shutdown with an ended context reported success")
	}
	if n := cfgd.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	c := DefaultConfig()
	c.Port, c.Host, c.ReadTimeout, c.MaxRoomUsers = 70000, "nowhere", time.Nanosecond, 0
	c.SessionSecrets, c.AllowedOrigins = []string{"short"}, []string{"example.org"}
	c.TrustedProxies = []string{"10.0.0.0/99"}
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, flag := range []string{"--server-port", "--server-host", "--read-timeout", "--max-room-users",
		"--session-secret", "--allowed-origins", "--trusted-proxies"} {
		if !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named in:\n%v", flag, err)
		}
	}
	d := DefaultConfig()
	if err := d.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	s := start(t)
	cfg := s.cfg
	cfg.Registry = prometheus.NewRegistry()
	cfg.Port = s.Addr().(*net.TCPAddr).Port
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "--server-port") {
		t.Errorf("public port in use: %v", err)
	}
}

// TestRunEndsWhenItsListenerFails loses the listener of a server that nobody has stopped.
func TestRunEndsWhenItsListenerFails(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Host, cfg.Port = "127.0.0.1", 0
	cfg.Logger, cfg.Registry = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	cfg.Page = fstest.MapFS{"index.html": {}}
	cfg.ICE = func(string, string) ICEConfig { return ICEConfig{} }
	cfg.State = state.NewMemory().Node("n1")
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run() }()
	_ = s.listener.Close()
	select {
	case err := <-ran:
		if err == nil {
			t.Error("Run ended without an error")
		}
	case <-time.After(patience):
		t.Error("Run goes on")
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSlowRequestIsCut announces a body and never sends it, which the HTTP server waits for before
// it answers. The test's clock is a bubble's, and so is its network.
func TestSlowRequestIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
		h := s.newHTTPServer(http.HandlerFunc(s.serveHealth), requestTimeout)
		listener := &pipeListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		go func() { _ = h.Serve(listener) }()
		mine, theirs := net.Pipe()
		listener.conns <- theirs
		if _, err := io.WriteString(mine, "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		_ = mine.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, mine); err != nil {
			t.Errorf("after a minute: %v", err)
		}
		_ = h.Close()
	})
}

// pipeListener accepts the connections that it is given.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return new(net.TCPAddr) }

func TestLocalURL(t *testing.T) {
	for host, want := range map[string]string{
		"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "192.0.2.1": "192.0.2.1", "localhost": "localhost",
	} {
		cfg := Config{Host: host, Port: 8080}
		if got := cfg.LocalURL(); got != "http://"+net.JoinHostPort(want, strconv.Itoa(8080)) {
			t.Errorf("%q: %s", host, got)
		}
	}
}

// TestCookieOverTLS reaches a server with a certificate, whose cookies no other host can set.
func TestCookieOverTLS(t *testing.T) {
	s := start(t, func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{systemtest.Certificate(t, "signal.example.org")}}
	})
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // self-signed
	ws, res, err := dialer.Dial("wss://"+s.Addr().String()+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = ws.Close()
	if c := res.Cookies(); len(c) != 1 || c[0].Name != "__Host-signal_session" || !c[0].Secure {
		t.Errorf("cookies over TLS: %v", c)
	}
}

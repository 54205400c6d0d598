package signal

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"cline-meet/signal/signal/client"
)

const friend = "https://friend.example"

func (s *testServer) ask(method, path, origin string) http.Header {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = res.Body.Close()
	if method == http.MethodOptions && res.StatusCode != http.StatusNoContent {
		s.t.Errorf("%s %s: %s", method, path, res.Status)
	}
	return res.Header
}

// TestSharedWithOrigins asks for everything as pages of several origins do.
func TestSharedWithOrigins(t *testing.T) {
	page := fstest.MapFS{"index.html": {}, "app.js": {}, "signal.js": {}, "signal/client.js": {}}
	for _, test := range []struct {
		allowed     []string
		origin      string
		read        string // whom the answers say that they are for
		credentials bool
	}{
		{[]string{friend}, "", "", false},
		{[]string{friend}, friend, friend, true},
		{[]string{friend + ":443", "*"}, friend, friend, true},
		{[]string{friend}, "http://friend.example", "", false},
		{[]string{friend}, friend + ".evil.example", "", false},
		{[]string{friend}, "null", "", false},
		{nil, friend, "", false},
		{[]string{"*"}, friend, "*", false},
		{[]string{"*"}, "null", "*", false},
	} {
		s := start(t, func(c *Config) { c.AllowedOrigins, c.Page = test.allowed, page })
		for _, path := range []string{"/signal.js", "/signal/client.js", "/ice", "/health"} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
				h := s.ask(method, path, test.origin)
				credentials := h.Get("Access-Control-Allow-Credentials") == "true"
				if h.Get("Access-Control-Allow-Origin") != test.read || credentials != (test.credentials && path == "/ice") || h.Get("Vary") != "Origin" {
					t.Errorf("%+v: %s %s: %v", test, method, path, h)
				}
				if h.Get("Access-Control-Expose-Headers") != "Retry-After" {
					t.Errorf("%+v: %s %s: %v", test, method, path, h)
				}
				allows := h.Get("Access-Control-Allow-Headers") == "Authorization" && h.Get("Access-Control-Allow-Methods") == "GET"
				if allows != (method == http.MethodOptions && test.read != "") {
					t.Errorf("%+v: %s %s: %v", test, method, path, h)
				}
			}
		}
		for _, path := range []string{"/", "/app.js", "/ready"} {
			if h := s.ask(http.MethodGet, path, test.origin); h.Get("Access-Control-Allow-Origin") != "" || h.Get("Cross-Origin-Resource-Policy") != "same-origin" {
				t.Errorf("%+v: %s: %v", test, path, h)
			}
		}
	}
}

// records are the lines of a log.
type records struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Split(strings.TrimSpace(r.text.String()), "\n")
}

// TestRefusedOriginIsLogged tells the owner once what to set, however often a page tries.
func TestRefusedOriginIsLogged(t *testing.T) {
	var log records
	s := start(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 3 {
		if _, err := client.Dial(t.Context(), s.url+"/ws", http.Header{"Origin": {friend}}); err == nil {
			t.Fatal("it is let in")
		}
		s.ask(http.MethodGet, "/signal.js", friend)
	}
	lines := log.lines()
	for _, want := range []string{"level=INFO", "origin=" + friend, "host=" + s.Addr().String(), "--allowed-origins"} {
		if len(lines) != 1 || !strings.Contains(lines[0], want) {
			t.Errorf("want %s once in %q", want, lines)
		}
	}
	own := clientID{hosts: []string{"signal.example:8080"}}
	if got := own.remedy("https://signal.example"); !strings.HasPrefix(got, "--trusted-proxies") {
		t.Errorf("for our own page behind a proxy: %s", got)
	}
	var rate noticeRate
	now := time.Now()
	if !rate.allow(now) || rate.allow(now.Add(noticeInterval-1)) || !rate.allow(now.Add(noticeInterval)) {
		t.Error("the interval is not kept")
	}
}

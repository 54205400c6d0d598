package auth

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/signal/setting"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newDoor(t testing.TB, change func(*Config)) *Door {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Logger = slog.New(slog.DiscardHandler)
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// running runs the door until the test ends.
func running(t testing.TB, d *Door) *Door {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return d
}

func reasonOf(t testing.TB, err error) Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *Error", err)
	}
	return e.Reason
}

func tokenRequest(token string) Request { return Request{token: token} }

// TestWhereTheTokenIs reads requests as browsers, other clients and people with a link send them.
func TestWhereTheTokenIs(t *testing.T) {
	for name, tt := range map[string]struct {
		header http.Header
		query  string
		want   string
	}{
		"subprotocol":           {http.Header{"Sec-Websocket-Protocol": {"signal.v1, bearer.a.b.c"}}, "", "a.b.c"},
		"subprotocols in rows":  {http.Header{"Sec-Websocket-Protocol": {"signal.v1", "bearer.a.b.c"}}, "", "a.b.c"},
		"header":                {http.Header{"Authorization": {"bearer  a.b.c"}}, "", "a.b.c"},
		"another scheme":        {http.Header{"Authorization": {"Basic a.b.c"}}, "", ""},
		"query":                 {nil, "?access_token=a.b.c", "a.b.c"},
		"the subprotocol wins":  {http.Header{"Sec-Websocket-Protocol": {"bearer.1"}, "Authorization": {"Bearer 2"}}, "?access_token=3", "1"},
		"an empty one does not": {http.Header{"Sec-Websocket-Protocol": {"bearer."}, "Authorization": {"Bearer 2"}}, "?access_token=3", "2"},
		"nowhere":               {nil, "", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/ws"+tt.query, nil)
		maps.Copy(r.Header, tt.header)
		if got := (&Door{query: true}).Read(r, "").token; got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if got := (&Door{}).Read(r, "").token; tt.query != "" && got == "a.b.c" {
			t.Errorf("%s: the query was read", name)
		}
	}
}

func TestConfig(t *testing.T) {
	file := keyFile(t, []byte("{}"))
	for want, change := range map[string]func(*Config){
		"":                                       func(*Config) {},
		"--auth-secret: secret 2 of 2 has 31":    func(c *Config) { c.Secrets = []string{newSecret, newSecret[:31]} },
		"--auth-jwks: is no http":                func(c *Config) { c.JWKS = "ftp://example.org/keys" },
		"--auth-jwks: is no https":               func(c *Config) { c.JWKS = "https://" },
		"--auth-url: is no http":                 func(c *Config) { c.URL = "example.org/auth" },
		"--auth-url: give it, or":                func(c *Config) { c.URL, c.JWKS = "https://example.org/", file },
		"--auth-issuer, --auth-audience: are":    func(c *Config) { c.Issuer = "x" },
		"--auth-timeout: 2h0m0s is more than 8s": func(c *Config) { c.Timeout = 2 * time.Hour },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		want = strings.Replace(want, "https", "http", 1)
		var bounds setting.Problems
		cfg.Settings().Check(&bounds)
		err := errors.Join(bounds.Err(), cfg.Validate())
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("got %v, want %s", err, want)
		}
		if err != nil && strings.Contains(err.Error(), newSecret[:31]) {
			t.Errorf("the error has the secret: %v", err)
		}
	}
	for name, jwks := range map[string]string{"a file that is no key set": file, "no file": file + ".not"} {
		cfg := Config{JWKS: jwks}
		if _, err := New(cfg); err == nil || cfg.CheckFiles() == nil || !strings.Contains(err.Error(), "--auth-jwks") {
			t.Errorf("%s: %v", name, err)
		}
	}
	var nobody *Door
	if d, err := New(DefaultConfig()); d != nil || err != nil || nobody.Ready() != nil || nobody.Problems() != nil || nobody.Waits() {
		t.Errorf("a door that is open: %v, %v", d, err)
	}
}

package certificate

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

func TestTriesAreSpread(t *testing.T) {
	away := errors.New("connection refused")
	refused := fmt.Errorf("wrapped: %w", acme.Problem{Type: "urn:ietf:params:acme:error:rateLimited"})
	for _, test := range []struct {
		err         error
		failures    int
		least, most time.Duration
	}{
		{away, 1, 4500 * time.Millisecond, 5500 * time.Millisecond},
		{away, 2, 9 * time.Second, 11 * time.Second},
		{away, 100, 108 * time.Second, 132 * time.Second},
		{refused, 1, 54 * time.Second, 66 * time.Second},
		{refused, 100, 54 * time.Minute, 66 * time.Minute},
	} {
		for range 100 {
			if got := untilNextTry(test.err, test.failures); got < test.least || got > test.most {
				t.Errorf("failure %d, %v: again after %v", test.failures, test.err, got)
			}
		}
	}
}

func TestHookSaysWhyItFails(t *testing.T) {
	program := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"no $1 of $2\"\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := acme.Challenge{Type: acme.ChallengeTypeDNS01, KeyAuthorization: "x", Identifier: acme.Identifier{Type: "dns", Value: "example.org"}}
	for verb, err := range map[string]error{"present": hook(program).Present(t.Context(), c), "cleanup": hook(program).CleanUp(t.Context(), c)} {
		if err == nil || !strings.Contains(err.Error(), "exit status 3: no "+verb+" of _acme-challenge.example.org") {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

// TestCheckAsksNobody loads what a node would ask an authority for, without being one.
func TestCheckAsksNobody(t *testing.T) {
	c := Config{Domains: []string{"signal.example.org", "other.example.org"}}
	s, err := Load(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.Covers("signal.example.org") || len(s.Problems()) != 2 || nameIn(s.HTTPS()) != "signal.example.org" {
		t.Errorf("covers %v, problems %v, certificate of %s", s.Covers("signal.example.org"), s.Problems(), nameIn(s.HTTPS()))
	}
	for _, wrong := range []Config{{Domains: c.Domains, DNSHook: "/does/not/exist"}, {Domains: c.Domains, Roots: "/does/not/exist"}, {Domains: c.Domains, Roots: "managed_test.go"}} {
		if _, err := Load(wrong, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--acme-") {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

func TestRedirect(t *testing.T) {
	for _, test := range []struct {
		domains    []string
		port       int
		host, want string
	}{
		{[]string{"a.example.org", "b.example.org"}, 443, "b.example.org", "https://b.example.org/x?y=1"},
		{[]string{"a.example.org"}, 443, "A.example.org:80", "https://a.example.org/x?y=1"},
		{[]string{"a.example.org"}, 8443, "evil.example", "https://a.example.org:8443/x?y=1"},
		{nil, 443, "[2001:db8::1]:80", "https://[2001:db8::1]/x?y=1"},
		{nil, 8443, "[2001:db8::1]", "https://[2001:db8::1]:8443/x?y=1"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/x?y=1", nil)
		r.Host = test.host
		w := httptest.NewRecorder()
		newPlain(Config{Domains: test.domains}, slog.New(slog.DiscardHandler)).redirect(test.port).ServeHTTP(w, r)
		if got := w.Header().Get("Location"); w.Code != http.StatusPermanentRedirect || got != test.want {
			t.Errorf("%s: %d to %s, want %s", test.host, w.Code, got, test.want)
		}
	}
}

package certificate

import (
	"context"
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

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"cline-meet/signal/packaging/systemtest"
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

// challenge is one by DNS.
var challenge = acme.Challenge{Type: acme.ChallengeTypeDNS01, KeyAuthorization: "x", Identifier: acme.Identifier{Type: "dns", Value: "example.org"}}

// script writes a hook.
func script(t *testing.T, text string) hook {
	t.Helper()
	program := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return hook(program)
}

func TestHookSaysWhyItFails(t *testing.T) {
	h := script(t, "echo \"no $1 of $2\"\nyes no | head -c 1000000\nexit 3\n")
	for verb, err := range map[string]error{"present": h.Present(t.Context(), challenge), "cleanup": h.CleanUp(t.Context(), challenge)} {
		if err == nil || !strings.Contains(err.Error(), "exit status 3: no "+verb+" of _acme-challenge.example.org") || len(err.Error()) > 2*hookOutput {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

// TestHookEndsWithTheNode has a hook that never returns remove the record of a node that stops.
func TestHookEndsWithTheNode(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ctx = context.WithoutCancel(ofNode(ctx)) // As certmagic does.
	began := time.Now()
	err := script(t, "exec sleep 1000\n").CleanUp(ctx, challenge)
	if took := time.Since(began); !errors.Is(err, context.Canceled) || took < hookFarewell || took > hookTimeout/2 {
		t.Errorf("after %v: %v", took, err)
	}
	if err := script(t, "exit 0\n").CleanUp(ctx, challenge); err != nil {
		t.Errorf("a record of a node that stops stays: %v", err)
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

// domain is the name that a certificate is asked for in these tests.
const domain = "signal.example.org"

// lonely is a node that shares a vault and reaches no authority: it fails when it asks.
func lonely(t *testing.T, shared Vault) *managed {
	t.Helper()
	s, err := Load(Config{Domains: []string{domain}, Directory: "https://127.0.0.1:1/dir"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(Node{Hosts: []string{"127.0.0.1"}, Port: 443, Shared: shared}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.SetSecrets([]string{"a secret"})
	return s.managed
}

// store puts a certificate that lives for an hour where the nodes look for it.
func store(t *testing.T, m *managed, left time.Duration) {
	t.Helper()
	ends := time.Now().Add(left)
	certFile, keyFile := systemtest.WriteCertificate(t, t.TempDir(), systemtest.CertificateBetween(t, ends.Add(-time.Hour), ends, domain))
	read := func(file string) []byte {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	keys, issuer := certmagic.StorageKeys, m.http.IssuerKey()
	for key, value := range map[string][]byte{
		keys.SiteCert(issuer, domain):       read(certFile),
		keys.SitePrivateKey(issuer, domain): read(keyFile),
		keys.SiteMeta(issuer, domain):       []byte(`{"sans":["` + domain + `"]}`),
	} {
		if err := m.acme.Storage.Store(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStartAsksForNothingEarly starts nodes that find a certificate in the middle of its life, and at its end.
func TestStartAsksForNothingEarly(t *testing.T) {
	for left, due := range map[time.Duration]bool{30 * time.Minute: false, 10 * time.Minute: true} {
		m := lonely(t, box{})
		store(t, m, left)
		err := m.ensure(t.Context(), domain)
		if asked := err != nil; asked != due || m.newest(domain) == nil {
			t.Errorf("with %v left: %v", left, err)
		}
	}
}

// contested is a vault whose lock another node had.
type contested struct {
	box
	meanwhile func() // meanwhile is what the other node did.
}

func (c *contested) Lock(ctx context.Context, name string) (func(context.Context) error, error) {
	c.meanwhile()
	return c.box.Lock(ctx, name)
}

// TestWhoWaitedAsksForNothing has a node look again when another one has got the certificate that it wanted to ask for.
func TestWhoWaitedAsksForNothing(t *testing.T) {
	for name, had := range map[string]bool{"first": false, "renewal": true} {
		vault := &contested{box: box{}}
		m, other := lonely(t, vault), lonely(t, vault.box)
		if had {
			store(t, other, 10*time.Minute)
		}
		waited := 0
		vault.meanwhile = func() { waited++; store(t, other, 50*time.Minute) }
		err := m.ensure(t.Context(), domain)
		if cert := m.newest(domain); err != nil || waited != 1 || cert == nil || time.Until(cert.Leaf.NotAfter) < 40*time.Minute {
			t.Errorf("%s: waited %d times: %v", name, waited, err)
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

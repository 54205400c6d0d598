// Package acmetest runs Pebble, the ACME server that Let's Encrypt has for tests, and the DNS server that goes with it.
package acmetest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// version is that of Pebble.
const version = "v2.10.3"

// Options are what a test may decide of its ACME server.
type Options struct {
	Host     string        // Host is where it listens; empty for the loopback interface.
	Names    string        // Names is the address that all names resolve to; empty for Host.
	Lifetime time.Duration // Lifetime is that of certificates; 0 for 90 days.
	EAB      [2]string     // EAB are id and key that accounts must have, if there is an id.
	HTTPPort int           // HTTPPort is where it comes for HTTP-01.
	TLSPort  int           // TLSPort is where it comes for TLS-ALPN-01.
}

// Server is an ACME server. All names resolve to one address.
type Server struct {
	Directory string // Directory is the URL that clients begin with.
	CA        string // CA is a PEM file with who signed the certificate of the server itself.

	t          *testing.T
	bin, dir   string
	dns        string
	management string // management is the URL of Pebble's, where its root certificate is
	records    string // records is the URL of the DNS server's
	process    *exec.Cmd

	mu  sync.Mutex
	log bytes.Buffer
}

// binaries builds the two programs where the first run has left them.
var binaries = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(os.TempDir(), "signal-pebble-"+version)
	for _, program := range []string{"pebble", "pebble-challtestsrv"} {
		cmd := exec.Command("go", "install", "github.com/letsencrypt/pebble/v2/cmd/"+program+"@"+version)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	return dir, nil
})

// New makes a server that does not run yet, with its DNS server, which does until the test ends.
func New(t *testing.T, o Options) *Server {
	t.Helper()
	systemtest.Need(t, "go")
	bin, err := binaries()
	if err != nil {
		systemtest.Unable(t, err.Error())
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Names == "" {
		o.Names = o.Host
	}
	s := &Server{t: t, bin: bin, dir: t.TempDir()}
	at := func() string { return fmt.Sprintf("%s:%d", o.Host, systemtest.FreePort(t)) }
	acme, management, records := at(), at(), at()
	s.dns = at()
	s.Directory, s.management, s.records = "https://"+acme+"/dir", "https://"+management, "http://"+records
	var key string
	s.CA, key = systemtest.WriteCertificate(t, s.dir, systemtest.Certificate(t, o.Host))
	s.configure(o, acme, management, key)
	names4, names6 := o.Names, ""
	if strings.Contains(o.Names, ":") {
		names4, names6 = "", o.Names
	}
	dns := exec.Command(filepath.Join(bin, "pebble-challtestsrv"), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		"-dnsserver", s.dns, "-management", records, "-defaultIPv4", names4, "-defaultIPv6", names6)
	s.run(dns)
	t.Cleanup(func() { stop(dns) })
	t.Cleanup(s.Stop)
	return s
}

// configure writes Pebble's settings.
func (s *Server) configure(o Options, acme, management, key string) {
	if o.Lifetime == 0 {
		o.Lifetime = 90 * 24 * time.Hour
	}
	pebble := map[string]any{
		"listenAddress": acme, "managementListenAddress": management, "certificate": s.CA, "privateKey": key,
		"httpPort": o.HTTPPort, "tlsPort": o.TLSPort, "externalAccountBindingRequired": o.EAB[0] != "",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "of the test", "validityPeriod": int(o.Lifetime.Seconds())}},
	}
	if o.EAB[0] != "" {
		pebble["externalAccountMACKeys"] = map[string]string{o.EAB[0]: o.EAB[1]}
	}
	text, err := json.Marshal(map[string]any{"pebble": pebble})
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "pebble.json"), text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Start runs the server, which knows nothing of an earlier run, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.process = exec.Command(filepath.Join(s.bin, "pebble"), "-config", filepath.Join(s.dir, "pebble.json"), "-dnsserver", s.dns)
	s.process.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "PEBBLE_AUTHZREUSE=0")
	s.run(s.process)
	systemtest.Until(s.t, "the ACME server answers", func() error {
		_, err := s.get("/roots/0")
		return err
	})
}

// Stop ends the server, if it runs.
func (s *Server) Stop() {
	if s.process != nil {
		stop(s.process)
		s.process = nil
	}
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func (s *Server) run(cmd *exec.Cmd) {
	s.t.Helper()
	cmd.Stdout, cmd.Stderr = s, s
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// Write takes what the programs say.
func (s *Server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// Log is all that the programs have said.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Orders is how many certificates were ordered, of all runs.
func (s *Server) Orders() int { return strings.Count(s.Log(), "POST /order-plz") }

// replacement matches what the server logs of an order that names the certificate which it is to replace.
var replacement = regexp.MustCompile(`is a replacement of "([^"]+)"`)

// Replaced is how many certificates orders were to replace, each counted once.
func (s *Server) Replaced() int {
	replaced := map[string]bool{}
	for _, order := range replacement.FindAllStringSubmatch(s.Log(), -1) {
		replaced[order[1]] = true
	}
	return len(replaced)
}

// Roots are who must be trusted to trust the certificates of the server that runs now.
func (s *Server) Roots() *x509.CertPool {
	s.t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.Root()) {
		s.t.Fatal("the root of the ACME server is no certificate")
	}
	return pool
}

// Root is the one certificate of Roots, as PEM.
func (s *Server) Root() []byte {
	s.t.Helper()
	pem, err := s.get("/roots/0")
	if err != nil {
		s.t.Fatalf("the root of the ACME server: %v", err)
	}
	return pem
}

func (s *Server) get(path string) ([]byte, error) {
	web := http.Client{Timeout: systemtest.Patience, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // It is the test's own.
	answer, err := web.Get(s.management + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// Hook writes a program for --acme-dns-hook that sets records at the DNS server, and notes its calls in a file.
func (s *Server) Hook() (program, calls string) {
	s.t.Helper()
	systemtest.Need(s.t, "curl")
	program, calls = filepath.Join(s.dir, "hook"), filepath.Join(s.dir, "calls")
	text := fmt.Sprintf(`#!/bin/sh -e
case "$1" in present) way=set-txt ;; cleanup) way=clear-txt ;; *) exit 2 ;; esac
echo "$@" >>%s
curl --silent --show-error --fail --data "{\"host\":\"$2.\",\"value\":\"$3\"}" %s/$way
`, calls, s.records)
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return program, calls
}

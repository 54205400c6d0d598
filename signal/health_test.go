package signal

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// asked are the settings by which a running server is asked.
func (s *testServer) asked() *Config {
	return &Config{Host: "0.0.0.0", Port: s.Addr().(*net.TCPAddr).Port}
}

func TestAskReady(t *testing.T) {
	s := start(t)
	cfg := s.asked()
	if err := cfg.AskReady(t.Context()); err != nil {
		t.Error(err)
	}
	s.draining.Store(true)
	if err := cfg.AskReady(t.Context()); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "draining") {
		t.Errorf("a draining server says %v", err)
	}
	s.stop()
	if err := cfg.AskReady(t.Context()); err == nil || !strings.Contains(err.Error(), "/ready") {
		t.Errorf("a server that is gone says %v", err)
	}
}

func TestAskReadyOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, "signal.example.org")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *Config) { c.TLS = &tls.Config{Certificates: []tls.Certificate{pair}} })
	cfg := s.asked()
	cfg.TLSCert = cert
	if err := cfg.AskReady(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLocalURL(t *testing.T) {
	for host, want := range map[string]string{
		"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "192.0.2.1": "192.0.2.1", "localhost": "localhost",
	} {
		cfg := Config{Host: host, Port: 8080}
		if got := cfg.localURL(); got != "http://"+net.JoinHostPort(want, strconv.Itoa(8080)) {
			t.Errorf("%q: %s", host, got)
		}
	}
}

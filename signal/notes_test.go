package signal

import (
	"slices"
	"testing"

	"cline-meet/signal/signal/setting"
)

// TestWhoMayEndTLS warns of a node without TLS unless something before it may have that.
func TestWhoMayEndTLS(t *testing.T) {
	for _, c := range []struct {
		https, named, warns bool
		trusted             []string
		host                string
	}{
		{warns: true, host: "0.0.0.0"},
		{https: true, host: "0.0.0.0"},
		{named: true, host: "0.0.0.0"},
		{trusted: []string{"192.0.2.1"}, host: "0.0.0.0"},
		{host: "127.0.0.1"},
	} {
		cfg := DefaultConfig()
		cfg.HTTPS, cfg.TrustedProxies, cfg.Host = c.https, c.trusted, c.host
		if got := slices.ContainsFunc(cfg.Notes(c.named), func(n setting.Note) bool { return n.Code == "no_tls" }); got != c.warns {
			t.Errorf("%+v: warns %v", c, got)
		}
	}
}

// TestStrangersMayRelay warns of a node without authentication unless nobody but its machine gets in.
func TestStrangersMayRelay(t *testing.T) {
	for _, c := range []struct {
		host                  string
		relays, authed, named bool
		trusted               []string
		warns                 bool
	}{
		{host: "0.0.0.0", relays: true, warns: true},
		{host: "0.0.0.0"},
		{host: "0.0.0.0", relays: true, authed: true},
		{host: "127.0.0.1", relays: true},
		{host: "127.0.0.1", relays: true, trusted: []string{"127.0.0.1"}, warns: true},
		{host: "::1", relays: true, named: true, warns: true},
		{host: "127.0.0.1", relays: true, authed: true, named: true},
	} {
		cfg := DefaultConfig()
		cfg.Host, cfg.TrustedProxies = c.host, c.trusted
		if c.authed {
			cfg.Auth.Secrets = []string{"a secret"}
		}
		if got := len(cfg.RelayNotes(c.relays, c.named)) > 0; got != c.warns {
			t.Errorf("%+v: warns %v", c, got)
		}
	}
}

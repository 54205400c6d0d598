package turnsrv

import (
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/relayaddr"
)

func TestICEServersByHost(t *testing.T) {
	tests := []struct{ host, want string }{
		{"localhost:8080", "localhost:3478"},
		{"Meet.Example.org", "meet.example.org:3478"},
		{"meet.example.org.:443", "meet.example.org:3478"},
		{"10.1.2.3:8080", "10.1.2.3:3478"},
		{"[2001:db8::1]:8080", "[2001:db8::1]:3478"},
		{"[2001:db8::1]", "[2001:db8::1]:3478"},
		{"2001:db8::1", "[2001:db8::1]:3478"},
		{"[fe80::1%25eth0]:80", "[fe80::1]:3478"},
		{"", "10.9.9.9:3478"},
		{":8080", "10.9.9.9:3478"},
		{"0.0.0.0:8080", "10.9.9.9:3478"},
		{"[::]:8080", "10.9.9.9:3478"},
		{"[::1", "10.9.9.9:3478"},
		{"999.1.1.1", "10.9.9.9:3478"},
		{"a b", "10.9.9.9:3478"},
		{"evil.example?transport=udp", "10.9.9.9:3478"},
		{"user@evil.example", "10.9.9.9:3478"},
		{"a..b", "10.9.9.9:3478"},
		{"-a.b", "10.9.9.9:3478"},
		{"x\r\nSet-Cookie: a", "10.9.9.9:3478"},
		{strings.Repeat("a.", 200) + "b", "10.9.9.9:3478"},
	}
	cfg := testConfig()
	cfg.RelayIP = []string{"10.9.9.9"}
	issuer := NewIssuer(cfg, 3478)
	now := time.Unix(1700000000, 0)
	for _, tt := range tests {
		servers, ttl := issuer.ICEServers(tt.host, "bob", now)
		if ttl != time.Hour || len(servers) != 2 {
			t.Fatalf("%q: %v, %v", tt.host, servers, ttl)
		}
		username, credential := auth.Credentials(testSecret, "bob", now.Add(time.Hour), auth.ExpiryUser, consent.STUN)
		want, _ := json.Marshal([]ICEServer{
			{URLs: []string{"stun:" + tt.want}},
			{URLs: []string{"turn:" + tt.want + "?transport=udp", "turn:" + tt.want + "?transport=tcp"}, Username: username, Credential: credential},
		})
		if got, _ := json.Marshal(servers); string(got) != string(want) {
			t.Errorf("%q:\ngot  %s\nwant %s", tt.host, got, want)
		}
	}
}

// tlsServers are the servers of a node, with more URLs of TURN.
func tlsServers(more string) string {
	return "stun:h:40000;turn:h:40000?transport=udp,turn:h:40000?transport=tcp" + more
}

func TestICEServersByConfiguration(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string // URLs, servers separated by a semicolon.
	}{
		{"public host wins", func(c *Config) { c.PublicHost = "turn.example.org" },
			"stun:turn.example.org:40000;turn:turn.example.org:40000?transport=udp,turn:turn.example.org:40000?transport=tcp"},
		{"public host is IPv6", func(c *Config) { c.PublicHost = "2001:db8::5" },
			"stun:[2001:db8::5]:40000;turn:[2001:db8::5]:40000?transport=udp,turn:[2001:db8::5]:40000?transport=tcp"},
		{"overrides", func(c *Config) {
			c.STUNURL = "stun:s.example"
			c.TURNURLs = []string{"turn:t.example", "turns:t.example"}
		},
			"stun:s.example;turn:t.example,turns:t.example"},
		{"external server only", func(c *Config) { c.Enabled = false; c.TURNURLs = []string{"turn:t.example"} }, "turn:t.example"},
		{"external STUN only", func(c *Config) { c.Enabled = false; c.STUNURL = "stun:s.example" }, "stun:s.example"},
		{"nothing", func(c *Config) { c.Enabled = false }, ""},
		{"TLS of ours", func(c *Config) { c.TLS = new(tls.Config) }, tlsServers(",turns:h:0?transport=tcp")},
		{"TLS at one port", func(c *Config) { c.TLS, c.OnePort = new(tls.Config), true },
			"stun:h:40000;turn:h:40000?transport=udp,turns:h:40000?transport=tcp"},
		{"TLS at one port, of another name", func(c *Config) {
			c.TLS, c.OnePort, c.Covers = new(tls.Config), true, func(string) bool { return false }
		}, tlsServers("")},
		{"TLS of another name", func(c *Config) {
			c.TLS, c.Covers = new(tls.Config), func(host string) bool { return host == "other.example.org" }
		}, tlsServers("")},
		{"TLS of the public host", func(c *Config) {
			c.TLS, c.Covers, c.PublicHost = new(tls.Config), func(host string) bool { return host == "h.example.org" }, "h.example.org"
		}, strings.ReplaceAll(tlsServers(",turns:h:0?transport=tcp"), ":h:", ":h.example.org:")},
		{"TLS that ends before us", func(c *Config) { c.TLSURLs = []string{"turns:lb.example.org:443?transport=tcp"} },
			tlsServers(",turns:lb.example.org:443?transport=tcp")},
		{"TLS that ends before us, and a certificate for something else", func(c *Config) {
			c.TLS, c.Covers = new(tls.Config), func(string) bool { return false }
			c.TLSURLs = []string{"turns:lb.example.org:443?transport=tcp"}
		}, tlsServers(",turns:lb.example.org:443?transport=tcp")},
		{"overrides are not looked into", func(c *Config) {
			c.TLS, c.Covers, c.TURNURLs = new(tls.Config), func(string) bool { return false }, []string{"turns:t.example"}
		}, "stun:h:40000;turns:t.example"},
		{"no secret", func(c *Config) { c.Secrets = nil }, "stun:h:40000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			tt.change(&cfg)
			servers, _ := NewIssuer(cfg, 40000).ICEServers("h", "bob", time.Now())
			if servers == nil {
				t.Error("the list is nil, which is null in JSON")
			}
			var got []string
			for _, s := range servers {
				got = append(got, strings.Join(s.URLs, ","))
				if stun := strings.HasPrefix(s.URLs[0], "stun"); stun == (s.Username != "" || s.Credential != "") {
					t.Errorf("credentials of %v: %q %q", s.URLs, s.Username, s.Credential)
				}
			}
			if text := strings.Join(got, ";"); text != tt.want {
				t.Errorf("got %s, want %s", text, tt.want)
			}
		})
	}
}

func TestICEServersFallBackToAnAddress(t *testing.T) {
	cfg := testConfig()
	servers, _ := NewIssuer(cfg, 1).ICEServers("", "bob", time.Now())
	if want := "stun:" + relayaddr.PrimaryIPv4().String() + ":1"; servers[0].URLs[0] != want {
		t.Errorf("got %s, want %s", servers[0].URLs[0], want)
	}
	cfg.ExternalIP = []string{"198.51.100.7"}
	servers, _ = NewIssuer(cfg, 1).ICEServers("", "bob", time.Now())
	if servers[0].URLs[0] != "stun:198.51.100.7:1" {
		t.Errorf("got %s", servers[0].URLs[0])
	}
}

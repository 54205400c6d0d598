package turnsrv

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/peers"
)

func TestDefaultConfigIsValid(t *testing.T) {
	cfg := DefaultConfig()
	if err := cfg.Validate(); err != nil {
		t.Fatalf("the default configuration is refused: %v", err)
	}
}

func TestValidateNamesEveryWrongFlag(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Realm = ""
	cfg.Listen = []string{"nowhere", "10.0.0.1", "::ffff:10.0.0.1", "224.0.0.1"}
	cfg.Port = 65536
	cfg.PublicHost = "not a host"
	cfg.RelayIP = []string{"0.0.0.0", "10.0.0.1", "10.0.0.2", "fe80::1%eth0"}
	cfg.ExternalIP = []string{"auto", "10.0.0.1"}
	cfg.ExternalSTUN = "stun.example.org"
	cfg.MinPort = 70000
	cfg.MaxPort = 0
	cfg.TTL = time.Millisecond
	cfg.AllowPeers = []string{"10.0.0.0/33", "10.0.0.0/8", "10.0.0.1/8", "somewhere"}
	cfg.DenyPeers = []string{"::ffff:10.0.0.1/104", "fe80::1%eth0"}
	cfg.Bandwidth = -1
	cfg.TotalBandwidth = -2
	cfg.STUNURL = "http://example.org"
	cfg.TURNURLs = []string{"stun:example.org", "turn:example.org:3478?transport=tcp"}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("everything is wrong, yet Validate is content")
	}
	want := []string{
		"--turn-port: 65536 is not a port (0-65535)",
		"--turn-min-port: 70000 is not a port (1-65535)",
		"--turn-max-port: 0 is not a port (1-65535)",
		"--turn-ttl: 1ms is less than 1s",
		"--turn-bandwidth: -1 is less than 0",
		"--turn-total-bandwidth: -2 is less than 0",
		"--turn-realm: a realm must not be empty",
		`--turn-listen: "nowhere" is not an IP address, such as 192.0.2.1 or 2001:db8::1`,
		"--turn-listen: ::ffff:10.0.0.1 is listed twice",
		"--turn-listen: 224.0.0.1 is a multicast address",
		`--turn-public-host: "not a host" is not a host name or an IP address`,
		"--turn-relay-ip: 0.0.0.0 is not an address that peers can send to",
		"--turn-relay-ip: 10.0.0.2 is a second address of its family",
		`--turn-relay-ip: "fe80::1%eth0" is not an IP address, such as 192.0.2.1 or 2001:db8::1`,
		"--turn-external-ip: auto stands alone",
		`--turn-external-stun: "stun.example.org" is not host:port`,
		"--turn-min-port: 70000 is above --turn-max-port 0",
		`--turn-allow-peer: "10.0.0.0/33" is neither a CIDR nor an IP address`,
		"--turn-allow-peer: 10.0.0.1/8 has bits beyond its length; the CIDR is 10.0.0.0/8",
		`--turn-allow-peer: "somewhere" is neither a CIDR nor an IP address`,
		"--turn-deny-peer: ::ffff:10.0.0.1/104 has bits beyond its length; the CIDR is 10.0.0.0/8",
		`--turn-deny-peer: "fe80::1%eth0" is neither a CIDR nor an IP address`,
		`--stun-url: "http://example.org" is not a stun: or stuns: URL`,
		`--turn-url: "stun:example.org" is not a turn: or turns: URL`,
	}
	if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestValidateOrderOfPorts(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MinPort, cfg.MaxPort = 60000, 50000
	err := cfg.Validate()
	if err == nil || err.Error() != "--turn-min-port: 60000 is above --turn-max-port 50000" {
		t.Errorf("got %v", err)
	}
}

func TestValidateExternalAddresses(t *testing.T) {
	const server = "stun.example.org:3478"
	for _, tt := range []struct {
		external []string
		stun     string
		want     string // A part of the error; empty when the configuration is right.
	}{
		{nil, "", ""},
		{[]string{"198.51.100.7"}, "", ""},
		{[]string{"198.51.100.7", "2001:db8::7"}, "", ""},
		{[]string{"198.51.100.7/10.0.0.1", "198.51.100.8/10.0.0.2", "2001:db8::7/fd00::1", "198.51.100.9"}, "", ""},
		{[]string{"auto"}, server, ""},
		{[]string{"auto"}, "[2001:db8::1]:3478", ""},
		{[]string{"auto"}, "", "--turn-external-stun: --turn-external-ip auto needs a STUN server to ask"},
		{[]string{"auto"}, "stun.example.org:0", "is not host:port"},
		{[]string{"auto"}, "stun.example.org:70000", "is not host:port"},
		{[]string{"auto"}, "stun:stun.example.org:3478", "is not host:port"},
		{[]string{"auto", "auto"}, server, "auto stands alone"},
		{[]string{"198.51.100.7", "198.51.100.8"}, "", "a second address of its family"},
		{[]string{"198.51.100.7/10.0.0.1", "198.51.100.8/::ffff:10.0.0.1"}, "", "a second pair for relay address 10.0.0.1"},
		{[]string{"2001:db8::7/10.0.0.1"}, "", "pairs an IPv4 with an IPv6 address"},
		{[]string{"198.51.100.7/0.0.0.0"}, "", "is not an address that peers can send to"},
		{[]string{"198.51.100.7/24"}, "", `"24" is not an IP address`},
		{[]string{"/10.0.0.1"}, "", `"" is not an IP address`},
		{[]string{"255.255.255.255"}, "", "is not an address that peers can send to"},
		{[]string{"::"}, "", "is not an address that peers can send to"},
	} {
		cfg := DefaultConfig()
		cfg.ExternalIP, cfg.ExternalSTUN = tt.external, tt.stun
		err := cfg.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%v by %q: got %v, want %q", tt.external, tt.stun, err, tt.want)
		}
	}
}

// runFlags parses args as the program does.
func runFlags(t *testing.T, args ...string) Config {
	t.Helper()
	cfg := DefaultConfig()
	app := &cli.App{Flags: cfg.Settings().Flags(), Action: func(*cli.Context) error { return nil }}
	if err := app.Run(append([]string{"signal"}, args...)); err != nil {
		t.Fatalf("run %v: %v", args, err)
	}
	return cfg
}

func TestFlagsFillTheConfig(t *testing.T) {
	t.Setenv("TURN_SECRET", "a, b")
	t.Setenv("TURN_LISTEN", "192.0.2.1")
	t.Setenv("TURN_TTL", "1.5")
	t.Setenv("TURN_MAX_PORT", "50000")
	t.Setenv("TURN_ENABLED", "false")
	t.Setenv("TURN_BANDWIDTH", "125000")
	t.Setenv("TURN_DENY_PEER", "8.0.0.0/8, 9.9.9.9")
	cfg := runFlags(t, "--turn-secret", "new,old", "--turn-url", "turn:a.example,turn:b.example", "--turn-relay-ip", "10.1.1.1,fd00::1")
	switch {
	case cfg.Enabled, cfg.TTL != 1500*time.Millisecond, cfg.MaxPort != 50000, cfg.MinPort != 49152, cfg.Bandwidth != 125000, cfg.TotalBandwidth != 0:
		t.Errorf("scalars: %+v", cfg)
	case !slices.Equal(cfg.Secrets, []string{"new", "old"}):
		t.Errorf("the flag did not replace the environment: %q", cfg.Secrets)
	case !slices.Equal(cfg.Listen, []string{"192.0.2.1"}):
		t.Errorf("the environment did not replace the default: %q", cfg.Listen)
	case !slices.Equal(cfg.TURNURLs, []string{"turn:a.example", "turn:b.example"}):
		t.Errorf("urls: %q", cfg.TURNURLs)
	case !slices.Equal(cfg.RelayIP, []string{"10.1.1.1", "fd00::1"}), !slices.Equal(cfg.DenyPeers, []string{"8.0.0.0/8", "9.9.9.9"}):
		t.Errorf("relay addresses %q, denied peers %q", cfg.RelayIP, cfg.DenyPeers)
	}
}

func TestFlagsKeepToTheConvention(t *testing.T) {
	cfg := DefaultConfig()
	for _, f := range cfg.Settings().Flags() {
		name := f.Names()[0]
		env := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		documented, ok := f.(cli.DocGenerationFlag)
		if !ok || !slices.Equal(documented.GetEnvVars(), []string{env}) {
			t.Errorf("--%s is not set by %s", name, env)
		}
		if documented.TakesValue() && !strings.HasSuffix(documented.GetUsage(), ")") {
			t.Errorf("--%s does not end with its unit: %q", name, documented.GetUsage())
		}
		if c, ok := f.(cli.CategorizableFlag); !ok || c.GetCategory() != "TURN" {
			t.Errorf("--%s has no category", name)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, seed := range [][4]string{
		{"127.0.0.1,::1", "10.0.0.0/8", "198.51.100.7/10.0.0.7", "turn:a.example:3478"}, {"", "", "auto", ""},
		{"::,0.0.0.0", "::ffff:10.0.0.0/104", "2001:db8::7", "turns:[::1]?transport=tcp"}, {"x", "10.0.0.1/8", "/", "http://x"},
		{"224.0.0.1", "0.0.0.0/0,::/0", "1.2.3.4/1.2.3.4/1.2.3.4", "turn:"}, {"fe80::1%eth0", "fe80::%1/64", "::", "stun:a"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], 3478, "signal")
	}
	f.Fuzz(func(t *testing.T, listen, peerList, external, urls string, port int, realm string) {
		cfg := DefaultConfig()
		cfg.Port, cfg.Realm = port, realm
		for to, text := range map[*[]string]string{&cfg.Listen: listen, &cfg.AllowPeers: peerList, &cfg.DenyPeers: peerList, &cfg.ExternalIP: external, &cfg.TURNURLs: urls} {
			*to = setting.ParseList(text)
		}
		err := cfg.Validate()
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "--") {
					t.Fatalf("a problem that names no flag: %q", line)
				}
			}
			return
		}
		if _, err := peers.New(cfg.peers()); err != nil {
			t.Fatalf("a valid configuration makes no policy: %v", err)
		}
	})
}

package turnsrv

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
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
	cfg.RelayIP = "0.0.0.0"
	cfg.ExternalIP = "auto"
	cfg.MinPort = 70000
	cfg.MaxPort = 0
	cfg.TTL = time.Millisecond
	cfg.STUNURL = "http://example.org"
	cfg.TURNURLs = []string{"stun:example.org", "turn:example.org:3478?transport=tcp"}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("everything is wrong, yet Validate is content")
	}
	want := []string{
		"--turn-realm: a realm must not be empty",
		`--turn-listen: "nowhere" is not an IP address`,
		"--turn-listen: ::ffff:10.0.0.1 is listed twice",
		"--turn-listen: 224.0.0.1 is a multicast address",
		"--turn-port: 65536 is not a port (0-65535)",
		`--turn-public-host: "not a host" is not a host name or an IP address`,
		"--turn-relay-ip: 0.0.0.0 is not an address that peers can send to",
		`--turn-external-ip: "auto" is not an IPv4 address`,
		"--turn-min-port: 70000 is not a port (1-65535)",
		"--turn-max-port: 0 is not a port (1-65535)",
		"--turn-ttl: 1ms is shorter than a second",
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

// runFlags parses args as the program does.
func runFlags(t *testing.T, args ...string) Config {
	t.Helper()
	cfg := DefaultConfig()
	app := &cli.App{Flags: cfg.Flags(), Action: func(*cli.Context) error { return nil }}
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
	cfg := runFlags(t, "--turn-secret", "new,old", "--turn-url", "turn:a.example,turn:b.example", "--turn-relay-ip", "10.1.1.1")
	switch {
	case cfg.Enabled, cfg.TTL != 1500*time.Millisecond, cfg.MaxPort != 50000, cfg.MinPort != 49152, cfg.RelayIP != "10.1.1.1":
		t.Errorf("scalars: %+v", cfg)
	case !slices.Equal(cfg.Secrets, []string{"new", "old"}):
		t.Errorf("the flag did not replace the environment: %q", cfg.Secrets)
	case !slices.Equal(cfg.Listen, []string{"192.0.2.1"}):
		t.Errorf("the environment did not replace the default: %q", cfg.Listen)
	case !slices.Equal(cfg.TURNURLs, []string{"turn:a.example", "turn:b.example"}):
		t.Errorf("urls: %q", cfg.TURNURLs)
	}
}

func TestFlagsKeepToTheConvention(t *testing.T) {
	cfg := DefaultConfig()
	for _, f := range cfg.Flags() {
		name := f.Names()[0]
		env := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		documented, ok := f.(cli.DocGenerationFlag)
		if !ok || !slices.Equal(documented.GetEnvVars(), []string{env}) {
			t.Errorf("--%s is not set by %s", name, env)
		}
		if !strings.HasSuffix(documented.GetUsage(), ")") {
			t.Errorf("--%s does not end with its unit: %q", name, documented.GetUsage())
		}
		if c, ok := f.(cli.CategorizableFlag); !ok || c.GetCategory() != "TURN" {
			t.Errorf("--%s has no category", name)
		}
	}
}

func TestSecondsValue(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"60": time.Minute, "1.5": 1500 * time.Millisecond, "90s": 90 * time.Second, " 1h ": time.Hour,
		"": -1, "soon": -1, "NaN": -1, "1e300": -1, "Inf": -1,
	} {
		var s seconds
		err := s.Set(text)
		if (err != nil) != (want < 0) || err == nil && time.Duration(s) != want {
			t.Errorf("%q: got %v, %v", text, time.Duration(s), err)
		}
	}
}

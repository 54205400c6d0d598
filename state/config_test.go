package state

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigNamesEveryProblem(t *testing.T) {
	c := DefaultRedisConfig()
	if err := c.Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	c.Port, c.DB, c.Outage, c.Prefix = 0, -1, "loud", "a{b}"
	c.Sentinels, c.Cluster, c.URL = []string{"nowhere"}, []string{"somewhere:0"}, "redis://a/0"
	c.Beat, c.Lease = 20*time.Hour, 10*24*time.Hour
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"--redis-port: 0 is not a port (1-65535)", "--redis-db: -1 is less than 0", "--redis-db: a Cluster",
		"--state-outage: \"loud\" is none of local, reject", "--redis-prefix: ", "--redis-sentinel-master: ", "--redis-sentinels: give it or",
		"--redis-url: names one server", `--redis-sentinels: "nowhere"`, `--redis-cluster: "somewhere:0"`,
		"--state-beat: 20h0m0s is more than 12h0m0s", "--state-lease: 240h0m0s is more than 24h0m0s"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s is not in:\n%v", part, err)
		}
	}
	c = DefaultRedisConfig()
	c.Lease = c.Beat
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--state-lease: 5s is less than twice --state-beat") {
		t.Errorf("a lease of one beat: %v", err)
	}
}

func TestAddressesOfRedis(t *testing.T) {
	c := DefaultRedisConfig()
	if got := c.AddrPorts(t.Context()); got != nil {
		t.Errorf("without Redis: %v", got)
	}
	c.Cluster = []string{"127.0.0.1:7000", "[::1]:7001", "127.0.0.1:many", "nothing"}
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7000"), netip.MustParseAddrPort("[::1]:7001")}
	if got := c.AddrPorts(t.Context()); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhere(t *testing.T) {
	c := DefaultRedisConfig()
	if got := c.Where(nil); !strings.Contains(got, "in memory") {
		t.Errorf("without Redis: %s", got)
	}
	c.Host = "db"
	if got := c.Where(nil); got != "Redis at db:6379" {
		t.Errorf("with Redis: %s", got)
	}
	if got := c.Where(errors.New("gone")); got != "Redis at db:6379, which is away; joins meanwhile: local" {
		t.Errorf("while it is away: %s", got)
	}
}

package state

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"cline-meet/signal/signal/setting"
)

// What a join does while Redis is away.
const (
	// OutageLocal joins with what the node knows; Redis is told when it is back.
	OutageLocal = "local"
	// OutageReject refuses with ErrUnavailable.
	OutageReject = "reject"
)

const (
	// minBeat leaves time for a round trip to a Redis nearby.
	minBeat = 10 * time.Millisecond
	// maxLease keeps the rooms of a deployment that ended from staying for more than some months, see ttlLeases.
	maxLease = 24 * time.Hour
)

// RedisConfig is how a node reaches Redis, and what it does when it cannot. The first group is
// filled by the flags, the second is handed in by main.
type RedisConfig struct {
	Host             string
	Port             int
	URL              string // URL wins over Host, Port, Username, Password and DB.
	Username         string
	Password         string
	DB               int
	TLS              bool
	TLSCA            string
	TLSServerName    string
	SentinelMaster   string
	Sentinels        []string
	SentinelUsername string
	SentinelPassword string
	Cluster          []string
	Prefix           string
	Outage           string
	Beat             time.Duration // Beat is how often a node renews its lease.
	Lease            time.Duration // Lease is the silence after which a node is dead.

	// Logger receives all logs.
	Logger *slog.Logger
	// Grace is how long the members of a dead node stay in their rooms, for another node to adopt them.
	Grace time.Duration
	// Registerer takes the metrics, unless it is nil.
	Registerer prometheus.Registerer
	// Secrets are proposals for the secrets that the whole cluster shares, by name. The first node's
	// are taken.
	Secrets map[string]string
	// Configured are the values of the secrets that this node was given, by name. All nodes need the same.
	Configured map[string][]string
	// OnSecret hears the valid values of such a secret, the one to mint with first, now and whenever
	// they change. It must return soon.
	OnSecret func(name string, values []string)
}

// DefaultRedisConfig returns the settings of a node that was told nothing: there is no Redis.
func DefaultRedisConfig() RedisConfig {
	return RedisConfig{Port: 6379, Prefix: "sig:", Outage: OutageLocal, Beat: 5 * time.Second, Lease: 15 * time.Second}
}

// Enabled reports whether any Redis is configured; otherwise the state is in memory.
func (c *RedisConfig) Enabled() bool {
	return c.Host != "" || c.URL != "" || len(c.Sentinels) > 0 || len(c.Cluster) > 0
}

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *RedisConfig) Settings() setting.Table {
	return setting.Category("Shared state",
		setting.Text("redis-host", &c.Host, "`HOST` of Redis; none keeps all state in memory"),
		setting.Port("redis-port", &c.Port, 1, "Redis `PORT`"),
		setting.Text("redis-url", &c.URL, "`URL` redis://[user:password@]host:port/db, or rediss:// with TLS; wins over host, port, user, password and database"),
		setting.Text("redis-username", &c.Username, "ACL `USER` of Redis"),
		setting.Text("redis-password", &c.Password, "`PASSWORD` of Redis"),
		setting.Int("redis-db", &c.DB, 0, setting.Most, "`NUMBER` of the database; a Cluster has only 0"),
		setting.Bool("redis-tls", &c.TLS, "speak TLS to Redis"),
		setting.Text("redis-tls-ca", &c.TLSCA, "PEM `FILE` with the authorities that may sign Redis' certificate instead of the system's; turns TLS on"),
		setting.Text("redis-tls-server-name", &c.TLSServerName, "`NAME` in Redis' certificate when it is not the host; turns TLS on"),
		setting.Text("redis-sentinel-master", &c.SentinelMaster, "`NAME` of the master that the Sentinels watch"),
		setting.List("redis-sentinels", &c.Sentinels, "`HOST:PORT` of Sentinels, comma separated"),
		setting.Text("redis-sentinel-username", &c.SentinelUsername, "ACL `USER` of the Sentinels"),
		setting.Text("redis-sentinel-password", &c.SentinelPassword, "`PASSWORD` of the Sentinels"),
		setting.List("redis-cluster", &c.Cluster, "`HOST:PORT` of some nodes of a Redis Cluster, comma separated"),
		setting.Text("redis-prefix", &c.Prefix, "`TEXT` that all keys and channels begin with; deployments that share a Redis need different ones"),
		setting.Choice("state-outage", &c.Outage, []string{OutageLocal, OutageReject}, "`POLICY` for joins while Redis is away: local or reject"),
		setting.Duration("state-beat", &c.Beat, minBeat, maxLease/2, "`SECONDS` between renewals of this node's lease"),
		setting.Duration("state-lease", &c.Lease, 2*minBeat, maxLease, "`SECONDS` of silence after which a node is dead even if it still listens"),
	)
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *RedisConfig) Validate() error {
	var p setting.Problems
	c.Settings().Check(&p)
	c.checkThatThereIsOne(&p)
	p.Add("redis-host", checkHost(c.Host))
	p.Check(c.DB == 0 || len(c.Cluster) == 0, "redis-db", "a Cluster has only database 0")
	p.Check((c.SentinelMaster == "") == (len(c.Sentinels) == 0), "redis-sentinel-master", "give it and --redis-sentinels, or neither")
	p.Check(len(c.Sentinels) == 0 || len(c.Cluster) == 0, "redis-sentinels", "give it or --redis-cluster, not both")
	p.Check(c.URL == "" || len(c.Sentinels) == 0 && len(c.Cluster) == 0, "redis-url", "names one server, not Sentinels or a Cluster")
	for _, addr := range c.Sentinels {
		p.Check(validAddr(addr), "redis-sentinels", "%q is not host:port", addr)
	}
	for _, addr := range c.Cluster {
		p.Check(validAddr(addr), "redis-cluster", "%q is not host:port", addr)
	}
	p.Check(!strings.ContainsAny(c.Prefix, "{}*?[]\\"), "redis-prefix", "%q has one of {}*?[]\\ in it", c.Prefix)
	p.Check(c.Lease >= 2*c.Beat, "state-lease", "%v is less than twice --state-beat", c.Lease)
	if _, err := c.options(); err != nil {
		p = append(p, err)
	}
	return p.Err()
}

// checkThatThereIsOne refuses settings of a Redis, or of Sentinels, that is not configured: who gave them takes the
// node for one of several.
func (c *RedisConfig) checkThatThereIsOne(p *setting.Problems) {
	const remedy = "there is no Redis that it is for: set --redis-host, --redis-url or another way to one"
	p.Check(len(c.Sentinels) > 0 || c.SentinelUsername == "", "redis-sentinel-username", "there are no --redis-sentinels that it is for")
	p.Check(len(c.Sentinels) > 0 || c.SentinelPassword == "", "redis-sentinel-password", "there are no --redis-sentinels that it is for")
	if c.Enabled() || c.SentinelMaster != "" {
		return
	}
	p.Check(c.Port == DefaultRedisConfig().Port, "redis-port", "%d: %s", c.Port, remedy)
	p.Check(c.Username == "", "redis-username", "%q: %s", c.Username, remedy)
	p.Check(c.Password == "", "redis-password", remedy)
	p.Check(c.DB == 0, "redis-db", "%d: %s", c.DB, remedy)
	p.Check(!c.TLS, "redis-tls", remedy)
	p.Check(c.TLSCA == "", "redis-tls-ca", "%s: %s", c.TLSCA, remedy)
	p.Check(c.TLSServerName == "", "redis-tls-server-name", "%q: %s", c.TLSServerName, remedy)
}

// checkHost accepts a name or an address without anything around it, or none.
func checkHost(host string) error {
	_, err := netip.ParseAddr(host)
	switch {
	case err == nil || host == "":
	case strings.Contains(host, "://"):
		return errors.New("a URL belongs into --redis-url") // It may have a password in it.
	case strings.ContainsAny(host, ":/@, "):
		return fmt.Errorf("%q is not a host alone: a port belongs into --redis-port, several servers into --redis-cluster or --redis-sentinels", host)
	}
	return nil
}

// Notes tell what about the shared state is good to know.
func (c *RedisConfig) Notes() setting.Notes {
	var n setting.Notes
	c.noteUnused(&n)
	if !c.Enabled() {
		n.Tellf("alone", "state is in memory: this node is alone, and rooms end with it; set --redis-url for several nodes")
	}
	return n
}

// noteUnused finds settings of one server beside those that name it, or others, in another way, which win.
func (c *RedisConfig) noteUnused(n *setting.Notes) {
	winner, fresh := "--redis-url", DefaultRedisConfig()
	switch {
	case len(c.Cluster) > 0:
		winner = "--redis-cluster"
	case len(c.Sentinels) > 0:
		winner = "--redis-sentinels"
	case c.URL == "":
		return
	}
	of := map[string]bool{"redis-host": c.Host != "", "redis-port": c.Port != fresh.Port}
	if winner == "--redis-url" {
		of["redis-username"], of["redis-password"], of["redis-db"] = c.Username != "", c.Password != "", c.DB != 0
	}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		if of[name] {
			n.Warnf("unused_setting", "--%s is not used beside %s, which says all of that: leave one of them out", name, winner)
		}
	}
}

func validAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	n, bad := strconv.Atoi(port)
	return err == nil && bad == nil && host != "" && n > 0 && n <= 65535
}

// Addrs returns the configured addresses, host:port.
func (c *RedisConfig) Addrs() []string {
	o, err := c.options()
	if err != nil {
		return nil
	}
	return o.Addrs
}

// Where tells a person where the shared state is; away is why it cannot be reached, or nil.
func (c *RedisConfig) Where(away error) string {
	if !c.Enabled() {
		return "in memory: this node is alone"
	}
	where := "Redis at " + strings.Join(c.Addrs(), ", ")
	if away != nil {
		return where + ", which is away; joins meanwhile: " + c.Outage
	}
	return where
}

// AddrPorts returns the IP addresses of Redis, as far as their names are known now.
func (c *RedisConfig) AddrPorts(ctx context.Context) []netip.AddrPort {
	if !c.Enabled() {
		return nil
	}
	var out []netip.AddrPort
	for _, addr := range c.Addrs() {
		host, service, err := net.SplitHostPort(addr)
		if err != nil {
			continue
		}
		port, err := strconv.ParseUint(service, 10, 16)
		if err != nil {
			continue
		}
		ips, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		for _, ip := range ips {
			out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
		}
	}
	return out
}

// options translates the settings for the client. Nothing is retried by it except what a Cluster
// redirects: what may be repeated, and when, is decided here, since most of it is not idempotent.
func (c *RedisConfig) options() (*redis.UniversalOptions, error) {
	o := &redis.UniversalOptions{
		Addrs:    []string{net.JoinHostPort(c.Host, strconv.Itoa(c.Port))},
		Username: c.Username, Password: c.Password, DB: c.DB,
		MasterName: c.SentinelMaster, SentinelUsername: c.SentinelUsername, SentinelPassword: c.SentinelPassword,
		IsClusterMode: len(c.Cluster) > 0,
		// The older protocol and no handshakes: they bring nothing here, and an ACL may forbid them.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		DialTimeout:              opTimeout, ReadTimeout: opTimeout, WriteTimeout: opTimeout, PoolTimeout: opTimeout,
		DialerRetries: 1,
		PoolSize:      maxScripts + maxPublishes + spareConns,
		MinIdleConns:  1,
	}
	switch {
	case len(c.Cluster) > 0:
		o.Addrs = slices.Clone(c.Cluster) // The client appends to it.
	case len(c.Sentinels) > 0:
		o.Addrs = slices.Clone(c.Sentinels)
	case c.URL != "":
		u, err := redis.ParseURL(c.URL)
		if err != nil || u.Network == "tcp" && !validAddr(u.Addr) {
			return nil, errors.New("--redis-url: not of the form redis://[user:password@]host:port/db") // The cause may quote the password.
		}
		o.Addrs, o.Username, o.Password, o.DB, o.TLSConfig = []string{u.Addr}, u.Username, u.Password, u.DB, u.TLSConfig
	}
	return o, c.secure(o)
}

// secure adds TLS to the options if the settings ask for it.
func (c *RedisConfig) secure(o *redis.UniversalOptions) error {
	if o.TLSConfig == nil && !c.TLS && c.TLSCA == "" && c.TLSServerName == "" {
		return nil
	}
	if o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.TLSServerName != "" {
		o.TLSConfig.ServerName = c.TLSServerName
	}
	if c.TLSCA == "" {
		return nil
	}
	var err error
	o.TLSConfig.RootCAs, err = setting.Authorities("redis-tls-ca", c.TLSCA)
	return err
}

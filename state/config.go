package state

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/urfave/cli/v2"
)

// What a join does while Redis is away.
const (
	// OutageLocal joins with what the node knows; Redis is told when it is back.
	OutageLocal = "local"
	// OutageReject refuses with ErrUnavailable.
	OutageReject = "reject"
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
	// Registerer takes the metrics, unless it is nil.
	Registerer prometheus.Registerer
	// Secrets are proposals for the secrets that the whole cluster shares, by name. The first node's
	// are taken.
	Secrets map[string]string
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

// Flags returns the command line flags and environment variables that fill c.
func (c *RedisConfig) Flags() []cli.Flag {
	const category = "Shared state"
	return []cli.Flag{
		&cli.StringFlag{Category: category, Name: "redis-host", EnvVars: []string{"REDIS_HOST"},
			Usage: "`HOST` of Redis; none keeps all state in memory", Destination: &c.Host},
		&cli.IntFlag{Category: category, Name: "redis-port", EnvVars: []string{"REDIS_PORT"},
			Usage: "Redis `PORT`", Value: c.Port, Destination: &c.Port},
		&cli.StringFlag{Category: category, Name: "redis-url", EnvVars: []string{"REDIS_URL"},
			Usage: "`URL` redis://[user:password@]host:port/db, or rediss:// with TLS; wins over host, port, user, password and database", Destination: &c.URL},
		&cli.StringFlag{Category: category, Name: "redis-username", EnvVars: []string{"REDIS_USERNAME"},
			Usage: "ACL `USER` of Redis", Destination: &c.Username},
		&cli.StringFlag{Category: category, Name: "redis-password", EnvVars: []string{"REDIS_PASSWORD"},
			Usage: "`PASSWORD` of Redis", Destination: &c.Password},
		&cli.IntFlag{Category: category, Name: "redis-db", EnvVars: []string{"REDIS_DB"},
			Usage: "`NUMBER` of the database; a Cluster has only 0", Destination: &c.DB},
		&cli.BoolFlag{Category: category, Name: "redis-tls", EnvVars: []string{"REDIS_TLS"},
			Usage: "speak TLS to Redis", Destination: &c.TLS},
		&cli.StringFlag{Category: category, Name: "redis-tls-ca", EnvVars: []string{"REDIS_TLS_CA"},
			Usage: "PEM `FILE` with the authorities that may sign Redis' certificate instead of the system's; turns TLS on", Destination: &c.TLSCA},
		&cli.StringFlag{Category: category, Name: "redis-tls-server-name", EnvVars: []string{"REDIS_TLS_SERVER_NAME"},
			Usage: "`NAME` in Redis' certificate when it is not the host; turns TLS on", Destination: &c.TLSServerName},
		&cli.StringFlag{Category: category, Name: "redis-sentinel-master", EnvVars: []string{"REDIS_SENTINEL_MASTER"},
			Usage: "`NAME` of the master that the Sentinels watch", Destination: &c.SentinelMaster},
		&cli.GenericFlag{Category: category, Name: "redis-sentinels", EnvVars: []string{"REDIS_SENTINELS"},
			Usage: "`HOST:PORT` of Sentinels, comma separated", Value: (*list)(&c.Sentinels)},
		&cli.StringFlag{Category: category, Name: "redis-sentinel-username", EnvVars: []string{"REDIS_SENTINEL_USERNAME"},
			Usage: "ACL `USER` of the Sentinels", Destination: &c.SentinelUsername},
		&cli.StringFlag{Category: category, Name: "redis-sentinel-password", EnvVars: []string{"REDIS_SENTINEL_PASSWORD"},
			Usage: "`PASSWORD` of the Sentinels", Destination: &c.SentinelPassword},
		&cli.GenericFlag{Category: category, Name: "redis-cluster", EnvVars: []string{"REDIS_CLUSTER"},
			Usage: "`HOST:PORT` of some nodes of a Redis Cluster, comma separated", Value: (*list)(&c.Cluster)},
		&cli.StringFlag{Category: category, Name: "redis-prefix", EnvVars: []string{"REDIS_PREFIX"},
			Usage: "`TEXT` that all keys and channels begin with; deployments that share a Redis need different ones", Value: c.Prefix, Destination: &c.Prefix},
		&cli.StringFlag{Category: category, Name: "state-outage", EnvVars: []string{"STATE_OUTAGE"},
			Usage: "`POLICY` for joins while Redis is away: local or reject", Value: c.Outage, Destination: &c.Outage},
		&cli.GenericFlag{Category: category, Name: "state-beat", EnvVars: []string{"STATE_BEAT"},
			Usage: "`SECONDS` between renewals of this node's lease", Value: (*seconds)(&c.Beat)},
		&cli.GenericFlag{Category: category, Name: "state-lease", EnvVars: []string{"STATE_LEASE"},
			Usage: "`SECONDS` of silence after which a node is dead and its members leave", Value: (*seconds)(&c.Lease)},
	}
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *RedisConfig) Validate() error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(c.Port >= 1 && c.Port <= 65535, "--redis-port: %d is not a port (1-65535)", c.Port)
	check(c.DB >= 0, "--redis-db: %d is not a database", c.DB)
	check(c.DB == 0 || len(c.Cluster) == 0, "--redis-db: a Cluster has only database 0")
	check((c.SentinelMaster == "") == (len(c.Sentinels) == 0), "--redis-sentinel-master, --redis-sentinels: give both or neither")
	check(len(c.Sentinels) == 0 || len(c.Cluster) == 0, "--redis-sentinels, --redis-cluster: give one of them")
	check(c.URL == "" || len(c.Sentinels) == 0 && len(c.Cluster) == 0, "--redis-url: names one server, not Sentinels or a Cluster")
	for _, addr := range c.Sentinels {
		check(validAddr(addr), "--redis-sentinels: %q is not host:port", addr)
	}
	for _, addr := range c.Cluster {
		check(validAddr(addr), "--redis-cluster: %q is not host:port", addr)
	}
	check(!strings.ContainsAny(c.Prefix, "{}*?[]\\"), "--redis-prefix: %q has one of {}*?[]\\ in it", c.Prefix)
	check(c.Outage == OutageLocal || c.Outage == OutageReject, "--state-outage: %q is neither local nor reject", c.Outage)
	check(c.Beat > 0, "--state-beat: must be more than 0 seconds")
	check(c.Lease >= 2*c.Beat, "--state-lease: must be at least twice --state-beat")
	if _, err := c.options(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
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
		PoolSize:      maxScripts + spareConns,
		MinIdleConns:  1,
	}
	switch {
	case len(c.Cluster) > 0:
		o.Addrs = slices.Clone(c.Cluster) // The client appends to it.
	case len(c.Sentinels) > 0:
		o.Addrs = slices.Clone(c.Sentinels)
	case c.URL != "":
		u, err := redis.ParseURL(c.URL)
		if err != nil {
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
	pem, err := os.ReadFile(c.TLSCA)
	if err != nil {
		return fmt.Errorf("--redis-tls-ca: %w", err)
	}
	o.TLSConfig.RootCAs = x509.NewCertPool()
	if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("--redis-tls-ca: %s holds no certificate", c.TLSCA)
	}
	return nil
}

// seconds is a flag value in seconds that also takes a Go duration.
type seconds time.Duration

func (s *seconds) Set(text string) error {
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		*s = seconds(f * float64(time.Second))
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a number of seconds", text)
	}
	*s = seconds(d)
	return nil
}

func (s *seconds) String() string {
	return strconv.FormatFloat(time.Duration(*s).Seconds(), 'f', -1, 64)
}

// list is a flag value of comma separated texts; setting it again replaces the whole.
type list []string

func (l *list) Set(text string) error {
	*l = nil
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

func (l *list) String() string { return strings.Join(*l, ",") }

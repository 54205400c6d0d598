package signal

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
)

// minReadTimeout keeps the ticks of the wheel, a small part of it, apart.
const minReadTimeout = 100 * time.Millisecond

// Config is all that a Server needs to know. The first group is filled by the flags, the second is
// handed in by main.
type Config struct {
	Host           string
	Port           int
	SessionSecrets []string
	AllowedOrigins []string
	RequireOrigin  bool
	TrustedProxies []string
	ReadTimeout    time.Duration
	WriteTimeout   time.Duration
	MaxRoomUsers   int
	ResumeGrace    time.Duration
	DrainSettle    time.Duration
	MaxFrame       int
	MessageRate    float64
	MessageBurst   int
	MaxQueue       int
	AddrConns      int
	AdminAddr      string
	AdminToken     string
	TLSCert        string
	TLSKey         string

	// TLS is nil to serve plain HTTP.
	TLS *tls.Config
	// Logger receives all logs.
	Logger *slog.Logger
	// Registry holds the metrics of the whole process and is served by the admin address.
	Registry *prometheus.Registry
	// Page is the root of the static files.
	Page fs.FS
	// ICE issues ICE servers for one user. Host is the Host header that the client used.
	ICE func(host, user string) ICEConfig
	// Clustered says that other nodes may share the state.
	Clustered bool
	// Attach connects the server to the shared state.
	Attach Attach
}

// DefaultConfig returns the settings of a server that was told nothing.
func DefaultConfig() Config {
	return Config{
		Host:         "0.0.0.0",
		Port:         8080,
		ReadTimeout:  60 * time.Second,
		WriteTimeout: 60 * time.Second,
		MaxRoomUsers: 10,
		ResumeGrace:  15 * time.Second,
		DrainSettle:  2 * time.Second,
		MaxFrame:     64 << 10,
		MessageRate:  50,
		MessageBurst: 200,
		MaxQueue:     1 << 20,
		AddrConns:    64,
		AdminAddr:    "127.0.0.1:9090",
	}
}

// Flags returns the command line flags and environment variables that fill c.
func (c *Config) Flags() []cli.Flag {
	const server, limits, security, operation = "Server", "Limits", "Security", "Operation"
	return []cli.Flag{
		&cli.StringFlag{Category: server, Name: "server-host", EnvVars: []string{"SERVER_HOST"},
			Usage: "HTTP bind `ADDRESS`", Value: c.Host, Destination: &c.Host},
		&cli.IntFlag{Category: server, Name: "server-port", EnvVars: []string{"SERVER_PORT"},
			Usage: "HTTP `PORT`", Value: c.Port, Destination: &c.Port},
		&cli.GenericFlag{Category: server, Name: "read-timeout", EnvVars: []string{"READ_TIMEOUT"},
			Usage: "`SECONDS` without any frame or pong after which a WebSocket is dead", Value: (*seconds)(&c.ReadTimeout)},
		&cli.GenericFlag{Category: server, Name: "write-timeout", EnvVars: []string{"WRITE_TIMEOUT"},
			Usage: "`SECONDS` after which a blocked WebSocket write is given up", Value: (*seconds)(&c.WriteTimeout)},

		&cli.StringFlag{Category: security, Name: "tls-cert", EnvVars: []string{"TLS_CERT"},
			Usage: "PEM `FILE` with the certificate chain of HTTPS and TURNS, reloaded when it changes", Destination: &c.TLSCert},
		&cli.StringFlag{Category: security, Name: "tls-key", EnvVars: []string{"TLS_KEY"},
			Usage: "PEM `FILE` with the key of --tls-cert", Destination: &c.TLSKey},
		&cli.GenericFlag{Category: security, Name: "session-secret", EnvVars: []string{"SESSION_SECRET"},
			Usage: "`SECRETS` that sign cookies, comma separated, newest first (default: generated at start)", Value: (*list)(&c.SessionSecrets)},
		&cli.GenericFlag{Category: security, Name: "allowed-origins", EnvVars: []string{"ALLOWED_ORIGINS"},
			Usage: "`ORIGINS` beside our own that may open a WebSocket, comma separated, such as https://app.example.org; * allows all", Value: (*list)(&c.AllowedOrigins)},
		&cli.BoolFlag{Category: security, Name: "require-origin", EnvVars: []string{"REQUIRE_ORIGIN"},
			Usage: "refuse WebSocket clients that send no Origin (anything but browsers)", Destination: &c.RequireOrigin},
		&cli.GenericFlag{Category: security, Name: "trusted-proxies", EnvVars: []string{"TRUSTED_PROXIES"},
			Usage: "`CIDRS` of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, comma separated", Value: (*list)(&c.TrustedProxies)},

		&cli.IntFlag{Category: limits, Name: "max-room-users", EnvVars: []string{"MAX_ROOM_USERS"},
			Usage: "`NUMBER` of users that a room holds", Value: c.MaxRoomUsers, Destination: &c.MaxRoomUsers},
		&cli.IntFlag{Category: limits, Name: "max-frame-bytes", EnvVars: []string{"MAX_FRAME_BYTES"},
			Usage: "`BYTES` of the largest WebSocket message that is accepted", Value: c.MaxFrame, Destination: &c.MaxFrame},
		&cli.Float64Flag{Category: limits, Name: "message-rate", EnvVars: []string{"MESSAGE_RATE"},
			Usage: "`NUMBER` of messages a second that a connection may send", Value: c.MessageRate, Destination: &c.MessageRate},
		&cli.IntFlag{Category: limits, Name: "message-burst", EnvVars: []string{"MESSAGE_BURST"},
			Usage: "`NUMBER` of messages that a connection may send at once", Value: c.MessageBurst, Destination: &c.MessageBurst},
		&cli.IntFlag{Category: limits, Name: "max-queue-bytes", EnvVars: []string{"MAX_QUEUE_BYTES"},
			Usage: "`BYTES` that may wait for a slow client before it is disconnected", Value: c.MaxQueue, Destination: &c.MaxQueue},
		&cli.IntFlag{Category: limits, Name: "address-connections", EnvVars: []string{"ADDRESS_CONNECTIONS"},
			Usage: "`NUMBER` of WebSockets that one client address (IPv6: /64) may hold", Value: c.AddrConns, Destination: &c.AddrConns},

		&cli.GenericFlag{Category: operation, Name: "resume-grace", EnvVars: []string{"RESUME_GRACE"},
			Usage: "`SECONDS` that a client which lost its connection has to come back unnoticed, 0 for none", Value: (*seconds)(&c.ResumeGrace)},
		&cli.GenericFlag{Category: operation, Name: "drain-settle", EnvVars: []string{"DRAIN_SETTLE"},
			Usage: "`SECONDS` between not being ready and asking clients to go to another node", Value: (*seconds)(&c.DrainSettle)},
		&cli.StringFlag{Category: operation, Name: "admin-addr", EnvVars: []string{"ADMIN_ADDR"},
			Usage: "`HOST:PORT` of metrics and pprof, empty for none", Value: c.AdminAddr, Destination: &c.AdminAddr},
		&cli.StringFlag{Category: operation, Name: "admin-token", EnvVars: []string{"ADMIN_TOKEN"},
			Usage: "bearer `TOKEN` of the admin address; required unless that is loopback", Destination: &c.AdminToken},
	}
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *Config) Validate() error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(c.Port >= 0 && c.Port <= 65535, "--server-port: %d is not a port (0-65535)", c.Port)
	check(c.Host == "" || net.ParseIP(c.Host) != nil || c.Host == "localhost",
		"--server-host: %q is not an IP address", c.Host)
	check(c.ReadTimeout >= minReadTimeout, "--read-timeout: %v is shorter than %v", c.ReadTimeout, minReadTimeout)
	check(c.WriteTimeout > 0, "--write-timeout: must be more than 0 seconds")
	check(c.ResumeGrace >= 0, "--resume-grace: must not be negative")
	check(c.DrainSettle >= 0, "--drain-settle: must not be negative")
	check(c.MaxRoomUsers >= 1 && c.MaxRoomUsers <= 1000, "--max-room-users: %d is not between 1 and 1000", c.MaxRoomUsers)
	check(c.MaxFrame >= 1<<10, "--max-frame-bytes: %d is too small for any offer, use at least 1024", c.MaxFrame)
	check(c.MessageRate > 0, "--message-rate: must be more than 0")
	check(c.MessageBurst >= 1, "--message-burst: must be at least 1")
	check(c.MaxQueue >= 2*c.MaxFrame, "--max-queue-bytes: %d must hold at least two messages of --max-frame-bytes", c.MaxQueue)
	check(c.AddrConns >= 1, "--address-connections: must be at least 1")
	check((c.TLSCert == "") == (c.TLSKey == ""), "--tls-cert, --tls-key: give both or neither")
	for _, secret := range c.SessionSecrets {
		check(len(secret) >= 16, "--session-secret: a secret of %d characters is too short, use at least 16", len(secret))
	}
	for _, origin := range c.AllowedOrigins {
		check(validOrigin(origin), "--allowed-origins: %q is not scheme://host[:port]", origin)
	}
	_, err := parsePrefixes(c.TrustedProxies)
	check(err == nil, "--trusted-proxies: %v", err)
	c.checkAdmin(check)
	return errors.Join(problems...)
}

func (c *Config) checkAdmin(check func(bool, string, ...any)) {
	if c.AdminAddr == "" {
		return
	}
	host, port, err := net.SplitHostPort(c.AdminAddr)
	if err != nil {
		check(false, "--admin-addr: %q is not host:port", c.AdminAddr)
		return
	}
	n, err := strconv.Atoi(port)
	check(err == nil && n >= 0 && n <= 65535, "--admin-addr: %q is not a port (0-65535)", port)
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	check(loopback || c.AdminToken != "", "--admin-token: required because --admin-addr %s is not a loopback address", c.AdminAddr)
}

func validOrigin(origin string) bool {
	if origin == "*" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Scheme != "" && u.Host != "" && strings.Trim(u.Path, "/") == ""
}

// parsePrefixes reads CIDRs and plain addresses, which mean themselves alone.
func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var problems []error
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("%q is neither an address nor a CIDR", text))
			continue
		}
		out = append(out, p.Masked())
	}
	return out, errors.Join(problems...)
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

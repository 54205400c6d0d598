package signal

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/signal/auth"
	"cline-meet/signal/signal/setting"
)

// minReadTimeout keeps the ticks of the wheel, a small part of it, apart.
const minReadTimeout = 100 * time.Millisecond

// minWriteTimeout is what a write to a healthy client may take on a busy machine.
const minWriteTimeout = time.Millisecond

// minFrame is too small for any offer already.
const minFrame = 1 << 10

// minMemory is what a node needs for itself, in MiB.
const minMemory = 64

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
	HSTS           time.Duration
	MaxFrame       int
	MessageRate    float64
	MessageBurst   int
	MaxQueue       int
	// The limits of a client address, of connections and of memory, in MiB; 0 is no limit.
	AddrConns    int
	AddrUpgrades float64
	AddrMessages float64
	AddrCredits  float64
	AddrRequests float64
	MaxConns     int
	MaxMemory    int
	Auth         auth.Config

	// HTTPS says that browsers come by TLS, also before there is a TLS config.
	HTTPS bool
	// Impaired returns what else does not work, for /ready; it may be nil.
	Impaired func() []string
	// TLS is nil to serve plain HTTP.
	TLS *tls.Config
	// Listen makes the listener of browsers, nil for net.Listen.
	Listen func(network, address string) (net.Listener, error)
	// OnePort says that the listener shares its port, and has taken TLS off what came with it.
	OnePort bool
	// Logger receives all logs.
	Logger *slog.Logger
	// Registry holds the metrics of the whole process.
	Registry *prometheus.Registry
	// Page is the root of the static files.
	Page fs.FS
	// ICE issues ICE servers for one user. Host is the Host header that the client used.
	ICE func(host, user string) ICEConfig
	// RelayAddress returns where relays are seen, an invalid address when there are none; it may be nil.
	RelayAddress func() netip.Addr
	// PeerPasswords says that TURN servers of the nodes ask MemberPasswords. Relaying returns the users who have relays here then.
	PeerPasswords bool
	Relaying      func() []string
	// LastingSecret says that SessionSecrets are those of the process before and the one after.
	LastingSecret bool
	// Clustered says that other nodes may share the state.
	Clustered bool
	// State is what the nodes share. It is not subscribed to yet, see Server.Events.
	State State
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
		AddrUpgrades: setting.Derived,
		AddrMessages: setting.Derived,
		AddrCredits:  setting.Derived,
		AddrRequests: setting.Derived,
		MaxConns:     setting.Derived,
		MaxMemory:    setting.Derived,
		Auth:         auth.DefaultConfig(),
	}
}

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return slices.Concat(
		setting.Category("Server",
			setting.Text("server-host", &c.Host, "HTTP bind `ADDRESS`"),
			setting.Port("server-port", &c.Port, 0, "HTTP `PORT`"),
			setting.Duration("read-timeout", &c.ReadTimeout, minReadTimeout, setting.Longest, "`SECONDS` without any frame or pong after which a WebSocket is dead"),
			setting.Duration("write-timeout", &c.WriteTimeout, minWriteTimeout, setting.Longest, "`SECONDS` after which a blocked WebSocket write is given up"),
		),
		setting.Category("Security",
			setting.Secrets("session-secret", &c.SessionSecrets, setting.LeastSecret, "`SECRETS` that sign cookies and resume tokens, comma separated, newest first; without Redis clients outlive a restart only if they are set").Otherwise("generated at start"),
			setting.List("allowed-origins", &c.AllowedOrigins, "`ORIGINS` beside our own whose pages may import signal.js, open a WebSocket and fetch /ice, comma separated, such as https://app.example.org; * allows all, without cookies"),
			setting.Duration("hsts", &c.HSTS, 0, setting.Longest, "`SECONDS` for which browsers that came by HTTPS are to come by nothing else (Strict-Transport-Security), 0 for none"),
			setting.Bool("require-origin", &c.RequireOrigin, "refuse WebSocket clients that send no Origin (anything but browsers)"),
			setting.List("trusted-proxies", &c.TrustedProxies, "`CIDRS` of reverse proxies whose X-Forwarded-For, -Proto, -Host and Forwarded are believed, comma separated"),
		),
		c.Auth.Settings(),
		setting.Category("Limits",
			setting.Int("max-room-users", &c.MaxRoomUsers, 1, 1000, "`NUMBER` of users that a room holds"),
			setting.Int("max-frame-bytes", &c.MaxFrame, minFrame, 1<<30, "`BYTES` of the largest WebSocket message that is accepted"),
			setting.Rate("message-rate", &c.MessageRate, 0.001, setting.Most, "`NUMBER` of messages a second that a connection may send"),
			setting.Int("message-burst", &c.MessageBurst, 1, setting.Most, "`NUMBER` of messages that a connection may send at once"),
			setting.Int("max-queue-bytes", &c.MaxQueue, 2*minFrame, setting.Most, "`BYTES` that may wait for a slow client before it is disconnected"),
			setting.Int("max-memory", &c.MaxMemory, 0, setting.Most>>20, "`MIB` of memory that the process is to stay within, 0 for any").OrDerived("three quarters of the control group's or half of the machine's"),
			setting.Int("max-connections", &c.MaxConns, 0, setting.Most, "`NUMBER` of WebSockets of the node, 0 for any").OrDerived("half of the descriptors"),
			setting.Int("address-connections", &c.AddrConns, 0, setting.Most, "`NUMBER` of WebSockets that one client address (IPv6: /64) may hold, with those that were lost and may come back, 0 for any"),
			setting.Rate("address-upgrade-rate", &c.AddrUpgrades, 0, setting.Most, "`NUMBER` of new WebSockets a second of one client address, four times that at once, 0 for any").OrDerived("half of --address-connections and at least 16"),
			setting.Rate("address-message-rate", &c.AddrMessages, 0, setting.Most, "`NUMBER` of messages a second of all WebSockets of one client address, four times that at once, 0 for any").OrDerived("--address-connections times --message-rate"),
			setting.Rate("address-credential-rate", &c.AddrCredits, 0, setting.Most, "`NUMBER` of TURN credentials a second that one client address may ask for, four times that at once, 0 for any").OrDerived("half of --address-connections and at least 16"),
			setting.Rate("address-request-rate", &c.AddrRequests, 0, setting.Most, "`NUMBER` of HTTP requests a second of one client address, four times that at once, and a quarter as many connections, 0 for any").OrDerived("8 times --address-connections"),
		),
		setting.Category("Operation",
			setting.Duration("resume-grace", &c.ResumeGrace, 0, setting.Longest, "`SECONDS` that a client which lost its connection, or its node, has to come back unnoticed, 0 for none"),
			setting.Duration("drain-settle", &c.DrainSettle, 0, setting.Longest, "`SECONDS` between not being ready and asking clients to go to another node"),
		),
	)
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *Config) Validate() error {
	var p setting.Problems
	c.Settings().Check(&p)
	if c.Host != "" && net.ParseIP(c.Host) == nil && c.Host != "localhost" {
		p.Add("server-host", setting.NotAnAddress(c.Host))
	}
	p.Check(c.MaxQueue >= 2*c.MaxFrame, "max-queue-bytes", "%d must hold at least two messages of --max-frame-bytes", c.MaxQueue)
	p.Check(c.MaxMemory <= 0 || c.MaxMemory >= minMemory, "max-memory", "%d is too little, give 0 or at least %d", c.MaxMemory, minMemory)
	for _, origin := range c.AllowedOrigins {
		checkOriginSetting(&p, origin)
	}
	_, err := parseProxies(c.TrustedProxies)
	p.Add("trusted-proxies", err)
	return errors.Join(p.Err(), c.Auth.Validate())
}

// LocalURL is where a process on the same machine reaches a node with these settings.
func (c *Config) LocalURL() string {
	scheme, host := "http", c.Host
	if c.HTTPS {
		scheme = "https"
	}
	switch ip := net.ParseIP(host); {
	case host == "" || ip.Equal(net.IPv4zero):
		host = "127.0.0.1"
	case ip.Equal(net.IPv6zero):
		host = "::1"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(c.Port))
}

func validOrigin(origin string) bool {
	if origin == "*" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Scheme != "" && u.Host != "" && strings.Trim(u.Path, "/") == ""
}

// parseProxies reads CIDRs and plain addresses, which mean themselves alone.
func parseProxies(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var problems []error
	for _, text := range texts {
		p, err := setting.ParsePrefix(text)
		out, problems = append(out, p.Masked()), append(problems, err)
	}
	return out, errors.Join(problems...)
}

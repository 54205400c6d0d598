package admin

import (
	"net"
	"strconv"
	"strings"

	"cline-meet/signal/signal/setting"
)

// Config says where the owner's side of a node listens, and who may do what there.
type Config struct {
	Addr          string // host:port, or unix: and a path; empty for none
	Tokens        []string
	ReadTokens    []string
	MetricsTokens []string
	Pprof         bool // profiles are served to the network, too
}

// DefaultConfig returns the settings of a node that was told nothing.
func DefaultConfig() Config { return Config{Addr: "127.0.0.1:9090"} }

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return setting.Category("Administration",
		setting.Text("admin-addr", &c.Addr, "`HOST:PORT` of metrics, the admin API and pprof, or unix:PATH of a socket for this user alone; empty for none"),
		setting.Secrets("admin-token", &c.Tokens, 1, "bearer `TOKENS` that may do all on the admin address, comma separated; one is required unless that is loopback or a socket"),
		setting.Secrets("admin-read-token", &c.ReadTokens, setting.LeastSecret, "bearer `TOKENS` that may read all on the admin address and change nothing"),
		setting.Secrets("admin-metrics-token", &c.MetricsTokens, setting.LeastSecret, "bearer `TOKENS` that may read /metrics and nothing else"),
		setting.Bool("admin-pprof", &c.Pprof, "serve pprof, for who may do all, also where the admin address is not loopback"),
	)
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *Config) Validate() error {
	var p setting.Problems
	c.Settings().Check(&p)
	c.checkAddr(&p)
	return p.Err()
}

func (c *Config) checkAddr(p *setting.Problems) {
	if path, ok := c.socket(); ok {
		p.Check(strings.HasPrefix(path, "/"), "admin-addr", "%q is not unix: and an absolute path", c.Addr)
		return
	}
	if c.Addr == "" {
		return
	}
	_, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		p.Addf("admin-addr", "%q is not host:port, such as 127.0.0.1:9090 or [::1]:9090", c.Addr)
		return
	}
	n, err := strconv.Atoi(port)
	p.Check(err == nil && n >= 0 && n <= 65535, "admin-addr", "%q is not a port (0-65535)", port)
	p.Check(c.isLocal() || len(c.Tokens)+len(c.ReadTokens)+len(c.MetricsTokens) > 0, "admin-token",
		"required because --admin-addr %s is not a loopback address", c.Addr)
}

// Notes tell what of the configuration, which is valid, is unsafe.
func (c *Config) Notes() setting.Notes {
	var n setting.Notes
	for _, token := range c.Tokens {
		if len(token) < setting.LeastSecret {
			n.Warnf("short_secret", "--admin-token has %d characters, which can be found by trial: use at least %d", len(token), setting.LeastSecret)
		}
	}
	return n
}

// HostPort returns the TCP address; the port is 0 when there is none or any may be taken.
func (c *Config) HostPort() (host string, port int) {
	host, text, _ := net.SplitHostPort(c.Addr)
	port, _ = strconv.Atoi(text)
	return host, port
}

// socket returns the path of the Unix socket, if it is one.
func (c *Config) socket() (path string, ok bool) { return strings.CutPrefix(c.Addr, "unix:") }

// isLocal reports whether only this machine reaches the address.
func (c *Config) isLocal() bool {
	if _, ok := c.socket(); ok {
		return true
	}
	host, _, _ := net.SplitHostPort(c.Addr)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

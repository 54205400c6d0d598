package edge

import (
	"errors"
	"net/netip"

	"cline-meet/signal/signal/setting"
)

// Config is what the edge of a node can be told.
type Config struct {
	OnePort int // OnePort serves HTTP and TURN together; setting.Derived means that each has ports of its own.
	// HTTPProxies and TURNProxies hold CIDRs of proxies, whose connections to HTTP and to TURN begin with a PROXY header. At one
	// port they are the same.
	HTTPProxies, TURNProxies []string
}

// DefaultConfig returns the settings of an edge that was told nothing.
func DefaultConfig() Config { return Config{OnePort: setting.Derived} }

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return setting.Category("Server",
		setting.Port("one-port", &c.OnePort, 0, "one `PORT` for HTTPS, WebSockets and TURN over UDP, DTLS, TCP and TLS, at the addresses of --turn-listen, instead of --server-port, --turn-port and --turn-tls-port; 0 picks a free one").OrDerived("a port for each"),
		setting.List("proxy-protocol", &c.HTTPProxies, "`CIDRS` of proxies that pass connections on to HTTP, or to --one-port, and tell the client's address in a PROXY header (version 1 or 2), comma separated"),
		setting.List("turn-proxy-protocol", &c.TURNProxies, "`CIDRS` of proxies that do so with TURN over TCP and TLS, comma separated"),
	)
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *Config) Validate() error {
	var p setting.Problems
	c.Settings().Check(&p)
	for _, of := range c.proxies() {
		_, err := sources(of.cidrs)
		p.Add(of.name, err)
	}
	p.Check(!c.IsOnePort() || len(c.TURNProxies) == 0, "turn-proxy-protocol", "with --one-port it is --proxy-protocol that holds for TURN, too")
	return p.Err()
}

// Notes tell what of the settings, which are valid, is unsafe.
func (c *Config) Notes() setting.Notes {
	var n setting.Notes
	for _, of := range c.proxies() {
		n.NoteProxies(of.name, of.cidrs)
	}
	return n
}

// IsOnePort says whether HTTP and TURN share a port.
func (c *Config) IsOnePort() bool { return c.OnePort != setting.Derived }

// Proxied says whether proxies of HTTP name its clients, as those do that end TLS before it.
func (c *Config) Proxied() bool { return len(c.HTTPProxies) > 0 }

// proxies are the settings that name some.
type proxies struct {
	name  string
	cidrs []string
}

func (c *Config) proxies() []proxies {
	return []proxies{{"proxy-protocol", c.HTTPProxies}, {"turn-proxy-protocol", c.TURNProxies}}
}

// sources reads the addresses of proxies.
func sources(cidrs []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	var problems []error
	for _, text := range cidrs {
		p, err := setting.ParsePrefix(text)
		all, problems = append(all, p.Masked()), append(problems, err)
	}
	return all, errors.Join(problems...)
}

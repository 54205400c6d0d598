package edge

import (
	"errors"
	"net/netip"

	"cline-meet/signal/signal/setting"
)

// Config is what the edge of a node can be told.
type Config struct {
	OnePort       int      // OnePort serves HTTP and TURN together; setting.Derived means that each has ports of its own.
	ProxyProtocol []string // ProxyProtocol holds CIDRs of proxies, whose connections begin with a PROXY header.
}

// DefaultConfig returns the settings of an edge that was told nothing.
func DefaultConfig() Config { return Config{OnePort: setting.Derived} }

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return setting.Category("Server",
		setting.Port("one-port", &c.OnePort, 0, "one `PORT` for HTTPS, WebSockets and TURN over UDP, DTLS, TCP and TLS, at the addresses of --turn-listen, instead of --server-port, --turn-port and --turn-tls-port; 0 picks a free one").OrDerived("a port for each"),
		setting.List("proxy-protocol", &c.ProxyProtocol, "`CIDRS` of proxies that pass connections on to HTTP and TURN and tell the client's address in a PROXY header (version 1 or 2), comma separated"),
	)
}

// Validate returns every problem of the settings, each naming its flag, joined into one error.
func (c *Config) Validate() error {
	var p setting.Problems
	c.Settings().Check(&p)
	_, err := c.sources()
	p.Add("proxy-protocol", err)
	return p.Err()
}

// Notes tell what of the settings, which are valid, is unsafe.
func (c *Config) Notes() setting.Notes {
	var n setting.Notes
	sources, _ := c.sources()
	for i, p := range sources {
		if p.Bits() == 0 {
			n.Warnf("trusts_everybody", "--proxy-protocol %s lets everybody choose the address that limits and logs see: name the proxies alone", c.ProxyProtocol[i])
		}
	}
	return n
}

// IsOnePort says whether HTTP and TURN share a port.
func (c *Config) IsOnePort() bool { return c.OnePort != setting.Derived }

// sources reads the addresses of the proxies.
func (c *Config) sources() ([]netip.Prefix, error) {
	var sources []netip.Prefix
	var problems []error
	for _, text := range c.ProxyProtocol {
		p, err := setting.ParsePrefix(text)
		sources, problems = append(sources, p.Masked()), append(problems, err)
	}
	return sources, errors.Join(problems...)
}

package signal

import (
	"net"
	"net/netip"
	"strings"

	"cline-meet/signal/signal/setting"
)

// Notes tell what of the configuration, which is valid, is open, unsafe or most likely not meant. Named says that proxies tell whose
// connections they pass on, in a way that is not among these settings.
func (c *Config) Notes(named bool) setting.Notes {
	var n setting.Notes
	n.NoteProxies("trusted-proxies", c.TrustedProxies)
	if !c.HTTPS && len(c.TrustedProxies) == 0 && !named && !c.onLoopback() {
		n.Warnf("no_tls", "no TLS: browsers open cameras on http://localhost only; set --tls-cert and --tls-key, or put a TLS proxy in front and name it in --trusted-proxies or --proxy-protocol")
	}
	if c.HSTS > 0 && !c.HTTPS && len(c.TrustedProxies) == 0 && !named {
		n.Warnf("unused_setting", "--hsts %v is for nobody, since nobody comes by HTTPS: set --domain or --tls-cert, or name the proxy that ends TLS in --trusted-proxies", c.HSTS)
	}
	return n
}

// RelayNotes warn, if the node relays, that strangers may use that.
// Named is as for Notes: behind a proxy others than this machine reach a server on loopback.
func (c *Config) RelayNotes(relays, named bool) setting.Notes {
	var n setting.Notes
	alone := c.onLoopback() && len(c.TrustedProxies) == 0 && !named
	if relays && !c.Auth.Enabled() && !alone {
		n.Warnf("open_relay", "no authentication: anybody who reaches this node may relay through it; set --auth-secret, --auth-jwks or --auth-url")
	}
	return n
}

// onLoopback says that nobody but this machine reaches the server.
func (c *Config) onLoopback() bool {
	return c.Host == "localhost" || net.ParseIP(c.Host).IsLoopback()
}

// checkOriginSetting says why an origin in --allowed-origins can match none.
func checkOriginSetting(p *setting.Problems, origin string) {
	const name = "allowed-origins"
	scheme, rest, _ := strings.Cut(origin, "://")
	switch {
	case !validOrigin(origin):
		p.Addf(name, "%q is not scheme://host[:port]", origin)
	case strings.Contains(origin, "*") && origin != "*":
		p.Addf(name, "%q matches nothing, there are no patterns: list every origin, or * for all", origin)
	case scheme == "ws" || scheme == "wss":
		p.Addf(name, "%q matches nothing: the origin of a page is http%s://%s", origin, strings.TrimPrefix(scheme, "ws"), rest)
	}
}

// overlaps says whether two bind addresses cannot have the same port.
func overlaps(one, other string) bool {
	a, b := bindAddress(one), bindAddress(other)
	return a.IsUnspecified() || b.IsUnspecified() || a == b
}

func bindAddress(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	switch {
	case text == "":
		return netip.IPv6Unspecified()
	case err != nil: // localhost
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return addr.Unmap()
}

// CheckPort adds a problem when a listener of another part, which the setting of a name made, has the port of HTTP.
func (c *Config) CheckPort(p *setting.Problems, name string, port int, hosts ...string) {
	for _, host := range hosts {
		if port != 0 && port == c.Port && overlaps(host, c.Host) {
			own := "server-port"
			if c.OnePort {
				own = "one-port"
			}
			p.Addf(own, "%d is --%s, too: choose another for one of them", port, name)
			return
		}
	}
}

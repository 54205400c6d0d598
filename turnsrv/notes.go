package turnsrv

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/relayaddr"
)

// fewPorts is a number of relay ports with which a handful of calls already finds none.
const fewPorts = 20

// slowest is a bandwidth in bytes a second that no voice fits through.
const slowest = 2000

// briefest is how long a credential must live for the checks of a call that it is minted for.
const briefest = 30 * time.Second

// Notes tell what of the configuration, which is valid, is most likely not meant.
func (c *Config) Notes() setting.Notes {
	var n setting.Notes
	if !c.Enabled {
		return nil
	}
	if ports := c.MaxPort - c.MinPort + 1; ports < fewPorts {
		n.Warnf("few_relay_ports", "--turn-min-port %d to --turn-max-port %d serve %d relays at a time, and a call of two may take 4: open more ports", c.MinPort, c.MaxPort, ports)
	}
	c.notePorts(&n)
	if external, err := relayaddr.ParseExternal(c.ExternalIP); err == nil && len(c.ExternalIP) > 0 && !external.Asks() && c.ExternalSTUN != "" {
		n.Warnf("unused_setting", "--turn-external-stun %s is not asked beside --turn-external-ip %s", c.ExternalSTUN, strings.Join(c.ExternalIP, ","))
	}
	if port := DefaultConfig().TLSPort; c.TLS == nil && c.TLSPort != port && c.TLSPort != 0 {
		n.Warnf("no_certificate", "--turn-tls-port %d is closed without a certificate: set --tls-cert and --tls-key, or --turn-tls-cert and --turn-tls-key", c.TLSPort)
	}
	if len(c.TURNURLs) > 0 && len(c.TLSURLs) > 0 {
		n.Warnf("unused_setting", "--turn-tls-url %s is not advertised beside --turn-url: add it there", strings.Join(c.TLSURLs, ","))
	}
	c.noteBounds(&n)
	return n
}

// notePorts finds listeners whose UDP port a relay may be given.
func (c *Config) notePorts(n *setting.Notes) {
	ports := map[string]int{"turn-port": c.Port}
	switch {
	case c.OnePort:
		ports = map[string]int{"one-port": c.Port}
	case c.TLS != nil:
		ports["turn-tls-port"] = c.TLSPort
	}
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		if port := ports[name]; c.MinPort <= port && port <= c.MaxPort {
			n.Warnf("port_among_relay_ports", "--%s %d is among the relay ports %d to %d: choose --turn-min-port above it", name, port, c.MinPort, c.MaxPort)
		}
	}
}

// TLSHost returns the host in the URL of TURN over TLS, empty for the one that the client used. It is not ok when no
// such URL is derived. External is the external address, which may not be known.
func (c *Config) TLSHost(external netip.Addr) (host string, ok bool) {
	derived := c.Enabled && c.TLS != nil && len(c.TURNURLs) == 0 && len(c.TLSURLs) == 0
	host, known := c.HostAt(external)
	return host, derived && known
}

// noteBounds finds bounds that nobody, or one user alone, can live within.
func (c *Config) noteBounds(n *setting.Notes) {
	if c.TTL < briefest {
		n.Warnf("brief_credentials", "--turn-ttl %v is over before a client is through with its checks: use at least %v", c.TTL, briefest)
	}
	if c.Bandwidth > 0 && c.Bandwidth < slowest {
		n.Warnf("low_bandwidth", "--turn-bandwidth %d is in bytes a second, too few for a voice: a video needs 300000", c.Bandwidth)
	}
	if c.TotalBandwidth > 0 && c.TotalBandwidth < slowest {
		n.Warnf("low_bandwidth", "--turn-total-bandwidth %d is in bytes a second, too few for a voice: a video needs 300000", c.TotalBandwidth)
	}
	if c.TotalBandwidth > 0 && c.Bandwidth > c.TotalBandwidth {
		n.Warnf("unused_setting", "--turn-bandwidth %d is more than --turn-total-bandwidth %d, which bounds it", c.Bandwidth, c.TotalBandwidth)
	}
	if c.TotalQuota > 0 && c.UserQuota >= c.TotalQuota {
		n.Warnf("quota_for_one", "--turn-user-quota %d lets one user take all of --turn-total-quota %d", c.UserQuota, c.TotalQuota)
	}
}

// Notes tell what about the server is unsafe, or keeps clients from it.
func (s *Server) Notes() setting.Notes {
	if s == nil {
		return nil
	}
	var n setting.Notes
	if addr := s.RelayIP(); addr.IsPrivate() || addr.IsLoopback() {
		n.Warnf("private_relay", "relay address %s is private: clients elsewhere cannot reach it; set --turn-relay-ip or --turn-external-ip", addr)
		n.Tellf("private_peers_denied", "peers on private addresses are denied; open your network with --turn-allow-peer, such as 192.168.0.0/16")
	}
	return n
}

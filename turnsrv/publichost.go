package turnsrv

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// What a node fills in for itself in --turn-public-host, as one label each, so that one certificate for *.turn.example.org is good
// for all nodes, and one setting as well.
const (
	placeOfAddress = "{address}" // The external address: 198-51-100-7.
	placeOfNode    = "{node}"    // The name of the Kubernetes node, else of the machine: ip-10-0-1-7-ec2-internal.
)

// HostAt returns PublicHost as it is for this machine, whose external address is known or not. It is not ok as long as the host
// depends on that.
func (c *Config) HostAt(external netip.Addr) (host string, ok bool) {
	if c.PublicHost == Auto {
		return external.String(), external.IsValid()
	}
	places := strings.NewReplacer(placeOfAddress, label(external.StringExpanded()), placeOfNode, label(c.machine()))
	return places.Replace(c.PublicHost), external.IsValid() || !strings.Contains(c.PublicHost, placeOfAddress)
}

// hostOfNode says whether PublicHost is another one at every node.
func (c *Config) hostOfNode() bool {
	return c.PublicHost == Auto || strings.Contains(c.PublicHost, placeOfAddress) || strings.Contains(c.PublicHost, placeOfNode)
}

// label writes a name or an address as one label of a name.
func label(text string) string { return strings.NewReplacer(".", "-", ":", "-").Replace(text) }

func (c *Config) machine() string {
	if c.KubernetesNode != "" {
		return c.KubernetesNode
	}
	name, _ := os.Hostname() // Without a name of its own it is no host that anybody can reach by one.
	return name
}

// checkPublicHost accepts a host, or none. The URLs get scheme and port of their own.
func checkPublicHost(text string) error {
	if text = strings.NewReplacer(placeOfAddress, "a", placeOfNode, "n").Replace(text); strings.ContainsAny(text, "{}") {
		return fmt.Errorf("%q: %s and %s are all that is filled in", text, placeOfNode, placeOfAddress)
	}
	if text == "" || cleanHost(text) != "" && !hasPort(text) {
		return nil
	}
	host := text
	if _, rest, ok := strings.Cut(text, "://"); ok {
		host, _, _ = strings.Cut(rest, "/")
	} else if scheme, rest, ok := strings.Cut(text, ":"); ok && slices.Contains(urlSchemes, scheme) {
		host = rest
	}
	if host = cleanHost(host); host != "" {
		return fmt.Errorf("%q must be a host alone, such as %s: scheme and port are added to it", text, host)
	}
	return fmt.Errorf("%q is not a host name or an IP address", text)
}

var urlSchemes = []string{"stun", "stuns", "turn", "turns"}

func hasPort(text string) bool {
	_, _, err := net.SplitHostPort(text)
	return err == nil
}

package check

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The ways to a STUN or TURN server.
const (
	overUDP  = "UDP"
	overTCP  = "TCP"
	overTLS  = "TLS"
	overDTLS = "DTLS"
)

// endpoint is one way to a server.
type endpoint struct {
	over string
	port int
	// optional is a way that nobody has promised: what it lacks is no fault.
	optional bool
}

func (e endpoint) String() string { return fmt.Sprintf("%s port %d", e.over, e.port) }

// relayURL is a stun:, turn: or turns: URL, RFC 7064 and RFC 7065.
type relayURL struct {
	relays    bool // relays says that it is a TURN server.
	host      string
	endpoints []endpoint
}

// isRelayURL says whether text is meant to be the URL of a STUN or TURN server.
func isRelayURL(text string) bool {
	scheme, _, _ := strings.Cut(text, ":")
	return slices.Contains([]string{"stun", "stuns", "turn", "turns"}, strings.ToLower(scheme))
}

// parseRelayURL reads a URL. Without a transport both that a client may try are meant, but for DTLS, which browsers lack.
func parseRelayURL(text string) (u relayURL, err error) {
	scheme, rest, _ := strings.Cut(text, ":")
	scheme = strings.ToLower(scheme)
	secure := strings.HasSuffix(scheme, "s")
	address, query, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "?")
	port := 3478
	if secure {
		port = 5349
	}
	if u.host, port, err = splitHost(address, port); err != nil {
		return u, fmt.Errorf("%q: %w", text, err)
	}
	u.relays = strings.HasPrefix(scheme, "turn")
	values, _ := url.ParseQuery(query)
	over := map[string][]string{"": {overUDP, overTCP}, "udp": {overUDP}, "tcp": {overTCP}}
	if secure {
		over = map[string][]string{"": {overTLS, overDTLS}, "udp": {overDTLS}, "tcp": {overTLS, overDTLS}}
	}
	transport := strings.ToLower(values.Get("transport"))
	if over[transport] == nil {
		return u, fmt.Errorf("%q: transport must be udp or tcp", text)
	}
	for _, name := range over[transport] {
		u.endpoints = append(u.endpoints, endpoint{name, port, name == overDTLS && transport != "udp" || name == overTCP && !u.relays && transport == ""})
	}
	return u, nil
}

// splitHost reads host, host:port, [address] or [address]:port.
func splitHost(text string, otherwise int) (host string, port int, err error) {
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		host, number = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), strconv.Itoa(otherwise)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%q is not a port", number)
	}
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, ":/[]@ ")) {
		return "", 0, fmt.Errorf("%q is not a host", host)
	}
	return host, int(n), nil
}

// parseSite reads the URL of a deployment, of its page or of its WebSocket.
func parseSite(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	u.Scheme = strings.Replace(strings.ToLower(u.Scheme), "ws", "http", 1)
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("%q is neither an http or https URL nor turn:HOST, turns:HOST or stun:HOST", text)
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/ws"), "/") + "/"
	u.RawQuery, u.Fragment = "", ""
	return u, nil
}

// portOf returns the port of a URL.
func portOf(u *url.URL) int {
	if port, err := strconv.Atoi(u.Port()); err == nil {
		return port
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
}

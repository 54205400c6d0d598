package signal

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// clientID is what we believe about who sent a request. The forwarded headers count only when the
// request comes from a trusted proxy, because anybody can send them.
type clientID struct {
	addr   netip.Addr
	secure bool
}

func identify(r *http.Request, proxies []netip.Prefix) clientID {
	c := clientID{secure: r.TLS != nil}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.addr = ap.Addr().Unmap().WithZone("")
	}
	if !contains(proxies, c.addr) {
		return c
	}
	if proto := r.Header.Get("X-Forwarded-Proto"); proto != "" {
		c.secure = proto == "https" || proto == "wss"
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			break
		}
		c.addr = addr
		if !contains(proxies, c.addr) {
			break
		}
	}
	return c
}

// parseHop reads one hop of X-Forwarded-For, to which some proxies add the port.
func parseHop(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		var hop netip.AddrPort
		hop, err = netip.ParseAddrPort(text)
		addr = hop.Addr()
	}
	return addr.Unmap(), err == nil
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// prefix is the unit in which clients are limited: an IPv4 address or an IPv6 /64, because one
// subscriber commands a whole /64.
func (c clientID) prefix() netip.Prefix {
	bits := 32
	if c.addr.Is6() {
		bits = 64
	}
	p, _ := c.addr.Prefix(bits) // Fails for the zero address only, whose prefix is the zero prefix.
	return p
}

// checkOrigin decides whether the page that opens a WebSocket may do so: it must come from the same
// scheme, host and port, or be on the allow-list. Without this any page that a user visits could
// act with the user's cookie.
func checkOrigin(r *http.Request, secure bool, allowed []string, required bool) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		if required {
			return fmt.Errorf("no Origin header; --require-origin is set")
		}
		return nil
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	got := canonicalOrigin(origin)
	if got != "" && got == canonicalOrigin(scheme+"://"+r.Host) {
		return nil
	}
	for _, a := range allowed {
		if a == "*" || got != "" && got == canonicalOrigin(a) {
			return nil
		}
	}
	return fmt.Errorf("origin is neither ours nor in --allowed-origins")
}

// canonicalOrigin returns scheme://host:port in lower case with the port always there, or nothing
// when the text is no such origin.
func canonicalOrigin(origin string) string {
	u, err := url.Parse(strings.ToLower(origin))
	if err != nil || u.Host == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + u.Hostname() + ":" + port
}

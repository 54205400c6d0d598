package signal

import (
	"cmp"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
)

// trusted are the proxies whose word about clients is believed and the origins of other sites whose pages may come in. SetTrusted
// replaces both while they are in use.
type trusted struct {
	proxies atomic.Pointer[[]netip.Prefix]
	origins atomic.Pointer[[]string]
}

// set takes both from a config that Validate has seen.
func (t *trusted) set(cfg *Config) {
	proxies, _ := parseProxies(cfg.TrustedProxies)
	origins := cfg.AllowedOrigins
	t.proxies.Store(&proxies)
	t.origins.Store(&origins)
}

// SetTrusted takes over TrustedProxies and AllowedOrigins of a valid config. Who is connected stays.
func (s *Server) SetTrusted(cfg Config) { s.trusted.set(&cfg) }

func (s *Server) identify(r *http.Request) clientID { return identify(r, *s.trusted.proxies.Load()) }

// clientID is what we believe about who sent a request. The forwarded headers count only when the
// request comes from a trusted proxy, because anybody can send them.
type clientID struct {
	addr   netip.Addr
	secure bool
	// host is what the client calls us, as far as the proxies tell, and hosts are all names that may be it: some
	// proxies rewrite Host and tell of it, and some that tell leave out the port.
	host  string
	hosts []string
}

func identify(r *http.Request, proxies []netip.Prefix) clientID {
	c := clientID{secure: r.TLS != nil, host: r.Host, hosts: []string{r.Host}}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.addr = ap.Addr().Unmap().WithZone("")
	}
	if !contains(proxies, c.addr) {
		return c
	}
	proto, host := forwarded(r.Header)
	if proto != "" {
		c.secure = strings.EqualFold(proto, "https") || strings.EqualFold(proto, "wss")
	}
	if host != "" {
		c.host, c.hosts = host, append(c.hosts, host)
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

// forwarded returns the scheme and the host that the client used, as proxies tell them. Each one adds its own at
// the end of a list, so the first was next to the client. Of Forwarded (RFC 7239), which few proxies know and others let
// pass as a client made it up, the address is not believed: limits depend on that.
func forwarded(h http.Header) (proto, host string) {
	said := map[string]string{}
	for pair := range strings.SplitSeq(first(h, "Forwarded"), ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		said[strings.ToLower(name)] = strings.Trim(value, `"`)
	}
	return cmp.Or(first(h, "X-Forwarded-Proto"), said["proto"]), cmp.Or(first(h, "X-Forwarded-Host"), said["host"])
}

// first returns the first element of the list in a header.
func first(h http.Header, name string) string {
	element, _, _ := strings.Cut(h.Get(name), ",")
	return strings.TrimSpace(element)
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
func checkOrigin(origin string, who clientID, allowed []string, required bool) error {
	switch {
	case origin == "" && required:
		return errors.New("no Origin header; --require-origin is set")
	case origin == "" || who.isOwn(origin) || allows(allowed, origin) != notAllowed:
		return nil
	}
	return errOrigin
}

// errOrigin refuses a page. Who owns the server may have forgotten to allow it.
var errOrigin = errors.New("origin is neither ours nor in --allowed-origins")

// isOwn reports whether a page of that origin is ours.
func (c clientID) isOwn(origin string) bool {
	scheme := "http"
	if c.secure {
		scheme = "https"
	}
	got := canonicalOrigin(origin)
	return got != "" && slices.ContainsFunc(c.hosts, func(host string) bool { return got == canonicalOrigin(scheme+"://"+host) })
}

// allowance is how an allow-list has an origin.
type allowance int

const (
	notAllowed    allowance = iota
	allowedAsAll            // by *
	allowedByName           // and trusted therefore with what a cookie opens
)

func allows(allowed []string, origin string) allowance {
	got := canonicalOrigin(origin)
	switch {
	case got != "" && slices.ContainsFunc(allowed, func(a string) bool { return got == canonicalOrigin(a) }):
		return allowedByName
	case slices.Contains(allowed, "*"):
		return allowedAsAll
	}
	return notAllowed
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

package turnsrv

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/relayaddr"
)

// maxHostLength is the longest DNS name.
const maxHostLength = 253

// ICEServer is one entry of an RTCConfiguration's iceServers.
type ICEServer struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username,omitempty"`
	Credential string   `json:"credential,omitempty"`
}

// Credentials returns the TURN-REST username and credential of user, which are
// good until expiry with every server that knows secret. They demand no proof of
// consent of the peers.
func Credentials(secret, user string, expiry time.Time) (username, credential string) {
	return auth.Credentials(secret, user, expiry, auth.ExpiryUser, consent.Off)
}

// Issuer names ICE servers and mints credentials for them. It needs no Server:
// the TURN server may be another one that knows the same secret. Any number of
// goroutines may use it.
type Issuer struct {
	enabled  bool
	secret   atomic.Pointer[string] // secret is empty when there is nothing to mint with.
	public   string
	fallback string
	port     string
	tlsPort  string // tlsPort is empty without TLS.
	ttl      time.Duration
	order    auth.Order
	proof    consent.Mode // proof is what the credentials demand of their owners' peers.
	stunURL  string
	turnURLs []string
	tlsURLs  []string
	covers   func(host string) bool
}

// NewIssuer returns an issuer for cfg; port is the one the Server listens on,
// which is not cfg.Port when that is 0.
func NewIssuer(cfg Config, port int) *Issuer {
	i := &Issuer{
		enabled:  cfg.Enabled,
		public:   cleanHost(cfg.PublicHost),
		fallback: fallbackHost(cfg),
		port:     strconv.Itoa(port),
		ttl:      cfg.TTL,
		order:    auth.Order(cfg.UsernameOrder),
		proof:    consent.ModeOf(cfg.PeerProof),
		stunURL:  cfg.STUNURL,
		turnURLs: slices.Clone(cfg.TURNURLs),
		tlsURLs:  slices.Clone(cfg.TLSURLs),
		covers:   cfg.Covers,
	}
	if i.covers == nil {
		i.covers = func(string) bool { return true }
	}
	if cfg.TLS != nil {
		i.tlsPort = strconv.Itoa(cfg.TLSPort)
	}
	if cfg.TLS != nil && cfg.OnePort {
		i.tlsPort = i.port
	}
	i.secret.Store(new(string))
	i.SetSecrets(cfg.Secrets)
	return i
}

// SetSecrets replaces the shared secrets, newest first. An empty list changes
// nothing.
func (i *Issuer) SetSecrets(secrets []string) {
	if len(secrets) > 0 {
		i.secret.Store(&secrets[0])
	}
}

// fallbackHost is what a client is told when it did not say how it got here: the
// first external address, else the first relay address. Auto is none, since the
// issuer asks nobody.
func fallbackHost(cfg Config) string {
	for _, text := range slices.Concat(cfg.ExternalIP, cfg.RelayIP) {
		address, _, _ := strings.Cut(text, "/")
		if addr, err := netip.ParseAddr(address); err == nil {
			if host := cleanAddress(addr); host != "" {
				return host
			}
		}
	}
	return relayaddr.PrimaryIPv4().String()
}

// ICEServers returns the servers for a client that reached the node by host,
// which may be any Host header, with credentials for user that live for ttl
// from now. It is empty, not nil, when there is no server to name.
func (i *Issuer) ICEServers(host, user string, now time.Time) (servers []ICEServer, ttl time.Duration) {
	servers = []ICEServer{}
	host = i.hostFor(host)
	if url := i.stun(host); url != "" {
		servers = append(servers, ICEServer{URLs: []string{url}})
	}
	if server, ok := i.At(i.turn(host), user, now); ok {
		servers = append(servers, server)
	}
	return servers, i.ttl
}

// Told returns the URLs of the servers that every client is told of, none when they depend on the host that it used.
func (i *Issuer) Told() (urls []string) {
	if i.public == "" && len(i.turnURLs) == 0 {
		return nil
	}
	servers, _ := i.ICEServers(i.public, "", time.Now())
	for _, s := range servers {
		urls = append(urls, s.URLs...)
	}
	return urls
}

// At returns the TURN server at urls, which knows the same secret, with
// credentials for user as those of ICEServers. There is none without a URL or
// a secret.
func (i *Issuer) At(urls []string, user string, now time.Time) (server ICEServer, ok bool) {
	secret := *i.secret.Load()
	if len(urls) == 0 || secret == "" {
		return ICEServer{}, false
	}
	username, credential := auth.Credentials(secret, user, now.Add(i.ttl), i.order, i.proof)
	return ICEServer{URLs: urls, Username: username, Credential: credential}, true
}

// hostFor returns the host in the URLs for a client.
func (i *Issuer) hostFor(host string) string {
	for _, candidate := range []string{i.public, cleanHost(host)} {
		if candidate != "" {
			return candidate
		}
	}
	return i.fallback
}

func (i *Issuer) stun(host string) string {
	if i.stunURL != "" || !i.enabled {
		return i.stunURL
	}
	return "stun:" + net.JoinHostPort(host, i.port)
}

// turn names the ways to relay, the fastest first: browsers try all of them. A way over TLS whose certificate
// they would refuse costs them time and brings nothing.
func (i *Issuer) turn(host string) []string {
	if len(i.turnURLs) > 0 || !i.enabled {
		return slices.Clone(i.turnURLs)
	}
	plain, secure := "turn:"+net.JoinHostPort(host, i.port), i.turns(host)
	urls := []string{plain + "?transport=udp"}
	if len(secure) == 0 || i.tlsPort != i.port { // Who gets to the one port in clear text gets there over TLS.
		urls = append(urls, plain+"?transport=tcp")
	}
	return append(urls, secure...)
}

// turns names the ways to relay over TLS.
func (i *Issuer) turns(host string) []string {
	switch {
	case len(i.tlsURLs) > 0:
		return i.tlsURLs
	case i.tlsPort != "" && i.covers(host):
		return []string{"turns:" + net.JoinHostPort(host, i.tlsPort) + "?transport=tcp"}
	}
	return nil
}

// cleanHost takes the host out of a Host header or a setting, without port and
// brackets. It returns the empty string for what is no host name or address,
// since the result goes into URLs.
func cleanHost(text string) string {
	text = strings.TrimSpace(text)
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	} else if inner, ok := strings.CutPrefix(text, "["); ok {
		if text, ok = strings.CutSuffix(inner, "]"); !ok {
			return ""
		}
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		return cleanAddress(addr)
	}
	return cleanName(text)
}

// cleanAddress drops the zone, which means nothing on another machine.
func cleanAddress(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.IsUnspecified() || addr.IsMulticast() {
		return ""
	}
	return addr.String()
}

func cleanName(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || len(name) > maxHostLength {
		return ""
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return ""
		}
	}
	// A name that ends in a number is a mistyped IPv4 address.
	if _, err := strconv.ParseUint(labels[len(labels)-1], 0, 64); err == nil {
		return ""
	}
	return name
}

func isLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(label, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

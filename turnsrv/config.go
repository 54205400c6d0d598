package turnsrv

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
)

const flagCategory = "TURN"

// maxRealmLength is the bound of RFC 8489, section 14.9, in bytes instead of characters.
const maxRealmLength = 127

// Config is everything a Server and an Issuer can be told. Flags and
// environment variables fill the settings; Logger and Registerer are handed in
// by the program.
type Config struct {
	Enabled    bool     // Enabled says whether the node runs a TURN server; only the program looks at it.
	Secrets    []string // Secrets are the TURN-REST shared secrets, newest first; the first one mints.
	Realm      string
	Listen     []string // Listen holds the IP addresses to listen on.
	Port       int      // Port serves UDP and TCP; 0 picks a free one.
	TLSPort    int
	PublicHost string // PublicHost is the host in advertised URLs, whatever host the client used.

	// RelayIP holds the addresses relays are bound to, at most one of each
	// family. Empty means the primary addresses; without an IPv4 address in it
	// that one is the primary, without an IPv6 address there are no IPv6 relays.
	RelayIP []string
	// ExternalIP holds the addresses relays are seen at: one of each family,
	// external/relay pairs, or "auto" alone. Empty means RelayIP.
	ExternalIP   []string
	ExternalSTUN string // ExternalSTUN is host:port of the STUN server that "auto" asks.
	// KubernetesNode is the Node object that "auto" asks the Kubernetes API for,
	// before the STUN server.
	KubernetesNode string

	MinPort        int // MinPort is the lowest relay port.
	MaxPort        int // MaxPort is the highest relay port, inclusive.
	TTL            time.Duration
	AllowPeers     []string // AllowPeers holds CIDRs and addresses that may be peers beside the internet's.
	DenyPeers      []string // DenyPeers holds CIDRs and addresses that must not be peers.
	Bandwidth      int      // Bandwidth is in bytes per second for each direction of an allocation; 0 means no limit.
	TotalBandwidth int      // TotalBandwidth is in bytes per second for all that is relayed; 0 means no limit.
	STUNURL        string   // STUNURL is advertised instead of the derived STUN URL.
	TURNURLs       []string // TURNURLs are advertised instead of the derived TURN URLs.

	Users          []string // Users are static users, "name:password".
	StrictExpiry   bool     // StrictExpiry ends an allocation with its credential.
	StrictChannels bool     // StrictChannels refuses channel numbers that only RFC 5766 has.
	MaxLifetime    time.Duration
	UserQuota      int     // UserQuota bounds the allocations of a user, 0 not at all.
	TotalQuota     int     // TotalQuota bounds all allocations; 0 means by the descriptors of the process.
	AllocateRate   float64 // AllocateRate bounds the Allocate requests a second, 0 not at all.
	UnauthRate     float64 // UnauthRate bounds the answers a second that one source gets without proof.
	MaxPermissions int     // MaxPermissions bounds the permissions of an allocation.
	MaxChannels    int     // MaxChannels bounds the channels of an allocation.
	UDPSockets     int     // UDPSockets is the number of sockets of each UDP listen address; 0 means one a core.
	AddrConns      int     // AddrConns bounds the stream connections of one client address.
	IdleTimeout    time.Duration
	Software       string // Software is sent in SOFTWARE attributes, if it is not empty.

	TLS        *tls.Config           // TLS may be nil, which means neither TLS nor DTLS.
	Logger     *slog.Logger          // Logger may be nil, which discards.
	Registerer prometheus.Registerer // Registerer may be nil, which registers nothing.

	now func() time.Time // now is the clock, of which tests have their own.

	// DataPath relays in batches where the system can. Without it every socket has
	// a goroutine, and every packet its system calls.
	DataPath bool
	// MaxNap is how long a batch may wait for more packets while many come; 0
	// means not at all.
	MaxNap time.Duration

	// ForbiddenPeers are what relays must never reach, whatever AllowPeers says:
	// the node's own services. An unspecified address stands for every address
	// that this machine has when the server starts.
	ForbiddenPeers []netip.AddrPort
}

// DefaultConfig returns the settings of a node that was told nothing.
func DefaultConfig() Config {
	return Config{
		Enabled: true,
		Realm:   "signal",
		Listen:  defaultListen(),
		Port:    3478,
		TLSPort: 5349,
		MinPort: 49152,
		MaxPort: 65535,
		TTL:     time.Hour,

		DataPath: true,
		MaxNap:   defaultMaxNap,

		MaxLifetime:    engineMaxLifetime,
		UserQuota:      32,
		AllocateRate:   500,
		UnauthRate:     50,
		MaxPermissions: 256,
		MaxChannels:    256,
		AddrConns:      500,
		now:            time.Now,
		IdleTimeout:    engineMaxLifetime + time.Minute, // A client may be silent until it refreshes its allocation.
	}
}

// defaultListen is a function because a caller may change the slice it gets.
func defaultListen() []string { return []string{"0.0.0.0", "::"} }

// Flags returns the flags that fill c. Their defaults are what c holds now.
func (c *Config) Flags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{
			Name: "turn-enabled", EnvVars: []string{"TURN_ENABLED"}, Category: flagCategory,
			Usage: "run the STUN/TURN server",
			Value: c.Enabled, Destination: &c.Enabled,
		},
		&cli.GenericFlag{
			Name: "turn-secret", EnvVars: []string{"TURN_SECRET"}, Category: flagCategory,
			Usage: "TURN-REST shared secrets, newest first (comma separated `LIST`)",
			Value: (*list)(&c.Secrets), DefaultText: "generated",
		},
		&cli.StringFlag{
			Name: "turn-realm", EnvVars: []string{"TURN_REALM"}, Category: flagCategory,
			Usage: "authentication realm (`TEXT`)",
			Value: c.Realm, Destination: &c.Realm,
		},
		&cli.GenericFlag{
			Name: "turn-listen", EnvVars: []string{"TURN_LISTEN"}, Category: flagCategory,
			Usage: "listen addresses (comma separated `LIST` of IP addresses)",
			Value: (*list)(&c.Listen),
		},
		&cli.IntFlag{
			Name: "turn-port", EnvVars: []string{"TURN_PORT"}, Category: flagCategory,
			Usage: "port of STUN and TURN over UDP and TCP, 0 picks a free one (`PORT`)",
			Value: c.Port, Destination: &c.Port,
		},
		&cli.IntFlag{
			Name: "turn-tls-port", EnvVars: []string{"TURN_TLS_PORT"}, Category: flagCategory,
			Usage: "port of TURN over TLS and DTLS, which need --tls-cert (`PORT`)",
			Value: c.TLSPort, Destination: &c.TLSPort,
		},
		&cli.IntFlag{
			Name: "turn-udp-sockets", EnvVars: []string{"TURN_UDP_SOCKETS"}, Category: flagCategory,
			Usage: "sockets that share each UDP listen address, 0 for one a core (`NUMBER`)",
			Value: c.UDPSockets, Destination: &c.UDPSockets,
		},
		&cli.BoolFlag{
			Name: "turn-data-path", EnvVars: []string{"TURN_DATA_PATH"}, Category: flagCategory,
			Usage: "relay packets in batches, where the system can; =false is for diagnosis",
			Value: c.DataPath, Destination: &c.DataPath,
		},
		&cli.GenericFlag{
			Name: "turn-max-nap", EnvVars: []string{"TURN_MAX_NAP"}, Category: flagCategory,
			Usage: "how long a batch may wait for more packets while many come, at most 0.01, 0 for not at all (`SECONDS`)",
			Value: (*seconds)(&c.MaxNap),
		},
		&cli.GenericFlag{
			Name: "turn-users", EnvVars: []string{"TURN_USERS"}, Category: flagCategory,
			Usage: "static users beside those with minted credentials (comma separated `LIST` of name:password)",
			Value: (*list)(&c.Users),
		},
		&cli.BoolFlag{
			Name: "turn-strict-expiry", EnvVars: []string{"TURN_STRICT_EXPIRY"}, Category: flagCategory,
			Usage: "end an allocation when the credential that it was made or refreshed with expires",
			Value: c.StrictExpiry, Destination: &c.StrictExpiry,
		},
		&cli.BoolFlag{
			Name: "turn-strict-channels", EnvVars: []string{"TURN_STRICT_CHANNELS"}, Category: flagCategory,
			Usage: "refuse the channel numbers from 0x5000 on, which clients of RFC 5766 use and RFC 8656 reserves",
			Value: c.StrictChannels, Destination: &c.StrictChannels,
		},
		&cli.GenericFlag{
			Name: "turn-max-lifetime", EnvVars: []string{"TURN_MAX_LIFETIME"}, Category: flagCategory,
			Usage: "longest lifetime that an allocation gets without a refresh, from 600 to 3599 (`SECONDS`)",
			Value: (*seconds)(&c.MaxLifetime),
		},
		&cli.IntFlag{
			Name: "turn-user-quota", EnvVars: []string{"TURN_USER_QUOTA"}, Category: flagCategory,
			Usage: "allocations that one user may have, 0 for any number (`NUMBER`)",
			Value: c.UserQuota, Destination: &c.UserQuota,
		},
		&cli.IntFlag{
			Name: "turn-total-quota", EnvVars: []string{"TURN_TOTAL_QUOTA"}, Category: flagCategory,
			Usage: "allocations of all users, 0 for what the descriptors of the process allow (`NUMBER`)",
			Value: c.TotalQuota, Destination: &c.TotalQuota,
		},
		&cli.Float64Flag{
			Name: "turn-allocate-rate", EnvVars: []string{"TURN_ALLOCATE_RATE"}, Category: flagCategory,
			Usage: "new allocations a second, with twice that at once, 0 for any number (`NUMBER`)",
			Value: c.AllocateRate, Destination: &c.AllocateRate,
		},
		&cli.Float64Flag{
			Name: "turn-unauth-rate", EnvVars: []string{"TURN_UNAUTH_RATE"}, Category: flagCategory,
			Usage: "answers a second to one source address (IPv6: /64) that has not proved itself, with twice that at once (`NUMBER`)",
			Value: c.UnauthRate, Destination: &c.UnauthRate,
		},
		&cli.IntFlag{
			Name: "turn-max-permissions", EnvVars: []string{"TURN_MAX_PERMISSIONS"}, Category: flagCategory,
			Usage: "permissions that one allocation may have (`NUMBER`)",
			Value: c.MaxPermissions, Destination: &c.MaxPermissions,
		},
		&cli.IntFlag{
			Name: "turn-max-channels", EnvVars: []string{"TURN_MAX_CHANNELS"}, Category: flagCategory,
			Usage: "channels that one allocation may have (`NUMBER`)",
			Value: c.MaxChannels, Destination: &c.MaxChannels,
		},
		&cli.IntFlag{
			Name: "turn-address-connections", EnvVars: []string{"TURN_ADDRESS_CONNECTIONS"}, Category: flagCategory,
			Usage: "TCP, TLS and DTLS connections that one client address (IPv6: /64) may have (`NUMBER`)",
			Value: c.AddrConns, Destination: &c.AddrConns,
		},
		&cli.GenericFlag{
			Name: "turn-idle-timeout", EnvVars: []string{"TURN_IDLE_TIMEOUT"}, Category: flagCategory,
			Usage: "time after which a TCP, TLS or DTLS connection without a message is closed (`SECONDS`)",
			Value: (*seconds)(&c.IdleTimeout),
		},
		&cli.StringFlag{
			Name: "turn-software", EnvVars: []string{"TURN_SOFTWARE"}, Category: flagCategory,
			Usage: "name that responses carry in SOFTWARE, empty for none (`TEXT`)",
			Value: c.Software, Destination: &c.Software,
		},
		&cli.StringFlag{
			Name: "turn-public-host", EnvVars: []string{"TURN_PUBLIC_HOST"}, Category: flagCategory,
			Usage: "host in the advertised URLs (`HOST` name, IP address, or auto for the external address)",
			Value: c.PublicHost, Destination: &c.PublicHost, DefaultText: "the host the client used",
		},
		&cli.GenericFlag{
			Name: "turn-relay-ip", EnvVars: []string{"TURN_RELAY_IP"}, Category: flagCategory,
			Usage: "addresses that relays are bound to (IPv4 `ADDRESS`, IPv6 address or both, comma separated)",
			Value: (*list)(&c.RelayIP), DefaultText: "primary addresses",
		},
		&cli.GenericFlag{
			Name: "turn-external-ip", EnvVars: []string{"TURN_EXTERNAL_IP"}, Category: flagCategory,
			Usage: "addresses that relays are seen at behind a 1:1 NAT (comma separated `LIST` of IP addresses or external/relay pairs, or auto)",
			Value: (*list)(&c.ExternalIP), DefaultText: "relay addresses",
		},
		&cli.StringFlag{
			Name: "turn-external-stun", EnvVars: []string{"TURN_EXTERNAL_STUN"}, Category: flagCategory,
			Usage: "STUN server that tells the external address when that is auto (`HOST:PORT`)",
			Value: c.ExternalSTUN, Destination: &c.ExternalSTUN,
		},
		&cli.StringFlag{
			Name: "turn-kubernetes-node", EnvVars: []string{"TURN_KUBERNETES_NODE"}, Category: flagCategory,
			Usage: "Kubernetes node whose ExternalIP is the external address when that is auto (`NAME`)",
			Value: c.KubernetesNode, Destination: &c.KubernetesNode,
		},
		&cli.IntFlag{
			Name: "turn-min-port", EnvVars: []string{"TURN_MIN_PORT"}, Category: flagCategory,
			Usage: "lowest relay port (`PORT`)",
			Value: c.MinPort, Destination: &c.MinPort,
		},
		&cli.IntFlag{
			Name: "turn-max-port", EnvVars: []string{"TURN_MAX_PORT"}, Category: flagCategory,
			Usage: "highest relay port (`PORT`)",
			Value: c.MaxPort, Destination: &c.MaxPort,
		},
		&cli.GenericFlag{
			Name: "turn-ttl", EnvVars: []string{"TURN_TTL"}, Category: flagCategory,
			Usage: "time a minted credential lives (`SECONDS`)",
			Value: (*seconds)(&c.TTL),
		},
		&cli.GenericFlag{
			Name: "turn-allow-peer", EnvVars: []string{"TURN_ALLOW_PEER"}, Category: flagCategory,
			Usage: "peers that are allowed beside those of the internet, the most specific wins (comma separated `LIST` of CIDRs)",
			Value: (*list)(&c.AllowPeers),
		},
		&cli.GenericFlag{
			Name: "turn-deny-peer", EnvVars: []string{"TURN_DENY_PEER"}, Category: flagCategory,
			Usage: "peers that are denied, the most specific wins (comma separated `LIST` of CIDRs)",
			Value: (*list)(&c.DenyPeers),
		},
		&cli.IntFlag{
			Name: "turn-bandwidth", EnvVars: []string{"TURN_BANDWIDTH"}, Category: flagCategory,
			Usage: "relayed traffic of an allocation in each direction, 0 is no limit (`BYTES` per second)",
			Value: c.Bandwidth, Destination: &c.Bandwidth,
		},
		&cli.IntFlag{
			Name: "turn-total-bandwidth", EnvVars: []string{"TURN_TOTAL_BANDWIDTH"}, Category: flagCategory,
			Usage: "relayed traffic of the node, both directions together, 0 is no limit (`BYTES` per second)",
			Value: c.TotalBandwidth, Destination: &c.TotalBandwidth,
		},
		&cli.StringFlag{
			Name: "stun-url", EnvVars: []string{"STUN_URL"}, Category: flagCategory,
			Usage: "advertised STUN server instead of this node (`URL`)",
			Value: c.STUNURL, Destination: &c.STUNURL, DefaultText: "derived",
		},
		&cli.GenericFlag{
			Name: "turn-url", EnvVars: []string{"TURN_URL"}, Category: flagCategory,
			Usage: "advertised TURN servers with the same shared secret, instead of this node (comma separated `LIST` of URLs)",
			Value: (*list)(&c.TURNURLs), DefaultText: "derived",
		},
	}
}

// Validate returns every problem of the configuration in one error; each names
// its flag. Missing secrets are not a problem, since the program generates one.
func (c *Config) Validate() error {
	var p problems
	p.add("turn-realm", checkRealm(c.Realm))
	c.validateListen(&p)
	p.add("turn-port", checkPort(c.Port, 0))
	p.add("turn-tls-port", checkPort(c.TLSPort, 0))
	c.validateLimits(&p)
	if c.PublicHost != "" && cleanHost(c.PublicHost) == "" {
		p.addf("turn-public-host", "%q is not a host name or an IP address", c.PublicHost)
	}
	c.validateRelayAddresses(&p)
	c.validateRelayPorts(&p)
	if c.TTL < time.Second {
		p.addf("turn-ttl", "%v is shorter than a second", c.TTL)
	}
	parsePeers(&p, "turn-allow-peer", c.AllowPeers)
	parsePeers(&p, "turn-deny-peer", c.DenyPeers)
	p.add("turn-bandwidth", checkBandwidth(c.Bandwidth))
	p.add("turn-total-bandwidth", checkBandwidth(c.TotalBandwidth))
	if c.STUNURL != "" {
		p.add("stun-url", checkURL(c.STUNURL, stun.SchemeTypeSTUN, stun.SchemeTypeSTUNS))
	}
	for _, url := range c.TURNURLs {
		p.add("turn-url", checkURL(url, stun.SchemeTypeTURN, stun.SchemeTypeTURNS))
	}
	return errors.Join(p...)
}

func (c *Config) validateLimits(p *problems) {
	if c.Port == c.TLSPort && c.Port != 0 {
		p.addf("turn-tls-port", "%d is --turn-port, too", c.TLSPort)
	}
	if c.MaxLifetime < defaultLifetime || c.MaxLifetime > engineMaxLifetime {
		p.addf("turn-max-lifetime", "%v is not between %v and %v", c.MaxLifetime, defaultLifetime, engineMaxLifetime)
	}
	for _, entry := range c.Users {
		if name, secret, ok := strings.Cut(entry, ":"); !ok || name == "" || secret == "" {
			p.addf("turn-users", "an entry is not name:password")
		}
	}
	for flag, value := range map[string]int{
		"turn-user-quota": c.UserQuota, "turn-total-quota": c.TotalQuota, "turn-udp-sockets": c.UDPSockets,
	} {
		if value < 0 {
			p.addf(flag, "%d is negative", value)
		}
	}
	for flag, value := range map[string]int{
		"turn-max-permissions": c.MaxPermissions, "turn-max-channels": c.MaxChannels, "turn-address-connections": c.AddrConns,
	} {
		if value < 1 {
			p.addf(flag, "%d allows nothing, use at least 1", value)
		}
	}
	if c.MaxNap < 0 || c.MaxNap > maxMaxNap {
		p.addf("turn-max-nap", "%v is not between 0 and %v", c.MaxNap, maxMaxNap)
	}
	if c.AllocateRate < 0 {
		p.addf("turn-allocate-rate", "%v is negative", c.AllocateRate)
	}
	if c.UnauthRate <= 0 {
		p.addf("turn-unauth-rate", "%v lets no client in", c.UnauthRate)
	}
	if c.IdleTimeout < time.Second {
		p.addf("turn-idle-timeout", "%v is shorter than a second", c.IdleTimeout)
	}
}

func (c *Config) validateListen(p *problems) {
	if len(c.Listen) == 0 {
		p.addf("turn-listen", "no address given")
	}
	seen := map[netip.Addr]bool{}
	for _, text := range c.Listen {
		addr, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			p.addf("turn-listen", "%q is not an IP address", text)
		case addr.IsMulticast():
			p.addf("turn-listen", "%s is a multicast address", text)
		case seen[addr.Unmap()]:
			p.addf("turn-listen", "%s is listed twice", text)
		default:
			seen[addr.Unmap()] = true
		}
	}
}

func (c *Config) validateRelayAddresses(p *problems) {
	families := map[bool]bool{}
	for _, text := range c.RelayIP {
		addr, err := parseRelayAddress(text)
		switch {
		case err != nil:
			p.add("turn-relay-ip", err)
		case families[addr.Is4()]:
			p.addf("turn-relay-ip", "%s is a second address of its family", text)
		default:
			families[addr.Is4()] = true
		}
	}
	external, err := parseExternal(c.ExternalIP)
	p.add("turn-external-ip", err)
	switch {
	case c.ExternalSTUN != "":
		p.add("turn-external-stun", checkHostPort(c.ExternalSTUN))
	case external.auto && c.KubernetesNode == "":
		p.addf("turn-external-stun", "--turn-external-ip %s needs a STUN server to ask", Auto)
	}
}

func (c *Config) validateRelayPorts(p *problems) {
	errMin, errMax := checkPort(c.MinPort, 1), checkPort(c.MaxPort, 1)
	p.add("turn-min-port", errMin)
	p.add("turn-max-port", errMax)
	if errMin == nil && errMax == nil && c.MinPort > c.MaxPort {
		p.addf("turn-min-port", "%d is above --turn-max-port %d", c.MinPort, c.MaxPort)
	}
}

// transports is what the transports need to know of c, which is valid.
func (c *Config) transports(counters *transportMetrics) transportConfig {
	t := transportConfig{
		port: c.Port, tlsPort: c.TLSPort, tls: c.TLS, udpSockets: c.UDPSockets,
		ipv6Optional: slices.Equal(c.Listen, defaultListen()),
		idleTimeout:  c.IdleTimeout, maxConnsPerAddress: c.AddrConns,
		log: c.logger(), metrics: counters,
	}
	for _, text := range c.Listen {
		if addr, err := netip.ParseAddr(text); err == nil {
			t.listen = append(t.listen, addr)
		}
	}
	return t
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// problems collects what is wrong with a configuration.
type problems []error

func (p *problems) add(flag string, err error) {
	if err != nil {
		*p = append(*p, fmt.Errorf("--%s: %w", flag, err))
	}
}

func (p *problems) addf(flag, format string, args ...any) {
	p.add(flag, fmt.Errorf(format, args...))
}

func checkPort(port, lowest int) error {
	if port < lowest || port > math.MaxUint16 {
		return fmt.Errorf("%d is not a port (%d-65535)", port, lowest)
	}
	return nil
}

func checkRealm(realm string) error {
	switch {
	case realm == "":
		return errors.New("a realm must not be empty")
	case len(realm) > maxRealmLength:
		return fmt.Errorf("a realm of %d bytes is longer than %d", len(realm), maxRealmLength)
	case strings.ContainsFunc(realm, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r == 0x7f }):
		return fmt.Errorf("%q holds a character that a realm must not hold", realm)
	}
	return nil
}

// parseRelayAddress reads an address that relays may be bound to or seen at.
func parseRelayAddress(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", text)
	}
	if addr = addr.Unmap(); addr.IsUnspecified() || addr.IsMulticast() || addr == broadcastIPv4 {
		return netip.Addr{}, fmt.Errorf("%s is not an address that peers can send to", text)
	}
	return addr, nil
}

func checkHostPort(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil || cleanHost(host) == "" {
		return fmt.Errorf("%q is not host:port", text)
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return fmt.Errorf("%q is not host:port", text)
	}
	return nil
}

func checkBandwidth(bytesPerSecond int) error {
	if bytesPerSecond < 0 {
		return fmt.Errorf("%d bytes per second is less than nothing", bytesPerSecond)
	}
	return nil
}

// brackets matches what may follow the address in brackets of a URL. The parser never ends when
// something else does.
var brackets = regexp.MustCompile(`^[^\]]*(\](:.*|\?.*)?)?$`)

func checkURL(url string, schemes ...stun.SchemeType) error {
	var parsed *stun.URI
	err := errors.New("the address in brackets is followed by neither port nor query")
	if brackets.MatchString(url) {
		parsed, err = stun.ParseURI(url)
	}
	if err != nil || !slices.Contains(schemes, parsed.Scheme) {
		return fmt.Errorf("%q is not a %s: or %s: URL", url, schemes[0], schemes[1])
	}
	return nil
}

// list is the value of a comma separated flag; setting it replaces what it
// held, so that a flag wins over the environment instead of adding to it.
type list []string

// Set implements cli.Generic.
func (l *list) Set(text string) error {
	*l = nil
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

// String implements cli.Generic.
func (l *list) String() string {
	if l == nil {
		return ""
	}
	return strings.Join(*l, ",")
}

// seconds is the value of a flag that takes a number of seconds or a Go duration.
type seconds time.Duration

// Set implements cli.Generic.
func (s *seconds) Set(text string) error {
	text = strings.TrimSpace(text)
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a number of seconds", text)
		}
		*s = seconds(d)
		return nil
	}
	if math.IsNaN(number) || math.Abs(number) >= math.MaxInt64/float64(time.Second) {
		return fmt.Errorf("%q is not a number of seconds", text)
	}
	*s = seconds(math.Round(number * float64(time.Second)))
	return nil
}

// String implements cli.Generic.
func (s *seconds) String() string {
	if s == nil {
		return ""
	}
	return strconv.FormatFloat(time.Duration(*s).Seconds(), 'f', -1, 64)
}

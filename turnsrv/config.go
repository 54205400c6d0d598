package turnsrv

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
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
	RelayIP    string // RelayIP is the IPv4 address relays are bound to; empty means the primary address.
	ExternalIP string // ExternalIP is the IPv4 address relays are seen at; empty means RelayIP.
	MinPort    int    // MinPort is the lowest relay port.
	MaxPort    int    // MaxPort is the highest relay port, inclusive.
	TTL        time.Duration
	STUNURL    string   // STUNURL is advertised instead of the derived STUN URL.
	TURNURLs   []string // TURNURLs are advertised instead of the derived TURN URLs.

	Logger     *slog.Logger          // Logger may be nil, which discards.
	Registerer prometheus.Registerer // Registerer may be nil, which registers nothing.
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
	}
}

// defaultListen is a function because a caller may change the slice it gets.
func defaultListen() []string { return []string{"0.0.0.0", "::"} }

// Flags returns the flags that fill c. Their defaults are what c holds now.
func (c *Config) Flags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{
			Name: "turn-enabled", EnvVars: []string{"TURN_ENABLED"}, Category: flagCategory,
			Usage: "run the STUN/TURN server (boolean)",
			Value: c.Enabled, Destination: &c.Enabled,
		},
		&cli.GenericFlag{
			Name: "turn-secret", EnvVars: []string{"TURN_SECRET"}, Category: flagCategory,
			Usage: "TURN-REST shared secrets, newest first (comma separated list)",
			Value: (*list)(&c.Secrets), DefaultText: "generated",
		},
		&cli.StringFlag{
			Name: "turn-realm", EnvVars: []string{"TURN_REALM"}, Category: flagCategory,
			Usage: "authentication realm (text)",
			Value: c.Realm, Destination: &c.Realm,
		},
		&cli.GenericFlag{
			Name: "turn-listen", EnvVars: []string{"TURN_LISTEN"}, Category: flagCategory,
			Usage: "listen addresses (comma separated list of IP addresses)",
			Value: (*list)(&c.Listen),
		},
		&cli.IntFlag{
			Name: "turn-port", EnvVars: []string{"TURN_PORT"}, Category: flagCategory,
			Usage: "port of STUN and TURN over UDP and TCP, 0 picks a free one (port)",
			Value: c.Port, Destination: &c.Port,
		},
		&cli.StringFlag{
			Name: "turn-public-host", EnvVars: []string{"TURN_PUBLIC_HOST"}, Category: flagCategory,
			Usage: "host in the advertised URLs (host name or IP address)",
			Value: c.PublicHost, Destination: &c.PublicHost, DefaultText: "the host the client used",
		},
		&cli.StringFlag{
			Name: "turn-relay-ip", EnvVars: []string{"TURN_RELAY_IP"}, Category: flagCategory,
			Usage: "address that relays are bound to (IPv4 address)",
			Value: c.RelayIP, Destination: &c.RelayIP, DefaultText: "primary address",
		},
		&cli.StringFlag{
			Name: "turn-external-ip", EnvVars: []string{"TURN_EXTERNAL_IP"}, Category: flagCategory,
			Usage: "address that relays are seen at behind a 1:1 NAT (IPv4 address)",
			Value: c.ExternalIP, Destination: &c.ExternalIP, DefaultText: "relay address",
		},
		&cli.IntFlag{
			Name: "turn-min-port", EnvVars: []string{"TURN_MIN_PORT"}, Category: flagCategory,
			Usage: "lowest relay port (port)",
			Value: c.MinPort, Destination: &c.MinPort,
		},
		&cli.IntFlag{
			Name: "turn-max-port", EnvVars: []string{"TURN_MAX_PORT"}, Category: flagCategory,
			Usage: "highest relay port (port)",
			Value: c.MaxPort, Destination: &c.MaxPort,
		},
		&cli.GenericFlag{
			Name: "turn-ttl", EnvVars: []string{"TURN_TTL"}, Category: flagCategory,
			Usage: "time a minted credential lives (seconds)",
			Value: (*seconds)(&c.TTL),
		},
		&cli.StringFlag{
			Name: "stun-url", EnvVars: []string{"STUN_URL"}, Category: flagCategory,
			Usage: "advertised STUN server instead of this node (URL)",
			Value: c.STUNURL, Destination: &c.STUNURL, DefaultText: "derived",
		},
		&cli.GenericFlag{
			Name: "turn-url", EnvVars: []string{"TURN_URL"}, Category: flagCategory,
			Usage: "advertised TURN servers with the same shared secret, instead of this node (comma separated list of URLs)",
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
	if c.PublicHost != "" && cleanHost(c.PublicHost) == "" {
		p.addf("turn-public-host", "%q is not a host name or an IP address", c.PublicHost)
	}
	p.add("turn-relay-ip", checkRelayAddress(c.RelayIP))
	p.add("turn-external-ip", checkRelayAddress(c.ExternalIP))
	c.validateRelayPorts(&p)
	if c.TTL < time.Second {
		p.addf("turn-ttl", "%v is shorter than a second", c.TTL)
	}
	if c.STUNURL != "" {
		p.add("stun-url", checkURL(c.STUNURL, stun.SchemeTypeSTUN, stun.SchemeTypeSTUNS))
	}
	for _, url := range c.TURNURLs {
		p.add("turn-url", checkURL(url, stun.SchemeTypeTURN, stun.SchemeTypeTURNS))
	}
	return errors.Join(p...)
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

func (c *Config) validateRelayPorts(p *problems) {
	errMin, errMax := checkPort(c.MinPort, 1), checkPort(c.MaxPort, 1)
	p.add("turn-min-port", errMin)
	p.add("turn-max-port", errMax)
	if errMin == nil && errMax == nil && c.MinPort > c.MaxPort {
		p.addf("turn-min-port", "%d is above --turn-max-port %d", c.MinPort, c.MaxPort)
	}
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

// checkRelayAddress accepts the empty string, which stands for a derived address.
func checkRelayAddress(text string) error {
	if text == "" {
		return nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Unmap().Is4() {
		return fmt.Errorf("%q is not an IPv4 address", text)
	}
	if addr = addr.Unmap(); addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("%s is not an address that peers can send to", text)
	}
	return nil
}

func checkURL(url string, schemes ...stun.SchemeType) error {
	parsed, err := stun.ParseURI(url)
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

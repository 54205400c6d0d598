package turnsrv

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/peers"
	"cline-meet/signal/turnsrv/internal/relayaddr"
	"cline-meet/signal/turnsrv/internal/transport"
)

// maxRealmLength is the bound of RFC 8489, section 14.9, in bytes instead of characters.
const maxRealmLength = 127

// leastCheckSize has room for the checks of today's browsers.
const leastCheckSize = 256

// maxUDPSockets is more than any machine has cores.
const maxUDPSockets = 1024

// Rates a second that mean something.
const minRate, maxRate = 0.001, 1e9

// Auto as external address asks Kubernetes or a STUN server for it. As public
// host it stands for the external address.
const Auto = relayaddr.Auto

// Config is everything a Server and an Issuer can be told. Flags and
// environment variables fill the settings; Logger and Registerer are handed in
// by the program.
type Config struct {
	Enabled bool     // Enabled says whether the node runs a TURN server; only the program looks at it.
	Secrets []string // Secrets are the TURN-REST shared secrets, newest first; the first one mints.
	Realm   string
	// UsernameOrder is that of the usernames of minted credentials: "expiry:user" or "user:expiry".
	UsernameOrder string
	Listen        []string // Listen holds the IP addresses to listen on.
	Port          int      // Port serves UDP and TCP; 0 picks a free one.
	TLSPort       int
	PublicHost    string // PublicHost is the host in advertised URLs, whatever host the client used.

	// RelayIP holds the addresses relays are bound to, at most one of each
	// family. Empty means the primary addresses; without an IPv4 address in it
	// that one is the primary, without an IPv6 address there are no IPv6 relays.
	RelayIP []string
	// ExternalIP holds the addresses relays are seen at: one of each family,
	// external/relay pairs, or "auto" alone. Empty means RelayIP, or what is found for a private one.
	ExternalIP   []string
	ExternalSTUN string // ExternalSTUN is host:port of the STUN server that "auto" asks.
	// KubernetesNode is the Node object that "auto" asks the Kubernetes API for,
	// before the STUN server.
	KubernetesNode string
	CloudMetadata  bool // CloudMetadata lets the cloud be asked for the external address when no setting has it.

	MinPort        int // MinPort is the lowest relay port.
	MaxPort        int // MaxPort is the highest relay port, inclusive.
	TTL            time.Duration
	AllowPeers     []string // AllowPeers holds CIDRs and addresses that may be peers beside the internet's.
	DenyPeers      []string // DenyPeers holds CIDRs and addresses that must not be peers.
	PeerProof      string   // PeerProof is what peers of clients with marked credentials have to show: "off", "stun" or "room".
	CheckSize      int      // CheckSize bounds the checks of ICE, in bytes, that pass before a peer has consented.
	Bandwidth      int      // Bandwidth is in bytes per second for each direction of an allocation; 0 means no limit.
	TotalBandwidth int      // TotalBandwidth is in bytes per second for all that is relayed; 0 means no limit.
	STUNURL        string   // STUNURL is advertised instead of the derived STUN URL.
	TURNURLs       []string // TURNURLs are advertised instead of the derived TURN URLs.
	TLSURLs        []string // TLSURLs are advertised instead of the derived URL of TURN over TLS.

	Users          []string // Users are static users, "name:password".
	StrictExpiry   bool     // StrictExpiry ends an allocation with its credential.
	CopyDSCP       bool     // CopyDSCP copies the DSCP and the ECN of packets between clients and peers.
	StrictChannels bool     // StrictChannels refuses channel numbers that only RFC 5766 has.
	MaxLifetime    time.Duration
	UserQuota      int      // UserQuota bounds the allocations of a user, 0 not at all.
	AddrQuota      int      // AddrQuota bounds the allocations of a client address, 0 not at all.
	TotalQuota     int      // TotalQuota bounds all allocations; 0 means by the descriptors of the process.
	AllocateRate   float64  // AllocateRate bounds the Allocate requests a second, 0 not at all.
	UnauthRate     float64  // UnauthRate bounds the answers of each kind a second that one UDP source gets without proof.
	MaxPermissions int      // MaxPermissions bounds the permissions of an allocation.
	MaxChannels    int      // MaxChannels bounds the channels of an allocation.
	UDPSockets     int      // UDPSockets is the number of sockets of each UDP listen address; 0 means one a core.
	AlternateIP    []string // AlternateIP holds second addresses of the machine for NAT behaviour discovery: one of each family, or external/local pairs.
	Alternates     []string // Alternates are IP addresses of servers that new clients are told while this one drains.
	AddrConns      int      // AddrConns bounds the stream connections of one client address.
	MaxQueued      int64    // MaxQueued bounds the bytes that wait for all clients of TCP and TLS together, 0 not at all.
	IdleTimeout    time.Duration
	Software       string // Software is sent in SOFTWARE attributes, if it is not empty.

	// OnePort lets TLS and DTLS come to Port, too. What ListenStream makes then has taken TLS off, above a layer of HoldRecords.
	OnePort bool
	// ListenStream makes the listeners of TCP; it may be nil, which means net.Listen.
	ListenStream func(network, address string) (net.Listener, error)

	TLS        *tls.Config            // TLS may be nil, which means neither TLS nor DTLS.
	Covers     func(host string) bool // Covers says whether the certificate is for a host; nil means for every one.
	Logger     *slog.Logger           // Logger may be nil, which discards.
	Registerer prometheus.Registerer  // Registerer may be nil, which registers nothing.

	// MemberPasswords returns the ICE passwords of the members of a room, in which the user is that a credential was minted for,
	// whose ufrag this is; more than one while it changes, none while it is not known. It is asked for each check that awaits a
	// proof, with PeerProof "room" alone, by any goroutine, and must not wait.
	MemberPasswords func(user, ufrag string) [][]byte

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
		Enabled:       true,
		Realm:         "signal",
		UsernameOrder: string(auth.ExpiryUser),
		Listen:        defaultListen(),
		Port:          3478,
		TLSPort:       5349,
		MinPort:       49152,
		MaxPort:       65535,
		TTL:           time.Hour,

		CloudMetadata: true,
		PeerProof:     consent.STUN.String(),
		CheckSize:     548,

		CopyDSCP: true,
		DataPath: true,
		MaxNap:   batch.DefaultNap,

		MaxLifetime:    engine.MaxLifetime,
		UserQuota:      32,
		AddrQuota:      setting.Derived,
		AllocateRate:   2000,
		UnauthRate:     50,
		MaxPermissions: 256,
		MaxChannels:    256,
		AddrConns:      1152, // Each of officeUsers has 9 peers, and for each one connection over TCP and one over TLS.
		now:            time.Now,
		IdleTimeout:    engine.MaxLifetime + time.Minute, // A client may be silent until it refreshes its allocation.
	}
}

// defaultListen is a function because a caller may change the slice it gets.
func defaultListen() []string { return []string{"0.0.0.0", "::"} }

// Settings returns the table of what flags, the environment and the config file fill c with.
func (c *Config) Settings() setting.Table {
	return setting.Category("TURN",
		setting.Bool("turn-enabled", &c.Enabled, "run the STUN/TURN server"),
		setting.Secrets("turn-secret", &c.Secrets, setting.LeastSecret, "TURN-REST shared secrets of at least 16 characters, newest first (comma separated `LIST`)").Otherwise("generated"),
		setting.Text("turn-realm", &c.Realm, "authentication realm (`TEXT`)"),
		setting.Choice("turn-username-order", &c.UsernameOrder, []string{string(auth.ExpiryUser), string(auth.UserExpiry)}, "what comes first in usernames of minted credentials (`ORDER`: expiry:user or user:expiry)"),
		setting.List("turn-listen", &c.Listen, "listen addresses (comma separated `LIST` of IP addresses)"),
		setting.Port("turn-port", &c.Port, 0, "port of STUN and TURN over UDP and TCP, 0 picks a free one (`PORT`)"),
		setting.Port("turn-tls-port", &c.TLSPort, 0, "port of TURN over TLS and DTLS, which need a certificate (`PORT`)"),
		setting.Int("turn-udp-sockets", &c.UDPSockets, 0, maxUDPSockets, "sockets that share each UDP listen address, 0 for one a core (`NUMBER`)"),
		setting.Bool("turn-data-path", &c.DataPath, "relay packets in batches, where the system can; =false is for diagnosis"),
		setting.Duration("turn-max-nap", &c.MaxNap, 0, batch.LongestNap, "how long a batch may wait for more packets while many come, at most 0.01, 0 for not at all (`SECONDS`)"),
		setting.Bool("turn-copy-dscp", &c.CopyDSCP, "give packets to peers and to clients of UDP and DTLS the DSCP and the ECN that they came with"),
		setting.List("turn-users", &c.Users, "static users beside those with minted credentials (comma separated `LIST` of name:password)"),
		setting.Bool("turn-strict-expiry", &c.StrictExpiry, "end an allocation when the credential that it was made or refreshed with expires"),
		setting.Bool("turn-strict-channels", &c.StrictChannels, "refuse the channel numbers from 0x5000 on, which clients of RFC 5766 use and RFC 8656 reserves"),
		setting.Duration("turn-max-lifetime", &c.MaxLifetime, defaultLifetime, engine.MaxLifetime, "longest lifetime that an allocation gets without a refresh, from 600 to 3599 (`SECONDS`)"),
		setting.Int("turn-user-quota", &c.UserQuota, 0, setting.Most, "allocations that one user may have, 0 for any number (`NUMBER`)"),
		setting.Int("turn-address-quota", &c.AddrQuota, 0, setting.Most, "allocations that one client address (IPv6: /64) may have, at most half of all, 0 for any number (`NUMBER`)").OrDerived("64 times --turn-user-quota"),
		setting.Int("turn-total-quota", &c.TotalQuota, 0, setting.Most, "allocations of all users, 0 for what the descriptors of the process allow (`NUMBER`)"),
		setting.Rate("turn-allocate-rate", &c.AllocateRate, 0, maxRate, "new allocations a second, with twice that at once, of which one client address gets half, 0 for any number (`NUMBER`)"),
		setting.Rate("turn-unauth-rate", &c.UnauthRate, minRate, maxRate, "answers of each kind a second to one UDP source address (IPv6: /64) that has not proved itself, with twice that at once; a request that comes again is answered (`NUMBER`)"),
		setting.List("turn-alternate-ip", &c.AlternateIP, "second addresses of this machine, which turn NAT behaviour discovery (RFC 5780) on, over UDP at --turn-port and the port after it (comma separated `LIST` of IP addresses or external/local pairs, one of each family)"),
		setting.List("turn-alternate-server", &c.Alternates, "TURN servers that new clients are sent to, at the port that they asked, while this one drains (comma separated `LIST` of IP addresses)"),
		setting.Int("turn-max-permissions", &c.MaxPermissions, 1, setting.Most, "permissions that one allocation may have (`NUMBER`)"),
		setting.Int("turn-max-channels", &c.MaxChannels, 1, setting.Most, "channels that one allocation may have (`NUMBER`)"),
		setting.Int("turn-address-connections", &c.AddrConns, 1, setting.Most, "TCP, TLS and DTLS connections that one client address (IPv6: /64) may have (`NUMBER`)"),
		setting.Duration("turn-idle-timeout", &c.IdleTimeout, time.Second, setting.Longest, "time after which a TCP, TLS or DTLS connection without a message is closed (`SECONDS`)"),
		setting.Text("turn-software", &c.Software, "name that responses carry in SOFTWARE, empty for none (`TEXT`)"),
		setting.Text("turn-public-host", &c.PublicHost, "host in the advertised URLs (`HOST` name, in which {node} and {address} are filled in, IP address, or auto for the external address)").Otherwise("the host the client used"),
		setting.List("turn-relay-ip", &c.RelayIP, "addresses that relays are bound to (IPv4 `ADDRESS`, IPv6 address or both, comma separated)").Otherwise("primary addresses"),
		setting.List("turn-external-ip", &c.ExternalIP, "addresses that relays are seen at behind a 1:1 NAT (comma separated `LIST` of IP addresses or external/relay pairs, or auto)").Otherwise("relay addresses"),
		setting.Text("turn-external-stun", &c.ExternalSTUN, "STUN server that tells the external address when that is auto, or not set and nobody else knows it (`HOST:PORT`)"),
		setting.Text("turn-kubernetes-node", &c.KubernetesNode, "Kubernetes node whose ExternalIP is the external address when that is auto or not set (`NAME`)"),
		setting.Bool("turn-cloud-metadata", &c.CloudMetadata, "ask the metadata service of the cloud, at 169.254.169.254 alone, for the external address when that is not set"),
		setting.Port("turn-min-port", &c.MinPort, 1, "lowest relay port (`PORT`)"),
		setting.Port("turn-max-port", &c.MaxPort, 1, "highest relay port (`PORT`)"),
		setting.Duration("turn-ttl", &c.TTL, time.Second, setting.Longest, "time a minted credential lives (`SECONDS`)"),
		setting.List("turn-allow-peer", &c.AllowPeers, "peers that are allowed beside those of the internet, the most specific wins (comma separated `LIST` of CIDRs)"),
		setting.List("turn-deny-peer", &c.DenyPeers, "peers that are denied, the most specific wins (comma separated `LIST` of CIDRs)"),
		setting.Choice("turn-peer-proof", &c.PeerProof, consent.Modes(), "what peers must show before relays of the signaling's users send to them: an answer to the user's check of ICE, with room a member's (`MODE`: off, stun or room)"),
		setting.Int("turn-check-size", &c.CheckSize, leastCheckSize, maxPeerDatagram, "largest check of ICE that passes to and from peers that have shown nothing yet (`BYTES`)"),
		setting.Int("turn-bandwidth", &c.Bandwidth, 0, setting.Most, "relayed traffic of an allocation in each direction, 0 is no limit (`BYTES` per second)"),
		setting.Int("turn-total-bandwidth", &c.TotalBandwidth, 0, setting.Most, "relayed traffic of the node, both directions together, 0 is no limit (`BYTES` per second)"),
		setting.Text("stun-url", &c.STUNURL, "advertised STUN server instead of this node (`URL`)").Otherwise("derived"),
		setting.List("turn-url", &c.TURNURLs, "advertised TURN servers with the same shared secret, instead of this node (comma separated `LIST` of URLs)").Otherwise("derived"),
		setting.List("turn-tls-url", &c.TLSURLs, "advertised for TURN over TLS instead of --turn-tls-port, as those of a balancer that ends TLS before --turn-port (comma separated `LIST` of turns: URLs)").Otherwise("derived"),
	)
}

// Validate returns every problem of the configuration in one error; each names
// its flag. Missing secrets are not a problem, since the program generates one.
func (c *Config) Validate() error {
	var p setting.Problems
	c.Settings().Check(&p)
	p.Add("turn-realm", checkRealm(c.Realm))
	c.validateListen(&p)
	p.Check(c.Port != c.TLSPort || c.Port == 0 || c.OnePort, "turn-tls-port", "%d is --turn-port, too: choose another, or --one-port for all", c.TLSPort)
	p.Add("turn-public-host", checkPublicHost(c.PublicHost))
	c.validateRelayAddresses(&p)
	c.validateAlternates(&p)
	c.validateAlternateIP(&p)
	p.Check(c.MinPort <= c.MaxPort, "turn-min-port", "%d is above --turn-max-port %d", c.MinPort, c.MaxPort)
	c.validateUsers(&p)
	c.peers().Check(&p)
	if c.STUNURL != "" {
		p.Add("stun-url", checkURL(c.STUNURL, stun.SchemeTypeSTUN, stun.SchemeTypeSTUNS))
	}
	for _, url := range c.TURNURLs {
		p.Add("turn-url", checkURL(url, stun.SchemeTypeTURN, stun.SchemeTypeTURNS))
	}
	for _, url := range c.TLSURLs {
		p.Add("turn-tls-url", checkURL(url, stun.SchemeTypeTURNS))
	}
	return p.Err()
}

// validateUsers names no entry that may be a password.
func (c *Config) validateUsers(p *setting.Problems) {
	seen := map[string]bool{}
	for i, entry := range c.Users {
		name, secret, ok := strings.Cut(entry, ":")
		if !ok || name == "" || secret == "" {
			p.Addf("turn-users", "entry %d of %d is not name:password", i+1, len(c.Users))
			continue
		}
		p.Check(!seen[name], "turn-users", "%q is there twice", name)
		seen[name] = true
	}
}

func (c *Config) validateListen(p *setting.Problems) {
	if len(c.Listen) == 0 {
		p.Addf("turn-listen", "no address given")
	}
	seen := map[netip.Addr]bool{}
	for _, text := range c.Listen {
		addr, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			p.Add("turn-listen", setting.NotAnAddress(text))
		case addr.IsMulticast():
			p.Addf("turn-listen", "%s is a multicast address", text)
		case seen[addr.Unmap()]:
			p.Addf("turn-listen", "%s is listed twice", text)
		default:
			seen[addr.Unmap()] = true
		}
	}
}

func (c *Config) validateAlternates(p *setting.Problems) {
	for _, text := range c.Alternates {
		if addr, err := netip.ParseAddr(text); err != nil || addr.Zone() != "" || !relayaddr.IsDestination(addr) {
			p.Addf("turn-alternate-server", "%q is not the IP address of a server", text)
		}
	}
}

func (c *Config) validateRelayAddresses(p *setting.Problems) {
	families := map[bool]bool{}
	for _, text := range c.RelayIP {
		addr, err := relayaddr.Parse(text)
		switch {
		case err != nil:
			p.Add("turn-relay-ip", err)
		case families[addr.Is4()]:
			p.Addf("turn-relay-ip", "%s is a second address of its family", text)
		default:
			families[addr.Is4()] = true
		}
	}
	external, err := relayaddr.ParseExternal(c.ExternalIP)
	p.Add("turn-external-ip", err)
	switch {
	case c.ExternalSTUN != "":
		p.Add("turn-external-stun", checkHostPort(c.ExternalSTUN))
	case external.Asks() && c.KubernetesNode == "":
		p.Addf("turn-external-stun", "--turn-external-ip %s needs a STUN server to ask", Auto)
	}
	p.Check(len(families) == 0 || families[false] || !external.NamesIPv6(), "turn-external-ip",
		"an IPv6 address needs an IPv6 relay address: add one to --turn-relay-ip %s, or leave it out", strings.Join(c.RelayIP, ","))
}

// relayAddresses is what the search for the relay addresses needs to know of c.
func (c *Config) relayAddresses() relayaddr.Config {
	return relayaddr.Config{
		Relays: c.RelayIP, External: c.ExternalIP, STUN: c.ExternalSTUN, KubernetesNode: c.KubernetesNode, Metadata: c.CloudMetadata, Log: c.logger(),
	}
}

// auth is what it takes to prove requests.
func (c *Config) auth() auth.Config {
	return auth.Config{Realm: c.Realm, Order: auth.Order(c.UsernameOrder), Secrets: c.Secrets, Users: c.Users, Strict: c.StrictExpiry, TTL: c.TTL}
}

// ProvesMembers reports whether peers must prove an ice-pwd of a member of the room, for which MemberPasswords is asked.
func (c *Config) ProvesMembers() bool { return consent.ModeOf(c.PeerProof) == consent.Room }

// peers is what the policy for peers needs to know of c.
func (c *Config) peers() peers.Config {
	return peers.Config{
		Allow: c.AllowPeers, Deny: c.DenyPeers, Forbidden: slices.Clone(c.ForbiddenPeers), MinPort: c.MinPort, MaxPort: c.MaxPort,
	}
}

// transports is what the transports need to know of c, which is valid.
func (c *Config) transports(counters *transport.Metrics) transport.Config {
	t := transport.Config{
		Port: c.Port, TLSPort: c.TLSPort, OnePort: c.OnePort, Stream: c.ListenStream, TLS: c.TLS, UDPSockets: c.UDPSockets,
		IPv6Optional: slices.Equal(c.Listen, defaultListen()),
		IdleTimeout:  c.IdleTimeout, ConnsOfAddress: c.AddrConns, Marks: c.CopyDSCP, MaxQueued: c.MaxQueued, Gather: c.MaxNap > 0,
		Alternates: c.alternateAddresses(),
		Log:        c.logger(), DTLSLogs: engine.Logs(c.logger()), Metrics: counters,
	}
	for _, text := range c.Listen {
		if addr, err := netip.ParseAddr(text); err == nil {
			t.Listen = append(t.Listen, addr)
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
		var names []string
		for _, s := range schemes {
			names = append(names, s.String()+":")
		}
		return fmt.Errorf("%q is not a %s URL", url, strings.Join(names, " or "))
	}
	return nil
}

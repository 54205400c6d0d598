package check

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/turnclient"
)

// relays is the checks of a STUN or TURN server.
type relays struct {
	plan
	o *Options
	server
	reach

	told told // told is what was said in the room of the site, if there is one.

	own    *turnclient.Client // own has the allocation of the check of that name,
	ownVia *attempt           // which was made in this way.
}

// server is a STUN or TURN server that is to be checked.
type server struct {
	relayURL
	who *turnclient.Credential // who is nil when nothing is known that the server would take.
}

// newRelays makes the checks of a server. A site whose checks found it explains what both have in common.
func newRelays(o *Options, server server, from *site) *relays {
	r := &relays{o: o, server: server, told: newTold(), plan: plan{target: server.String()}}
	if from != nil {
		r.told = from.told
	}
	r.reach = reach{host: server.host, ways: server.endpoints, open: r.dial}
	name := r.add("name", "add an A record, or mend --turn-public-host", r.resolve(o))
	there := r.add("server", "start it, or open the port in the firewall", r.try, name)
	v4 := r.add("IPv4", "open the ports there too, or take the A record away", r.family(false), there)
	v6 := r.add("IPv6", "open the ports there too, or take the AAAA record away", r.family(true), there)
	if from != nil {
		v4.explainedBy(from.ipv4)
		v6.explainedBy(from.ipv6)
	}
	ways := r.addWays(there)
	if !server.relays {
		return r
	}
	r.add("strangers", "let nobody relay without a credential (coturn: lt-cred-mech or use-auth-secret)", r.strangers, there)
	allocation := r.add("allocation", "", r.allocation, there)
	place := r.add("relay address", "", r.place, allocation).explainedBy(ways[overUDP]...)
	r.add("peers", "deny them (coturn: denied-peer-ip); a node does unless --turn-allow-peer opens them", r.peers, allocation)
	var before []*step
	for _, way := range server.endpoints {
		s := r.add("relay over "+way.over, "", r.echo(way.over, turnclient.IPv4), append(ways[way.over], allocation)...)
		s.explainedBy(place).explainedBy(before...)
		before = append(before, s)
	}
	r.add("relay of IPv6", "", r.echo("", turnclient.IPv6), allocation).explainedBy(append(before, v6)...)
	return r
}

// addWays adds a check for each way, and one of the certificate that it shows. What blocks TCP blocks TLS.
func (r *relays) addWays(there *step) map[string][]*step {
	ways, secure := map[string][]*step{}, []string(nil)
	for _, way := range r.endpoints {
		remedy := fmt.Sprintf("open %s in the firewall", way)
		ways[way.over] = []*step{r.add(way.over, remedy, r.by(way), there)}
		switch way.over {
		case overTLS, overDTLS:
			secure = append(secure, way.over)
		}
	}
	for over, beneath := range map[string]string{overTLS: overTCP, overDTLS: overUDP} {
		if len(ways[over]) > 0 {
			ways[over][0].explainedBy(ways[beneath]...)
		}
	}
	if len(secure) > 0 {
		trusted := r.add("certificate", "", r.certificates(r.o, secure...), there)
		for _, over := range secure {
			ways[over] = append(ways[over], trusted)
		}
	}
	return ways
}

func (r *relays) dial(ctx context.Context, at netip.Addr, way endpoint) (*link, error) {
	var who turnclient.Credential
	if r.who != nil {
		who = *r.who
	}
	return dialSTUN(ctx, r.host, at, way, who)
}

// again opens another connection in the way of an attempt that succeeded. The end of ctx closes it.
func (r *relays) again(ctx context.Context, a *attempt) (*turnclient.Client, func(), error) {
	l, err := r.dial(ctx, a.addr, a.way)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, l.close)
	return l.turn, func() { stop(); l.close() }, nil
}

// strangers is the check that nobody relays without a credential, or with a wrong one.
func (r *relays) strangers(ctx context.Context) (string, error) {
	c, end, err := r.again(ctx, r.good("")[0])
	if err != nil {
		return "", err
	}
	defer end()
	unproven := c.AllocateUnproven()
	if unproven == nil {
		_ = c.Release()
		return "", errors.New("anybody may relay, without a credential")
	}
	c.Identify(turnclient.Mint(rand.Text(), "check", r.o.now(), time.Hour))
	wrong := c.Allocate()
	if wrong == nil {
		_ = c.Release()
		return "", errors.New("anybody may relay, with a wrong credential")
	}
	return "refused", cmp.Or(unlessRefused(unproven), unlessRefused(wrong))
}

// unlessRefused says that a server has not refused what it is to refuse, but failed in another way, which proves nothing.
func unlessRefused(err error) error {
	if errors.As(err, new(*turnclient.Refusal)) {
		return nil
	}
	return untried("the server does not say: " + explain(err))
}

// allocation is the check whether the credential opens a relay.
func (r *relays) allocation(ctx context.Context) (string, error) {
	if r.who == nil {
		return "", untried("give --user and --password, or --secret")
	}
	r.ownVia = r.good("")[0]
	c, _, err := r.again(ctx, r.ownVia)
	if err != nil {
		return "", err
	}
	r.own = c
	if err := c.Allocate(); err != nil {
		return "", refusedRelay(err)
	}
	return c.Relay.String(), nil
}

// refusedRelay says what keeps a server from giving a relay.
func refusedRelay(err error) error {
	var refusal *turnclient.Refusal
	if !errors.As(err, &refusal) {
		return errors.New(explain(err))
	}
	reason := map[stun.ErrorCode]*fault{
		stun.CodeUnauthorized:         {"the credential is refused (401)", "the secret (--turn-secret), or user, password and realm, must be those of the TURN server, and the clocks must agree"},
		stun.CodeAllocQuotaReached:    {"the user has too many relays (486)", "raise --turn-user-quota, or wait until relays that nobody uses have expired"},
		stun.CodeInsufficientCapacity: {"no relay is free (508)", "widen --turn-min-port to --turn-max-port, and raise --turn-total-quota"},
		stun.CodeForbidden:            {"relays are forbidden (403)", "give a credential that may relay"},
	}[refusal.Code]
	if reason == nil {
		return err
	}
	return reason
}

// place is the check whether a relay can be reached where it is said to be.
func (r *relays) place(ctx context.Context) (string, error) {
	relay := r.own.Relay
	const remedy = "set --turn-external-ip (coturn: external-ip) to the address at which the machine is reached, and open the UDP ports of relays there"
	if special(relay.Addr()) && !special(r.ownVia.addr) {
		return "", faultf(remedy, "%s is private: nobody elsewhere reaches it", relay.Addr())
	}
	for _, a := range r.good("") {
		if a.addr.BitLen() == relay.Addr().BitLen() {
			return r.reached(ctx, a.conn.seen, remedy)
		}
	}
	return "", untried("relays are of another family than the server")
}

// knocks is how often a packet is sent that may be lost.
const knocks = 8

// reached sends packets to the relay from outside, as a peer does that is seen at an address.
func (r *relays) reached(ctx context.Context, from netip.AddrPort, remedy string) (string, error) {
	if from.Addr() == r.own.Relay.Addr() {
		return "", untried("the server is this machine: try from elsewhere")
	}
	if err := r.own.Permit(from); turnclient.Refused(err, stun.CodeForbidden) {
		return "", untried("the server denies peers where this machine is")
	} else if err != nil {
		return "", err
	}
	socket, err := new(net.Dialer).DialContext(ctx, "udp", r.own.Relay.String())
	if err != nil {
		return "", untried("this network has no way to " + r.own.Relay.String())
	}
	defer func() { _ = socket.Close() }()
	word, err := r.told.check() // A relay may pass nothing else of a peer at first.
	if err != nil {
		return "", err
	}
	began := time.Now()
	for range knocks {
		_, _ = socket.Write(word.Raw)
		data, err := r.own.Receive(time.Now().Add(patience / knocks))
		if err == nil && string(data) == string(word.Raw) {
			return fmt.Sprintf("%s, reached in %s", r.own.Relay.Addr(), round(time.Since(began))), nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return "", faultf(remedy, "nothing arrives that is sent to the relay at %s", r.own.Relay)
}

// special says whether an address is of one network only.
func special(addr netip.Addr) bool {
	return addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified()
}

// specialPeers lead into the machine or the cloud that the server runs in.
var specialPeers = []string{"127.0.0.1", "0.0.0.0", "169.254.169.254"}

// peers is the check that relays lead nowhere inside.
func (r *relays) peers(ctx context.Context) (string, error) {
	if r.own.Relay.Addr().Is6() {
		return "", untried("relays are of IPv6")
	}
	c, end, err := r.again(ctx, r.ownVia)
	if err != nil {
		return "", err
	}
	defer end()
	if err := c.Allocate(); err != nil {
		return "", refusedRelay(err)
	}
	defer func() { _ = c.Release() }()
	var open []string
	var unsaid error
	for _, peer := range specialPeers {
		addr := netip.MustParseAddr(peer)
		if addr.IsLoopback() && r.ownVia.addr.IsLoopback() {
			continue // The server is for this machine alone.
		}
		if err := c.Permit(netip.AddrPortFrom(addr, 9)); err == nil {
			open = append(open, peer)
		} else {
			unsaid = cmp.Or(unsaid, unlessRefused(err))
		}
	}
	if len(open) > 0 {
		return "", fmt.Errorf("relays lead to %s", strings.Join(open, ", "))
	}
	return strings.Join(specialPeers, ", ") + " are refused", unsaid
}

// finish releases and closes what the checks have opened.
func (r *relays) finish() {
	if r.own != nil && r.own.Relay.IsValid() {
		r.own.Attempts = 1
		_ = r.own.Release()
	}
	if r.own != nil {
		r.own.Close()
	}
	r.close()
}

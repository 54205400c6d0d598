package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
	"cline-meet/signal/turnsrv/turnclient"
)

// deployment is one that real servers make up.
type deployment struct {
	name  string
	build func(t *testing.T, o *Options) (targets []string)
	wrong string // wrong is the check that finds it, empty for none.
	says  string // says matches what it finds.
}

// deploymentTime is what a check may take at most.
const deploymentTime = 10 * time.Second

// TestDeployments checks deployments of which one thing is wrong, or nothing: that alone is marked.
func TestDeployments(t *testing.T) {
	t.Setenv("SIGNAL_EXECUTABLE", systemtest.Executable(t)) // There is no way to modules from a network of its own.
	systemtest.InOwnNetwork(t, func(t *testing.T) {
		layNetwork(t)
		slowdown := systemtest.Slowdown(t)
		for _, d := range append(healthy, broken...) {
			t.Run(d.name, func(t *testing.T) {
				o := Options{Timeout: 9 * time.Second, Secret: secret, lookup: lookup}
				targets := d.build(t, &o)
				// A check gives up what takes longer than it would over a good network, as it may on a machine that is busy with other things.
				systemtest.Until(t, "it finds what is wrong, and nothing else", func() error {
					began := time.Now()
					results, err := Run(t.Context(), o, targets...)
					if err != nil {
						t.Fatal(err)
					}
					if took := time.Since(began); took > deploymentTime*time.Duration(slowdown()) {
						t.Errorf("took %v", took)
					}
					if err = d.judge(results); err != nil && slowdown() == 1 {
						t.Fatal(err)
					}
					return err
				})
			})
		}
	})
}

// judge looks for the one mark.
func (d deployment) judge(results []Result) error {
	var problems []error
	found := 0
	for _, r := range results {
		if r.Mark != Wrong {
			continue
		}
		if found++; r.Name != d.wrong || !regexp.MustCompile(d.says).MatchString(r.Detail) || r.Remedy == "" {
			problems = append(problems, fmt.Errorf("%s is said to be wrong: %s → %s; want %s: %s", r.Name, r.Detail, r.Remedy, d.wrong, d.says))
		}
	}
	if want := min(len(d.wrong), 1); found != want {
		problems = append(problems, fmt.Errorf("%d marks, want %d", found, want))
	}
	if len(problems) > 0 {
		var table bytes.Buffer
		_ = Print(&table, results)
		problems = append(problems, errors.New(table.String()))
	}
	return errors.Join(problems...)
}

// lookup is the name service of the network.
func lookup(_ context.Context, host string) ([]netip.Addr, error) {
	found := map[string][]string{domain: {east, east6}, "two." + domain: {east, west}, "half." + domain: {east, nowhere}, "v4." + domain: {east}}[host]
	if len(found) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var addrs []netip.Addr
	for _, text := range found {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs, nil
}

// answers says whether a STUN server does.
func answers(addr string, port int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	l, err := dialSTUN(ctx, addr, netip.MustParseAddr(addr), endpoint{over: overUDP, port: port}, turnclient.Credential{})
	if err == nil {
		l.close()
	}
	return err
}

func listens(addr string, port int) error {
	conn, err := net.Dial("tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
	if err == nil {
		_ = conn.Close()
	}
	return err
}

var healthy = []deployment{
	{"Ours", func(t *testing.T, _ *Options) []string { return []string{"http://" + node(t, east).HTTP} }, "", ""},
	{"OursForMembersOfTheRoom", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--turn-peer-proof", "room").HTTP}
	}, "", ""},
	{"OursWithTLS", func(t *testing.T, o *Options) []string {
		n := dual(t, tlsFlags(t, o, systemtest.Certificate(t, domain))...)
		return []string{at(n, "https", domain)}
	}, "", ""},
	{"OursAsTURN", func(t *testing.T, _ *Options) []string {
		n := node(t, east, "--turn-secret", secret)
		return []string{turnURL(n, east), "stun:" + turnURL(n, east)[len("turn:"):]}
	}, "", ""},
	{"OursOnLoopback", func(t *testing.T, _ *Options) []string { return []string{"http://" + node(t, "127.0.0.1").HTTP} }, "", ""},
	{"BehindNginx", func(t *testing.T, _ *Options) []string { return []string{nginx(t, node(t, east).HTTP, upgrades)} }, "", ""},
	{"TwoNodes", func(t *testing.T, _ *Options) []string {
		redis := strconv.Itoa(redistest.Start(t).Port())
		one := node(t, east, "--redis-host", "127.0.0.1", "--redis-port", redis)
		_, port, _ := net.SplitHostPort(one.HTTP)
		node(t, west, "--redis-host", "127.0.0.1", "--redis-port", redis, "--server-port", port, "--turn-port", strconv.Itoa(one.Turn))
		return []string{at(one, "http", "two."+domain)}
	}, "", ""},
	{"Coturn", func(t *testing.T, _ *Options) []string {
		return []string{turnAt(east, coturn(t, east, shared...))}
	}, "", ""},
	{"CoturnWithTLS", func(t *testing.T, o *Options) []string {
		files, tlsPort := tlsFlags(t, o, systemtest.Certificate(t, "v4."+domain)), systemtest.FreePort(t)
		coturn(t, east, append(shared[:3:3], "--cert="+files[1], "--pkey="+files[3], "--tls-listening-port="+strconv.Itoa(tlsPort))...)
		return []string{fmt.Sprintf("turns:%s:%d", "v4."+domain, tlsPort)}
	}, "", ""},
	{"CoturnWithUser", func(t *testing.T, o *Options) []string {
		o.Secret, o.User, o.Password = "", "alice", "wonderland"
		return []string{turnAt(east, coturn(t, east, append(shared[2:], "--lt-cred-mech", "--user=alice:wonderland")...))}
	}, "", ""},
	{"WithoutCredential", func(t *testing.T, o *Options) []string {
		o.Secret = ""
		return []string{turnURL(node(t, east), east)}
	}, "", ""},
	{"WithoutToken", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--auth-secret", "the secret with which tokens are signed").HTTP}
	}, "", ""},
}

var broken = []deployment{
	{"UDPBlocked", func(t *testing.T, _ *Options) []string {
		n := node(t, east)
		blocked(t, "iptables", "-p", "udp", "--dport", strconv.Itoa(n.Turn))
		return []string{"http://" + n.HTTP}
	}, "UDP", "no answer"},
	{"TCPBlocked", func(t *testing.T, o *Options) []string {
		n := node(t, east, tlsFlags(t, o, systemtest.Certificate(t, "v4."+domain))...)
		blocked(t, "iptables", "-p", "tcp", "--dport", strconv.Itoa(n.Turn))
		return []string{at(n, "https", "v4."+domain)}
	}, "TCP", "no answer"},
	{"UDPBlockedForCoturn", func(t *testing.T, _ *Options) []string {
		port := coturn(t, east, shared...)
		blocked(t, "iptables", "-p", "udp", "--dport", strconv.Itoa(port))
		return []string{turnAt(east, port)}
	}, "UDP", "no answer"},
	{"RelayPortsBlocked", func(t *testing.T, _ *Options) []string {
		n := node(t, east, "--turn-min-port", "20000", "--turn-max-port", "20999")
		blocked(t, "iptables", "-p", "udp", "--dport", "20000:20999")
		return []string{"http://" + n.HTTP}
	}, "relay address", "nothing arrives"},
	{"RelayPortsOfCoturnBlocked", func(t *testing.T, _ *Options) []string {
		port := coturn(t, east, shared...)
		blocked(t, "iptables", "-p", "udp", "--dport", "20000:20999")
		return []string{turnAt(east, port)}
	}, "relay address", "nothing arrives"},
	{"WrongExternalAddress", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--turn-external-ip", nowhere).HTTP}
	}, "relay address", "nothing arrives.*" + nowhere},
	{"WrongExternalAddressOfCoturn", func(t *testing.T, _ *Options) []string {
		return []string{turnAt(east, coturn(t, east, append(shared, "--external-ip="+nowhere)...))}
	}, "relay address", "nothing arrives"},
	{"PrivateAddress", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--turn-relay-ip", inside).HTTP}
	}, "relay address", inside + " is private"},
	{"WrongSecret", func(t *testing.T, _ *Options) []string {
		relay := node(t, west, "--turn-secret", "another-secret-than-that")
		return []string{"http://" + node(t, east, "--turn-enabled=false", "--turn-url", turnURL(relay, west), "--turn-secret", secret).HTTP}
	}, "allocation", "401"},
	{"WrongSecretOfCoturn", func(t *testing.T, o *Options) []string {
		o.Secret = "another-secret-than-that"
		return []string{turnAt(east, coturn(t, east, shared...))}
	}, "allocation", "401"},
	{"WrongRealmOfCoturn", func(t *testing.T, o *Options) []string {
		o.Secret, o.User, o.Password = "", "alice", "wonderland"
		key := stun.NewLongTermIntegrity("alice", "elsewhere", "wonderland")
		return []string{turnAt(east, coturn(t, east, append(shared[2:], "--lt-cred-mech", fmt.Sprintf("--user=alice:0x%x", []byte(key)))...))}
	}, "allocation", "401"},
	{"PortsExhausted", func(t *testing.T, _ *Options) []string {
		n := node(t, east, "--turn-secret", secret, "--turn-min-port", "20000", "--turn-max-port", "20000", "--turn-address-quota", "0")
		hold(t, n)
		return []string{"http://" + n.HTTP}
	}, "allocation", "508"},
	{"RelaysDeniedToRelays", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--turn-deny-peer", east).HTTP}
	}, "relay over UDP", "403"},
	{"RelaysDeniedByCoturn", func(t *testing.T, _ *Options) []string {
		return []string{turnAt(east, coturn(t, east, append(shared, "--denied-peer-ip="+east)...))}
	}, "relay over UDP", "403"},
	{"TooLittleBandwidth", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--turn-bandwidth", "20000").HTTP}
	}, "relay over UDP", "loss [1-9]"},
	{"OpenRelayOfCoturn", func(t *testing.T, _ *Options) []string {
		return []string{turnAt(east, coturn(t, east, append(shared[2:], "--no-auth")...))}
	}, "strangers", "anybody"},
	{"LoopbackOpenInCoturn", func(t *testing.T, _ *Options) []string {
		return []string{turnAt(east, coturn(t, east, append(shared, "--allow-loopback-peers")...))}
	}, "peers", "127.0.0.1"},
	{"MetadataOpenInCoturn", func(t *testing.T, _ *Options) []string {
		return []string{turnAt(east, coturn(t, east, append(shared[:2:2], shared[3:]...)...))}
	}, "peers", "169.254.169.254"},
	{"TURNOff", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--turn-enabled=false").HTTP}
	}, "ICE servers", "no TURN"},
	{"WrongPort", func(t *testing.T, _ *Options) []string {
		return []string{turnAt(east, node(t, east).Turn+1)}
	}, "server", "refused"},
	{"NobodyThere", func(t *testing.T, _ *Options) []string { return []string{"http://" + nowhere + ":8080/"} }, "server", "."},
	{"NameMissing", func(*testing.T, *Options) []string { return []string{"https://nowhere.test/"} }, "name", "no address"},
	{"NameOfTURNMissing", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--turn-public-host", "nowhere.test").HTTP}
	}, "name", "nowhere.test has no address"},
	{"IPv6Broken", func(t *testing.T, _ *Options) []string {
		n := dual(t)
		blocked(t, "ip6tables", "-d", east6)
		return []string{at(n, "http", domain)}
	}, "IPv6", "no answer"},
	{"OneOfTwoGone", func(t *testing.T, _ *Options) []string {
		return []string{at(node(t, east, "--turn-public-host", east), "http", "half."+domain)}
	}, "IPv4", nowhere},
	{"ExpiredCertificate", func(t *testing.T, o *Options) []string {
		cert := systemtest.CertificateBetween(t, time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour), "v4."+domain)
		return []string{at(node(t, east, tlsFlags(t, o, cert)...), "https", "v4."+domain)}
	}, "certificate", "ended on"},
	{"WrongName", func(t *testing.T, o *Options) []string {
		return []string{at(node(t, east, tlsFlags(t, o, systemtest.Certificate(t, "other.test"))...), "https", "v4."+domain)}
	}, "certificate", "is for other.test, not for v4.signal.test"},
	{"UnknownAuthority", func(t *testing.T, o *Options) []string {
		n := node(t, east, tlsFlags(t, o, systemtest.Certificate(t, "v4."+domain))...)
		tlsFlags(t, o, systemtest.Certificate(t, "v4."+domain))
		return []string{at(n, "https", "v4."+domain)}
	}, "certificate", "signed by nobody"},
	{"NoTLSThere", func(t *testing.T, _ *Options) []string { return []string{"https://" + node(t, east).HTTP} }, "server", "no TLS"},
	{"ProxyWithoutUpgrade", func(t *testing.T, _ *Options) []string { return []string{nginx(t, node(t, east).HTTP, "")} }, "WebSocket", "400"},
	{"ProxyWithoutServer", func(t *testing.T, _ *Options) []string { return []string{nginx(t, east+":1", upgrades)} }, "HTTP", "502"},
	{"OriginRefused", func(t *testing.T, o *Options) []string {
		o.Origin = "https://elsewhere.test"
		return []string{"http://" + node(t, east).HTTP}
	}, "WebSocket", "origin https://elsewhere.test is refused"},
	{"TokenRefused", func(t *testing.T, o *Options) []string {
		o.Token = "nonsense"
		return []string{"http://" + node(t, east, "--auth-secret", "the secret with which tokens are signed").HTTP}
	}, "WebSocket", "token is refused"},
	{"FullRoom", func(t *testing.T, _ *Options) []string {
		return []string{"http://" + node(t, east, "--max-room-users", "1").HTTP}
	}, "room", "is full"},
	{"RedisDown", func(t *testing.T, _ *Options) []string { return []string{"http://" + withoutRedis(t, "local").HTTP} }, "ready", "."},
	{"RedisDownAndJoinsRefused", func(t *testing.T, _ *Options) []string { return []string{"http://" + withoutRedis(t, "reject").HTTP} }, "ready", "takes no users"},
	{"NodesApart", func(t *testing.T, _ *Options) []string {
		one := node(t, east, "--turn-secret", secret)
		_, port, _ := net.SplitHostPort(one.HTTP)
		node(t, west, "--turn-secret", secret, "--server-port", port, "--turn-port", strconv.Itoa(one.Turn))
		return []string{at(one, "http", "two."+domain)}
	}, "cluster", "do not see each other"},
	{"ClockOff", func(t *testing.T, o *Options) []string {
		o.now = func() time.Time { return time.Now().Add(10 * time.Minute) }
		return []string{"http://" + node(t, east).HTTP}
	}, "clock", "-10m"},
	{"ClockOffByYears", func(t *testing.T, o *Options) []string { // So that the certificate seems to have ended.
		o.now = func() time.Time { return time.Now().AddDate(30, 0, 0) }
		return []string{at(node(t, east, tlsFlags(t, o, systemtest.Certificate(t, "v4."+domain))...), "https", "v4."+domain)}
	}, "clock", "from the clock here"},
}

// hold takes a relay of a node until the test ends.
func hold(t *testing.T, n *systemtest.Node) {
	t.Helper()
	conn, err := net.Dial("udp", net.JoinHostPort(east, strconv.Itoa(n.Turn)))
	if err != nil {
		t.Fatal(err)
	}
	c := turnclient.New(conn, false, turnclient.Mint(secret, "holder", time.Now(), time.Hour))
	t.Cleanup(func() { _ = c.Release(); c.Close() })
	if err := c.Allocate(); err != nil {
		t.Fatal(err)
	}
}

// withoutRedis runs a node whose Redis goes away.
func withoutRedis(t *testing.T, policy string) *systemtest.Node {
	t.Helper()
	redis := redistest.Start(t)
	n := node(t, east, "--redis-host", "127.0.0.1", "--redis-port", strconv.Itoa(redis.Port()), "--state-outage", policy, "--state-beat", "0.2", "--state-lease", "1")
	redis.Kill()
	systemtest.Eventually(t, "the node misses Redis", func() bool {
		results, err := Run(t.Context(), Options{Timeout: 9 * time.Second}, "http://"+n.HTTP)
		for _, r := range results {
			if r.Name == "ready" && r.Mark == Wrong {
				return true
			}
		}
		return err != nil
	})
	return n
}

package turnsrv

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"

	"cline-meet/signal/turnsrv/internal/testproc"
)

// TestRelayAddressesOfANetwork runs where it may give the machine addresses:
// none but loopback, a private IPv6 one, a global one.
func TestRelayAddressesOfANetwork(t *testing.T) { testproc.InOwnNetwork(t, findRelayAddresses) }

// TestIPv6RelaysInANetwork relays over IPv6 where the machine has an address for
// it.
func TestIPv6RelaysInANetwork(t *testing.T) { testproc.InOwnNetwork(t, relayOverIPv6) }

func relayOverIPv6(t *testing.T) {
	needTool(t, uclient)
	testproc.IP(t, "link", "set", "lo", "up")
	testproc.IP(t, "-6", "addr", "add", "2001:db8::7/128", "dev", "lo", "nodad")
	testproc.IP(t, "addr", "add", "198.51.100.7/32", "dev", "lo")
	cfg := testConfig()
	cfg.UserQuota = 0
	s := startServer(t, cfg)
	port := strconv.Itoa(s.Port())
	for name, args := range map[string][]string{
		"from IPv4":      {"-x", "198.51.100.7"},
		"from IPv6":      {"-x", "2001:db8::7"},
		"from IPv6, TCP": {"-x", "-t", "2001:db8::7"},
		"IPv4 from IPv6": {"-X", "2001:db8::7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runUclientRaw(t, append([]string{"-y", "-c", "-n", "50", "-m", "4", "-l", "170", "-W", testSecret, "-u", "bob", "-p", port}, args...)...)
		})
	}
	c, _ := allocated(t, s, "udp", "both", attrAdditionalFamily(wire.FamilyIPv6))
	if relays := s.List()[0].Relays; len(relays) != 2 || !relays[0].Addr().Is4() || relays[1].Addr() != netip.MustParseAddr("2001:db8::7") {
		t.Errorf("relays %v", relays)
	}
	if _, err := c.accepts(stun.MethodRefresh, attrFamily(wire.FamilyIPv6), attrLifetime(0)); err != nil {
		t.Error(err)
	}
	if relays := s.List()[0].Relays; len(relays) != 1 || !relays[0].Addr().Is4() {
		t.Errorf("relays %v after the IPv6 one was released", relays)
	}
}

func findRelayAddresses(t *testing.T) {
	testproc.IP(t, "link", "set", "lo", "up")
	expectRelays(t, "127.0.0.1", "")
	testproc.IP(t, "-6", "addr", "add", "fd00::7/128", "dev", "lo", "nodad")
	testproc.IP(t, "addr", "add", "10.7.7.7/32", "dev", "lo")
	expectRelays(t, "10.7.7.7", "")
	testproc.IP(t, "-6", "addr", "add", "2001:db8::7/128", "dev", "lo", "nodad")
	testproc.IP(t, "addr", "add", "198.51.100.7/32", "dev", "lo")
	expectRelays(t, "198.51.100.7", "2001:db8::7")

	// A server in this network forbids its own ports at both addresses.
	cfg := testConfig()
	cfg.AllowPeers = []string{"198.51.100.7", "2001:db8::7", "10.7.7.7"}
	s := startServer(t, cfg)
	for _, text := range cfg.AllowPeers {
		if s.front.policy.permits(netip.AddrPortFrom(netip.MustParseAddr(text), uint16(s.Port()))) {
			t.Errorf("the server is its own peer at %s", text)
		}
	}
}

func expectRelays(t *testing.T, want4, want6 string) {
	t.Helper()
	v4, v6, err := relayAddresses(t.Context(), testConfig())
	var none netip.Addr
	if want6 == "" {
		want6 = none.String()
	}
	if err != nil || v4.bind.String() != want4 || v4.seen != v4.bind || v6.bind.String() != want6 || v6.seen != v6.bind {
		t.Errorf("got %v, %v, %v, want %s, %s", v4, v6, err, want4, want6)
	}
}

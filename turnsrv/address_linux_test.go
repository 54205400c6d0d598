package turnsrv

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// TestIPv6RelaysInANetwork relays over IPv6 where the machine has an address for
// it.
func TestIPv6RelaysInANetwork(t *testing.T) { systemtest.InOwnNetwork(t, relayOverIPv6) }

// TestOwnPortsInANetwork starts a server that has more addresses than it listens at.
func TestOwnPortsInANetwork(t *testing.T) { systemtest.InOwnNetwork(t, forbidOwnPorts) }

func relayOverIPv6(t *testing.T) {
	systemtest.Need(t, uclient)
	systemtest.IP(t, "link set lo up", "")
	systemtest.Address(t, "2001:db8::7")
	systemtest.Address(t, "198.51.100.7")
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

// forbidOwnPorts checks that a server forbids its own ports at every address of the
// machine.
func forbidOwnPorts(t *testing.T) {
	systemtest.IP(t, "link set lo up", "")
	systemtest.Address(t, "2001:db8::7")
	for _, addr := range []string{"198.51.100.7", "10.7.7.7"} {
		systemtest.Address(t, addr)
	}
	cfg := testConfig()
	cfg.AllowPeers = []string{"198.51.100.7", "2001:db8::7", "10.7.7.7"}
	s := startServer(t, cfg)
	for _, text := range cfg.AllowPeers {
		if s.front.policy.Load().Permits(netip.AddrPortFrom(netip.MustParseAddr(text), uint16(s.Port()))) {
			t.Errorf("the server is its own peer at %s", text)
		}
	}
}

package relayaddr

import (
	"net/netip"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

// TestRelayAddressesOfANetwork runs where it may give the machine addresses:
// none but loopback, a private IPv6 one, a global one.
func TestRelayAddressesOfANetwork(t *testing.T) { systemtest.InOwnNetwork(t, findRelayAddresses) }

func findRelayAddresses(t *testing.T) {
	systemtest.IP(t, "link set lo up", "")
	expectRelays(t, "127.0.0.1", "")
	systemtest.IP(t, "-6 addr add fd00::7/128 dev lo nodad", "")
	systemtest.IP(t, "addr add 10.7.7.7/32 dev lo", "")
	expectRelays(t, "10.7.7.7", "")
	systemtest.IP(t, "-6 addr add 2001:db8::7/128 dev lo nodad", "")
	systemtest.IP(t, "addr add 198.51.100.7/32 dev lo", "")
	expectRelays(t, "198.51.100.7", "2001:db8::7")
}

func expectRelays(t *testing.T, want4, want6 string) {
	t.Helper()
	v4, v6, err := Find(t.Context(), configOf("", ""))
	var none netip.Addr
	if want6 == "" {
		want6 = none.String()
	}
	if err != nil || v4.Bind.String() != want4 || v4.Seen != v4.Bind || v6.Bind.String() != want6 || v6.Seen != v6.Bind {
		t.Errorf("got %v, %v, %v, want %s, %s", v4, v6, err, want4, want6)
	}
}

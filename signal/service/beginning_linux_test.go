package service

import (
	"net/netip"
	"slices"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

// TestAddressesThatAreReached has a machine with addresses of an interface that runs and of one that is down.
func TestAddressesThatAreReached(t *testing.T) {
	systemtest.InOwnNetwork(t, func(t *testing.T) {
		systemtest.IP(t, "link set lo up", "")
		systemtest.Address(t, "203.0.113.7/32")
		systemtest.Address(t, "10.1.2.3/32")
		systemtest.IP(t, "link add lan0 type veth peer name lan1", "")
		systemtest.IP(t, "addr add 198.51.100.7/24 dev lan0", "")
		if got, want := publicAddresses(), []netip.Addr{netip.MustParseAddr("203.0.113.7")}; !slices.Equal(got, want) {
			t.Errorf("found %v, want %v", got, want)
		}
	})
}

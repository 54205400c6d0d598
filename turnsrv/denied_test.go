package turnsrv

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"cline-meet/signal/turnsrv/internal/relayaddr"
	"cline-meet/signal/turnsrv/internal/turntest"
)

func TestListenersAreForbidden(t *testing.T) {
	cfg := testConfig()
	cfg.RelayIP = []string{"127.0.0.1"}
	cfg.AllowPeers = []string{"127.0.0.1", relayaddr.PrimaryIPv4().String(), "::1"}
	s := startServer(t, cfg)
	for _, text := range cfg.AllowPeers {
		addr := netip.MustParseAddr(text)
		if s.front.policy.Load().Permits(netip.AddrPortFrom(addr, uint16(s.Port()))) {
			t.Errorf("the server is its own peer at %s", text)
		}
		if !s.front.policy.Load().Permits(netip.AddrPortFrom(addr, 9)) {
			t.Errorf("%s is denied at another port", text)
		}
	}
}

func TestDeniedPeersOverTheWire(t *testing.T) {
	s := startServer(t, testConfig())
	for _, network := range []string{"udp", "tcp"} {
		username, credential := Credentials(testSecret, "bob", time.Now().Add(time.Minute))
		client := newClient(t, s, network, username, credential)
		relay, err := client.Allocate()
		if err != nil {
			t.Fatalf("Allocate over %s: %v", network, err)
		}
		before := turntest.ValueOf(t, s.front.metrics.peersDenied)
		denied := []string{"10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"}
		if s.RelayIP() != loopbackIPv4 { // On a machine with loopback alone it is the relay address.
			denied = append(denied, "127.0.0.1", "::ffff:127.0.0.1")
		}
		for _, text := range denied {
			if err := client.CreatePermission(&net.UDPAddr{IP: net.ParseIP(text), Port: 9}); err == nil {
				t.Errorf("%s: a permission for %s was granted", network, text)
			}
		}
		if got := turntest.ValueOf(t, s.front.metrics.peersDenied) - before; got != float64(len(denied)) {
			t.Errorf("%s: %v denials were counted, want %d", network, got, len(denied))
		}
		for _, text := range []string{"::1", "64:ff9b::7f00:2"} {
			if err := client.CreatePermission(&net.UDPAddr{IP: net.ParseIP(text), Port: 9}); err == nil {
				t.Errorf("%s: a permission for %s was granted to an IPv4 relay", network, text)
			}
		}
		own := relay.LocalAddr()
		if err := client.CreatePermission(own, &net.UDPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 9}); err != nil {
			t.Errorf("%s: own relay address and a public one: %v", network, err)
		}
		if err := relay.Close(); err != nil {
			t.Errorf("closing the relay: %v", err)
		}
	}
}

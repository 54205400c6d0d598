package turnsrv

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestPeerPolicy(t *testing.T) {
	denied := []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
		"169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.171", "192.0.2.1", "192.88.99.1", "192.168.1.1",
		"198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::10.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0",
		"::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::192.168.0.1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
		"2002:c0a8:101::1", "2002:a9fe:a9fe::", "100::1", "2001::1", "2001:0:4136:e378::1", "2001:2::1", "2001:10::1", "2001:20::1",
		"2001:db8::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
	}
	allowed := []string{
		"1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.3.1", "198.17.0.1", "198.20.0.1", "223.255.255.255",
		"2606:4700::1111", "2a00::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:200::1",
		"192.168.7.7", "::ffff:192.168.7.7", "198.51.100.7", // the node's own
	}
	p := newPeerPolicy(50000, 50010, netip.MustParseAddr("192.168.7.7"), netip.MustParseAddr("198.51.100.7"))
	for _, text := range denied {
		if p.allows(netip.MustParseAddr(text)) {
			t.Errorf("%s is allowed", text)
		}
	}
	for _, text := range allowed {
		if !p.allows(netip.MustParseAddr(text)) {
			t.Errorf("%s is denied", text)
		}
	}
	if p.allows(netip.Addr{}) || p.allowsIP(nil) || p.allowsIP(net.IP{1, 2, 3}) {
		t.Error("what is no address is allowed")
	}
	if !p.allowsIP(net.ParseIP("8.8.8.8")) || p.allowsIP(net.ParseIP("127.0.0.1")) {
		t.Error("the sixteen byte form of IPv4 addresses is misread")
	}
}

func TestOwnAddressIsReachedAtRelayPortsOnly(t *testing.T) {
	p := newPeerPolicy(50000, 50010, netip.MustParseAddr("192.168.7.7"))
	for text, want := range map[string]bool{
		"192.168.7.7:50000": true, "192.168.7.7:50010": true, "192.168.7.7:49999": false, "192.168.7.7:3478": false,
		"192.168.7.7:6379": false, "[::ffff:192.168.7.7]:53": false, "8.8.8.8:53": true,
	} {
		if got := p.reaches(netip.MustParseAddrPort(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
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
		before := valueOf(t, s.metrics.peersDenied)
		denied := []string{"10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:2"}
		if s.RelayIP() != loopbackIPv4 { // On a machine with loopback alone it is the relay address.
			denied = append(denied, "127.0.0.1", "::ffff:127.0.0.1")
		}
		for _, text := range denied {
			if err := client.CreatePermission(&net.UDPAddr{IP: net.ParseIP(text), Port: 9}); err == nil {
				t.Errorf("%s: a permission for %s was granted", network, text)
			}
		}
		if got := valueOf(t, s.metrics.peersDenied) - before; got != float64(len(denied)) {
			t.Errorf("%s: %v denials were counted, want %d", network, got, len(denied))
		}
		own := &net.UDPAddr{IP: s.RelayIP().AsSlice(), Port: 9}
		if err := client.CreatePermission(own, &net.UDPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 9}); err != nil {
			t.Errorf("%s: own relay address and a public one: %v", network, err)
		}
		if err := relay.Close(); err != nil {
			t.Errorf("closing the relay: %v", err)
		}
	}
}

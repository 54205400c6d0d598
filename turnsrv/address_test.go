package turnsrv

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// loopbackIPv4 is where most tests take place.
var loopbackIPv4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// TestHairpin relays from client to client of a server that both see at an
// address which this machine does not have.
func TestHairpin(t *testing.T) {
	cfg := testConfig()
	cfg.RelayIP, cfg.ExternalIP = []string{"127.0.0.1"}, []string{"198.51.100.7"}
	s := startServer(t, cfg)
	username, credential := Credentials(testSecret, "bob", time.Now().Add(time.Minute))
	var relays [2]net.PacketConn
	for i := range relays {
		relay, err := newClient(t, s, "udp", username, credential).Allocate()
		if err != nil {
			t.Fatalf("Allocate: %v", err)
		}
		defer func() { _ = relay.Close() }()
		if err := relay.SetReadDeadline(time.Now().Add(systemtest.Patience)); err != nil {
			t.Fatal(err)
		}
		relays[i] = relay
	}
	// The first packet installs the permission without which the answer is lost.
	if _, err := relays[1].WriteTo([]byte("open"), relays[0].LocalAddr()); err != nil {
		t.Fatalf("opening: %v", err)
	}
	if _, err := relays[0].WriteTo([]byte("hello"), relays[1].LocalAddr()); err != nil {
		t.Fatalf("sending: %v", err)
	}
	buf := make([]byte, 100)
	n, from, err := relays[1].ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || from.String() != relays[0].LocalAddr().String() {
		t.Errorf("got %q from %v, %v, want hello from %v", buf[:n], from, err, relays[0].LocalAddr())
	}
}

// TestExternalAddressFromAServer asks a server of ours, as two nodes would ask one
// of the internet, and one that there is not.
func TestExternalAddressFromAServer(t *testing.T) {
	cfg := testConfig()
	cfg.RelayIP = []string{"127.0.0.1"}
	asked := startServer(t, cfg)
	cfg.ExternalIP, cfg.ExternalSTUN = []string{"auto"}, serverAddress(asked)
	if s := startServer(t, cfg); s.RelayIP() != loopbackIPv4 {
		t.Errorf("relays are seen at %v", s.RelayIP())
	}
	cfg.ExternalSTUN = "no-such-host.invalid:3478"
	want := "--turn-external-ip: auto: asking --turn-external-stun no-such-host.invalid:3478 from 127.0.0.1: "
	if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

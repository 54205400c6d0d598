package turnsrv

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/wire"
)

// classicRequest is a Binding request of RFC 3489, whose transaction id has 16 bytes.
func classicRequest(attributes ...byte) []byte {
	request := []byte{0, 1, 0, byte(len(attributes))}
	request = append(request, "0123456789abcdef"...)
	return append(request, attributes...)
}

// TestClassicClients asks as clients of RFC 3489 do: they read no XOR-MAPPED-ADDRESS, and want their transaction id back.
func TestClassicClients(t *testing.T) {
	s := startServer(t, loopbackConfig())
	c, err := newWireClient("udp", loopbackIPv4, addressOfServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.conn.Close() }()
	port := binary.BigEndian.AppendUint16(nil, c.local().Port())
	mapped := append([]byte{0, 1, 0, 8, 0, 1, port[0], port[1]}, 127, 0, 0, 1)
	for _, test := range []struct {
		what            string
		request, answer []byte
	}{
		{"plain", classicRequest(), append([]byte{1, 1, 0, 12}, mapped...)},
		{"with a CHANGE-REQUEST that changes nothing", classicRequest(0, 3, 0, 4, 0, 0, 0, 0), append([]byte{1, 1, 0, 12}, mapped...)},
		{"from another address", classicRequest(0, 3, 0, 4, 0, 0, 0, 6), []byte{1, 0x11, 0, 16, 0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 4, 0, 3, 0, 3}},
		{"to another address", classicRequest(0, 2, 0, 8, 0, 1, 0, 9, 8, 8, 8, 8), []byte{1, 0x11, 0, 16, 0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 4, 0, 2, 0, 2}},
	} {
		if err := c.send(test.request); err != nil {
			t.Fatal(err)
		}
		got, err := c.read(wirePatience)
		want := append(append(bytes.Clone(test.answer[:4]), test.request[4:20]...), test.answer[4:]...)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v, want %x", test.what, got, err, want)
		}
	}
	for _, malformed := range [][]byte{classicRequest()[:19], classicRequest(0), classicRequest(0, 3, 0, 40), append(classicRequest(), 0)} {
		if err := c.ignored(malformed, [12]byte{}); err != nil {
			t.Errorf("%x: %v", malformed, err)
		}
	}
}

// TestUsernamesWithTheUserFirst mints and takes usernames of the other order.
func TestUsernamesWithTheUserFirst(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UsernameOrder = string(auth.UserExpiry)
	s := startServer(t, cfg)
	c := wired(t, s, "udp", "alice")
	if err := c.refuses(401, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Errorf("the usual order: %v", err)
	}
	servers, _ := NewIssuer(cfg, s.Port()).ICEServers("127.0.0.1", "alice", time.Now())
	for _, server := range servers {
		if server.Username != "" {
			c.username, c.password = server.Username, server.Credential
		}
	}
	if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Fatal(err)
	}
	if users := s.List(); len(users) != 1 || users[0].User != "alice" {
		t.Errorf("listed %+v", users)
	}
}

// TestDrainingNamesAnotherServer drains a node of two that have one configuration.
func TestDrainingNamesAnotherServer(t *testing.T) {
	cfg := loopbackConfig()
	cfg.Alternates = []string{"127.0.0.1", "2001:db8::7", "198.51.100.7"}
	s := startServer(t, cfg)
	old, _ := allocated(t, s, "udp", "alice")
	s.Drain()
	for _, network := range []string{"udp", "tcp"} {
		answer, err := wired(t, s, network, "bob").call(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
		if err != nil {
			t.Fatal(err)
		}
		var other stun.AlternateServer
		if err := wantCode(answer, 300); err != nil {
			t.Error(err)
		} else if err := other.GetFrom(answer); err != nil || other.IP.String() != "198.51.100.7" || other.Port != s.Port() || !answer.Contains(stun.AttrMessageIntegrity) {
			t.Errorf("%s: sent to %v, %v", network, other, err)
		}
	}
	if _, err := old.accepts(stun.MethodRefresh); err != nil {
		t.Errorf("an allocation that exists: %v", err)
	}
	if _, ok := s.front.alternate(netip.MustParseAddrPort("198.51.100.7:3478")); ok {
		t.Error("a node was sent to itself")
	}
	if other, ok := s.front.alternate(netip.MustParseAddrPort("[2001:db8::9]:443")); !ok || other != netip.MustParseAddrPort("[2001:db8::7]:443") {
		t.Errorf("IPv6 is sent to %v", other)
	}
}

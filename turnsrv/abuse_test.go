package turnsrv

import (
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// TestReservationsCountForQuotas makes allocations that reserve a port and
// releases them: what is held back must not grow with every round.
func TestReservationsCountForQuotas(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota = 3
	s := startServer(t, cfg)
	c := wired(t, s, "udp", "alice")
	reserve := func() (token stun.Setter, code int) {
		t.Helper()
		answer, err := c.call(stun.MethodAllocate, attrTransport(wire.ProtocolUDP), attrEvenPort(true))
		if err != nil {
			t.Fatal(err)
		}
		if code := answerCode(answer); code != 0 {
			return nil, code
		}
		value, err := answer.Get(stun.AttrReservationToken)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
			t.Fatal(err)
		}
		return attrRaw(stun.AttrReservationToken, value...), 0
	}
	token, _ := reserve()
	if _, code := reserve(); code != 0 {
		t.Fatalf("the second of three places: %d", code)
	}
	if _, code := reserve(); code != 486 {
		t.Fatalf("a third reservation got %d, want 486", code)
	}
	if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP), token); err != nil {
		t.Fatalf("the place of a token is its allocation's: %v", err)
	}
	allocated(t, s, "udp", "alice")
	if err := wired(t, s, "udp", "alice").refuses(486, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
}

// TestManyPeersInOneRequest permits about as many peers as a request can hold.
func TestManyPeersInOneRequest(t *testing.T) {
	cfg := loopbackConfig()
	cfg.RelayIP = loopbacks()
	s := startServer(t, cfg)
	for family, peer := range map[byte]netip.Addr{
		wire.FamilyIPv4: netip.MustParseAddr("127.0.3.1"),
		wire.FamilyIPv6: netip.MustParseAddr("2001:4860:4860::8888"),
	} {
		if len(cfg.RelayIP) == 1 && family == wire.FamilyIPv6 {
			continue
		}
		c, _ := allocated(t, s, "tcp", "alice", attrFamily(family))
		var peers []stun.Setter
		for range 120 {
			peers = append(peers, attrPeer(netip.AddrPortFrom(peer, 9)))
			peer = peer.Next()
		}
		if _, err := c.accepts(stun.MethodCreatePermission, peers...); err != nil {
			t.Errorf("family %d: %v", family, err)
		}
	}
}

// TestRevokeWhileAllocating revokes users at whatever moment of their Allocate:
// afterwards they have nothing.
func TestRevokeWhileAllocating(t *testing.T) {
	cfg := loopbackConfig()
	cfg.AllocateRate = 0
	s := startServer(t, cfg)
	for i := range 300 {
		user := "user" + strconv.Itoa(i)
		c := wired(t, s, "udp", user)
		var both sync.WaitGroup
		both.Go(func() { _, _ = c.call(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)) })
		both.Go(func() { s.Revoke(user) })
		both.Wait()
	}
	if left := s.List(); len(left) != 0 {
		t.Errorf("%d revoked users have an allocation, the first %+v", len(left), left[0])
	}
}

// TestRevokeLeavesStaticUsers uses a static user whose name was revoked: only
// what was minted is void.
func TestRevokeLeavesStaticUsers(t *testing.T) {
	cfg := loopbackConfig()
	cfg.Users = []string{"gate:a password"}
	s := startServer(t, cfg)
	s.Revoke("gate")
	c := wired(t, s, "udp", "x")
	c.username, c.password = "gate", "a password"
	for _, method := range []stun.Method{stun.MethodAllocate, stun.MethodRefresh} {
		if _, err := c.accepts(method, attrTransport(wire.ProtocolUDP)); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// TestSlowUnauthRateLetsClientsIn allows less than one answer a second.
func TestSlowUnauthRateLetsClientsIn(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UnauthRate = 0.4
	wired(t, startServer(t, cfg), "udp", "alice")
}

// TestFullRangeIsNoFloodOfLogs asks for more relays than there are ports.
func TestFullRangeIsNoFloodOfLogs(t *testing.T) {
	low, high := freePair(t)
	var logs lockedBuffer
	cfg := loopbackConfig()
	cfg.MinPort, cfg.MaxPort, cfg.AddrQuota, cfg.AllocateRate = low, high, 0, 0
	cfg.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	s := startServer(t, cfg)
	allocated(t, s, "udp", "alice")
	allocated(t, s, "udp", "alice")
	c := wired(t, s, "udp", "bob")
	began := time.Now()
	for range 200 {
		if err := c.refuses(508, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
			t.Fatal(err)
		}
	}
	allowed := noiseRate * (2 + int(time.Since(began)/time.Second))
	if n := strings.Count(logs.String(), "no turn relay"); n == 0 || n > allowed {
		t.Errorf("%d lines for 200 requests", n)
	}
}

// TestAllowedPeerWithoutPort permits an allowed own address by no port, as a
// CreatePermission may.
func TestAllowedPeerWithoutPort(t *testing.T) {
	c, _ := allocated(t, startServer(t, loopbackConfig()), "udp", "alice")
	if _, err := c.accepts(stun.MethodCreatePermission, attrPeer(netip.AddrPortFrom(loopbackIPv4, 0))); err != nil {
		t.Error(err)
	}
}

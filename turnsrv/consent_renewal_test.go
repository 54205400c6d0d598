package turnsrv

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/turntest"
)

// aged is a server whose clock can be moved ahead.
func aged(t *testing.T) (s *Server, ahead *atomic.Int64) {
	t.Helper()
	cfg := loopbackConfig()
	ahead = new(atomic.Int64)
	cfg.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return startServer(t, cfg), ahead
}

// TestOldConsentIsAskedFor has a client that sends its peer one check, and media ever after. The peer gets the check again, and its answers keep
// its consent; when it becomes an echo, the consent lapses.
func TestOldConsentIsAskedFor(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			s, ahead := aged(t)
			c, relay := askingClient(t, s, network)
			peer, addr := udpPeer(t)
			_ = peer.SetDeadline(time.Now().Add(systemtest.Patience))
			if _, err := c.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(addr)); err != nil {
				t.Fatal(err)
			}
			arrives(t, c, peer, testCheck(1))
			answer := func(packet []byte) {
				t.Helper()
				if _, err := peer.WriteToUDPAddrPort(packet, relay); err != nil {
					t.Fatal(err)
				}
				if got, err := c.receive(); err != nil || !bytes.Equal(got.data, packet) {
					t.Fatalf("got %x, %v", got.data, err)
				}
			}
			answer(testAnswer(1, relay))
			media := []byte{0x80, 96, 0, 1}
			for range 5 {
				ahead.Add(int64(consent.Life / 2))
				both(t, c, peer, media, testCheck(1))
				answer(testAnswer(1, relay))
			}
			ahead.Add(int64(consent.Life / 2))
			both(t, c, peer, media, testCheck(1))
			answer(testCheck(1))
			ahead.Add(int64(consent.Life / 2))
			lapsed := s.front.metrics.denials[consent.Out][consent.Lapsed].packets
			before := turntest.ValueOf(t, lapsed)
			if err := c.sendOn(flowChannel, media); err != nil {
				t.Fatal(err)
			}
			systemtest.Eventually(t, "media is denied", func() bool { return turntest.ValueOf(t, lapsed) > before })
		})
	}
}

// both sends a packet to the peer, which must get it and another, in any order.
func both(t *testing.T, c *wireClient, peer *net.UDPConn, packet, other []byte) {
	t.Helper()
	if err := c.sendOn(flowChannel, packet); err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for range 2 {
		buffer := make([]byte, 2000)
		n, err := peer.Read(buffer)
		if err != nil {
			t.Fatalf("got %x, %v", got, err)
		}
		got = append(got, buffer[:n])
	}
	slices.SortFunc(got, bytes.Compare)
	if want := [][]byte{other, packet}; !slices.EqualFunc(got, want, bytes.Equal) {
		t.Fatalf("got %x, want %x", got, want)
	}
}

// TestOldConsentIsAskedForFromRelayToRelay has two relays of a node be each other's peer.
func TestOldConsentIsAskedForFromRelayToRelay(t *testing.T) {
	s, ahead := aged(t)
	for _, network := range []string{"udp", "tcp"} {
		asks, relay := askingClient(t, s, network)
		other, there := allocated(t, s, network, "alice")
		for c, peer := range map[*wireClient]netip.AddrPort{asks: there, other: relay} {
			if _, err := c.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(peer)); err != nil {
				t.Fatal(err)
			}
		}
		send := func(from, to *wireClient, packet []byte, more ...[]byte) {
			t.Helper()
			if err := from.sendOn(flowChannel, packet); err != nil {
				t.Fatal(err)
			}
			want := append(more, packet)
			for range want {
				got, err := to.receive()
				if err != nil || !slices.ContainsFunc(want, func(w []byte) bool { return bytes.Equal(w, got.data) }) {
					t.Fatalf("got %x, %v, want %x", got.data, err, want)
				}
			}
		}
		send(asks, other, testCheck(1))
		send(other, asks, testAnswer(1, relay))
		for range 5 {
			ahead.Add(int64(consent.Life / 2))
			send(asks, other, []byte{0x80, 96, 0, 1}, testCheck(1))
			send(other, asks, testAnswer(1, relay))
		}
	}
}

package turnsrv

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/webrtc/v4"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// side is one end of a call.
type side struct {
	*webrtc.PeerConnection
	heard chan string
}

// callServer lets peers be on loopback.
func callServer(t *testing.T) (*Server, Config) {
	t.Helper()
	cfg := loopbackConfig()
	cfg.UserQuota, cfg.AddrQuota = 0, 0
	cfg.TLS = testTLS(t)
	return startServer(t, cfg), cfg
}

// newSide returns a peer with the server's relays alone, or without a relay when it is lite.
func newSide(t *testing.T, s *Server, cfg Config, transport string, lite bool) *side {
	t.Helper()
	var settings webrtc.SettingEngine
	settings.LoggerFactory = turntest.QuietLogs()
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	settings.SetIPFilter(net.IP.IsLoopback)
	var c webrtc.Configuration
	if lite {
		settings.SetLite(true)
	} else {
		servers, _ := NewIssuer(cfg, s.Port()).ICEServers("127.0.0.1", "bob", time.Now())
		c.ICETransportPolicy = webrtc.ICETransportPolicyRelay
		url := "turn:127.0.0.1:" + strconv.Itoa(s.Port()) + "?transport=" + transport
		if transport == "tls" {
			url = "turns:127.0.0.1:" + strconv.Itoa(s.TLSPort()) + "?transport=tcp"
		}
		c.ICEServers = []webrtc.ICEServer{{URLs: []string{url},
			Username: servers[1].Username, Credential: servers[1].Credential}}
	}
	peer, err := webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.GracefulClose() })
	return &side{peer, make(chan string, 8)}
}

// listen puts what comes on the channel of the other side into heard, and sends it back.
func (s *side) listen() {
	s.OnDataChannel(func(channel *webrtc.DataChannel) {
		channel.OnMessage(func(m webrtc.DataChannelMessage) {
			s.heard <- string(m.Data)
			_ = channel.SendText("echo of " + string(m.Data))
		})
	})
}

// wants takes one message.
func (s *side) wants(t *testing.T, text string) {
	t.Helper()
	select {
	case got := <-s.heard:
		if got != text {
			t.Errorf("heard %q, want %q", got, text)
		}
	case <-time.After(systemtest.Patience):
		t.Errorf("%q was not heard", text)
	}
}

// call is how two sides find together.
type call struct {
	name    string
	lite    bool
	meet    func(t *testing.T, offerer, answerer *side)
	restart bool // restart has both sides begin anew with other ufrags, and talk again.
}

func calls() []call {
	return []call{
		{name: "whole descriptions", meet: whole},
		{name: "trickled candidates", meet: trickled},
		{name: "an answer that is late", meet: late},
		{name: "ICE-lite", lite: true, meet: whole},
		{name: "ICE restart", meet: whole, restart: true},
	}
}

func whole(t *testing.T, offerer, answerer *side) {
	connect(t, offerer.PeerConnection, answerer.PeerConnection)
}

// trickled tells descriptions first and then each candidate.
func trickled(t *testing.T, offerer, answerer *side) {
	var mu sync.Mutex
	var early []func() error // early are candidates that came before the descriptions did.
	described := false
	tell := func(to *side) func(*webrtc.ICECandidate) {
		return func(c *webrtc.ICECandidate) {
			if c == nil {
				return
			}
			add := func() error { return to.AddICECandidate(c.ToJSON()) }
			mu.Lock()
			defer mu.Unlock()
			if !described {
				early = append(early, add)
				return
			}
			_ = add()
		}
	}
	offerer.OnICECandidate(tell(answerer))
	answerer.OnICECandidate(tell(offerer))
	offer, err := offerer.CreateOffer(nil)
	if err == nil {
		err = offerer.SetLocalDescription(offer)
	}
	if err == nil {
		err = answerer.SetRemoteDescription(offer)
	}
	if err != nil {
		t.Fatal(err)
	}
	answer, err := answerer.CreateAnswer(nil)
	if err == nil {
		err = answerer.SetLocalDescription(answer)
	}
	if err == nil {
		err = offerer.SetRemoteDescription(answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	described = true
	for _, add := range early {
		if err := add(); err != nil {
			t.Error(err)
		}
	}
}

// late holds the answer back until the answerer has sent checks to which nobody can answer yet.
func late(t *testing.T, offerer, answerer *side) {
	propose(t, offerer.PeerConnection, answerer.PeerConnection, nil)
	systemtest.Eventually(t, "the answerer sends checks", func() bool {
		stats, _ := answerer.GetStats()[pairOf(answerer)].(webrtc.ICECandidatePairStats)
		return stats.RequestsSent > 0
	})
	accept(t, offerer.PeerConnection, answerer.PeerConnection)
}

// pairOf returns the name of a candidate pair.
func pairOf(s *side) string {
	for name, stats := range s.GetStats() {
		if _, ok := stats.(webrtc.ICECandidatePairStats); ok {
			return name
		}
	}
	return ""
}

// TestCallsAreNotRefused makes calls of all kinds with credentials whose peers have to consent. Nothing of them is denied once a peer has consented, and
// they talk both ways.
func TestCallsAreNotRefused(t *testing.T) {
	s, cfg := callServer(t)
	for _, transport := range []string{"udp", "tcp", "tls"} {
		for _, c := range calls() {
			t.Run(fmt.Sprintf("%s/%s", transport, c.name), func(t *testing.T) {
				t.Parallel()
				offerer, answerer := newSide(t, s, cfg, transport, false), newSide(t, s, cfg, transport, c.lite)
				answerer.listen()
				channel, err := offerer.CreateDataChannel("talk", nil)
				if err != nil {
					t.Fatal(err)
				}
				opened := make(chan struct{})
				channel.OnOpen(func() { close(opened) })
				channel.OnMessage(func(m webrtc.DataChannelMessage) { offerer.heard <- string(m.Data) })
				c.meet(t, offerer, answerer)
				select {
				case <-opened:
				case <-time.After(systemtest.Patience):
					t.Fatalf("no channel; denied %+v", s.List())
				}
				talk(t, channel, offerer, answerer, "hello")
				if c.restart {
					restart(t, offerer, answerer)
					talk(t, channel, offerer, answerer, "again")
				}
				for _, a := range s.List() {
					for _, d := range a.Denied {
						if d.Reason != "unproved" && d.Reason != "check" {
							t.Errorf("denied %+v", d)
						}
					}
				}
			})
		}
	}
}

func talk(t *testing.T, channel *webrtc.DataChannel, offerer, answerer *side, text string) {
	t.Helper()
	if err := channel.SendText(text); err != nil {
		t.Fatal(err)
	}
	answerer.wants(t, text)
	offerer.wants(t, "echo of "+text)
}

// restart gives both sides new ufrags and passwords, and waits until they are connected by them.
func restart(t *testing.T, offerer, answerer *side) {
	t.Helper()
	old := offerer.CurrentLocalDescription().SDP
	propose(t, offerer.PeerConnection, answerer.PeerConnection, &webrtc.OfferOptions{ICERestart: true})
	accept(t, offerer.PeerConnection, answerer.PeerConnection)
	if offerer.CurrentLocalDescription().SDP == old {
		t.Fatal("nothing began anew")
	}
	systemtest.Eventually(t, "both sides are connected", func() bool {
		return offerer.ICEConnectionState() == webrtc.ICEConnectionStateConnected && answerer.ICEConnectionState() == webrtc.ICEConnectionStateConnected
	})
}

// TestRelayOfTheNodeConsentsAsAnyPeer has both ends at relays of one node, only one of which asks for consent.
func TestRelayOfTheNodeConsentsAsAnyPeer(t *testing.T) {
	cfg := loopbackConfig()
	s := startServer(t, cfg)
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			asks, relay := askingClient(t, s, network)
			other, there := allocated(t, s, network, "alice")
			for c, peer := range map[*wireClient]netip.AddrPort{asks: there, other: relay} {
				if _, err := c.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(peer)); err != nil {
					t.Fatal(err)
				}
			}
			send := func(from, to *wireClient, packet []byte) {
				t.Helper()
				if err := from.sendOn(flowChannel, packet); err != nil {
					t.Fatal(err)
				}
				got, err := to.receive()
				if err != nil || string(got.data) != string(packet) {
					t.Fatalf("got %x, %v, want %x", got.data, err, packet)
				}
			}
			media := []byte{0x80, 96, 0, 1}
			for _, from := range []*wireClient{asks, other} { // What comes next is a check, hence these did not pass.
				if err := from.sendOn(flowChannel, media); err != nil {
					t.Fatal(err)
				}
			}
			send(asks, other, testCheck(1))
			send(other, asks, testCheck(2))
			send(asks, other, testAnswer(2, there))
			send(other, asks, media) // The first flight of DTLS comes as early as that.
			send(other, asks, testAnswer(1, relay))
			send(asks, other, media)
			send(other, asks, media)
		})
	}
}

// askingClient has an allocation whose peers have to consent, by a credential of the issuer.
func askingClient(t *testing.T, s *Server, network string) (*wireClient, netip.AddrPort) {
	t.Helper()
	c := wired(t, s, network, "eve")
	servers, _ := NewIssuer(s.cfg, s.Port()).ICEServers("127.0.0.1", "eve", time.Now())
	c.username, c.password = servers[1].Username, servers[1].Credential
	return c, c.allocates(t)
}

// testCheck is a check as ICE sends it, with that number.
func testCheck(number byte) []byte {
	return stun.MustBuild(stun.NewTransactionIDSetter([12]byte{0xee, number}), stun.BindingRequest, stun.NewUsername("peer:client"),
		attrRaw(stun.AttrPriority, 0, 1, 2, 3), attrRaw(stun.AttrICEControlling, make([]byte, 8)...), stun.NewShortTermIntegrity("any"), stun.Fingerprint).Raw
}

// testAnswer answers that check, which came from mapped.
func testAnswer(number byte, mapped netip.AddrPort) []byte {
	return stun.MustBuild(stun.NewTransactionIDSetter([12]byte{0xee, number}), stun.BindingSuccess,
		wire.SetXORAddress(stun.AttrXORMappedAddress, mapped), stun.NewShortTermIntegrity("any"), stun.Fingerprint).Raw
}

// TestConsentAllocatesNothing relays to and from a peer that has consented.
func TestConsentAllocatesNothing(t *testing.T) {
	s := startServer(t, loopbackConfig())
	for _, channel := range []bool{true, false} {
		t.Run(fmt.Sprintf("channel=%v", channel), func(t *testing.T) { newConsentedLoad(t, s, channel, 161).allocatesNothing(t) })
	}
}

// newConsentedLoad is newLoad for a client whose peer had to consent, and has.
func newConsentedLoad(t *testing.T, s *Server, channel bool, size int) *load {
	t.Helper()
	l := &load{flow: new(flow), payload: bytes.Repeat([]byte{0x80}, size), buffer: make([]byte, 4<<10)}
	l.client, l.relay = askingClient(t, s, "udp")
	var addr netip.AddrPort
	l.peer, addr = udpPeer(t)
	var err error
	frame := func(payload []byte) []byte { return wireChannelData(flowChannel, payload, 0) }
	if channel {
		_, err = l.client.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(addr))
	} else {
		_, err = l.client.accepts(stun.MethodCreatePermission, attrPeer(addr))
		frame = func(payload []byte) []byte {
			return wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication), attrPeer(addr), wire.SetValue(stun.AttrData, payload...)).Raw
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{l.client.conn, l.peer} {
		_ = conn.SetDeadline(time.Now().Add(systemtest.Patience))
	}
	l.up = frame(testCheck(1))
	if err := l.turn(1, false); err != nil {
		t.Fatal(err)
	}
	if _, err := l.peer.WriteToUDPAddrPort(testAnswer(1, l.relay), l.relay); err != nil {
		t.Fatal(err)
	}
	if got, err := l.client.receive(); err != nil || !bytes.Equal(got.data, testAnswer(1, l.relay)) {
		t.Fatalf("got %x, %v", got.data, err)
	}
	l.up = frame(l.payload)
	return l
}

// TestRoomAsksForThePasswordOfTheMember has a peer answer with a password that is a member's, and with one of nobody.
func TestRoomAsksForThePasswordOfTheMember(t *testing.T) {
	cfg := loopbackConfig()
	cfg.PeerProof = consent.Room.String()
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "--turn-peer-proof") {
		t.Fatalf("without passwords: %v", err)
	}
	var known atomic.Pointer[[][]byte]
	known.Store(&[][]byte{[]byte("another's")})
	cfg.MemberPasswords = func(user, ufrag string) [][]byte {
		if user != "eve" || ufrag != "peer" {
			t.Errorf("asked for %s of the room of %s", ufrag, user)
		}
		return *known.Load()
	}
	s := startServer(t, cfg)
	for _, network := range []string{"udp", "tcp"} {
		c, relay := askingClient(t, s, network)
		peer, addr := udpPeer(t)
		_ = peer.SetDeadline(time.Now().Add(systemtest.Patience))
		if _, err := c.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(addr)); err != nil {
			t.Fatal(err)
		}
		media := []byte{0x80, 96, 0, 1}
		round := func(number byte) {
			t.Helper()
			arrives(t, c, peer, testCheck(number))
			if _, err := peer.WriteToUDPAddrPort(testAnswer(number, relay), relay); err != nil {
				t.Fatal(err)
			}
			if got, err := c.receive(); err != nil || !bytes.Equal(got.data, testAnswer(number, relay)) {
				t.Fatalf("got %x, %v", got.data, err)
			}
		}
		round(1)
		if err := c.sendOn(flowChannel, media); err != nil { // The check of the next round comes first, hence this does not pass.
			t.Fatal(err)
		}
		known.Store(&[][]byte{[]byte("another's"), []byte("any")})
		round(2)
		arrives(t, c, peer, media)
		known.Store(&[][]byte{[]byte("another's")})
	}
}

// arrives sends a packet to the peer, which must get it next.
func arrives(t *testing.T, c *wireClient, peer *net.UDPConn, packet []byte) {
	t.Helper()
	if err := c.sendOn(flowChannel, packet); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2000)
	n, err := peer.Read(buffer)
	if err != nil || !bytes.Equal(buffer[:n], packet) {
		t.Fatalf("got %x, %v, want %x", buffer[:n], err, packet)
	}
}

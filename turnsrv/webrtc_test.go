package turnsrv

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
)

const (
	transferSize = 10 << 20
	chunkSize    = 16 << 10
	highWater    = 1 << 20
	transferTime = 5 * systemtest.Patience
)

// TestWebRTCRelayOnly moves 10 MB between two peers that may use nothing but
// relays, with the derived relay address and as on a machine that has loopback
// alone.
func TestWebRTCRelayOnly(t *testing.T) {
	for _, relayIP := range [][]string{nil, {"127.0.0.1"}} {
		for _, transport := range []string{"udp", "tcp", "tls"} {
			t.Run(fmt.Sprintf("relay=%s/%s", relayIP, transport), func(t *testing.T) {
				cfg := testConfig()
				cfg.RelayIP = relayIP
				cfg.TLS = testTLS(t)
				s := startServer(t, cfg)
				transfer(t, s, cfg, transport)
				if got := turntest.ValueOf(t, s.front.metrics.toPeerBytes); got < transferSize {
					t.Errorf("%v relayed bytes were counted for a transfer of %d", got, transferSize)
				}
			})
		}
	}
}

func transfer(t *testing.T, s *Server, cfg Config, transport string) {
	sender, receiver := newPeer(t, s, cfg, transport), newPeer(t, s, cfg, transport)
	payload := make([]byte, transferSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(payload)
	done := make(chan [sha256.Size]byte, 1)
	receive(receiver, done)
	failed := send(t, sender, payload)
	connect(t, sender, receiver)

	timeout := time.NewTimer(transferTime)
	defer timeout.Stop()
	select {
	case sum := <-done:
		if sum != sha256.Sum256(payload) {
			t.Error("what arrived is not what was sent")
		}
	case err := <-failed:
		t.Fatalf("sending: %v", err)
	case <-timeout.C:
		t.Fatal("the transfer takes too long")
	}
	for _, peer := range []*webrtc.PeerConnection{sender, receiver} {
		pair, err := peer.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
		if err != nil || pair == nil {
			t.Fatalf("no selected pair: %v", err)
		}
		if pair.Local.Typ != webrtc.ICECandidateTypeRelay || pair.Remote.Typ != webrtc.ICECandidateTypeRelay {
			t.Errorf("the selected pair is %v", pair)
		}
	}
}

// newPeer returns a peer that knows one TURN URL, as the issuer words it.
func newPeer(t *testing.T, s *Server, cfg Config, transport string) *webrtc.PeerConnection {
	t.Helper()
	servers, _ := NewIssuer(cfg, s.Port()).ICEServers("127.0.0.1:8080", "bob", time.Now())
	url := "turn:" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port())) + "?transport=" + transport
	if transport == "tls" {
		url = "turns:" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.TLSPort())) + "?transport=tcp"
	}
	var settings webrtc.SettingEngine
	settings.LoggerFactory = turntest.QuietLogs()
	peer, err := webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{
		ICETransportPolicy: webrtc.ICETransportPolicyRelay,
		ICEServers: []webrtc.ICEServer{{
			URLs: []string{url}, Username: servers[1].Username, Credential: servers[1].Credential,
		}},
	})
	if err != nil {
		t.Fatalf("NewPeerConnection: %v", err)
	}
	t.Cleanup(func() { _ = peer.GracefulClose() })
	return peer
}

// receive hashes what the peer is sent, up to the expected size.
func receive(peer *webrtc.PeerConnection, done chan<- [sha256.Size]byte) {
	peer.OnDataChannel(func(channel *webrtc.DataChannel) {
		var got bytes.Buffer
		channel.OnMessage(func(message webrtc.DataChannelMessage) {
			got.Write(message.Data)
			if got.Len() == transferSize {
				done <- sha256.Sum256(got.Bytes())
			}
		})
	})
}

// send writes payload to a data channel once it is open, as fast as the channel
// takes it. The goroutine ends with the test at the latest.
func send(t *testing.T, peer *webrtc.PeerConnection, payload []byte) <-chan error {
	t.Helper()
	channel, err := peer.CreateDataChannel("file", nil)
	if err != nil {
		t.Fatalf("CreateDataChannel: %v", err)
	}
	failed := make(chan error, 1)
	room := make(chan struct{}, 1)
	channel.SetBufferedAmountLowThreshold(highWater / 2)
	channel.OnBufferedAmountLow(func() {
		select {
		case room <- struct{}{}:
		default:
		}
	})
	channel.OnOpen(func() {
		for chunk := range chunks(payload) {
			if err := channel.Send(chunk); err != nil {
				failed <- err
				return
			}
			for channel.BufferedAmount() > highWater {
				select {
				case <-room:
				case <-t.Context().Done():
					return
				}
			}
		}
	})
	return failed
}

func chunks(payload []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(payload) > 0 {
			n := min(chunkSize, len(payload))
			if !yield(payload[:n]) {
				return
			}
			payload = payload[n:]
		}
	}
}

// connect exchanges complete descriptions, all candidates included.
func connect(t *testing.T, offerer, answerer *webrtc.PeerConnection) {
	t.Helper()
	propose(t, offerer, answerer, nil)
	accept(t, offerer, answerer)
}

// propose has the answerer take an offer, and answer it so far for itself.
func propose(t *testing.T, offerer, answerer *webrtc.PeerConnection, options *webrtc.OfferOptions) {
	t.Helper()
	offer, err := offerer.CreateOffer(options)
	if err != nil {
		t.Fatalf("CreateOffer: %v", err)
	}
	describe(t, offerer, offer)
	if err := answerer.SetRemoteDescription(*offerer.LocalDescription()); err != nil {
		t.Fatalf("SetRemoteDescription: %v", err)
	}
	answer, err := answerer.CreateAnswer(nil)
	if err != nil {
		t.Fatalf("CreateAnswer: %v", err)
	}
	describe(t, answerer, answer)
}

// accept has the offerer take the answer.
func accept(t *testing.T, offerer, answerer *webrtc.PeerConnection) {
	t.Helper()
	if err := offerer.SetRemoteDescription(*answerer.LocalDescription()); err != nil {
		t.Fatalf("SetRemoteDescription: %v", err)
	}
}

// describe sets a local description and waits until its candidates are known.
func describe(t *testing.T, peer *webrtc.PeerConnection, description webrtc.SessionDescription) {
	t.Helper()
	gathered := webrtc.GatheringCompletePromise(peer)
	if err := peer.SetLocalDescription(description); err != nil {
		t.Fatalf("SetLocalDescription: %v", err)
	}
	timeout := time.NewTimer(systemtest.Patience)
	defer timeout.Stop()
	select {
	case <-gathered:
	case <-timeout.C:
		t.Fatal("gathering takes too long")
	}
}

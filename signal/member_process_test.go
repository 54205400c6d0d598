package signal_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

// denied returns how many packets the relays of the nodes have not let pass for want of consent.
func denied(t *testing.T, nodes []*systemtest.Node) (count int) {
	t.Helper()
	for _, n := range nodes {
		resp, err := http.Get("http://" + n.Admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if name, value, _ := strings.Cut(lines.Text(), " "); strings.HasPrefix(name, "signal_turn_denied_packets_total{") {
				var packets int
				if _, err := fmt.Sscan(value, &packets); err != nil {
					t.Error(err)
				}
				count += packets
			}
		}
		if err := errors.Join(lines.Err(), resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return count
}

// TestRelaysReachMembers has relays that reach nobody but members of the room: calls between all nodes are as ever, also when their sides
// move to other nodes and restart ICE. Who is in another room is not reached by the same relays.
func TestRelaysReachMembers(t *testing.T) {
	nodes := startNodes(t, 3, redistest.Start(t), "--turn-allow-peer", "127.0.0.0/8", "--turn-peer-proof", "room", "--drain-timeout", "10", "--drain-settle", "0")
	var callers []*caller
	for i := range 3 {
		room := fmt.Sprint("call", i)
		a := newCaller(t, room+" a", nodes, i, room)
		eventually(t, "the first is in", a.alone)
		callers = append(callers, a, newCaller(t, room+" b", nodes, (i+1)%3, room))
	}
	for _, c := range callers {
		eventually(t, "media of "+c.name, c.hears)
	}
	t.Logf("%d packets were denied in calls that began", denied(t, nodes))
	if err := nodes[0].End(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	moved := time.Now()
	for _, c := range callers {
		eventually(t, "media of "+c.name, func() error { return c.hearsAfter(moved) })
	}
	t.Logf("%d packets were denied at the nodes that are left", denied(t, nodes[1:]))
	apart(t, nodes[1:])
}

// stranded is a peer connection with the relays of a member that is alone in a room.
func stranded(t *testing.T, node *systemtest.Node, room string) *webrtc.PeerConnection {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := client.Dial(ctx, node.URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m, err := conn.Next(ctx)
	var s start
	if err = errors.Join(err, json.Unmarshal(m.Data, &s), conn.Join(room)); err != nil {
		t.Fatal(err)
	}
	peer, err := webrtc.NewPeerConnection(webrtc.Configuration{ICETransportPolicy: webrtc.ICETransportPolicyRelay, ICEServers: s.ICEServers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.GracefulClose() })
	return peer
}

// apart has members of two rooms tell each other their SDP by another way: their checks pass and nothing else does.
func apart(t *testing.T, nodes []*systemtest.Node) {
	a, b := stranded(t, nodes[0], "one"), stranded(t, nodes[1], "other")
	channel, err := a.CreateDataChannel("media", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := denied(t, nodes)
	offer, err := a.CreateOffer(nil)
	if err != nil {
		t.Fatal(err)
	}
	described(t, a, offer)
	if err := b.SetRemoteDescription(*a.LocalDescription()); err != nil {
		t.Fatal(err)
	}
	answer, err := b.CreateAnswer(nil)
	if err != nil {
		t.Fatal(err)
	}
	described(t, b, answer)
	if err := a.SetRemoteDescription(*b.LocalDescription()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the relays deny what strangers send", func() error {
		if now := denied(t, nodes); now < before+3 {
			return fmt.Errorf("%d packets are denied", now-before)
		}
		return nil
	})
	if a.ICEConnectionState() != webrtc.ICEConnectionStateConnected || channel.ReadyState() == webrtc.DataChannelStateOpen {
		t.Errorf("the ICE of strangers is %s, their channel %s", a.ICEConnectionState(), channel.ReadyState())
	}
}

// described sets a description and waits for its candidates.
func described(t *testing.T, peer *webrtc.PeerConnection, description webrtc.SessionDescription) {
	t.Helper()
	gathered := webrtc.GatheringCompletePromise(peer)
	if err := peer.SetLocalDescription(description); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gathered:
	case <-time.After(patience):
		t.Fatal("the candidates take too long")
	}
}

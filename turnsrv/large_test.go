package turnsrv

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// TestLargeDatagramsPass relays datagrams over a page, as jumbo frames and fragments bring them, on a channel and in indications, up
// to the largest that a message to the client can hold. What is longer is dropped and counted.
func TestLargeDatagramsPass(t *testing.T) {
	cfg := loopbackConfig()
	cfg.TLS = testTLS(t)
	s := startServer(t, cfg)
	for _, network := range []string{"udp", "tcp", "tls"} {
		for _, channel := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/channel=%v", network, channel), func(t *testing.T) {
				l := newLarge(t, s, network, channel)
				most := wire.MaxFrame - wire.ChannelHeader
				if !channel {
					most = (wire.MaxFrame - wire.DataIndicationHeaderIPv4) &^ 3
				}
				for _, size := range []int{2001, 9000, 40_000, most} {
					l.down(t, size)
				}
				for _, size := range []int{2001, 9000, 40_000, 64_000} {
					l.up(t, size)
				}
				oversize := s.front.metrics.dropCounters[dropOversize]
				before := turntest.ValueOf(t, oversize)
				if _, err := l.peer.WriteToUDPAddrPort(make([]byte, most+1), l.relay); err != nil {
					t.Fatal(err)
				}
				systemtest.Eventually(t, "what is too long is dropped", func() bool { return turntest.ValueOf(t, oversize) > before })
				l.down(t, 100)
			})
		}
	}
}

// large is a flow of large datagrams.
type large struct {
	*flow
	channel bool
	addr    netip.AddrPort
}

func newLarge(t *testing.T, s *Server, network string, channel bool) *large {
	t.Helper()
	l := &large{flow: new(flow), channel: channel}
	l.client, l.relay = allocated(t, s, network, "alice")
	l.peer, l.addr = udpPeer(t)
	method, attrs := stun.MethodCreatePermission, []stun.Setter{attrPeer(l.addr)}
	if channel {
		method, attrs = stun.MethodChannelBind, append(attrs, attrChannel(flowChannel))
	}
	if _, err := l.client.accepts(method, attrs...); err != nil {
		t.Fatal(err)
	}
	return l
}

// down sends a datagram from the peer, again if the first one has shown that there are such.
func (l *large) down(t *testing.T, size int) {
	t.Helper()
	want := numberedBytes(size)
	for range 2 {
		if _, err := l.peer.WriteToUDPAddrPort(want, l.relay); err != nil {
			t.Fatal(err)
		}
		if *dataPath || size <= usualDatagram {
			break
		}
	}
	for {
		got, err := l.client.receive()
		if err != nil {
			t.Fatalf("%d bytes to the client: %v", size, err)
		}
		if len(got.data) != size { // The second one of those before.
			continue
		}
		if !bytes.Equal(got.data, want) {
			t.Fatalf("%d bytes were changed on the way to the client", size)
		}
		return
	}
}

// up sends a datagram to the peer.
func (l *large) up(t *testing.T, size int) {
	t.Helper()
	want := numberedBytes(size)
	var err error
	if l.channel {
		err = l.client.sendOn(flowChannel, want)
	} else {
		err = l.client.sendTo(l.addr, want)
	}
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1<<16)
	_ = l.peer.SetReadDeadline(time.Now().Add(wirePatience))
	n, _, err := l.peer.ReadFromUDPAddrPort(buffer)
	if err != nil || !bytes.Equal(buffer[:n], want) {
		t.Fatalf("of %d bytes to the peer %d came, %v", size, n, err)
	}
}

func numberedBytes(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*7 + size)
	}
	return data
}

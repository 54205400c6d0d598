package turnsrv

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/batch"
)

// TestWhatAStreamSendsAtOnceArrives writes packets for two peers in one go, of sizes that now
// and then repeat, and a Refresh that ends the allocation behind them.
func TestWhatAStreamSendsAtOnceArrives(t *testing.T) {
	s := startServer(t, loopbackConfig())
	client, _ := allocated(t, s, "tcp", "alice")
	var peers []*net.UDPConn
	for i := range 2 {
		peer, addr := udpPeer(t)
		_ = peer.SetReadBuffer(batch.SocketBuffer)
		if _, err := client.accepts(stun.MethodChannelBind, attrPeer(addr), attrChannel(flowChannel+uint16(i))); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, peer)
	}
	var stream []byte
	want := make([][][]byte, len(peers))
	for i := range 400 {
		to, size := i/7%2, 100+i/5%3*500
		data := numberedBytes(size)
		data[0], data[1] = byte(i), byte(i>>8)
		want[to] = append(want[to], data)
		number := flowChannel + uint16(to)
		stream = append(stream, byte(number>>8), byte(number), byte(size>>8), byte(size))
		stream = append(stream, data...)
	}
	if _, err := client.conn.Write(stream); err != nil {
		t.Fatal(err)
	}
	if _, err := client.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2000)
	for i, peer := range peers {
		for j, data := range want[i] {
			_ = peer.SetReadDeadline(time.Now().Add(wirePatience))
			if n, err := peer.Read(buffer); err != nil || !bytes.Equal(buffer[:n], data) {
				t.Fatalf("packet %d of peer %d: %d bytes instead of %d, %v", j, i, n, len(data), err)
			}
		}
	}
}

// sentOn is a socket that keeps the sizes of what is written, and whether it is to be split.
type sentOn struct {
	batch.Conn
	refuses error // refuses is what becomes of what is to be split.
	sizes   []int // sizes are negative for what is to be split.
}

func (s *sentOn) WriteMsgUDPAddrPort(b, oob []byte, _ netip.AddrPort) (n, oobn int, err error) {
	switch {
	case len(oob) == 0:
		s.sizes = append(s.sizes, len(b))
	case s.refuses != nil:
		return 0, 0, s.refuses
	default:
		s.sizes = append(s.sizes, -len(b))
	}
	return len(b), len(oob), nil
}

func TestTrains(t *testing.T) {
	s := startServer(t, loopbackConfig())
	a := &allocation{front: s.front}
	peer, other := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	for name, tt := range map[string]struct {
		packets []outbound
		refuses error
		want    []int
	}{
		"equal":       {[]outbound{sized(peer, 100), sized(peer, 100), sized(peer, 100)}, nil, []int{-300}},
		"one":         {[]outbound{sized(peer, 100)}, nil, []int{100}},
		"other size":  {[]outbound{sized(peer, 100), sized(peer, 100), sized(peer, 90), sized(peer, 100)}, nil, []int{-200, 90, 100}},
		"other peer":  {[]outbound{sized(peer, 100), sized(other, 100), sized(other, 100)}, nil, []int{100, -200}},
		"empty":       {[]outbound{sized(peer, 100), sized(peer, 100), sized(peer, 0)}, nil, []int{-200, 0}},
		"large":       {[]outbound{sized(peer, 100), sized(peer, maxTrain), sized(peer, 100)}, nil, []int{100, maxTrain, 100}},
		"many bytes":  {slices.Repeat([]outbound{sized(peer, 6000)}, 3), nil, []int{-12_000, 6000}},
		"many":        {slices.Repeat([]outbound{sized(peer, 10)}, batch.MaxSegments+2), nil, []int{-10 * batch.MaxSegments, -20}},
		"refused":     {slices.Repeat([]outbound{sized(peer, 8000)}, 5), syscall.EMSGSIZE, []int{8000, 8000, 8000, 8000, 8000}},
		"buffer full": {slices.Repeat([]outbound{sized(peer, 100)}, 2), syscall.EAGAIN, []int{100, 100}},
		"no way":      {slices.Repeat([]outbound{sized(peer, 100)}, 2), syscall.ENETUNREACH, []int{100, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			conn := &sentOn{refuses: tt.refuses}
			r := &relay{relaySocket: &relaySocket{conn: conn}, alloc: a}
			var waiting train
			for _, p := range tt.packets {
				p.alloc, p.relay = a, r
				waiting.add(p)
			}
			waiting.leave()
			waiting.leave()
			if !slices.Equal(conn.sizes, tt.want) {
				t.Errorf("wrote %v, want %v", conn.sizes, tt.want)
			}
			if waiting.whole != (tt.refuses == syscall.EMSGSIZE) {
				t.Errorf("splits no more: %v", waiting.whole)
			}
		})
	}
}

func sized(to netip.AddrPort, size int) outbound {
	return outbound{to: to, payload: make([]byte, size)}
}

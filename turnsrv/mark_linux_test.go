package turnsrv

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// TestMarksAreCopied sends packets of one size, so that they would be sent together, with many marks from a client to a peer and
// back. Over UDP and DTLS, and from one address family to the other, they arrive as they were sent (RFC 8656, sections 13 and 14); of a
// stream none do (sections 15 and 16).
func TestMarksAreCopied(t *testing.T) {
	const dscpEF, dscpAF41 = 46 << 2, 34 << 2
	marks := []batch.Mark{0, dscpEF, dscpEF, dscpEF | 1, dscpEF | 2, dscpEF | 3, 2, 3, 1, 0, 0, dscpAF41, dscpAF41, 0xFF}
	unmarked := make([]batch.Mark, len(marks))
	for _, test := range []struct {
		network     string
		from, to    netip.Addr
		off, stream bool
	}{
		{network: "udp", from: loopbackIPv4, to: loopbackIPv4},
		{network: "udp", from: loopbackIPv4, to: loopbackIPv6},
		{network: "udp", from: loopbackIPv6, to: loopbackIPv4},
		{network: "udp", from: loopbackIPv6, to: loopbackIPv6},
		{network: "udp", from: loopbackIPv4, to: loopbackIPv4, off: true},
		{network: "dtls", from: loopbackIPv4, to: loopbackIPv4},
		{network: "tcp", from: loopbackIPv4, to: loopbackIPv4, stream: true},
	} {
		t.Run(fmt.Sprintf("%s/%s/%s/off=%v", test.network, test.from, test.to, test.off), func(t *testing.T) {
			if (test.from.Is6() || test.to.Is6()) && !hasIPv6Loopback() {
				systemtest.Unable(t, "there is no IPv6 here")
			}
			cfg := loopbackConfig()
			cfg.Listen, cfg.RelayIP = []string{test.from.String()}, []string{"127.0.0.1"}
			if test.to.Is6() {
				cfg.RelayIP = append(cfg.RelayIP, "::1")
			}
			cfg.AllowPeers = append(cfg.AllowPeers, "::1")
			cfg.TLS, cfg.CopyDSCP = testTLS(t), !test.off
			m := newMarked(t, startServer(t, cfg), test.network, test.from, test.to)
			for _, channel := range []bool{true, false} {
				want := marks
				if test.off || test.stream {
					want = unmarked
				}
				if got := m.up(t, channel, marks); !slices.Equal(got, want) {
					t.Errorf("channel %v: the peer got %x of %x", channel, got, marks)
				}
			}
			want := marks
			if test.off {
				want = unmarked
			}
			if got := m.down(t, marks); !test.stream && !slices.Equal(got, want) {
				t.Errorf("the client got %x of %x", got, marks)
			}
		})
	}
}

// markedPayload is what is sent with marks. It is longer than any answer, of which a late one may come among what a client is sent.
var markedPayload = bytes.Repeat([]byte{7}, 500)

// marked is a client and a peer whose sockets tell marks.
type marked struct {
	client *wireClient
	socket *net.UDPConn // socket is the client's, nil on a stream.
	wire   *markedWire  // wire is between a DTLS client and the server, nil without one.
	from   netip.Addr
	relay  netip.AddrPort
	peer   *net.UDPConn
	addr   netip.AddrPort
}

func newMarked(t *testing.T, s *Server, network string, from, to netip.Addr) *marked {
	t.Helper()
	m := &marked{from: from}
	port := s.Port()
	if network == "dtls" {
		port = s.TLSPort()
	}
	server := netip.AddrPortFrom(from, uint16(port))
	if network == "dtls" {
		m.wire = newMarkedWire(t, server)
		dtls, err := turntest.DialDTLS(m.wire.near.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dtls.Close() })
		m.client, m.socket = &wireClient{conn: dtls}, m.wire.far
	} else {
		c, err := newWireClient(network, from, server)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.conn.Close() })
		m.client = c
		m.socket, _ = c.conn.(*net.UDPConn)
	}
	m.client.username, m.client.password = Credentials(testSecret, "alice", time.Now().Add(time.Hour))
	var err error
	if m.peer, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.peer.Close() })
	m.addr = m.peer.LocalAddr().(*net.UDPAddr).AddrPort()
	batch.TellMarks(m.peer, to.Is6())
	if network == "udp" {
		batch.TellMarks(m.socket, from.Is6())
	}
	m.allocate(t)
	return m
}

func (m *marked) allocate(t *testing.T) {
	t.Helper()
	if err := m.client.challenge(); err != nil {
		t.Fatal(err)
	}
	m.relay = m.client.allocates(t, attrFamily(wire.FamilyOf(m.addr.Addr())))
	if _, err := m.client.accepts(stun.MethodChannelBind, attrChannel(flowChannel), attrPeer(m.addr)); err != nil {
		t.Fatal(err)
	}
}

// up sends a packet to the peer with each of the marks, and returns those that they arrive with.
func (m *marked) up(t *testing.T, channel bool, marks []batch.Mark) []batch.Mark {
	t.Helper()
	var got []batch.Mark
	for _, mark := range marks {
		if m.socket != nil {
			markAll(t, m.socket, mark, m.from.Is6())
		}
		send := func() error { return m.client.sendTo(m.addr, markedPayload) }
		if channel {
			send = func() error { return m.client.sendOn(flowChannel, markedPayload) }
		}
		if err := send(); err != nil {
			t.Fatal(err)
		}
		if m.wire != nil { // The mark is that of the wire's socket, which changes with the next one.
			got = append(got, marksAt(t, m.peer, 1)...)
		}
	}
	return append(got, marksAt(t, m.peer, len(marks)-len(got))...)
}

// down sends a packet to the client with each of the marks, and returns those that they arrive with.
func (m *marked) down(t *testing.T, marks []batch.Mark) []batch.Mark {
	t.Helper()
	for _, mark := range marks {
		if _, _, err := m.peer.WriteMsgUDPAddrPort(markedPayload, batch.MarkControl(mark, m.addr.Addr().Is6()), m.relay); err != nil {
			t.Fatal(err)
		}
	}
	switch {
	case m.socket == nil:
		return nil
	case m.wire != nil:
		return m.wire.arrived(t, len(marks))
	}
	return marksAt(t, m.socket, len(marks))
}

// marksAt returns the marks of the next packets at a socket that have the payload.
func marksAt(t *testing.T, conn *net.UDPConn, packets int) []batch.Mark {
	t.Helper()
	var marks []batch.Mark
	buffer, control := make([]byte, 2000), make([]byte, batch.ControlSpace)
	_ = conn.SetReadDeadline(time.Now().Add(wirePatience))
	for len(marks) < packets {
		n, oobn, _, _, err := conn.ReadMsgUDPAddrPort(buffer, control)
		if err != nil {
			t.Fatalf("after %x: %v", marks, err)
		}
		if bytes.HasSuffix(buffer[:n], markedPayload) {
			marks = append(marks, batch.MarkOf(control[:oobn]))
		}
	}
	return marks
}

// markedWire passes datagrams on between a client of DTLS and the server, and sees the marks of those that come from the server, which
// the client does not.
type markedWire struct {
	near, far *net.UDPConn // Far is connected to the server.
	marks     chan batch.Mark
}

func newMarkedWire(t *testing.T, server netip.AddrPort) *markedWire {
	t.Helper()
	near, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(server.Addr(), 0)))
	if err != nil {
		t.Fatal(err)
	}
	far, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	batch.TellMarks(far, server.Addr().Is6())
	w := &markedWire{near: near, far: far, marks: make(chan batch.Mark, 1000)}
	var client atomic.Pointer[netip.AddrPort]
	var ends sync.WaitGroup
	ends.Go(func() {
		buffer := make([]byte, 2000)
		for {
			n, from, err := near.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			client.Store(&from)
			_, _ = far.Write(buffer[:n])
		}
	})
	ends.Go(func() {
		buffer, control := make([]byte, 2000), make([]byte, batch.ControlSpace)
		for {
			n, oobn, _, _, err := far.ReadMsgUDPAddrPort(buffer, control)
			if err != nil {
				return
			}
			if n > len(markedPayload) && buffer[0] == 23 { // A record with the payload in it.
				w.marks <- batch.MarkOf(control[:oobn])
			}
			_, _ = near.WriteToUDPAddrPort(buffer[:n], *client.Load())
		}
	})
	t.Cleanup(func() {
		_, _ = near.Close(), far.Close()
		ends.Wait()
	})
	return w
}

// arrived returns the marks of the last packets from the server.
func (w *markedWire) arrived(t *testing.T, packets int) []batch.Mark {
	t.Helper()
	var marks []batch.Mark
	for range packets {
		select {
		case mark := <-w.marks:
			marks = append(marks, mark)
		case <-time.After(wirePatience):
			t.Fatalf("after %x nothing more came", marks)
		}
	}
	return marks
}

package turnsrv

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"cline-meet/signal/turnsrv/internal/batch"
)

// maxKnownPaths bounds the paths that a reader keeps to hand out again.
const maxKnownPaths = 4096

// udpSocket is a UDP socket that makes replies leave from the address that was
// asked: a client drops one from elsewhere. A socket bound to one address
// cannot do otherwise; for one bound to all, the kernel has to be told.
type udpSocket struct {
	// Fixed after construction.
	common    *common
	transport transport
	conn      batch.Conn
	local     netip.AddrPort
	told      bool               // told says that the kernel names the address that was asked.
	unsent    prometheus.Counter // unsent counts what the system refused to send.
}

func newUDPSocket(c *common, t transport, conn *net.UDPConn) *udpSocket {
	s := &udpSocket{
		common:    c,
		transport: t,
		conn:      conn,
		local:     unmapped(conn.LocalAddr().(*net.UDPAddr).AddrPort()),
		unsent:    c.metrics.drops.WithLabelValues(t.String(), dropSendFailed),
	}
	// Every client shares this socket. Less than asked for still works.
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
	if !s.local.Addr().IsUnspecified() {
		return s
	}
	if err := tellAsked(conn, s.local.Addr()); err != nil {
		c.log.Info("turn replies may leave from another address than was asked", "error", err)
		return s
	}
	s.told = true
	return s
}

// tellAsked makes the kernel name the address that every datagram was sent to.
func tellAsked(conn *net.UDPConn, local netip.Addr) error {
	if local.Is4() {
		return ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst, true)
	}
	return ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst, true)
}

// serve hands every datagram to handle until the transports and the socket are
// closed. Errors never end it.
func (s *udpSocket) serve(handle func(client, server netip.AddrPort, packet []byte)) {
	packet, control := make([]byte, batch.MaxDatagram), make([]byte, batch.ControlSpace)
	var delay backoff
	for {
		n, oobn, _, client, err := s.conn.ReadMsgUDPAddrPort(packet, control)
		if err != nil {
			if !s.survive(err, &delay) {
				return
			}
			continue
		}
		delay = backoff{}
		if client.Port() == 0 {
			s.common.metrics.drop(s.transport, dropUnreachable, 1)
			continue
		}
		handle(unmapped(client), s.asked(control[:oobn]), packet[:n])
	}
}

// survive waits after an error, and returns false when the server is closed.
func (s *udpSocket) survive(err error, delay *backoff) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	s.common.metrics.socketErrors.WithLabelValues(s.transport.String()).Inc()
	s.common.log.Debug("turn packet not read", "transport", s.transport.String(), "error", err)
	return delay.wait(s.common.done)
}

// asked returns the address that a datagram was sent to.
func (s *udpSocket) asked(control []byte) netip.AddrPort {
	if !s.told {
		return s.local
	}
	addr := askedAddress(control, s.local.Addr().Is4())
	if !addr.IsValid() || addr.IsMulticast() {
		return s.local
	}
	return netip.AddrPortFrom(addr, s.local.Port())
}

// pathTo returns the way back to a client that asked server.
func (s *udpSocket) pathTo(client, server netip.AddrPort) *udpPath {
	p := &udpPath{socket: s, client: client}
	if !s.told || server.Addr().IsUnspecified() {
		return p
	}
	if server.Addr().Is4() {
		p.control = (&ipv4.ControlMessage{Src: server.Addr().AsSlice()}).Marshal()
	} else {
		p.control = (&ipv6.ControlMessage{Src: server.Addr().AsSlice()}).Marshal()
	}
	return p
}

// udpPath is the way to one client of a socket. It does not change, and it
// does not end either: any number of them may exist for a client.
type udpPath struct {
	// Fixed after construction.
	socket  *udpSocket
	client  netip.AddrPort
	control []byte // control tells the kernel which address of ours to send from.
}

// send implements path. It waits for the machine's own network interface at most.
func (p *udpPath) send(packet []byte) error {
	_, _, err := p.socket.conn.WriteMsgUDPAddrPort(packet, p.control, p.client)
	if err != nil {
		p.socket.unsent.Inc()
	}
	return err
}

// close implements path.
func (p *udpPath) close() {}

// udpServer reads one of the sockets that plain UDP clients send to.
type udpServer struct {
	// Fixed before start.
	common *common
	socket *udpSocket
	loop   *dataLoop // loop reads the socket and relays; nil when a goroutine reads it for the receiver.

	reader sync.WaitGroup

	// Owned by the read loop.
	paths map[fiveTuple]path // paths saves making one for every packet.
}

func newUDPServer(c *common, socket *udpSocket) *udpServer {
	return &udpServer{common: c, socket: socket, paths: map[fiveTuple]path{}}
}

func (s *udpServer) start() {
	if s.loop != nil {
		s.loop.start()
		return
	}
	s.reader.Go(func() { s.socket.serve(s.handle) })
}

func (s *udpServer) handle(client, server netip.AddrPort, packet []byte) {
	if len(packet) == 0 {
		return
	}
	from := fiveTuple{transportUDP, client, server}
	s.common.receiver.receive(from, s.path(from), packet)
}

// path returns the way back to a client. It forgets all it knows when that is
// too much, which costs the live clients one allocation each.
func (s *udpServer) path(to fiveTuple) path {
	if p, ok := s.paths[to]; ok {
		return p
	}
	if len(s.paths) >= maxKnownPaths {
		clear(s.paths)
	}
	p := s.socket.pathTo(to.client, to.server)
	s.paths[to] = p
	return p
}

// close closes the socket and waits for its reader.
func (s *udpServer) close() {
	if s.loop != nil {
		s.loop.close()
		s.loop.wait()
	}
	_ = s.socket.conn.Close()
	s.reader.Wait()
}

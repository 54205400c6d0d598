package transport

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/wire"
)

// maxKnownPaths bounds the paths that a reader keeps to hand out again.
const maxKnownPaths = 4096

// udpSocket is a UDP socket that makes replies leave from the address that was
// asked: a client drops one from elsewhere. A socket bound to one address
// cannot do otherwise; for one bound to all, the kernel has to be told.
type udpSocket struct {
	// Fixed after construction.
	common    *common
	transport Protocol
	conn      batch.Conn
	local     netip.AddrPort
	told      bool               // told says that the kernel names the address that was asked.
	unsent    prometheus.Counter // unsent counts what the system refused to send.
}

func newUDPSocket(c *common, t Protocol, conn *net.UDPConn) *udpSocket {
	s := &udpSocket{
		common:    c,
		transport: t,
		conn:      conn,
		local:     wire.Unmapped(conn.LocalAddr().(*net.UDPAddr).AddrPort()),
		unsent:    c.Metrics.drops.WithLabelValues(t.String(), dropSendFailed),
	}
	// Every client shares this socket. Less than asked for still works.
	_ = conn.SetReadBuffer(batch.SocketBuffer)
	_ = conn.SetWriteBuffer(batch.SocketBuffer)
	if c.Marks {
		batch.TellMarks(conn, s.local.Addr().Is6())
	}
	if !s.local.Addr().IsUnspecified() {
		return s
	}
	if err := tellAsked(conn, s.local.Addr()); err != nil {
		c.Log.Info("turn replies may leave from another address than was asked", "error", err)
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
func (s *udpSocket) serve(handle func(client, server netip.AddrPort, packet []byte, mark batch.Mark)) {
	packet, control := make([]byte, batch.MaxDatagram), make([]byte, batch.ControlSpace)
	var delay Backoff
	for {
		n, oobn, _, client, err := s.conn.ReadMsgUDPAddrPort(packet, control)
		if err != nil {
			if !s.survive(err, &delay) {
				return
			}
			continue
		}
		delay = Backoff{}
		if client.Port() == 0 {
			s.common.Metrics.drop(s.transport, dropUnreachable, 1)
			continue
		}
		handle(wire.Unmapped(client), s.asked(control[:oobn]), packet[:n], batch.MarkOf(control[:oobn]))
	}
}

// survive waits after an error, and returns false when the server is closed.
func (s *udpSocket) survive(err error, delay *Backoff) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	s.countError()
	s.common.Log.Debug("turn packet not read", "transport", s.transport.String(), "error", err)
	return delay.Wait(s.common.done)
}

func (s *udpSocket) countError() {
	s.common.Metrics.socketErrors.WithLabelValues(s.transport.String()).Inc()
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
func (s *udpSocket) pathTo(client, server netip.AddrPort) *UDPPath {
	p := &UDPPath{socket: s, client: client}
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

// UDPPath is the way to one client of a socket. It does not change, and it
// does not end either: any number of them may exist for a client.
type UDPPath struct {
	// Fixed after construction.
	socket  *udpSocket
	client  netip.AddrPort
	control []byte // control tells the kernel which address of ours to send from.
}

// Conn returns the socket that the path leads from.
func (p *UDPPath) Conn() batch.Conn { return p.socket.conn }

// Client returns the client's address.
func (p *UDPPath) Client() netip.AddrPort { return p.client }

// Control returns what tells the kernel which address of ours to send from, nil where
// that need not be told.
func (p *UDPPath) Control() *[]byte {
	if len(p.control) == 0 {
		return nil
	}
	return &p.control
}

// Send implements Path. It waits for the machine's own network interface at most.
func (p *UDPPath) Send(packet []byte, mark batch.Mark) error {
	control := p.control
	if mark != 0 {
		control = slices.Concat(control, batch.MarkControl(mark, p.client.Addr().Is6()))
	}
	_, _, err := p.socket.conn.WriteMsgUDPAddrPort(packet, control, p.client)
	if err != nil {
		p.socket.unsent.Inc()
	}
	return err
}

// UDPServer reads one of the sockets that clients of UDP or DTLS send to.
type UDPServer struct {
	// Fixed before start.
	common *common
	socket *udpSocket
	dtls   *dtlsServer // dtls is nil unless DTLS comes to the socket.
	begin  func()      // begin and end are those of who reads the socket, nil when a goroutine does for the receiver.
	end    func()

	reader sync.WaitGroup

	// Owned by the read loop.
	paths  map[FiveTuple]Path // paths saves making one for every packet.
	recent *DTLSConn          // recent is whose record came last, if any.
}

func newUDPServer(c *common, socket *udpSocket) *UDPServer {
	return &UDPServer{common: c, socket: socket, paths: map[FiveTuple]Path{}}
}

// GiveAway lets somebody else read the server's socket, who has put conn in its place.
// It begins when the server does, and end returns when nothing is read any more.
func (s *UDPServer) GiveAway(conn batch.Conn, begin, end func()) {
	s.socket.conn, s.begin, s.end = conn, begin, end
}

// Conn returns the socket as it is.
func (s *UDPServer) Conn() batch.Conn { return s.socket.conn }

// Protocol returns whether the socket is of DTLS alone.
func (s *UDPServer) Protocol() Protocol { return s.socket.transport }

// Address returns the address that the socket is bound to.
func (s *UDPServer) Address() netip.AddrPort { return s.socket.local }

// Asked returns the address that a datagram was sent to, by what the kernel says
// about it.
func (s *UDPServer) Asked(control []byte) netip.AddrPort { return s.socket.asked(control) }

// PathTo returns the way back to a client that asked server.
func (s *UDPServer) PathTo(client, server netip.AddrPort) *UDPPath {
	return s.socket.pathTo(client, server)
}

// Refused counts datagrams from addresses that cannot be answered.
func (s *UDPServer) Refused(packets int) {
	s.common.Metrics.drop(s.socket.transport, dropUnreachable, packets)
}

// Unsent counts datagrams that the system refused to send.
func (s *UDPServer) Unsent(packets int) { s.socket.unsent.Add(float64(packets)) }

// Failed counts an error of the socket.
func (s *UDPServer) Failed() { s.socket.countError() }

func (s *UDPServer) start() {
	if s.begin != nil {
		s.begin()
		return
	}
	s.reader.Go(func() { s.socket.serve(s.handle) })
}

// IsDTLS says whether a datagram is to be unsealed: one of DTLS, if that is served here.
func (s *UDPServer) IsDTLS(packet []byte) bool {
	return s.dtls != nil && (s.socket.transport == DTLS || isRecord(packet))
}

// Unseal hands the messages in a datagram of DTLS to deliver, during the call. Who reads the
// socket calls it; what is in packet is changed.
func (s *UDPServer) Unseal(client, server netip.AddrPort, packet []byte, mark batch.Mark, deliver Deliver) {
	s.recent = s.dtls.handle(s.recent, FiveTuple{DTLS, client, server}, packet, mark, deliver)
}

func (s *UDPServer) handle(client, server netip.AddrPort, packet []byte, mark batch.Mark) {
	switch {
	case s.IsDTLS(packet):
		s.Unseal(client, server, packet, mark, s.dtls.receive)
	case len(packet) > 0:
		from := FiveTuple{UDP, client, server}
		s.common.receiver.Receive(from, s.path(from), packet, mark)
	}
}

// path returns the way back to a client. It forgets all it knows when that is
// too much, which costs the live clients one allocation each.
func (s *UDPServer) path(to FiveTuple) Path {
	if p, ok := s.paths[to]; ok {
		return p
	}
	if len(s.paths) >= maxKnownPaths {
		clear(s.paths)
	}
	p := s.socket.pathTo(to.Client, to.Server)
	s.paths[to] = p
	return p
}

// close closes the socket and waits for its reader.
func (s *UDPServer) close() {
	if s.end != nil {
		s.end()
	}
	_ = s.socket.conn.Close()
	s.reader.Wait()
}

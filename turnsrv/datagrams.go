package turnsrv

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// datagrams is a UDP socket that clients send to, as the engine reads it.
type datagrams struct {
	// Fixed after construction.
	net.PacketConn
	path     datagramPath
	requests *inflight
	log      *slog.Logger
	closing  chan struct{} // closing is closed by Close.
	left     chan struct{} // left is closed when the engine has stopped reading.
	once     sync.Once     // once guards closing.

	// Owned by the engine's read loop.
	current net.Addr // current is the client of the packet the engine works on.
}

// datagramPath moves packets in and out of a socket.
type datagramPath interface {
	readFrom(p []byte) (n int, client *net.UDPAddr, err error)
	writeTo(p []byte, client *net.UDPAddr) (int, error)
}

func newDatagrams(conn net.PacketConn, requests *inflight, log *slog.Logger) *datagrams {
	d := &datagrams{
		PacketConn: conn,
		path:       newDatagramPath(conn, log),
		requests:   requests,
		log:        log,
		closing:    make(chan struct{}),
		left:       make(chan struct{}),
	}
	if udp, ok := conn.(*net.UDPConn); ok {
		// Every client shares this socket. Less than asked for still works.
		_ = udp.SetReadBuffer(socketBuffer)
		_ = udp.SetWriteBuffer(socketBuffer)
	}
	return d
}

// ReadFrom returns the next packet. Only Close makes it fail, because an error
// would end the socket and every allocation made through it.
func (d *datagrams) ReadFrom(p []byte) (int, net.Addr, error) {
	d.requests.remove(d.current)
	var delay backoff
	for {
		n, client, err := d.path.readFrom(p)
		if err == nil {
			d.current = client
			d.requests.put(client, p[:n])
			return n, client, nil
		}
		if errors.Is(err, net.ErrClosed) || !delay.wait(d.closing) {
			close(d.left)
			return 0, nil, net.ErrClosed
		}
		d.log.Debug("turn packet not read", "error", err)
	}
}

// WriteTo sends a packet to a client, whose address came from ReadFrom.
func (d *datagrams) WriteTo(p []byte, client net.Addr) (int, error) {
	udp, ok := client.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a udp address")
	}
	return d.path.writeTo(p, udp)
}

// Close implements net.PacketConn. It may be called more than once.
func (d *datagrams) Close() error {
	d.once.Do(func() {
		close(d.closing)
		_ = d.PacketConn.Close()
	})
	return nil
}

// newDatagramPath makes sure that a reply leaves from the address that the
// client sent to: a client drops one from elsewhere. A socket bound to one
// address cannot do otherwise; for one bound to all, the kernel has to be told.
func newDatagramPath(conn net.PacketConn, log *slog.Logger) datagramPath {
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok || !local.IP.IsUnspecified() {
		return plainPath{conn}
	}
	if local.IP.To4() != nil {
		p := ipv4.NewPacketConn(conn)
		if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
			log.Info("turn replies may leave from another address than was asked", "error", err)
			return plainPath{conn}
		}
		return path4{p}
	}
	p := ipv6.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv6.FlagDst, true); err != nil {
		log.Info("turn replies may leave from another address than was asked", "error", err)
		return plainPath{conn}
	}
	return path6{p}
}

type plainPath struct{ conn net.PacketConn }

func (p plainPath) readFrom(b []byte) (int, *net.UDPAddr, error) {
	n, client, err := p.conn.ReadFrom(b)
	return udpPacket(n, client, err)
}

func (p plainPath) writeTo(b []byte, client *net.UDPAddr) (int, error) {
	return p.conn.WriteTo(b, client)
}

type path4 struct{ conn *ipv4.PacketConn }

func (p path4) readFrom(b []byte) (int, *net.UDPAddr, error) {
	n, control, client, err := p.conn.ReadFrom(b)
	n, udp, err := udpPacket(n, client, err)
	if err == nil && control != nil {
		udp.Zone = joinAsked(udp.Zone, control.Dst)
	}
	return n, udp, err
}

func (p path4) writeTo(b []byte, client *net.UDPAddr) (int, error) {
	target, asked := splitAsked(client)
	if asked == nil {
		return p.conn.WriteTo(b, nil, target)
	}
	return p.conn.WriteTo(b, &ipv4.ControlMessage{Src: asked}, target)
}

type path6 struct{ conn *ipv6.PacketConn }

func (p path6) readFrom(b []byte) (int, *net.UDPAddr, error) {
	n, control, client, err := p.conn.ReadFrom(b)
	n, udp, err := udpPacket(n, client, err)
	if err == nil && control != nil {
		udp.Zone = joinAsked(udp.Zone, control.Dst)
	}
	return n, udp, err
}

func (p path6) writeTo(b []byte, client *net.UDPAddr) (int, error) {
	target, asked := splitAsked(client)
	if asked == nil {
		return p.conn.WriteTo(b, nil, target)
	}
	return p.conn.WriteTo(b, &ipv6.ControlMessage{Src: asked}, target)
}

func udpPacket(n int, client net.Addr, err error) (int, *net.UDPAddr, error) {
	if err != nil {
		return 0, nil, err
	}
	udp, ok := client.(*net.UDPAddr)
	if !ok {
		return 0, nil, net.InvalidAddrError("not a udp address")
	}
	return n, udp, nil
}

// askedMark separates the zone of a client's address from the address of ours
// that it asked. The engine keeps a client's address with its allocation and
// hands it back for every reply, yet compares neither zone nor identity. So the
// zone carries our address through it, without a table of clients.
const askedMark = "|"

func joinAsked(zone string, asked net.IP) string {
	addr, ok := netip.AddrFromSlice(asked)
	if !ok || addr.IsMulticast() {
		return zone
	}
	return zone + askedMark + addr.Unmap().String()
}

func splitAsked(client *net.UDPAddr) (target *net.UDPAddr, asked net.IP) {
	zone, text, found := strings.Cut(client.Zone, askedMark)
	if !found {
		return client, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		asked = addr.AsSlice()
	}
	return &net.UDPAddr{IP: client.IP, Port: client.Port, Zone: zone}, asked
}

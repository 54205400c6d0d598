//go:build linux && (amd64 || arm64)

package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cline-meet/signal/turnsrv/bench/internal/udpio"
	"cline-meet/signal/turnsrv/turnclient"
)

// The floor is what a relay costs at least: recvmmsg, a table lookup by channel,
// GSO and GRO, sendmmsg and naps. It knows neither credentials nor permissions,
// lifetimes, limits or counters, and takes any number of clients of one machine. What
// clients of a pair send goes to the other one as it is, without a socket in between.

// floorHello begins the message that asks for a relay, and its answer. It is
// neither STUN nor ChannelData.
const floorHello = 0x80

// openFloor makes a flow through the floor, to a client of a pair or to a peer.
func openFloor(server string, pair bool) opener {
	return func(number uint32) (*flow, error) {
		conn, err := net.Dial("udp", server)
		if err != nil {
			return nil, err
		}
		defer func() { _ = conn.Close() }()
		here := netip.MustParseAddrPort(server)
		socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(here.Addr(), 0)))
		if err != nil {
			return nil, err
		}
		defer func() { _ = socket.Close() }()
		channel := turnclient.FirstChannel + uint16(number)
		hello := binary.BigEndian.AppendUint16([]byte{floorHello}, channel)
		hello = binary.BigEndian.AppendUint16(hello, socket.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		if pair {
			hello = append(hello, 1)
		}
		answer := make([]byte, 16)
		_ = conn.SetDeadline(time.Now().Add(turnclient.AnswerTimeout))
		if _, err := conn.Write(hello); err != nil {
			return nil, err
		}
		if n, err := conn.Read(answer); err != nil || n != 3 {
			return nil, fmt.Errorf("asking the floor: %d bytes, %w", n, err)
		}
		f := &flow{number: number, channel: channel}
		if f.client, err = bare(conn.(*net.UDPConn)); err != nil {
			return nil, err
		}
		if f.peer, err = bare(socket); err != nil {
			f.close()
			return nil, err
		}
		to := &unix.SockaddrInet4{Addr: here.Addr().As4(), Port: int(binary.BigEndian.Uint16(answer[1:]))}
		if pair {
			to.Port = int(here.Port())
		}
		if err := unix.Connect(f.peer, to); err != nil {
			f.close()
			return nil, err
		}
		return f, nil
	}
}

// floor is the forwarder; one goroutine owns it.
type floor struct {
	listener, epoll int
	nap             time.Duration
	relays          []*floorRelay // relays are by channel, from turnclient.FirstChannel on.

	slots   []byte
	takes   []udpio.Message
	vectors []unix.Iovec
	names   []udpio.Name
	control []byte
}

// floorRelay is one client, its socket and the train for it or for its peer.
type floorRelay struct {
	fd           int
	out          int // out is where packets to the peer leave from: fd, or the listener when it is a client as well.
	client, peer udpio.Name
	header       [udpio.MaxSegments][turnclient.ChannelHeader]byte
	channel      uint16
	back         *floorRelay // back is the way from that client, and nil when the peer is none.

	size, count, bytes int
	vectors            [2 * udpio.MaxSegments]unix.Iovec
	used               int
	control            [32]byte
	message            [1]udpio.Message
}

// serveFloor forwards until ctx ends.
func serveFloor(ctx context.Context, listen string, nap time.Duration) error {
	addr, err := netip.ParseAddrPort(listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	f := &floor{
		nap: nap, slots: make([]byte, receives*slotSize), takes: make([]udpio.Message, receives),
		vectors: make([]unix.Iovec, receives), names: make([]udpio.Name, receives),
		control: make([]byte, receives*udpio.ControlSpace),
	}
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if f.listener, _, err = f.socket(addr, -1); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer f.close()
	return f.serve(ctx)
}

func (f *floor) close() {
	for _, r := range f.relays {
		_ = unix.Close(r.fd)
	}
	_ = unix.Close(f.listener)
	_ = unix.Close(f.epoll)
}

// socket opens a socket whose events tell number.
func (f *floor) socket(addr netip.AddrPort, number int) (fd int, port uint16, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, 0, err
	}
	udpio.SetBuffers(fd, socketSize)
	_ = udpio.SetGRO(fd, true)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		return -1, 0, err
	}
	here, err := unix.Getsockname(fd)
	if err != nil {
		return -1, 0, err
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(number)}
	return fd, addrPort(here).Port(), unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &event)
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func (f *floor) serve(ctx context.Context) error {
	events := make([]unix.EpollEvent, 64)
	for ctx.Err() == nil {
		start := time.Now()
		n, errno := udpio.Wait(f.epoll, events, 100*time.Millisecond)
		if errno != 0 && errno != unix.EINTR {
			return errno
		}
		taken := 0
		for _, event := range events[:n] {
			if event.Fd < 0 {
				taken = max(taken, f.fromClients())
			} else {
				taken = max(taken, f.fromPeer(f.relays[event.Fd]))
			}
		}
		if taken < receives && time.Since(start) < f.nap {
			udpio.Nap(f.nap)
		}
	}
	return nil
}

func (f *floor) receive(fd int) int {
	for i := range f.takes {
		f.vectors[i].Base = &f.slots[i*slotSize]
		f.vectors[i].SetLen(slotSize)
		f.takes[i].Header = unix.Msghdr{
			Name: (*byte)(unsafe.Pointer(&f.names[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &f.vectors[i], Iovlen: 1,
			Control: &f.control[i*udpio.ControlSpace], Controllen: udpio.ControlSpace,
		}
	}
	n, errno := udpio.Receive(fd, f.takes)
	if errno != 0 {
		return 0
	}
	return n
}

// packets calls each with every packet of one received message.
func (f *floor) packets(i int, each func([]byte)) {
	data := f.slots[i*slotSize:][:f.takes[i].N]
	segment := udpio.ParseControl(f.control[i*udpio.ControlSpace:][:f.takes[i].Header.Controllen]).Segment
	if segment == 0 {
		segment = len(data)
	}
	for len(data) > 0 {
		k := min(segment, len(data))
		each(data[:k])
		data = data[k:]
	}
}

func (f *floor) fromClients() int {
	n := f.receive(f.listener)
	var touched []*floorRelay
	for i := range n {
		f.packets(i, func(packet []byte) {
			if packet[0]>>6 != 1 {
				f.hello(packet, f.names[i])
				return
			}
			r := f.relays[binary.BigEndian.Uint16(packet)-turnclient.FirstChannel]
			if r.back == nil {
				packet = packet[turnclient.ChannelHeader:]
			} else if udpio.Address(&f.names[i]) != udpio.Address(&r.client) {
				r = r.back
			}
			if r.used == 0 {
				touched = append(touched, r)
			}
			f.add(r, nil, packet, r.toPeer)
		})
	}
	for _, r := range touched {
		r.toPeer()
	}
	return n
}

func (f *floor) fromPeer(r *floorRelay) int {
	n := f.receive(r.fd)
	for i := range n {
		f.packets(i, func(packet []byte) {
			header := r.header[r.count][:]
			binary.BigEndian.PutUint16(header, r.channel)
			binary.BigEndian.PutUint16(header[2:], uint16(len(packet)))
			f.add(r, header, packet, func() { r.toClient(f.listener) })
		})
	}
	if r.used > 0 {
		r.toClient(f.listener)
	}
	return n
}

// add puts a packet on the train of a relay, which leaves first if it is full.
func (f *floor) add(r *floorRelay, header, packet []byte, leave func()) {
	size := len(header) + len(packet)
	if r.used > 0 && (size != r.size || r.count == udpio.MaxSegments || r.bytes+size > udpio.MaxTrain) {
		leave()
	}
	if len(header) > 0 {
		r.vectors[r.used].Base = &header[0]
		r.vectors[r.used].SetLen(len(header))
		r.used++
	}
	r.vectors[r.used].Base = &packet[0]
	r.vectors[r.used].SetLen(len(packet))
	r.used++
	r.size = size
	r.count++
	r.bytes += size
}

func (r *floorRelay) toPeer()         { r.leave(r.out, &r.peer) }
func (r *floorRelay) toClient(fd int) { r.leave(fd, &r.client) }

func (r *floorRelay) leave(fd int, to *udpio.Name) {
	h := &r.message[0].Header
	*h = unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(to)), Namelen: unix.SizeofSockaddrInet4, Iov: &r.vectors[0], Iovlen: uint64(r.used),
	}
	if r.count > 1 {
		control := udpio.AppendSegment(r.control[:0], r.size)
		h.Control = &control[0]
		h.SetControllen(len(control))
	}
	_, _ = udpio.Send(fd, r.message[:])
	r.used, r.count, r.bytes = 0, 0, 0
}

// hello opens a relay for a client, or answers who only asks whether the floor is
// there.
func (f *floor) hello(packet []byte, from udpio.Name) {
	answer := []byte{floorHello}
	if packet[0] == floorHello && (len(packet) == 5 || len(packet) == 6) {
		client := udpio.Address(&from)
		number := int(binary.BigEndian.Uint16(packet[1:]) - turnclient.FirstChannel)
		fd, port, err := f.socket(netip.AddrPortFrom(client.Addr(), 0), number)
		if err != nil {
			return
		}
		r := &floorRelay{fd: fd, out: fd, client: from, channel: turnclient.FirstChannel + uint16(number)}
		udpio.PutAddress(&r.peer, netip.AddrPortFrom(client.Addr(), binary.BigEndian.Uint16(packet[3:])))
		if len(packet) == 6 {
			r.out, r.back = f.listener, &floorRelay{out: f.listener, client: r.peer, peer: from}
		}
		for len(f.relays) <= number {
			f.relays = append(f.relays, nil)
		}
		if old := f.relays[number]; old != nil {
			_ = unix.Close(old.fd)
		}
		f.relays[number] = r
		answer = binary.BigEndian.AppendUint16(answer, port)
	}
	to := unix.SockaddrInet4{Addr: udpio.Address(&from).Addr().As4(), Port: int(udpio.Address(&from).Port())}
	_ = unix.Sendto(f.listener, answer, 0, &to)
}

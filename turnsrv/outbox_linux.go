package turnsrv

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"cline-meet/signal/turnsrv/internal/wire"
)

const (
	// outboxPackets bounds the packets that wait for one flush.
	outboxPackets = 2048

	// maxSegments is how many packets every kernel that splits takes at once.
	maxSegments = 64

	// maxRun is how many bytes fit into one datagram of either family.
	maxRun = 65_000

	// fewGroups is how many destinations are found faster one by one than in a map.
	fewGroups = 8

	// sendBatch is how many datagrams go to the kernel with one call.
	sendBatch = 256
)

// outbox collects packets and sends them by destination: runs of equal size as
// one write that the kernel or the network interface splits, and all that leaves
// from one socket with one call. Packets to one destination keep their order.
// One loop owns it.
type outbox struct {
	metrics *metrics
	relayed *relayed
	total   uint64 // total is how many packets of data there ever were.
	toPeers bool   // toPeers says that some of what waits leaves from a relay.

	packets []outPacket
	groups  []outGroup
	index   map[destination]int32 // index holds the places of the destinations in groups, once they are more than fewGroups.
	headers []byte                // headers is where the packets' headers are.
	flushes uint64

	// What a flush makes for the kernel.
	sorted   []int32
	runs     []outRun
	messages []multiMessage
	names    []unix.RawSockaddrInet6
	controls [][64]byte
	parts    []unix.Iovec
}

// destination is where packets go: to a client, or from a relay to a peer.
type destination struct {
	client *udpPath
	relay  *relay
	peer   netip.AddrPort
}

// outPacket is a packet that waits.
type outPacket struct {
	header, body []byte // header is empty where body has it.
	padding      int
	relayed      int   // relayed is the bytes of data in it.
	control      bool  // control is an answer, not data.
	next         int32 // next is the packet after it to the same destination, -1 at the end.
}

func (p *outPacket) size() int { return len(p.header) + len(p.body) + p.padding }

// outGroup is what waits for one destination.
type outGroup struct {
	destination
	socket      *rawSocket
	first, last int32
}

// outRun is what one message holds.
type outRun struct {
	group          int32
	first          int32
	packets        int
	relayed        int // relayed is the bytes of data.
	control        bool
	segment, bytes int
}

func newOutbox(m *metrics) *outbox {
	return &outbox{metrics: m, relayed: m.newRelayed(), index: map[destination]int32{},
		headers: make([]byte, 0, outboxPackets*wire.DataIndicationHeader)}
}

// lot is a destination's place in an outbox, which spares looking it up for every
// packet. The zero lot is valid.
type lot struct {
	destination
	socket *rawSocket
	place  int32
	flush  uint64 // flush is the one that place is for, counted from 1.
}

// peerLot is the lot of a relay's peer.
func peerLot(r *relay, peer netip.AddrPort) lot {
	socket, _ := r.conn.(*rawSocket)
	return lot{destination: destination{relay: r, peer: peer}, socket: socket}
}

// clientLot is the lot of a client.
func clientLot(client *udpPath) lot {
	socket, _ := client.socket.conn.(*rawSocket)
	return lot{destination: destination{client: client}, socket: socket}
}

// headerSpace is where the header of the next packet may be appended, once there
// is room for it.
func (o *outbox) headerSpace() []byte {
	o.makeRoom()
	return o.headers[len(o.headers):]
}

func (o *outbox) makeRoom() {
	if len(o.packets) >= outboxPackets {
		o.flush()
	}
}

// add adds a packet, whose payload must stay until the flush and whose header, if
// it has one, is in headerSpace.
func (o *outbox) add(to *lot, header, payload []byte, padding int) {
	o.makeRoom()
	o.headers = o.headers[:len(o.headers)+len(header)]
	o.total++
	o.append(to, outPacket{header: header, body: payload, padding: padding, relayed: len(payload), next: -1})
}

// addFrame adds a packet with so many bytes of data, which must stay until the
// flush.
func (o *outbox) addFrame(to *lot, frame []byte, relayed int) {
	o.makeRoom()
	o.total++
	o.append(to, outPacket{body: frame, relayed: relayed, next: -1})
}

// addControl adds an answer to a client's request.
func (o *outbox) addControl(to *lot, packet []byte) {
	o.makeRoom()
	o.append(to, outPacket{body: packet, control: true, next: -1})
}

func (o *outbox) append(to *lot, p outPacket) {
	at := int32(len(o.packets))
	o.packets = append(o.packets, p)
	o.toPeers = o.toPeers || to.relay != nil
	if to.flush != o.flushes+1 && !o.settle(to, at) {
		return
	}
	g := &o.groups[to.place]
	o.packets[g.last].next = at
	g.last = at
}

// settle finds the place of a lot, and reports false when it is a new one, which
// then begins with that packet.
func (o *outbox) settle(to *lot, at int32) (known bool) {
	to.flush = o.flushes + 1
	if to.place, known = o.find(&to.destination); known {
		return true
	}
	to.place = int32(len(o.groups))
	o.groups = append(o.groups, outGroup{destination: to.destination, socket: to.socket, first: at, last: at})
	switch {
	case len(o.groups) == fewGroups+1:
		for i := range o.groups {
			o.index[o.groups[i].destination] = int32(i)
		}
	case len(o.groups) > fewGroups:
		o.index[to.destination] = to.place
	}
	return false
}

func (o *outbox) find(d *destination) (place int32, known bool) {
	if len(o.groups) > fewGroups {
		place, known = o.index[*d]
		return place, known
	}
	for i := range o.groups {
		if o.groups[i].destination == *d {
			return int32(i), true
		}
	}
	return 0, false
}

// flush sends all that waits.
func (o *outbox) flush() {
	if len(o.packets) == 0 {
		return
	}
	o.sorted = o.sorted[:0]
	for i := range o.groups {
		o.sorted = append(o.sorted, int32(i))
	}
	if len(o.groups) > 2 {
		slices.SortFunc(o.sorted, func(a, b int32) int {
			return cmp.Compare(uintptr(unsafe.Pointer(o.groups[a].socket)), uintptr(unsafe.Pointer(o.groups[b].socket)))
		})
	}
	for i, place := range o.sorted {
		o.prepare(place)
		if next := i + 1; next == len(o.sorted) || o.groups[o.sorted[next]].socket != o.groups[place].socket || len(o.runs) >= sendBatch {
			o.send(o.groups[place].socket)
		}
	}
	clear(o.packets)
	clear(o.groups)
	if len(o.index) > 0 {
		clear(o.index)
	}
	o.packets, o.groups, o.headers = o.packets[:0], o.groups[:0], o.headers[:0]
	o.toPeers = false
	o.flushes++
}

// prepare divides a group into runs.
func (o *outbox) prepare(place int32) {
	g := &o.groups[place]
	limit := int(g.socket.segmentLimit.Load())
	for at := g.first; at >= 0; {
		p := &o.packets[at]
		run := outRun{group: place, first: at, segment: p.size(), control: p.control}
		for {
			run.packets++
			run.relayed += p.relayed
			run.bytes += p.size()
			short := p.size() < run.segment
			if at = p.next; at < 0 || short || run.packets == maxSegments || run.segment > limit {
				break
			}
			p = &o.packets[at]
			if p.control != run.control || p.size() > run.segment || p.size() == 0 || run.bytes+p.size() > maxRun {
				break
			}
		}
		o.runs = append(o.runs, run)
	}
}

// send sends the runs that are prepared, from one socket.
func (o *outbox) send(s *rawSocket) {
	defer func() { o.runs = o.runs[:0] }()
	fd, ok := s.take()
	if !ok {
		o.fail(o.runs)
		return
	}
	defer s.give()
	if o.sendSingle(fd) {
		return
	}
	o.compose()
	for done := 0; done < len(o.messages); {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&o.messages[done])),
			uintptr(len(o.messages)-done), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			o.count(o.runs[done : done+int(n)])
			done += int(n)
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			o.fail(o.runs[done:])
			return
		default:
			o.retry(s, fd, done, errno)
			done++
		}
	}
}

// sendSingle sends what is one packet in one piece, the usual case of a quiet
// server, with the system call that costs least. It reports false, having done
// nothing, for everything else.
func (o *outbox) sendSingle(fd int) bool {
	run := o.runs[0]
	p, to := &o.packets[run.first], &o.groups[run.group]
	if len(o.runs) > 1 || run.packets > 1 || len(p.header)+p.padding > 0 || to.client != nil && len(to.client.control) > 0 {
		return false
	}
	peer := to.peer
	if to.client != nil {
		peer = to.client.client
	}
	var name unix.RawSockaddrInet6
	size := putSockaddr(&name, peer)
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p.body))),
			uintptr(len(p.body)), unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&name)), uintptr(size))
		switch errno {
		case 0:
			o.count(o.runs)
		case unix.EINTR:
			continue
		default:
			o.fail(o.runs)
		}
		return true
	}
}

// compose makes a message of each run.
func (o *outbox) compose() {
	n := len(o.runs)
	o.messages, o.parts = slices.Grow(o.messages[:0], n)[:n], o.parts[:0]
	o.names = slices.Grow(o.names[:0], n)[:n]
	o.controls = slices.Grow(o.controls[:0], n)[:n]
	packets := 0
	for _, run := range o.runs {
		packets += run.packets
	}
	o.parts = slices.Grow(o.parts, 3*packets) // Messages point into it, so it must not move.
	for i, run := range o.runs {
		segment := run.segment
		if run.packets == 1 {
			segment = 0
		}
		o.message(i, o.groups[run.group].destination, segment)
		start := len(o.parts)
		for at, left := run.first, run.packets; left > 0; left-- {
			o.parts = o.packets[at].appendTo(o.parts)
			at = o.packets[at].next
		}
		o.messages[i].header.Iov = unsafe.SliceData(o.parts[start:])
		o.messages[i].header.SetIovlen(len(o.parts) - start)
	}
}

// zeros is what packets are padded with.
var zeros [4]byte

func (p *outPacket) appendTo(parts []unix.Iovec) []unix.Iovec {
	if len(p.header) > 0 {
		parts = append(parts, iovec(p.header))
	}
	if len(p.body) > 0 {
		parts = append(parts, iovec(p.body))
	}
	if p.padding > 0 {
		parts = append(parts, iovec(zeros[:p.padding]))
	}
	return parts
}

// message addresses a message. A segment size tells the kernel to split it.
func (o *outbox) message(i int, to destination, segment int) {
	m, control := &o.messages[i], o.controls[i][:0]
	*m = multiMessage{}
	peer := to.peer
	if to.client != nil {
		peer = to.client.client
		control = append(control, to.client.control...)
	}
	m.header.Name = (*byte)(unsafe.Pointer(&o.names[i]))
	m.header.Namelen = putSockaddr(&o.names[i], peer)
	if segment > 0 {
		control = appendSegmentSize(control, segment)
	}
	if len(control) > 0 {
		m.header.Control = &o.controls[i][0]
		m.header.SetControllen(len(control))
	}
}

// appendSegmentSize appends the control message that makes the kernel split.
func appendSegmentSize(control []byte, size int) []byte {
	start := len(control)
	control = control[:start+unix.CmsgSpace(2)]
	clear(control[start:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[start]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[start+unix.CmsgLen(0):], uint16(size))
	return control
}

// retry sends the packets of a run one by one that the kernel did not split.
func (o *outbox) retry(s *rawSocket, fd, i int, reason syscall.Errno) {
	run := o.runs[i]
	if run.packets == 1 {
		o.fail(o.runs[i : i+1])
		return
	}
	switch reason {
	case unix.EMSGSIZE, unix.EINVAL: // The size is above what the way to the destination takes.
		s.segmentLimit.Store(int32(run.segment - 1))
	case unix.EIO, unix.EOPNOTSUPP, unix.ENOPROTOOPT: // The interface cannot at all.
		s.segmentLimit.Store(0)
	}
	o.message(i, o.groups[run.group].destination, 0)
	var space [3]unix.Iovec
	for at, left := run.first, run.packets; left > 0; left-- {
		p := &o.packets[at]
		one := []outRun{{group: run.group, packets: 1, relayed: p.relayed, control: run.control}}
		if err := o.sendOne(fd, i, p.appendTo(space[:0])); err != 0 {
			o.fail(one)
		} else {
			o.count(one)
		}
		at = p.next
	}
}

func (o *outbox) sendOne(fd, i int, parts []unix.Iovec) syscall.Errno {
	h := &o.messages[i].header
	h.Iov = unsafe.SliceData(parts)
	h.SetIovlen(len(parts))
	_, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT)
	return errno
}

// count counts runs that were sent.
func (o *outbox) count(runs []outRun) {
	var up, down [2]int
	for _, run := range runs {
		if run.control {
			continue
		}
		to := &up
		if o.groups[run.group].client != nil {
			to = &down
		}
		to[0] += run.packets
		to[1] += run.relayed
	}
	if up[0] > 0 {
		o.relayed.sentToPeer(up[0], up[1])
	}
	if down[0] > 0 {
		o.relayed.receivedFromPeer(down[0], down[1])
	}
}

// fail counts runs that could not be sent.
func (o *outbox) fail(runs []outRun) {
	for _, run := range runs {
		if !run.control {
			o.metrics.droppedPackets(dropSendError, run.packets)
		}
		if client := o.groups[run.group].client; client != nil {
			client.socket.unsent.Add(float64(run.packets))
		}
	}
}

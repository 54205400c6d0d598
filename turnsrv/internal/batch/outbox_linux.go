package batch

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// outboxPackets bounds the packets that wait for one flush.
	outboxPackets = 2048

	// maxRun is how many bytes fit into one datagram of either family.
	maxRun = 65_000

	// fewGroups is how many destinations are found faster one by one than in a map.
	fewGroups = 8

	// sendBatch is how many datagrams go to the kernel with one call.
	sendBatch = 256
)

// Class is what a packet counts as. What the classes are is up to who sends.
type Class uint8

// Classes is how many classes there may be.
const Classes = 4

// Flushed is what became of the packets of a flush, by their class.
type Flushed [Classes]struct {
	Packets, Bytes int // Packets were sent, with so many bytes of payload.
	Failed         int // Failed are packets that could not be sent.
}

// Outbox collects packets and sends them by destination: runs of equal size as
// one write that the kernel or the network interface splits, and all that leaves
// from one socket with one call. Packets to one destination keep their order.
// One loop owns it.
type Outbox struct {
	flushed func(*Flushed) // flushed is fixed after construction.

	packets []outPacket
	groups  []outGroup
	index   map[Destination]int32 // index holds the places of the destinations in groups, once they are more than fewGroups.
	headers []byte                // headers is where the packets' headers are.
	waiting [Classes]bool         // waiting says of which classes there are packets.
	flushes uint64

	// What a flush makes for the kernel.
	sorted   []int32
	runs     []outRun
	messages []multiMessage
	names    []unix.RawSockaddrInet6
	controls [][96]byte // Each is room for an address, a mark and a segment size.
	parts    []unix.Iovec
	result   Flushed
}

// Destination is where packets go, and from which socket.
type Destination struct {
	Socket  *Socket
	To      netip.AddrPort
	Control *[]byte // Control is what the kernel is told with each packet, nil for nothing. It must not change.
}

// outPacket is a packet that waits.
type outPacket struct {
	header, body []byte // header is empty where body has it.
	padding      int
	payload      int // payload is the bytes that count.
	class        Class
	mark         Mark
	next         int32 // next is the packet after it to the same destination, -1 at the end.
}

func (p *outPacket) size() int { return len(p.header) + len(p.body) + p.padding }

// outGroup is what waits for one destination.
type outGroup struct {
	Destination
	first, last int32
}

// outRun is what one message holds.
type outRun struct {
	group          int32
	first          int32
	packets        int
	payload        int // payload is the bytes that count.
	class          Class
	mark           Mark
	segment, bytes int
}

// NewOutbox returns an outbox for packets whose headers are no longer than that,
// in bytes. It calls flushed at the end of every flush.
func NewOutbox(header int, flushed func(*Flushed)) *Outbox {
	return &Outbox{flushed: flushed, index: map[Destination]int32{}, headers: make([]byte, 0, outboxPackets*header)}
}

// Slot is the place of a destination in an outbox, for packets of one class, which
// spares looking it up for every packet. The zero slot leads nowhere.
type Slot struct {
	Destination
	Mark  Mark // Mark is that of the packets which are added next.
	class Class
	place int32
	flush uint64 // flush is the one that place is for, counted from 1.
}

// NewSlot returns a slot, for any outbox.
func NewSlot(to Destination, class Class) Slot { return Slot{Destination: to, class: class} }

// HeaderSpace is where the header of the next packet may be appended, once there
// is room for it.
func (o *Outbox) HeaderSpace() []byte {
	o.makeRoom()
	return o.headers[len(o.headers):]
}

func (o *Outbox) makeRoom() {
	if len(o.packets) >= outboxPackets {
		o.Flush()
	}
}

// Waiting says whether packets of a class wait.
func (o *Outbox) Waiting(class Class) bool { return o.waiting[class] }

// Add adds a packet, whose payload must stay until the flush and whose header, if
// it has one, is in HeaderSpace. The padding is at most 3 bytes.
func (o *Outbox) Add(to *Slot, header, payload []byte, padding int) {
	o.makeRoom()
	o.headers = o.headers[:len(o.headers)+len(header)]
	o.append(to, outPacket{header: header, body: payload, padding: padding, payload: len(payload), class: to.class, next: -1})
}

// AddFrame adds a packet that has so many bytes of payload, and must stay until the
// flush.
func (o *Outbox) AddFrame(to *Slot, frame []byte, payload int) {
	o.makeRoom()
	o.append(to, outPacket{body: frame, payload: payload, class: to.class, next: -1})
}

func (o *Outbox) append(to *Slot, p outPacket) {
	at := int32(len(o.packets))
	p.mark = to.Mark
	o.packets = append(o.packets, p)
	o.waiting[p.class] = true
	if to.flush != o.flushes+1 && !o.settle(to, at) {
		return
	}
	g := &o.groups[to.place]
	o.packets[g.last].next = at
	g.last = at
}

// settle finds the place of a slot, and reports false when it is a new one, which
// then begins with that packet.
func (o *Outbox) settle(to *Slot, at int32) (known bool) {
	to.flush = o.flushes + 1
	if to.place, known = o.find(&to.Destination); known {
		return true
	}
	to.place = int32(len(o.groups))
	o.groups = append(o.groups, outGroup{Destination: to.Destination, first: at, last: at})
	switch {
	case len(o.groups) == fewGroups+1:
		for i := range o.groups {
			o.index[o.groups[i].Destination] = int32(i)
		}
	case len(o.groups) > fewGroups:
		o.index[to.Destination] = to.place
	}
	return false
}

func (o *Outbox) find(d *Destination) (place int32, known bool) {
	if len(o.groups) > fewGroups {
		place, known = o.index[*d]
		return place, known
	}
	for i := range o.groups {
		if o.groups[i].Destination == *d {
			return int32(i), true
		}
	}
	return 0, false
}

// Flush sends all that waits, and tells what became of it.
func (o *Outbox) Flush() {
	if len(o.packets) == 0 {
		return
	}
	o.sorted = o.sorted[:0]
	for i := range o.groups {
		o.sorted = append(o.sorted, int32(i))
	}
	if len(o.groups) > 2 {
		slices.SortFunc(o.sorted, func(a, b int32) int {
			return cmp.Compare(uintptr(unsafe.Pointer(o.groups[a].Socket)), uintptr(unsafe.Pointer(o.groups[b].Socket)))
		})
	}
	for i, place := range o.sorted {
		o.prepare(place)
		if next := i + 1; next == len(o.sorted) || o.groups[o.sorted[next]].Socket != o.groups[place].Socket || len(o.runs) >= sendBatch {
			o.send(o.groups[place].Socket)
		}
	}
	clear(o.packets)
	clear(o.groups)
	if len(o.index) > 0 {
		clear(o.index)
	}
	o.packets, o.groups, o.headers = o.packets[:0], o.groups[:0], o.headers[:0]
	o.waiting = [Classes]bool{}
	o.flushes++
	o.flushed(&o.result)
	o.result = Flushed{}
}

// prepare divides a group into runs.
func (o *Outbox) prepare(place int32) {
	g := &o.groups[place]
	limit := int(g.Socket.segmentLimit.Load())
	for at := g.first; at >= 0; {
		p := &o.packets[at]
		run := outRun{group: place, first: at, segment: p.size(), class: p.class, mark: p.mark}
		for {
			run.packets++
			run.payload += p.payload
			run.bytes += p.size()
			short := p.size() < run.segment
			if at = p.next; at < 0 || short || run.packets == MaxSegments || run.segment > limit {
				break
			}
			p = &o.packets[at]
			if p.class != run.class || p.mark != run.mark || p.size() > run.segment || p.size() == 0 || run.bytes+p.size() > maxRun {
				break
			}
		}
		o.runs = append(o.runs, run)
	}
}

// send sends the runs that are prepared, from one socket.
func (o *Outbox) send(s *Socket) {
	defer func() { o.runs = o.runs[:0] }()
	fd, ok := s.acquire()
	if !ok {
		o.fail(o.runs)
		return
	}
	defer s.release()
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
func (o *Outbox) sendSingle(fd int) bool {
	run := o.runs[0]
	p, to := &o.packets[run.first], &o.groups[run.group]
	if len(o.runs) > 1 || run.packets > 1 || len(p.header)+p.padding > 0 || to.Control != nil || run.mark != 0 {
		return false
	}
	var name unix.RawSockaddrInet6
	size := putSockaddr(&name, to.To)
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
func (o *Outbox) compose() {
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
		o.message(i, &run, segment)
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

// message addresses a message of a run. A segment size tells the kernel to split it.
func (o *Outbox) message(i int, run *outRun, segment int) {
	m, control, to := &o.messages[i], o.controls[i][:0], &o.groups[run.group].Destination
	*m = multiMessage{}
	if to.Control != nil {
		control = append(control, *to.Control...)
	}
	control = append(control, MarkControl(run.mark, to.To.Addr().Is6())...)
	m.header.Name = (*byte)(unsafe.Pointer(&o.names[i]))
	m.header.Namelen = putSockaddr(&o.names[i], to.To)
	if segment > 0 {
		control = AppendSegmentSize(control, segment)
	}
	if len(control) > 0 {
		m.header.Control = &o.controls[i][0]
		m.header.SetControllen(len(control))
	}
}

// AppendSegmentSize appends the control message that makes the kernel split what is
// sent with it, for which there must be room.
func AppendSegmentSize(control []byte, size int) []byte {
	start := len(control)
	control = control[:start+unix.CmsgSpace(2)]
	clear(control[start:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[start]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[start+unix.CmsgLen(0):], uint16(size))
	return control
}

// RefusesSplit says whether an error means that the kernel splits nothing, or nothing of that size, on the way to
// the destination. After others it may the next time.
func RefusesSplit(err error) bool {
	return tooLargeToSplit(err) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT)
}

// tooLargeToSplit says whether the size is above what the way to the destination takes.
func tooLargeToSplit(err error) bool {
	return errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL)
}

// retry sends the packets of a run one by one that the kernel did not split.
func (o *Outbox) retry(s *Socket, fd, i int, reason syscall.Errno) {
	run := o.runs[i]
	if run.packets == 1 {
		o.fail(o.runs[i : i+1])
		return
	}
	switch {
	case tooLargeToSplit(reason):
		s.segmentLimit.Store(int32(run.segment - 1))
	case RefusesSplit(reason):
		s.segmentLimit.Store(0)
	}
	o.message(i, &run, 0)
	var space [3]unix.Iovec
	for at, left := run.first, run.packets; left > 0; left-- {
		p := &o.packets[at]
		one := []outRun{{packets: 1, payload: p.payload, class: run.class}}
		if err := o.sendOne(fd, i, p.appendTo(space[:0])); err != 0 {
			o.fail(one)
		} else {
			o.count(one)
		}
		at = p.next
	}
}

func (o *Outbox) sendOne(fd, i int, parts []unix.Iovec) syscall.Errno {
	h := &o.messages[i].header
	h.Iov = unsafe.SliceData(parts)
	h.SetIovlen(len(parts))
	_, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT)
	return errno
}

// count counts runs that were sent.
func (o *Outbox) count(runs []outRun) {
	for i := range runs {
		of := &o.result[runs[i].class]
		of.Packets += runs[i].packets
		of.Bytes += runs[i].payload
	}
}

// fail counts runs that could not be sent.
func (o *Outbox) fail(runs []outRun) {
	for i := range runs {
		o.result[runs[i].class].Failed += runs[i].packets
	}
}

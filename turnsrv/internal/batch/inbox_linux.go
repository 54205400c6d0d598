package batch

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// inboxBuffers is how many datagrams a loop reads before it sends them on. The
	// more there are to one destination, the less one costs.
	inboxBuffers = 512

	// inboxBytes bounds what is read before it is sent on, but for one batch. It
	// should stay in the processor's cache meanwhile.
	inboxBytes = 512 << 10

	// readSingles and readTrains are how many datagrams, single or merged, a socket
	// may fill buffers with at a time.
	readSingles = 64
	readTrains  = 8

	// bufferHeadroom is room for a header in front of a datagram, which is copied
	// fastest to the beginning of a line of the processor's caches.
	bufferHeadroom = 64

	// bufferStride is room for any datagram and its header. As a power of two it
	// would put the beginnings of all buffers into the same few lines of the
	// processor's caches.
	bufferStride = MaxDatagram + 192
)

// multiMessage is the kernel's struct mmsghdr.
type multiMessage struct {
	header unix.Msghdr
	size   uint32 // size is how many bytes came or went.
}

// Inbox holds the datagrams that were read from sockets, many with one call. They
// stay where they are, by their index, until Reset. One loop owns it.
type Inbox struct {
	used     int
	bytes    int
	marked   int // marked is how many of those that were read last have a mark, as far as was looked.
	merged   int // merged is how many of those that were read last are merged, as far as was looked.
	buffers  []byte
	messages [inboxBuffers]multiMessage
	parts    [inboxBuffers]unix.Iovec
	names    [inboxBuffers]unix.RawSockaddrInet6
	controls [inboxBuffers][ControlSpace]byte
}

// NewInbox returns an inbox, whose memory is not of the Go heap.
func NewInbox() (*Inbox, error) {
	// Most buffers never hold more than a page, and what is never written takes no
	// memory.
	buffers, err := unix.Mmap(-1, 0, inboxBuffers*bufferStride, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	in := &Inbox{buffers: buffers}
	for i := range in.messages {
		in.parts[i] = iovec(in.buffer(i)[bufferHeadroom:][:MaxDatagram])
		h := &in.messages[i].header
		h.Iov = &in.parts[i]
		h.SetIovlen(1)
		h.Name, h.Control = (*byte)(unsafe.Pointer(&in.names[i])), &in.controls[i][0]
	}
	in.prepare(inboxBuffers)
	return in, nil
}

func (in *Inbox) buffer(i int) []byte { return in.buffers[i*bufferStride : (i+1)*bufferStride] }

// prepare makes the first buffers as the kernel needs them to be filled, which it
// changes.
func (in *Inbox) prepare(buffers int) {
	for i := range buffers {
		h := &in.messages[i].header
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(ControlSpace)
		h.Flags = 0
	}
}

// Free gives the memory back. Nothing of it may be in use.
func (in *Inbox) Free() { _ = unix.Munmap(in.buffers) }

// Full says whether what was read has to be sent on before more is.
func (in *Inbox) Full() bool { return in.used == inboxBuffers || in.bytes >= inboxBytes }

// Reset makes all buffers free.
func (in *Inbox) Reset() {
	in.prepare(in.used)
	in.used, in.bytes = 0, 0
}

// Read reads some of what waits at a socket and returns the range of the datagrams
// that came. With more there may be others; an error of the socket is over by now.
func (in *Inbox) Read(s *Socket) (first, end int, more bool, err error) {
	in.merged, in.marked = 0, 0
	fd, ok := s.acquire()
	if !ok {
		return in.used, in.used, false, nil
	}
	defer s.release()
	most := readSingles
	if s.coalesce.on {
		most = readTrains
	}
	room := min(most, inboxBuffers-in.used)
	// It never blocks, so the scheduler need not know.
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.messages[in.used])),
		uintptr(room), unix.MSG_DONTWAIT, 0, 0)
	first = in.used
	switch errno {
	case 0:
		for ; n > 0; n-- {
			in.bytes += int(in.messages[in.used].size)
			in.used++
		}
	case unix.EAGAIN, unix.EINTR:
	default:
		err = errno
	}
	return first, in.used, in.used-first == most, err
}

// run returns how many datagrams of a range, from its first on, are of one size
// and sender.
func (in *Inbox) run(first, end int) int {
	n := 1
	for first+n < end && in.messages[first+n].size == in.messages[first].size && in.names[first+n] == in.names[first] {
		n++
	}
	return n
}

// Datagram returns a datagram.
func (in *Inbox) Datagram(i int) []byte {
	return in.buffer(i)[bufferHeadroom:][:in.messages[i].size]
}

// Frame returns a datagram with a header in front of it and padding behind, where
// it is. The header must not be longer than 64 bytes, nor the padding than 3.
func (in *Inbox) Frame(i int, header []byte, padding int) []byte {
	buffer := in.buffer(i)
	start, end := bufferHeadroom-len(header), bufferHeadroom+int(in.messages[i].size)
	copy(buffer[start:], header)
	clear(buffer[end : end+padding])
	return buffer[start : end+padding]
}

// Sender returns whom a datagram is from.
func (in *Inbox) Sender(i int) netip.AddrPort { return sockaddr(&in.names[i]) }

// Control returns what the kernel says about a datagram: its control messages.
func (in *Inbox) Control(i int) []byte { return in.controls[i][:in.messages[i].header.Controllen] }

// Details returns the size of the packets that a datagram of a socket is merged
// from, 0 when it is one, the mark that all of them have, since the kernel merges no
// others, and how many datagrams the kernel has dropped before it and after the one
// that was asked about before.
func (in *Inbox) Details(s *Socket, i int) (segment int, mark Mark, dropped uint32) {
	control := in.Control(i)
	if len(control) == 0 {
		return 0, 0, 0
	}
	segment, mark, drops := details(control)
	if segment > 0 {
		in.merged++
	}
	if mark != 0 {
		in.marked++
	}
	if drops > 0 && drops != s.drops {
		dropped, s.drops = drops-s.drops, drops
	}
	return segment, mark, dropped
}

// Tune lets a socket learn from the range that was read from it last, of whose
// datagrams the details were asked, and behind which there may be more.
func (in *Inbox) Tune(s *Socket, first, end int, more bool, now time.Time) {
	if end == first {
		return
	}
	a := arrived{datagrams: end - first, merged: in.merged, run: in.run(first, end), more: more}
	if s.coalesce.learn(a, now) {
		s.merge(s.coalesce.on)
	}
	if s.marks.learn(end-first, in.marked, now) {
		tellMarks(s, s.isIPv6(), s.marks.on)
	}
}

// Packets yields the packets that a datagram is merged from. With segment 0 it is
// one.
func Packets(datagram []byte, segment int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		if segment <= 0 || segment >= len(datagram) {
			yield(datagram)
			return
		}
		for len(datagram) > 0 {
			n := min(segment, len(datagram))
			if !yield(datagram[:n:n]) {
				return
			}
			datagram = datagram[n:]
		}
	}
}

// Count returns how many packets a datagram is merged from.
func Count(datagram []byte, segment int) int {
	if segment <= 0 {
		return 1
	}
	return (len(datagram) + segment - 1) / segment
}

// details reads what the kernel says about a datagram: the size of the packets
// that it is merged from, 0 when it is one, its mark, and how many the socket has dropped
// since it was opened, 0 when that is not said.
func details(control []byte) (segment int, mark Mark, drops uint32) {
	for len(control) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return segment, mark, drops
		}
		control = rest
		switch {
		case header.Level == unix.SOL_UDP && header.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			drops = binary.NativeEndian.Uint32(data)
		default:
			if found, ok := markIn(header.Level, header.Type, data); ok {
				mark = found
			}
		}
	}
	return segment, mark, drops
}

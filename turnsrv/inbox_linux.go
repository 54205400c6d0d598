package turnsrv

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// inboxSlots is how many datagrams a loop takes before it sends them on. The
	// more there are to one destination, the less one costs.
	inboxSlots = 512

	// inboxBytes bounds what is taken before it is sent on, but for one batch. It
	// should stay in the processor's cache meanwhile.
	inboxBytes = 512 << 10

	// takeBatch and takeTrains are how many datagrams, single or merged, a socket
	// may fill slots with at a time.
	takeBatch  = 64
	takeTrains = 8

	// slotHeadroom is room for a header in front of a datagram, which is copied
	// fastest to the beginning of a line of the processor's caches.
	slotHeadroom = 64

	// slotStride is room for any datagram and its header. As a
	// power of two it would put the beginnings of all slots into the same few lines
	// of the processor's caches.
	slotStride = maxDatagram + 192
)

// multiMessage is the kernel's struct mmsghdr.
type multiMessage struct {
	header unix.Msghdr
	size   uint32 // size is how many bytes came or went.
}

// inbox takes datagrams from sockets, many with one call. One loop owns it.
type inbox struct {
	used     int
	bytes    int
	slots    []byte
	messages [inboxSlots]multiMessage
	parts    [inboxSlots]unix.Iovec
	names    [inboxSlots]unix.RawSockaddrInet6
	controls [inboxSlots][controlSpace]byte
}

func newInbox() (*inbox, error) {
	// Most slots never hold more than a page, and what is never written takes no
	// memory.
	slots, err := unix.Mmap(-1, 0, inboxSlots*slotStride, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	in := &inbox{slots: slots}
	for i := range in.messages {
		in.parts[i] = iovec(in.slot(i)[slotHeadroom:][:maxDatagram])
		h := &in.messages[i].header
		h.Iov = &in.parts[i]
		h.SetIovlen(1)
		h.Name, h.Control = (*byte)(unsafe.Pointer(&in.names[i])), &in.controls[i][0]
	}
	in.prepare(inboxSlots)
	return in, nil
}

func (in *inbox) slot(i int) []byte { return in.slots[i*slotStride : (i+1)*slotStride] }

// prepare makes the first slots as the kernel needs them to be filled, which it
// changes.
func (in *inbox) prepare(slots int) {
	for i := range slots {
		h := &in.messages[i].header
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlSpace)
		h.Flags = 0
	}
}

// free gives the memory back. Nothing of it may be in use.
func (in *inbox) free() { _ = unix.Munmap(in.slots) }

func (in *inbox) full() bool { return in.used == inboxSlots || in.bytes >= inboxBytes }

// reset makes all slots free.
func (in *inbox) reset() {
	in.prepare(in.used)
	in.used, in.bytes = 0, 0
}

// take fills free slots, at most so many, with what waits at a socket, and
// returns the range of those it filled.
func (in *inbox) take(s *rawSocket, most int) (first, end int, err error) {
	fd, ok := s.take()
	if !ok {
		return in.used, in.used, nil
	}
	defer s.give()
	most = min(most, inboxSlots-in.used)
	// It never blocks, so the scheduler need not know.
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.messages[in.used])),
		uintptr(most), unix.MSG_DONTWAIT, 0, 0)
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
	return first, in.used, err
}

// run returns how many datagrams of a range, from its first on, are of one size
// and sender.
func (in *inbox) run(first, end int) int {
	n := 1
	for first+n < end && in.messages[first+n].size == in.messages[first].size && in.names[first+n] == in.names[first] {
		n++
	}
	return n
}

// datagram returns what is in a slot.
func (in *inbox) datagram(i int) []byte {
	return in.slot(i)[slotHeadroom:][:in.messages[i].size]
}

// frame returns a datagram with a header in front of it and padding behind, where
// it is. The header must not be longer than slotHeadroom, nor the padding than 3.
func (in *inbox) frame(i int, header []byte, padding int) []byte {
	slot := in.slot(i)
	start, end := slotHeadroom-len(header), slotHeadroom+int(in.messages[i].size)
	copy(slot[start:], header)
	clear(slot[end : end+padding])
	return slot[start : end+padding]
}

// sender returns whom a slot is from.
func (in *inbox) sender(i int) netip.AddrPort { return sockaddr(&in.names[i]) }

// control returns what the kernel says about a slot.
func (in *inbox) control(i int) []byte { return in.controls[i][:in.messages[i].header.Controllen] }

// details reads what the kernel says about a datagram: the size of the packets
// that it is merged from, 0 when it is one, and how many the socket has dropped
// since it was opened, 0 when that is not said.
func details(control []byte) (segment int, drops uint32) {
	for len(control) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return segment, drops
		}
		control = rest
		switch {
		case header.Level == unix.SOL_UDP && header.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			drops = binary.NativeEndian.Uint32(data)
		}
	}
	return segment, drops
}

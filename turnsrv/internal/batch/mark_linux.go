package batch

import (
	"encoding/binary"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// markTries is how many datagrams in a row without a mark show that nobody marks
	// any now.
	markTries = 512

	// markWait is how long marks are not told then.
	markWait = 50 * time.Millisecond
)

// marking decides when the kernel tells the marks of datagrams to a loop. To be told
// costs 0.1 µs a datagram, which is more than a twentieth of relaying one where many
// come, and nearly nobody marks any. Senders mark all packets of a flow or none, and
// routers set the ECN of those alone that have one. So a busy socket whose datagrams
// have no marks is told of them a fiftieth of the time, and what begins to be
// marked there passes unmarked for up to markWait; a quiet one is told of nearly all.
// It belongs to the loop that reads the socket.
type marking struct {
	wanted, on bool
	unmarked   int
	retry      time.Time // retry is when marks are told again.
}

// learn learns from datagrams that came at once, of which so many had a mark. It
// returns what is to be set.
func (m *marking) learn(datagrams, marked int, now time.Time) (change bool) {
	switch {
	case !m.wanted:
		return false
	case !m.on:
		m.on, m.unmarked = !now.Before(m.retry), 0
		return m.on
	case marked > 0:
		m.unmarked = 0
		return false
	}
	if m.unmarked += datagrams; m.unmarked < markTries {
		return false
	}
	m.on, m.retry = false, now.Add(markWait)
	return true
}

// TellMarks makes the kernel tell the marks of the datagrams that a socket of that
// family gets. Where it cannot, all are taken for unmarked.
func TellMarks(conn syscall.Conn, v6 bool) {
	if s, ok := conn.(*Socket); ok {
		s.marks.wanted, s.marks.on = true, true
	}
	tellMarks(conn, v6, true)
}

func tellMarks(conn syscall.Conn, v6, on bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	level, option, value := unix.IPPROTO_IP, unix.IP_RECVTOS, 0
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS
	}
	if on {
		value = 1
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), level, option, value) })
}

// MarkOf finds the mark of a datagram in what the kernel says about it.
func MarkOf(control []byte) Mark {
	_, mark, _ := details(control)
	return mark
}

// markIn reads a control message, if it is of a mark: a byte for IPv4, an int for IPv6.
func markIn(level, kind int32, data []byte) (Mark, bool) {
	switch {
	case level == unix.IPPROTO_IP && kind == unix.IP_TOS && len(data) >= 1:
		return Mark(data[0]), true
	case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_TCLASS && len(data) >= 4:
		return Mark(binary.NativeEndian.Uint32(data)), true
	}
	return 0, false
}

// MarkControl is the control message that makes the kernel mark a datagram to an
// address of that family. It must not change; there is none for an unmarked one.
func MarkControl(mark Mark, v6 bool) []byte {
	if mark == 0 {
		return nil
	}
	if v6 {
		return markControls()[1][mark]
	}
	return markControls()[0][mark]
}

// markControls are those messages by family, IPv4 first, and by mark.
var markControls = sync.OnceValue(func() *[2][256][]byte {
	var all [2][256][]byte
	for mark := range 256 {
		all[0][mark] = intControl(unix.IPPROTO_IP, unix.IP_TOS, mark)
		all[1][mark] = intControl(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, mark)
	}
	return &all
})

func intControl(level, kind int32, value int) []byte {
	control := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(control[unix.CmsgLen(0):], uint32(value))
	return control
}

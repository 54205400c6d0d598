package batch

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxSegments is how many packets every kernel that splits takes at once.
const MaxSegments = 64

// AllowFragments lets routers fragment what the socket sends, which is what
// RFC 8656 wants without DONT-FRAGMENT and not what Linux does by itself.
func AllowFragments(conn syscall.Conn, v6 bool) { setFragments(conn, v6, true) }

// ForbidFragments makes the socket set DF without looking at a path MTU that
// the kernel may remember.
func ForbidFragments(conn syscall.Conn, v6 bool) { setFragments(conn, v6, false) }

func setFragments(conn syscall.Conn, v6, allowed bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	// The socket may have been closed meanwhile; then there is nothing to set.
	_ = raw.Control(func(fd uintptr) {
		if v6 {
			mode := unix.IPV6_PMTUDISC_PROBE
			if allowed {
				mode = unix.IPV6_PMTUDISC_DONT
			}
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode)
			return
		}
		mode := unix.IP_PMTUDISC_PROBE
		if allowed {
			mode = unix.IP_PMTUDISC_DONT
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
	})
}

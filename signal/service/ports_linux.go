package service

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AllowLowPorts takes up the capability to bind ports below 1024, where the file of the program or its starter permits it. A
// container's file permits without more (packaging/image), and systemd sets it going itself. What fails here shows when such a port
// is bound.
func AllowLowPorts() {
	const bind = 1 << unix.CAP_NET_BIND_SERVICE
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&header, &sets[0]) != nil || sets[0].Permitted&bind == 0 || sets[0].Effective&bind != 0 {
		return
	}
	sets[0].Effective |= bind
	// Each thread has sets of its own, and any of them may be the one that binds.
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
}

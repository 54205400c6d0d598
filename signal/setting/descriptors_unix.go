//go:build unix

package setting

import "syscall"

// Descriptors returns how many descriptors the process may have, 0 when that is unknown.
func Descriptors() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur > 1<<30 {
		return 0
	}
	return int(limit.Cur)
}

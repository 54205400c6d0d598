//go:build !linux

package batch

import "syscall"

// AllowFragments does nothing here.
func AllowFragments(syscall.Conn, bool) {}

// ForbidFragments does nothing here.
func ForbidFragments(syscall.Conn, bool) {}

//go:build !linux

package batch

import "syscall"

func AllowFragments(syscall.Conn, bool) {}

func ForbidFragments(syscall.Conn, bool) {}

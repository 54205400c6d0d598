//go:build !linux

package turnsrv

import "syscall"

func allowFragments(syscall.Conn, bool) {}

func forbidFragments(syscall.Conn, bool) {}

//go:build !linux

package batch

import "syscall"

// TellMarks does nothing here: all datagrams are taken for unmarked.
func TellMarks(syscall.Conn, bool) {}

// MarkOf finds nothing here.
func MarkOf([]byte) Mark { return 0 }

// MarkControl marks nothing here.
func MarkControl(Mark, bool) []byte { return nil }

//go:build !linux

package batch

import "syscall"

// Splits says whether the system may split what is sent.
const Splits = false

// AppendSegmentSize does nothing here.
func AppendSegmentSize(control []byte, _ int) []byte { return control }

// AllowFragments does nothing here.
func AllowFragments(syscall.Conn, bool) {}

// ForbidFragments does nothing here.
func ForbidFragments(syscall.Conn, bool) {}

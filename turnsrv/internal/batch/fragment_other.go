//go:build !linux

package batch

import "syscall"

// MaxSegments is 1, since nothing is split here.
const MaxSegments = 1

// RefusesSplit is never asked here.
func RefusesSplit(error) bool { return false }

// AppendSegmentSize does nothing here.
func AppendSegmentSize(control []byte, _ int) []byte { return control }

// AllowFragments does nothing here.
func AllowFragments(syscall.Conn, bool) {}

// ForbidFragments does nothing here.
func ForbidFragments(syscall.Conn, bool) {}

//go:build !linux

package turnsrv

import "syscall"

// dontFragmentSupported says whether DONT-FRAGMENT can be honoured. Here it
// cannot, so it is answered with 420 (RFC 8656, section 7.2).
const dontFragmentSupported = false

func allowFragments(syscall.Conn, bool) {}

func forbidFragments(syscall.Conn, bool) {}

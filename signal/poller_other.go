//go:build !linux

package signal

import "net"

// pollers wait for connections where the system's way to do so is known; here it is left to goroutines.
type pollers struct{}

func newPollers(*flusher) (*pollers, error) { return new(pollers), nil }

func (*pollers) link(net.Conn) link { return nil }

func (*pollers) close() {}

func hungUp(net.Conn) bool { return false }

//go:build !linux

package turnsrv

import "net/netip"

// dataLoop exists on Linux alone. Elsewhere every socket has a goroutine.
type dataLoop struct{}

func newDataLoop(*front, *udpServer) (*dataLoop, error) { return nil, errNoDataLoop }

func (*dataLoop) serves(path) bool   { return false }
func (*dataLoop) watch(*relay) error { return errNoDataLoop }
func (*dataLoop) forget(*relay)      {}
func (*dataLoop) run()               {}
func (*dataLoop) close()             {}
func (*dataLoop) free()              {}

func openRelay(at netip.AddrPort) (udpConn, error) { return listenRelay(at) }

//go:build !linux

package turnsrv

import (
	"net/netip"

	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/engine"
	"cline-meet/signal/turnsrv/internal/transport"
)

// dataLoop exists on Linux alone. Elsewhere every socket has a goroutine.
type dataLoop struct{ lane *engine.Lane }

func newDataLoop(*front, *transport.UDPServer) (*dataLoop, error) { return nil, errNoDataLoop }

func (*dataLoop) watch(*relay) error           { return errNoDataLoop }
func (*dataLoop) reply(transport.Path, []byte) {}
func (*dataLoop) forget(*relay)                {}
func (*dataLoop) start()                       {}
func (*dataLoop) close()                       {}
func (*dataLoop) wait()                        {}
func (*dataLoop) free()                        {}

func openRelay(at netip.AddrPort) (batch.Conn, error) { return listenRelay(at) }

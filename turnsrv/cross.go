package turnsrv

import (
	"net/netip"
	"sync"

	"cline-meet/signal/turnsrv/internal/wire"
)

// Two clients of a node whose networks let nothing else through talk from relay to
// relay: the peer of each is a relay of this node. Their packets cross, as it is
// called here, from the one client to the other in one step, and spare the kernel
// to send and to deliver each once more.
//
// Nothing else differs from a way over the network, since both ways ask the same:
// the sender's allocation where the data goes (route), which says so when that is
// a relay, and the receiver's what becomes of it, coming from the sender's relay
// (relay.inbound, inbound.admit). Permissions, channels, policy, consent, bandwidth and
// counters of both allocations hold. What has been admitted goes to a client and
// never to a relay, so that it ends there, whoever is whose peer.
//
// Whoever has read the sender's packet does it all, whichever loop reads the other
// relay and its client's listener, and whichever transport that client uses: a
// flow has one reader, so it stays in order. DONT-FRAGMENT has nothing to
// forbid on this way. A relay is known by its port from before its client learns of
// it until it is closed; the sockets of relays take what others send.

// has says whether an address is one that relays are bound to.
func (p *relayPool) has(at netip.AddrPort) bool {
	return at.Addr() == p.address.Bind && at.Port() >= p.minPort && at.Port() <= p.maxPort
}

// relayAt returns the relay whose socket is bound to an address, or nil.
func (p *relayPool) relayAt(at netip.AddrPort) *relay {
	if !p.has(at) {
		return nil
	}
	return p.relays[at.Port()-p.minPort].Load()
}

// know makes a relay known by its port, until it is forgotten.
func (p *relayPool) know(r *relay) { p.relays[r.port-p.minPort].Store(r) }

func (p *relayPool) forget(r *relay) { p.relays[r.port-p.minPort].CompareAndSwap(r, nil) }

// closed says whether nothing may leave from the relay or reach it any more.
func (r *relay) closed() bool { return r.pool.relays[r.port-r.pool.minPort].Load() != r }

// crossings are where payloads get their headers that go from client to client.
var crossings = sync.Pool{New: func() any { b := peerBuffer(maxPeerDatagram); return &b }}

// cross hands a payload to the relay that its peer is, as if it had come there over
// the network.
func (f *front) cross(p outbound) {
	if p.relay.closed() {
		f.metrics.dropped(dropSendError)
		return
	}
	f.metrics.unlooped.sentToPeer(1, len(p.payload))
	buffer := crossings.Get().(*[]byte)
	defer crossings.Put(buffer)
	n := copy((*buffer)[wire.DataIndicationHeader:], p.payload)
	if !p.across.closed() {
		p.across.relayToClient(p.relay.bound(), *buffer, n, p.mark)
	}
}

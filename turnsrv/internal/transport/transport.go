// Package transport serves the clients of a TURN server over UDP, TCP, TLS and DTLS. It
// hands whole frames to a Receiver, each with the Path back to its client, and keeps
// the limits of connections and handshakes.
package transport

import (
	"net/netip"

	"cline-meet/signal/turnsrv/internal/batch"
)

// Protocol is how a client reaches the server.
type Protocol uint8

// The protocols between client and server.
const (
	UDP Protocol = iota
	TCP
	TLS
	DTLS
)

// String returns the protocol's name as metrics label it.
func (t Protocol) String() string {
	switch t {
	case UDP:
		return "udp"
	case TCP:
		return "tcp"
	case TLS:
		return "tls"
	case DTLS:
		return "dtls"
	}
	return "unknown"
}

// FiveTuple identifies a client (RFC 8656, section 3). Its addresses are
// unmapped, and server is the address that was asked.
type FiveTuple struct {
	Protocol       Protocol
	Client, Server netip.AddrPort
}

// Path sends packets to one client.
type Path interface {
	// Send sends one STUN message or ChannelData message, without padding. It
	// never waits for the client and may be called by any goroutine; it copies
	// packet if it keeps it. A stream that is too slow loses its oldest data. Only
	// over UDP and DTLS can a packet be marked.
	Send(packet []byte, mark batch.Mark) error
}

// Receiver handles what clients send.
type Receiver interface {
	// Receive handles one whole frame, a STUN message or ChannelData message
	// with its header and without padding. A datagram may also hold anything
	// else. The packet is valid during the call only, and its mark is 0 on a
	// stream. The transports' read goroutines call it, in order for each client.
	Receive(from FiveTuple, via Path, packet []byte, mark batch.Mark)
	// Rest tells that nothing more of a client of a stream is there now.
	Rest(from FiveTuple)
	// Gone tells that a client of a stream or of DTLS, of whom something was
	// received, has disconnected. No receive for it follows.
	Gone(from FiveTuple)
}

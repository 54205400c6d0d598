package transport

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/pion/logging"
)

// Config is what the transports are told.
type Config struct {
	Listen         []netip.Addr
	IPv6Optional   bool          // IPv6Optional says that a machine without IPv6 may do without "::".
	Port           int           // Port serves UDP and TCP; 0 picks a number that is free for both.
	TLSPort        int           // TLSPort serves TLS and DTLS in the same way.
	TLS            *tls.Config   // TLS may be nil, which means neither TLS nor DTLS.
	UDPSockets     int           // UDPSockets is how many sockets share a listen address; 0 means one a core, where the system can.
	IdleTimeout    time.Duration // IdleTimeout is how long a connection may go without a whole message from the client.
	Marks          bool          // Marks says that the receiver is told the marks of datagrams, where the system can.
	MaxQueued      int64         // MaxQueued is how many bytes may wait for all stream clients before each may have but few; 0 means any number.
	Gather         bool          // Gather says that the data of busy stream clients may wait for more, see gatherTime.
	ConnsOfAddress int           // ConnsOfAddress bounds the TCP, TLS and DTLS connections of one IPv4 address or IPv6 /64.

	// OnePort says that TLS and DTLS come to Port, too. What Stream makes then has taken TLS off, above a layer of HoldRecords.
	OnePort bool

	// Alternates are second addresses for NAT behaviour discovery (RFC 5780), and Bindings gets what comes to sockets that are there for
	// it alone. See alternate.go.
	Alternates []netip.Addr
	Bindings   Receiver

	// Stream makes the listeners of TCP; nil means net.Listen.
	Stream func(network, address string) (net.Listener, error)

	Log      *slog.Logger
	DTLSLogs logging.LoggerFactory // DTLSLogs is where the DTLS implementation logs.
	Metrics  *Metrics
}

// limits are what no setting changes.
type limits struct {
	handshakeTimeout    time.Duration // handshakeTimeout bounds a TLS or DTLS handshake.
	firstMessageTimeout time.Duration // firstMessageTimeout is how soon a new connection has to hold a whole message.
	writeTimeout        time.Duration // writeTimeout is how long one write to a stream may take.

	conns               int // conns bounds the TCP, TLS and DTLS connections together.
	handshakes          int // handshakes bounds the DTLS handshakes under way.
	handshakesOfAddress int // handshakesOfAddress bounds those of one IPv4 address or IPv6 /64.
	handshakeRate       int // handshakeRate bounds the DTLS handshakes begun in a second.
	sendQueue           int // sendQueue bounds the bytes that wait for one stream client.
	shortQueue          int // shortQueue bounds them while too much waits for all clients.
}

func standardLimits() limits {
	return limits{
		handshakeTimeout:    10 * time.Second,
		firstMessageTimeout: 10 * time.Second,
		writeTimeout:        15 * time.Second,
		conns:               20_000,
		handshakes:          1000,
		handshakesOfAddress: 16,
		handshakeRate:       1000,
		sendQueue:           256 << 10,
		shortQueue:          16 << 10,
	}
}

// options are all that decides how the transports behave.
type options struct {
	Config
	limits
}

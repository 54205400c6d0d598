package turnsrv

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// transport is how a client reaches the server.
type transport uint8

const (
	transportUDP transport = iota
	transportTCP
	transportTLS
	transportDTLS
)

// String returns the transport's name as metrics label it.
func (t transport) String() string {
	switch t {
	case transportUDP:
		return "udp"
	case transportTCP:
		return "tcp"
	case transportTLS:
		return "tls"
	case transportDTLS:
		return "dtls"
	}
	return "unknown"
}

// fiveTuple identifies a client (RFC 8656, section 3). Its addresses are
// unmapped, and server is the address that was asked.
type fiveTuple struct {
	transport      transport
	client, server netip.AddrPort
}

// path sends packets to one client.
type path interface {
	// send sends one STUN message or ChannelData message, without padding. It
	// never waits for the client and may be called by any goroutine; it copies
	// packet if it keeps it. A stream that is too slow loses its oldest data.
	send(packet []byte) error
	// close ends the client's connection, and does nothing for UDP.
	close()
}

// receiver handles what clients send.
type receiver interface {
	// receive handles one whole frame, a STUN message or ChannelData message
	// with its header and without padding. A datagram may also hold anything
	// else. The packet is valid during the call only. The transports' read
	// goroutines call it, in order for each client.
	receive(from fiveTuple, via path, packet []byte)
	// gone tells that a client of a stream or of DTLS, of whom something was
	// received, has disconnected. No receive for it follows.
	gone(from fiveTuple)
}

const (
	defaultHandshakeTimeout    = 10 * time.Second
	defaultFirstMessageTimeout = 10 * time.Second
	defaultIdleTimeout         = 5 * time.Minute
	defaultWriteTimeout        = 15 * time.Second
	defaultMaxConns            = 20_000
	defaultMaxConnsPerAddress  = 500
	defaultMaxHandshakes       = 1000
	defaultHandshakesPerAddr   = 16
	defaultHandshakeRate       = 1000
	defaultSendQueue           = 256 << 10

	// maxPortPicks bounds the search for a number that is free everywhere.
	maxPortPicks = 32
)

// transportConfig is what the transports are told. A zero limit or timeout
// stands for its default.
type transportConfig struct {
	listen       []netip.Addr
	ipv6Optional bool        // ipv6Optional says that a machine without IPv6 may do without "::".
	port         int         // port serves UDP and TCP; 0 picks a number that is free for both.
	tlsPort      int         // tlsPort serves TLS and DTLS in the same way.
	tls          *tls.Config // tls may be nil, which means neither TLS nor DTLS.
	udpSockets   int         // udpSockets is how many sockets share a listen address; 0 means one a core, where the system can.

	handshakeTimeout    time.Duration // handshakeTimeout bounds a TLS or DTLS handshake.
	firstMessageTimeout time.Duration // firstMessageTimeout is how soon a new connection has to hold a whole message.
	idleTimeout         time.Duration // idleTimeout is how long a connection may go without a whole message from the client.
	writeTimeout        time.Duration // writeTimeout is how long one write to a stream may take.

	maxConns           int // maxConns bounds the TCP, TLS and DTLS connections together.
	maxConnsPerAddress int // maxConnsPerAddress bounds those of one IPv4 address or IPv6 /64.
	maxHandshakes      int // maxHandshakes bounds the DTLS handshakes under way.
	maxHandshakesPer   int // maxHandshakesPer bounds those of one IPv4 address or IPv6 /64.
	handshakeRate      int // handshakeRate bounds the DTLS handshakes begun in a second.
	sendQueue          int // sendQueue bounds the bytes that wait for one stream client.

	log     *slog.Logger      // log may be nil, which discards.
	metrics *transportMetrics // metrics may be nil, which counts for nobody.
}

func (cfg transportConfig) withDefaults() transportConfig {
	for value, fallback := range map[*time.Duration]time.Duration{
		&cfg.handshakeTimeout:    defaultHandshakeTimeout,
		&cfg.firstMessageTimeout: defaultFirstMessageTimeout,
		&cfg.idleTimeout:         defaultIdleTimeout,
		&cfg.writeTimeout:        defaultWriteTimeout,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	for value, fallback := range map[*int]int{
		&cfg.udpSockets:         defaultUDPSockets(),
		&cfg.maxConns:           defaultMaxConns,
		&cfg.maxConnsPerAddress: defaultMaxConnsPerAddress,
		&cfg.maxHandshakes:      defaultMaxHandshakes,
		&cfg.maxHandshakesPer:   defaultHandshakesPerAddr,
		&cfg.handshakeRate:      defaultHandshakeRate,
		&cfg.sendQueue:          defaultSendQueue,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	if cfg.log == nil {
		cfg.log = slog.New(slog.DiscardHandler)
	}
	if cfg.metrics == nil {
		cfg.metrics = newTransportMetrics()
	}
	return cfg
}

// Outcomes of handshakes, as the metric names them.
const (
	handshakeOK      = "ok"
	handshakeFailed  = "failed"
	handshakeTimeout = "timeout"
	handshakeRefused = "refused"
)

// Reasons for packets that were dropped, as the metric names them.
const (
	dropSlowClient  = "slow_client"  // data for a stream client that does not read fast enough
	dropSendFailed  = "send_failed"  // a datagram that the system refused to send
	dropNoSession   = "no_session"   // a DTLS record of nobody's session that begins none
	dropInboxFull   = "inbox_full"   // a DTLS record that came faster than it was read
	dropTooLarge    = "oversize"     // a DTLS datagram or frame that is too large
	dropUnreachable = "unreachable"  // a datagram from port 0, which cannot be answered
	dropHandshakes  = "handshakes"   // a ClientHello above the limits
	dropBudget      = "handshake_io" // a DTLS handshake that sends more than any needs
)

// Reasons for connections that ended, as the metric names them.
const (
	closedByClient  = "client"    // the client or the network ended it
	closedByServer  = "server"    // the server ended it
	closedIdle      = "idle"      // no message for long
	closedSilent    = "silent"    // no first message
	closedFrame     = "frame"     // what came was neither STUN nor ChannelData
	closedSlow      = "slow"      // the client did not even read control messages
	closedLimit     = "limit"     // too many connections
	closedHandshake = "handshake" // the handshake failed
)

// transportMetrics is what the transports count.
type transportMetrics struct {
	handshakes   *prometheus.CounterVec // by transport and outcome
	connections  *prometheus.GaugeVec   // by transport
	closed       *prometheus.CounterVec // by transport and reason
	drops        *prometheus.CounterVec // by transport and reason
	socketErrors *prometheus.CounterVec // by transport
}

func newTransportMetrics() *transportMetrics {
	m := &transportMetrics{
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_handshakes_total",
			Help: "TLS and DTLS handshakes of clients, by outcome.",
		}, []string{"transport", "outcome"}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "signal_turn_connections",
			Help: "TCP, TLS and DTLS connections of clients that exist now.",
		}, []string{"transport"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_connections_closed_total",
			Help: "TCP, TLS and DTLS connections of clients that ended, by reason.",
		}, []string{"transport", "reason"}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_transport_drops_total",
			Help: "Packets from and to clients that a transport dropped, by reason.",
		}, []string{"transport", "reason"}),
		socketErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_turn_socket_errors_total",
			Help: "Errors of accepting connections and of reading datagrams that the listener survived.",
		}, []string{"transport"}),
	}
	for _, t := range []transport{transportTCP, transportTLS, transportDTLS} {
		m.connections.WithLabelValues(t.String())
	}
	return m
}

func (m *transportMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.handshakes, m.connections, m.closed, m.drops, m.socketErrors}
}

func (m *transportMetrics) drop(t transport, reason string, packets int) {
	m.drops.WithLabelValues(t.String(), reason).Add(float64(packets))
}

// sockets makes the bare sockets; tests put failing ones in its place.
type sockets struct {
	packet func(network, address string, share bool) (*net.UDPConn, error)
	stream func(network, address string) (net.Listener, error)
}

func systemSockets() sockets {
	return sockets{packet: listenPacket, stream: net.Listen}
}

// common is what all transports of a server share. It does not change.
type common struct {
	transportConfig
	receiver receiver
	conns    *addressLimit
	done     chan struct{} // done is closed when the transports close.
}

// transports is every socket that clients reach the server at.
type transports struct {
	// Fixed after listenTransports.
	common    *common
	numbers   ports
	datagrams []*udpServer
	streams   []*streamServer
	secure    []*dtlsServer

	closing sync.Once
}

// ports are the numbers that listeners are bound to, 0 while they are open.
type ports struct{ plain, secure int }

// listenTransports binds the transports and serves them until close.
func listenTransports(cfg transportConfig, r receiver, make sockets) (*transports, error) {
	t, err := bindTransports(cfg, r, make)
	if err != nil {
		return nil, err
	}
	t.serve()
	return t, nil
}

// bindTransports binds UDP and TCP on every address of cfg at one port, and TLS
// and DTLS at another one. After an error nothing is left open.
func bindTransports(cfg transportConfig, r receiver, make sockets) (*transports, error) {
	cfg = cfg.withDefaults()
	for attempt := 1; ; attempt++ {
		t := newTransports(cfg, r)
		err := t.bindAll(make)
		if err == nil {
			return t, nil
		}
		t.close()
		var taken *portError
		open := errors.As(err, &taken) && (cfg.port == 0 && taken.flag == plainPortFlag || cfg.tlsPort == 0 && taken.flag == tlsPortFlag)
		if !open || attempt == maxPortPicks {
			return nil, err
		}
	}
}

func newTransports(cfg transportConfig, r receiver) *transports {
	return &transports{
		common: &common{
			transportConfig: cfg,
			receiver:        r,
			conns:           newAddressLimit(cfg.maxConns, cfg.maxConnsPerAddress),
			done:            make(chan struct{}),
		},
		numbers: ports{cfg.port, cfg.tlsPort},
	}
}

// port returns the port of UDP and TCP.
func (t *transports) port() int { return t.numbers.plain }

// tlsPort returns the port of TLS and DTLS, 0 without them.
func (t *transports) tlsPort() int {
	if t.common.tls == nil {
		return 0
	}
	return t.numbers.secure
}

func (t *transports) bindAll(make sockets) error {
	for _, addr := range t.common.listen {
		addr = addr.Unmap()
		err := t.bind(addr, make)
		if err != nil && t.common.ipv6Optional && addr == netip.IPv6Unspecified() && lacksAddress(err) {
			t.common.log.Info("turn server does without IPv6", "address", addr, "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(t.datagrams) == 0 {
		return errors.New("--turn-listen: no address of the list exists on this machine")
	}
	return nil
}

// bind binds one address. TCP comes first and settles a port that is open: a
// UDP socket that shares its port would otherwise take packets of another
// server before the start fails.
func (t *transports) bind(addr netip.Addr, make sockets) error {
	listener, err := t.bindStream(addr, &t.numbers.plain, plainPortFlag, make)
	if err != nil {
		return err
	}
	t.streams = append(t.streams, newStreamServer(t.common, listener, nil))
	if err := t.bindPlainUDP(addr, make); err != nil {
		return err
	}
	if t.common.tls == nil {
		return nil
	}
	listener, err = t.bindStream(addr, &t.numbers.secure, tlsPortFlag, make)
	if err != nil {
		return err
	}
	t.streams = append(t.streams, newStreamServer(t.common, listener, t.common.tls))
	socket, err := t.bindPacket(transportDTLS, addr, make, false)
	if err != nil {
		return err
	}
	t.secure = append(t.secure, newDTLSServer(t.common, socket))
	return nil
}

func (t *transports) bindStream(addr netip.Addr, port *int, flag string, make sockets) (net.Listener, error) {
	listener, err := make.stream(network("tcp", addr), hostPort(addr, *port))
	if err != nil {
		return nil, listenError(flag, "tcp", hostPort(addr, *port), err)
	}
	if local, ok := listener.Addr().(*net.TCPAddr); ok {
		*port = local.Port
	}
	return listener, nil
}

// bindPlainUDP binds the sockets that share an address. The kernel lets any
// program of this user join such a group, so a socket that shares nothing finds
// out first whether the port is in use.
func (t *transports) bindPlainUDP(addr netip.Addr, make sockets) error {
	share := t.common.udpSockets > 1
	if share {
		probe, err := make.packet(network("udp", addr), hostPort(addr, t.numbers.plain), false)
		if err != nil {
			return listenError(plainPortFlag, "udp", hostPort(addr, t.numbers.plain), err)
		}
		_ = probe.Close()
	}
	for range t.common.udpSockets {
		socket, err := t.bindPacket(transportUDP, addr, make, share)
		if err != nil {
			return err
		}
		t.datagrams = append(t.datagrams, newUDPServer(t.common, socket))
	}
	return nil
}

func (t *transports) bindPacket(use transport, addr netip.Addr, make sockets, share bool) (*udpSocket, error) {
	port, flag := t.numbers.plain, plainPortFlag
	if use == transportDTLS {
		port, flag = t.numbers.secure, tlsPortFlag
	}
	conn, err := make.packet(network("udp", addr), hostPort(addr, port), share)
	if err != nil {
		return nil, listenError(flag, "udp", hostPort(addr, port), err)
	}
	return newUDPSocket(t.common, use, conn), nil
}

// serve begins to take packets and connections.
func (t *transports) serve() {
	for _, s := range t.datagrams {
		s.start()
	}
	for _, s := range t.streams {
		s.start()
	}
	for _, s := range t.secure {
		s.start()
	}
}

// close stops reading, ends all connections and closes all sockets. It returns
// when nothing is received any more and gone was called for every client. It
// must not be called by a receiver, and may be called more than once.
func (t *transports) close() {
	t.closing.Do(func() {
		close(t.common.done)
		for _, s := range t.streams {
			s.close()
		}
		for _, s := range t.secure {
			s.close()
		}
		for _, s := range t.datagrams {
			s.close()
		}
	})
}

// network returns the network of addr's family alone, since an IPv6 socket
// would take IPv4 too.
func network(name string, addr netip.Addr) string {
	if addr.Is4() {
		return name + "4"
	}
	return name + "6"
}

func hostPort(addr netip.Addr, port int) string {
	return net.JoinHostPort(addr.String(), strconv.Itoa(port))
}

// Flags of the ports.
const (
	plainPortFlag = "--turn-port"
	tlsPortFlag   = "--turn-tls-port"
)

// portError is the failure to bind a port that somebody else has.
type portError struct {
	flag string
	err  error
}

// Error implements error.
func (e *portError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *portError) Unwrap() error { return e.err }

// listenError names the setting that a person has to change.
func listenError(flag, transport, address string, err error) error {
	setting := flag
	if lacksAddress(err) {
		setting = "--turn-listen"
	}
	wrapped := fmt.Errorf("%s: listening on %s %s: %w", setting, transport, address, cause(err))
	if errors.Is(err, syscall.EADDRINUSE) {
		return &portError{flag, wrapped}
	}
	return wrapped
}

// cause strips what net repeats in front of a system call's error.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// lacksAddress says whether the machine has no such address or family.
func lacksAddress(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) ||
		errors.Is(err, syscall.EPROTONOSUPPORT)
}

// unmapped returns the address of a TCP or UDP peer in its own family.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

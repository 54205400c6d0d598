package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
)

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
	options
	receiver Receiver
	open     *addressLimit // open are the connections.
	done     chan struct{} // done is closed when the transports close.
}

// Transports is every socket that clients reach the server at.
type Transports struct {
	// Fixed once they are bound.
	common    *common
	numbers   ports
	datagrams []*UDPServer
	bindings  []*UDPServer // bindings are those of alternate addresses and ports.
	streams   []*streamServer
	secure    []*dtlsServer

	closing sync.Once
}

// ports are the numbers that listeners are bound to, 0 while they are open.
type ports struct{ plain, secure, alternate int }

// maxPortPicks bounds the search for a number that is free everywhere.
const maxPortPicks = 32

// Bind binds UDP and TCP on every address of cfg at one port, and TLS
// and DTLS at another one. After an error nothing is left open.
func Bind(cfg Config, r Receiver) (*Transports, error) {
	make := systemSockets()
	if cfg.Stream != nil {
		make.stream = cfg.Stream
	}
	return bind(options{cfg, standardLimits()}, r, make)
}

func bind(opts options, r Receiver, make sockets) (*Transports, error) {
	for attempt := 1; ; attempt++ {
		t := newTransports(opts, r)
		err := t.bindAll(make)
		if err == nil {
			return t, nil
		}
		t.Close()
		var taken *portError
		open := errors.As(err, &taken) && (opts.Port == 0 && taken.flag != tlsPortFlag || opts.TLSPort == 0 && taken.flag == tlsPortFlag)
		if !open || attempt == maxPortPicks {
			return nil, err
		}
	}
}

func newTransports(opts options, r Receiver) *Transports {
	return &Transports{
		common: &common{
			options:  opts,
			receiver: r,
			open:     newAddressLimit(opts.conns, opts.ConnsOfAddress),
			done:     make(chan struct{}),
		},
		numbers: ports{plain: opts.Port, secure: opts.TLSPort},
	}
}

// queueLimit returns how many bytes may wait for one stream client now. While too much waits for all, whoever is sent more loses all but its
// newest data, and is served as before if it reads.
func (c *common) queueLimit() int {
	if c.MaxQueued > 0 && c.Metrics.queued.Load() > c.MaxQueued {
		return c.shortQueue
	}
	return c.sendQueue
}

// UDPServers returns the servers of UDP and DTLS.
func (t *Transports) UDPServers() []*UDPServer { return t.datagrams }

// Port returns the port of UDP and TCP.
func (t *Transports) Port() int { return t.numbers.plain }

// TLSPort returns the port of TLS and DTLS, 0 without them.
func (t *Transports) TLSPort() int {
	if t.common.TLS == nil {
		return 0
	}
	if t.common.OnePort {
		return t.numbers.plain
	}
	return t.numbers.secure
}

func (t *Transports) bindAll(make sockets) error {
	for _, addr := range t.common.Listen {
		addr = addr.Unmap()
		err := t.bind(addr, make)
		if err != nil && t.common.IPv6Optional && addr == netip.IPv6Unspecified() && lacksAddress(err) {
			t.common.Log.Info("turn server does without IPv6", "address", addr, "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(t.datagrams) == 0 {
		return errors.New("--turn-listen: no address of the list exists on this machine")
	}
	return t.bindAlternates(make)
}

// bind binds one address. TCP comes first and settles a port that is open: a
// UDP socket that shares its port would otherwise take packets of another
// server before the start fails.
func (t *Transports) bind(addr netip.Addr, make sockets) error {
	listener, err := t.bindStream(addr, &t.numbers.plain, t.plainPortFlag(), make)
	if err != nil {
		return err
	}
	t.streams = append(t.streams, newStreamServer(t.common, listener, nil))
	if err := t.bindPlainUDP(addr, make); err != nil {
		return err
	}
	if t.common.TLS == nil {
		return nil
	}
	if t.common.OnePort {
		t.shareUDP(addr)
		return nil
	}
	listener, err = t.bindStream(addr, &t.numbers.secure, tlsPortFlag, make)
	if err != nil {
		return err
	}
	t.streams = append(t.streams, newStreamServer(t.common, listener, t.common.TLS))
	socket, err := t.bindPacket(DTLS, addr, make, false)
	if err != nil {
		return err
	}
	reader := newUDPServer(t.common, socket)
	reader.dtls = newDTLSServer(t.common, socket)
	t.secure = append(t.secure, reader.dtls)
	t.datagrams = append(t.datagrams, reader)
	return nil
}

func (t *Transports) bindStream(addr netip.Addr, port *int, flag string, make sockets) (net.Listener, error) {
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
func (t *Transports) bindPlainUDP(addr netip.Addr, make sockets) error {
	count := t.common.UDPSockets
	if count == 0 {
		count = usualUDPSockets()
	}
	share := count > 1
	if share {
		probe, err := make.packet(network("udp", addr), hostPort(addr, t.numbers.plain), false)
		if err != nil {
			return listenError(t.plainPortFlag(), "udp", hostPort(addr, t.numbers.plain), err)
		}
		_ = probe.Close()
	}
	for range count {
		socket, err := t.bindPacket(UDP, addr, make, share)
		if err != nil {
			return err
		}
		t.datagrams = append(t.datagrams, newUDPServer(t.common, socket))
	}
	return nil
}

// shareUDP serves DTLS on the sockets of plain UDP at an address. It answers through the first of them.
func (t *Transports) shareUDP(addr netip.Addr) {
	var dtls *dtlsServer
	for _, s := range t.datagrams {
		if s.Address().Addr() != addr {
			continue
		}
		if dtls == nil {
			dtls = newDTLSServer(t.common, s.socket)
			t.secure = append(t.secure, dtls)
		}
		s.dtls = dtls
	}
}

func (t *Transports) bindPacket(use Protocol, addr netip.Addr, make sockets, share bool) (*udpSocket, error) {
	port, flag := t.numbers.plain, t.plainPortFlag()
	if use == DTLS {
		port, flag = t.numbers.secure, tlsPortFlag
	}
	return t.bindAt(use, netip.AddrPortFrom(addr, uint16(port)), flag, make, share)
}

func (t *Transports) bindAt(use Protocol, at netip.AddrPort, flag string, make sockets, share bool) (*udpSocket, error) {
	address := at.String()
	conn, err := make.packet(network("udp", at.Addr()), address, share)
	if err != nil {
		return nil, listenError(flag, "udp", address, err)
	}
	return newUDPSocket(t.common, use, conn), nil
}

// Serve begins to take packets and connections.
func (t *Transports) Serve() {
	for _, s := range slices.Concat(t.datagrams, t.bindings) {
		s.start()
	}
	for _, s := range t.streams {
		s.start()
	}
}

// Close stops reading, ends all connections and closes all sockets. It returns
// when nothing is received any more and gone was called for every client. It
// must not be called by a receiver, and may be called more than once.
func (t *Transports) Close() {
	t.closing.Do(func() {
		close(t.common.done)
		for _, s := range t.streams {
			s.close()
		}
		for _, s := range t.secure {
			s.close()
		}
		for _, s := range slices.Concat(t.datagrams, t.bindings) {
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
	onePortFlag   = "--one-port"
	tlsPortFlag   = "--turn-tls-port"
	alternateFlag = "--turn-alternate-ip"
)

// plainPortFlag is the setting of the port of UDP and TCP.
func (t *Transports) plainPortFlag() string {
	if t.common.OnePort {
		return onePortFlag
	}
	return plainPortFlag
}

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
	if lacksAddress(err) && flag != alternateFlag {
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

package turnsrv

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/pion/turn/v3"
)

// maxPortPicks bounds the search for a number that is free everywhere.
const maxPortPicks = 32

// transports is every socket that clients reach the server at, in the two
// shapes the engine takes. The server knows nothing else of them, hence what
// terminates and frames them may change without it noticing.
type transports struct {
	port    int
	packets []*datagrams
	streams []*streams
}

// sockets makes the bare sockets; tests put failing ones in its place.
type sockets struct {
	packet func(network, address string) (net.PacketConn, error)
	stream func(network, address string) (net.Listener, error)
}

func systemSockets() sockets {
	return sockets{packet: net.ListenPacket, stream: net.Listen}
}

// listen binds UDP and TCP on every address of cfg, at the same port. After an
// error nothing is left open.
func listen(cfg Config, requests *inflight, make sockets) (*transports, error) {
	for attempt := 1; ; attempt++ {
		t := &transports{port: cfg.Port}
		err := t.bindAll(cfg, requests, make)
		if err == nil && len(t.packets) == 0 {
			err = errors.New("--turn-listen: no address of the list exists on this machine")
		}
		if err == nil {
			return t, nil
		}
		t.close()
		if cfg.Port != 0 || attempt == maxPortPicks || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}

func (t *transports) bindAll(cfg Config, requests *inflight, make sockets) error {
	for _, text := range cfg.Listen {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("--turn-listen: %w", err)
		}
		err = t.bind(addr.Unmap(), cfg.logger(), requests, make)
		if err != nil && isOptional(cfg, addr) && lacksAddress(err) {
			cfg.logger().Info("turn server does without IPv6", "address", text, "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bind binds UDP, which settles the port if it is still open, and then TCP.
func (t *transports) bind(addr netip.Addr, log *slog.Logger, requests *inflight, make sockets) error {
	family := "4"
	if addr.Is6() {
		family = "6" // An IPv6 socket of this network never takes IPv4 too.
	}
	packet, err := make.packet("udp"+family, t.address(addr))
	if err != nil {
		return listenError("udp", t.address(addr), err)
	}
	port := packet.LocalAddr().(*net.UDPAddr).Port
	stream, err := make.stream("tcp"+family, net.JoinHostPort(addr.String(), strconv.Itoa(port)))
	if err != nil {
		_ = packet.Close()
		return listenError("tcp", net.JoinHostPort(addr.String(), strconv.Itoa(port)), err)
	}
	t.port = port
	t.packets = append(t.packets, newDatagrams(packet, requests, log))
	t.streams = append(t.streams, newStreams(stream, requests, log))
	return nil
}

func (t *transports) address(addr netip.Addr) string {
	return net.JoinHostPort(addr.String(), strconv.Itoa(t.port))
}

// listenError names the setting that a person has to change.
func listenError(transport, address string, err error) error {
	flag := "--turn-port"
	if lacksAddress(err) {
		flag = "--turn-listen"
	}
	return fmt.Errorf("%s: listening on %s %s: %w", flag, transport, address, cause(err))
}

// cause strips what net repeats in front of a system call's error.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// isOptional says whether addr is the IPv6 half of the default, which a machine
// without IPv6 need not have.
func isOptional(cfg Config, addr netip.Addr) bool {
	return addr == netip.IPv6Unspecified() && slices.Equal(cfg.Listen, defaultListen())
}

// lacksAddress says whether the machine has no such address or family.
func lacksAddress(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) ||
		errors.Is(err, syscall.EPROTONOSUPPORT)
}

// engineConfigs describes the transports to the engine.
func (t *transports) engineConfigs(r *relays) (packets []turn.PacketConnConfig, listeners []turn.ListenerConfig) {
	for _, p := range t.packets {
		packets = append(packets, turn.PacketConnConfig{
			PacketConn: p, RelayAddressGenerator: r, PermissionHandler: r.permits,
		})
	}
	for _, s := range t.streams {
		listeners = append(listeners, turn.ListenerConfig{
			Listener: s, RelayAddressGenerator: r, PermissionHandler: r.permits,
		})
	}
	return packets, listeners
}

// close closes every socket and connection.
func (t *transports) close() {
	for _, p := range t.packets {
		_ = p.Close()
	}
	for _, s := range t.streams {
		_ = s.Close()
	}
}

// wait returns when the engine has left every transport, after close.
func (t *transports) wait() {
	for _, p := range t.packets {
		<-p.left
	}
	for _, s := range t.streams {
		<-s.left
		s.serving.Wait()
	}
}

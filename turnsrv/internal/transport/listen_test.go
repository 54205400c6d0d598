package transport

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

// TestStartCloseThrice leaves nothing behind, with clients connected.
func TestStartCloseThrice(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		e := newEcho()
		s, err := listen(testTransports(t), e, systemSockets())
		if err != nil {
			t.Fatal(err)
		}
		var conns []net.Conn
		for _, kind := range allTransports {
			conn := dialTransport(t, s, kind)
			if err := ping(conn, wiretest.STUN(0)); err != nil {
				t.Errorf("%v: %v", kind, err)
			}
			conns = append(conns, conn)
		}
		s.Close()
		s.Close()
		if !e.goneOnce() {
			t.Error("close returned before every client was gone")
		}
		for _, conn := range conns[1:] {
			_ = conn.SetDeadline(time.Now().Add(systemtest.Patience))
			if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeoutError(err) {
				t.Errorf("%T is still connected: %v", conn, err)
			}
			_ = conn.Close()
		}
		_ = conns[0].Close()
		for _, network := range []string{"udp4", "tcp4"} {
			for _, port := range []int{s.Port(), s.TLSPort()} {
				if err := canBind(network, at("0.0.0.0", port)); err != nil {
					t.Errorf("%s port %d is not free: %v", network, port, err)
				}
			}
		}
	}
	systemtest.Eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func isTimeoutError(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func canBind(network, address string) error {
	if strings.HasPrefix(network, "udp") {
		conn, err := net.ListenPacket(network, address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	l, err := net.Listen(network, address)
	if err == nil {
		_ = l.Close()
	}
	return err
}

// TestSeveralAddresses binds two addresses, one of them IPv6, each alone.
func TestSeveralAddresses(t *testing.T) {
	cfg := testTransports(t)
	cfg.Listen = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.3")}
	if canBind("udp6", "[::1]:0") == nil {
		cfg.Listen = append(cfg.Listen, netip.IPv6Loopback())
	}
	e := newEcho()
	s := startTransports(t, cfg, e)
	for _, addr := range cfg.Listen {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := net.Dial(network, at(addr.String(), s.Port()))
			if err != nil {
				t.Fatal(err)
			}
			if err := ping(conn, wiretest.STUN(0)); err != nil {
				t.Errorf("%s %v: %v", network, addr, err)
			}
			_ = conn.Close()
		}
	}
	for from := range e.received {
		if from.Client.Addr().Is4In6() || from.Server.Addr().Is4In6() || int(from.Server.Port()) != s.Port() {
			t.Errorf("five-tuple %v", from)
		}
	}
}

// TestPickedNumbersAreFreeEverywhere lets the first picks collide.
func TestPickedNumbersAreFreeEverywhere(t *testing.T) {
	collisions := 3
	busy := systemSockets()
	busy.packet = func(network, address string, share bool) (*net.UDPConn, error) {
		if collisions > 0 {
			collisions--
			return nil, &net.OpError{Op: "listen", Net: network, Err: syscall.EADDRINUSE}
		}
		return listenPacket(network, address, share)
	}
	s, err := listen(testTransports(t), newEcho(), busy)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Port() == 0 || s.TLSPort() == 0 || collisions != 0 {
		t.Errorf("ports %d and %d, %d collisions left", s.Port(), s.TLSPort(), collisions)
	}
}

// TestTakenPort names the flag, although UDP sockets share ports.
func TestTakenPort(t *testing.T) {
	first := startTransports(t, testTransports(t), newEcho())
	for flag, change := range map[string]func(*options){
		"--turn-port":     func(c *options) { c.Port = first.Port() },
		"--turn-tls-port": func(c *options) { c.TLSPort = first.TLSPort() },
		"--turn-listen":   func(c *options) { c.Listen = []netip.Addr{netip.MustParseAddr("203.0.113.1")} },
	} {
		cfg := testTransports(t)
		change(&cfg)
		s, err := listen(cfg, newEcho(), systemSockets())
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", flag)
		} else if !strings.HasPrefix(err.Error(), flag+": ") {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, share := range []bool{false, true} {
		udp, err := listenPacket("udp4", "0.0.0.0:0", share)
		if err != nil {
			t.Fatal(err)
		}
		cfg := testTransports(t)
		cfg.Port, cfg.UDPSockets = udp.LocalAddr().(*net.UDPAddr).Port, 2
		if s, err := listen(cfg, newEcho(), systemSockets()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a port that UDP alone has, shared %v: %v", share, err)
			if err == nil {
				s.Close()
			}
		}
		_ = udp.Close()
	}
}

// TestWithoutIPv6 goes on where the wildcard is the default, and fails else.
func TestWithoutIPv6(t *testing.T) {
	lacking := systemSockets()
	lacking.stream = func(network, address string) (net.Listener, error) {
		if network == "tcp6" {
			return nil, &net.OpError{Op: "listen", Net: network, Err: syscall.EAFNOSUPPORT}
		}
		return net.Listen(network, address)
	}
	cfg := testTransports(t)
	cfg.Listen = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if _, err := listen(cfg, newEcho(), lacking); err == nil || !strings.Contains(err.Error(), "--turn-listen") {
		t.Errorf("configured: %v", err)
	}
	cfg.IPv6Optional = true
	s, err := listen(cfg, newEcho(), lacking)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

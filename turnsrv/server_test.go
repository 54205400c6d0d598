package turnsrv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/relayaddr"
)

// TestStartClose starts and closes three times in one process with the same
// registry, each time with live allocations, idle and half-sent connections.
func TestStartClose(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	before := goleak.IgnoreCurrent()
	for range 3 {
		t.Run("", func(t *testing.T) { startUseClose(t, registry) })
		if err := goleak.Find(before); err != nil {
			t.Fatal(err)
		}
	}
}

func startUseClose(t *testing.T, registry *prometheus.Registry) {
	cfg := testConfig()
	cfg.Registerer = registry
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	username, credential := Credentials(testSecret, "bob", time.Now().Add(time.Minute))
	for _, network := range []string{"udp", "tcp"} {
		relay, err := newClient(t, s, network, username, credential).Allocate()
		if err != nil {
			t.Fatalf("Allocate over %s: %v", network, err)
		}
		// The client has goroutines of its own for a relay; the server is gone by then.
		defer func() { _ = relay.Close() }()
	}
	idle, half := dial(t, s), dial(t, s)
	if _, err := half.Write([]byte{0, 3, 0}); err != nil {
		t.Fatalf("writing: %v", err)
	}
	if s.Allocations() != 2 {
		t.Errorf("%d allocations, want 2", s.Allocations())
	}
	families, err := registry.Gather()
	if err != nil || !slices.ContainsFunc(names(families), func(n string) bool { return n == "signal_turn_allocations" }) {
		t.Errorf("metrics: %v, %v", names(families), err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for _, conn := range []net.Conn{idle, half} {
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("a connection survived Close: %v", err)
		}
	}
	if s.Allocations() != 0 {
		t.Errorf("%d allocations survived Close", s.Allocations())
	}
	if families, _ := registry.Gather(); len(families) != 0 {
		t.Errorf("metrics survived Close: %v", names(families))
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func names[F interface{ GetName() string }](families []F) []string {
	var all []string
	for _, f := range families {
		all = append(all, f.GetName())
	}
	return all
}

// dial returns a bare TCP connection to the server that fails after a while.
func dial(t *testing.T, s *Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", serverAddress(s))
	if err != nil {
		t.Fatalf("dialing: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(systemtest.Patience)); err != nil {
		t.Fatalf("setting a deadline: %v", err)
	}
	return conn
}

func TestPortInUse(t *testing.T) {
	before := goleak.IgnoreCurrent()
	for _, transport := range []string{"udp", "tcp"} {
		cfg := testConfig()
		cfg.Listen = []string{"127.0.0.1"}
		packets, listener := bindBoth(t)
		defer func() { _, _ = packets.Close(), listener.Close() }() // Else the garbage collector closes them.
		cfg.Port = packets.LocalAddr().(*net.UDPAddr).Port
		_ = map[string]func() error{"udp": listener.Close, "tcp": packets.Close}[transport]()
		_, err := New(cfg)
		want := fmt.Sprintf("--turn-port: listening on %s 127.0.0.1:%d: bind: address already in use", transport, cfg.Port)
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

func TestFailedStartLeavesThePortFree(t *testing.T) {
	for range portPicks { // Another program may take the port in between.
		free, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg := testConfig()
		cfg.Port = free.LocalAddr().(*net.UDPAddr).Port
		_ = free.Close()
		cfg.Listen = []string{"127.0.0.1", "198.51.100.77"}
		_, err = New(cfg)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		want := fmt.Sprintf("--turn-listen: listening on tcp 198.51.100.77:%d: bind: cannot assign requested address", cfg.Port)
		if err == nil || err.Error() != want {
			t.Fatalf("got %v, want %s", err, want)
		}
		cfg.Listen = cfg.Listen[:1]
		s, err := New(cfg)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil || s.Port() != cfg.Port {
			t.Errorf("port %d, want %d; closing: %v", s.Port(), cfg.Port, err)
		}
		return
	}
	t.Fatal("no port stays free")
}

func TestNewRefuses(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"--turn-relay-ip: binding a relay to 198.51.100.77": func(c *Config) { c.RelayIP = []string{"198.51.100.77"} },
		"--turn-secret:": func(c *Config) { c.Secrets = nil },
		"--turn-realm:":  func(c *Config) { c.Realm = "" },
		"registering turn metrics:": func(c *Config) {
			r := prometheus.NewRegistry()
			r.MustRegister(newMetrics())
			c.Registerer = r
		},
	} {
		cfg := testConfig()
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestReplyLeavesFromTheAskedAddress asks from one address of the machine at
// another one, as a browser does that is told localhost.
func TestReplyLeavesFromTheAskedAddress(t *testing.T) {
	s := startServer(t, testConfig())
	cases := map[string]string{"127.0.0.2": "127.0.0.9"}
	if primary := relayaddr.PrimaryIPv4(); primary != loopbackIPv4 {
		cases[primary.String()] = "127.0.0.1"
	}
	if hasIPv6Loopback() {
		cases["::1"] = "::1"
	}
	for from, at := range cases {
		asked := netip.AddrPortFrom(netip.MustParseAddr(at), uint16(s.Port()))
		conn, err := net.ListenPacket("udp", net.JoinHostPort(from, "0"))
		if err != nil {
			t.Fatalf("listening on %s: %v", from, err)
		}
		if got := bindingReply(t, conn, asked); got != asked {
			t.Errorf("from %s asked %v, answered by %v", from, asked, got)
		}
		_ = conn.Close()
	}
}

func hasIPv6Loopback() bool {
	conn, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// bindingReply sends a Binding request and returns who answered.
func bindingReply(t *testing.T, conn net.PacketConn, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	if err := conn.SetReadDeadline(time.Now().Add(systemtest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteTo(request.Raw, net.UDPAddrFromAddrPort(server)); err != nil {
		t.Fatalf("sending: %v", err)
	}
	buf := make([]byte, 1500)
	n, from, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatalf("no reply from %v: %v", server, err)
	}
	reply := &stun.Message{Raw: buf[:n]}
	var mapped stun.XORMappedAddress
	if err := reply.Decode(); err != nil || mapped.GetFrom(reply) != nil {
		t.Fatalf("the reply is no Binding success: %v", err)
	}
	local := conn.LocalAddr().(*net.UDPAddr)
	if mapped.Port != local.Port || !mapped.IP.Equal(local.IP) {
		t.Errorf("mapped address %v, want %v", mapped, local)
	}
	return netip.AddrPortFrom(from.(*net.UDPAddr).AddrPort().Addr().Unmap(), from.(*net.UDPAddr).AddrPort().Port())
}

// TestRelayPortsAreBoundedAndReused fills a range of two ports.
func TestRelayPortsAreBoundedAndReused(t *testing.T) {
	cfg := testConfig()
	cfg.MinPort, cfg.MaxPort = freePair(t)
	cfg.AddrQuota = 0
	s := startServer(t, cfg)
	username, credential := Credentials(testSecret, "bob", time.Now().Add(time.Minute))
	allocate := func() (net.PacketConn, error) { return newClient(t, s, "udp", username, credential).Allocate() }
	first, err := allocate()
	if err != nil {
		t.Fatalf("first: %v", err)
	}
	second, err := allocate()
	if err != nil {
		t.Fatalf("second: %v", err)
	}
	for _, relay := range []net.PacketConn{first, second} {
		port := relay.LocalAddr().(*net.UDPAddr).Port
		if port < cfg.MinPort || port > cfg.MaxPort {
			t.Errorf("relay at port %d, outside %d-%d", port, cfg.MinPort, cfg.MaxPort)
		}
	}
	if _, err := allocate(); err == nil || !strings.Contains(err.Error(), strconv.Itoa(508)) {
		t.Errorf("third: %v, want 508", err)
	}
	_ = first.Close()
	systemtest.Eventually(t, "the first relay is gone", func() bool { return s.Allocations() == 1 })
	third, err := allocate()
	if err != nil {
		t.Errorf("after a release: %v", err)
	} else {
		_ = third.Close()
	}
	_ = second.Close()
}

// portPicks bounds the search for a free port, which another program may take in
// between.
const portPicks = 32

// freePair finds two neighbouring ports that nobody has on the relay address.
func freePair(t *testing.T) (int, int) {
	t.Helper()
	for port := 40000; port < 49000; port += 2 {
		if portIsFree(port) && portIsFree(port+1) {
			return port, port + 1
		}
	}
	t.Fatal("no two free ports")
	return 0, 0
}

func portIsFree(port int) bool {
	conn, err := net.ListenPacket("udp4", net.JoinHostPort(relayaddr.PrimaryIPv4().String(), strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func TestExternalAddressIsTold(t *testing.T) {
	cfg := testConfig()
	cfg.ExternalIP = []string{"198.51.100.7"}
	s := startServer(t, cfg)
	username, credential := Credentials(testSecret, "bob", time.Now().Add(time.Minute))
	relay, err := newClient(t, s, "udp", username, credential).Allocate()
	if err != nil {
		t.Fatal(err)
	}
	if ip := relay.LocalAddr().(*net.UDPAddr).IP.String(); ip != cfg.ExternalIP[0] || s.RelayIP().String() != ip {
		t.Errorf("the client was told %s, others %s", ip, s.RelayIP())
	}
	_ = relay.Close()
}

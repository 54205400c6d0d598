package turnsrv

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

const processEnv = "TURNSRV_TEST_PROCESS"

// processSettings is what a test tells the server that it runs in a process of
// its own.
type processSettings struct {
	SpareDescriptors int // SpareDescriptors is how many the server may still open, 0 for any number.
	AddrConns        int
}

// serverProcess is a server in a process of its own.
type serverProcess struct {
	*turntest.Child
	Port, TLSPort int
}

// TestServerProcess is the other process of startProcess, and by itself starts one, which must serve and end well.
func TestServerProcess(t *testing.T) {
	text := os.Getenv(processEnv)
	if text == "" {
		if _, _, err := startProcess(t, processSettings{AddrConns: 1}).client(t, "bob"); err != nil {
			t.Error(err)
		}
		return
	}
	var settings processSettings
	if err := json.Unmarshal([]byte(text), &settings); err != nil {
		t.Fatal(err)
	}
	cfg := loopbackConfig()
	cfg.TLS = testTLS(t)
	cfg.UserQuota, cfg.TotalQuota, cfg.AllocateRate, cfg.UDPSockets = 0, 1<<20, 0, 1
	cfg.AddrConns = max(settings.AddrConns, 1)
	s := startServer(t, cfg)
	if settings.SpareDescriptors > 0 {
		turntest.LimitDescriptors(t, settings.SpareDescriptors)
	}
	line, _ := json.Marshal(serverProcess{Port: s.Port(), TLSPort: s.TLSPort()})
	fmt.Printf("serving %s\n", line)
	for questions := bufio.NewScanner(os.Stdin); questions.Scan(); {
		fmt.Printf("holding %d\n", memoryInUse())
	}
}

// memoryInUse returns the bytes of heap and stacks that are really held. Resident memory would
// count what the garbage collector has not looked at and what the race detector keeps beside it.
func memoryInUse() uint64 {
	var m runtime.MemStats
	for range 2 { // Pools give up what they hold in the second collection.
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// startProcess runs TestServerProcess until the test's end.
func startProcess(t *testing.T, settings processSettings) serverProcess {
	t.Helper()
	text, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	p := serverProcess{Child: turntest.Start(t, "TestServerProcess", processEnv, string(text))}
	if err := json.Unmarshal([]byte(p.Says(t, "serving")), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// holding returns the memory that the server holds, in bytes.
func (p serverProcess) holding(t *testing.T) int {
	t.Helper()
	p.Tell(t, "")
	bytes, err := strconv.Atoi(p.Says(t, "holding"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// client returns a client with an allocation of the process, and its relay.
func (p serverProcess) client(t *testing.T, user string) (*wireClient, netip.AddrPort, error) {
	t.Helper()
	c := dialedTo(t, "udp", netip.AddrPortFrom(loopbackIPv4, uint16(p.Port)), user)
	answer, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
	if err != nil {
		return c, netip.AddrPort{}, err
	}
	relay, err := answerAddress(answer, stun.AttrXORRelayedAddress)
	return c, relay, err
}

// flow returns a client of the process with a channel to a peer.
func (p serverProcess) flow(t *testing.T) *flow {
	t.Helper()
	f := new(flow)
	var err error
	if f.client, f.relay, err = p.client(t, "alice"); err != nil {
		t.Fatal(err)
	}
	f.bind(t)
	return f
}

// TestDescriptorsForRelaysComeBack takes all descriptors of a server by
// allocations and gives one back.
func TestDescriptorsForRelaysComeBack(t *testing.T) {
	p := startProcess(t, processSettings{SpareDescriptors: 8})
	var clients []*wireClient
	for range 20 {
		c, _, err := p.client(t, "alice")
		if err != nil {
			if !strings.Contains(err.Error(), "508") {
				t.Fatal(err)
			}
			if len(clients) == 0 {
				t.Fatal("nobody got a relay")
			}
			if _, err := clients[0].accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
				t.Errorf("a descriptor came back, the server did not: %v", err)
			}
			return
		}
		clients = append(clients, c)
	}
	t.Error("the server never ran out of descriptors")
}

// TestHalfOpenFlood opens 10,000 connections to TLS that say nothing, and sends
// 10,000 DTLS hellos that nobody goes on with, while an allocation relays.
func TestHalfOpenFlood(t *testing.T) {
	const flood, perAddress = 10_000, 500
	p := startProcess(t, processSettings{AddrConns: perAddress})
	f := p.flow(t)
	before := p.holding(t)
	hello := turntest.DTLSHello(t)
	relayed := 0
	relay := func() {
		t.Helper()
		relayed++
		if err := f.roundTrip(strconv.Itoa(relayed)); err != nil {
			t.Fatalf("packet %d: %v", relayed, err)
		}
	}
	for i := range flood {
		from := netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i/perAddress)})
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}).Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.TLSPort)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write([]byte{22, 3, 1, 2, 0, 1}); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			relay()
		}
	}
	streams := p.holding(t) - before
	for i := range flood {
		sendFrom(t, netip.AddrFrom4([4]byte{127, 0, 2, byte(1 + i%200)}), p.TLSPort, hello)
		if i%20 == 0 {
			relay()
		}
	}
	records := p.holding(t) - before - streams
	t.Logf("%d packets relayed each way meanwhile; %d KB for half-open TLS, %d KB for DTLS hellos", relayed, streams>>10, records>>10)
	if streams > flood*16<<10 || records > 128<<20 {
		t.Errorf("memory grew by %d and %d bytes", streams, records)
	}
	if err := dialedTo(t, "tls", netip.AddrPortFrom(loopbackIPv4, uint16(p.TLSPort)), "bob").challenge(); err != nil {
		t.Errorf("a new client: %v", err)
	}
}

func sendFrom(t *testing.T, from netip.Addr, port int, packet []byte) {
	t.Helper()
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: from.AsSlice()}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(packet); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
}

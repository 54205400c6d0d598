package turnsrv

import (
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// inNetwork is set in the process that a test starts in a network namespace of
// its own.
const inNetwork = "SIGNAL_TEST_IN_NETWORK"

// TestRelayAddressesOfANetwork runs where it may give the machine addresses:
// none but loopback, a private IPv6 one, a global one.
func TestRelayAddressesOfANetwork(t *testing.T) { inOwnNetwork(t, findRelayAddresses) }

// TestIPv6RelaysInANetwork relays over IPv6 where the machine has an address for
// it.
func TestIPv6RelaysInANetwork(t *testing.T) { inOwnNetwork(t, relayOverIPv6) }

// inOwnNetwork runs the test again in a process with a network namespace of its
// own, and test there.
func inOwnNetwork(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if os.Getenv(inNetwork) != "" {
		test(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNetwork+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Err; err != nil {
		t.Fatal(err)
	}
	_, noIP := exec.LookPath("ip")
	output, err := cmd.CombinedOutput()
	if noIP != nil || cmd.ProcessState == nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no network of its own: %v, %v", noIP, err)
		}
		t.Skipf("no network of its own: %v, %v", noIP, err)
	}
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, output)
	}
}

func relayOverIPv6(t *testing.T) {
	needTool(t, uclient)
	runIP(t, "link", "set", "lo", "up")
	runIP(t, "-6", "addr", "add", "2001:db8::7/128", "dev", "lo", "nodad")
	runIP(t, "addr", "add", "198.51.100.7/32", "dev", "lo")
	cfg := testConfig()
	cfg.UserQuota = 0
	s := startServer(t, cfg)
	port := strconv.Itoa(s.Port())
	for name, args := range map[string][]string{
		"from IPv4":      {"-x", "198.51.100.7"},
		"from IPv6":      {"-x", "2001:db8::7"},
		"from IPv6, TCP": {"-x", "-t", "2001:db8::7"},
		"IPv4 from IPv6": {"-X", "2001:db8::7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runUclientRaw(t, append([]string{"-y", "-c", "-n", "50", "-m", "4", "-l", "170", "-W", testSecret, "-u", "bob", "-p", port}, args...)...)
		})
	}
	c, _ := allocated(t, s, "udp", "both", attrAdditionalFamily(wire.FamilyIPv6))
	if relays := s.List()[0].Relays; len(relays) != 2 || !relays[0].Addr().Is4() || relays[1].Addr() != netip.MustParseAddr("2001:db8::7") {
		t.Errorf("relays %v", relays)
	}
	if _, err := c.accepts(stun.MethodRefresh, attrFamily(wire.FamilyIPv6), attrLifetime(0)); err != nil {
		t.Error(err)
	}
	if relays := s.List()[0].Relays; len(relays) != 1 || !relays[0].Addr().Is4() {
		t.Errorf("relays %v after the IPv6 one was released", relays)
	}
}

func findRelayAddresses(t *testing.T) {
	runIP(t, "link", "set", "lo", "up")
	expectRelays(t, "127.0.0.1", "")
	runIP(t, "-6", "addr", "add", "fd00::7/128", "dev", "lo", "nodad")
	runIP(t, "addr", "add", "10.7.7.7/32", "dev", "lo")
	expectRelays(t, "10.7.7.7", "")
	runIP(t, "-6", "addr", "add", "2001:db8::7/128", "dev", "lo", "nodad")
	runIP(t, "addr", "add", "198.51.100.7/32", "dev", "lo")
	expectRelays(t, "198.51.100.7", "2001:db8::7")

	// A server in this network forbids its own ports at both addresses.
	cfg := testConfig()
	cfg.AllowPeers = []string{"198.51.100.7", "2001:db8::7", "10.7.7.7"}
	s := startServer(t, cfg)
	for _, text := range cfg.AllowPeers {
		if s.front.policy.permits(netip.AddrPortFrom(netip.MustParseAddr(text), uint16(s.Port()))) {
			t.Errorf("the server is its own peer at %s", text)
		}
	}
}

func expectRelays(t *testing.T, want4, want6 string) {
	t.Helper()
	v4, v6, err := relayAddresses(t.Context(), testConfig())
	var none netip.Addr
	if want6 == "" {
		want6 = none.String()
	}
	if err != nil || v4.bind.String() != want4 || v4.seen != v4.bind || v6.bind.String() != want6 || v6.seen != v6.bind {
		t.Errorf("got %v, %v, %v, want %s, %s", v4, v6, err, want4, want6)
	}
}

func runIP(t *testing.T, args ...string) {
	t.Helper()
	if output, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, output)
	}
}

package turnsrv

import (
	"context"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/wire"
)

// uclient is coturn's test client.
const uclient = "turnutils_uclient"

var (
	lostPackets     = regexp.MustCompile(`Total lost packets (\d+)`)
	sentMessages    = regexp.MustCompile(`tot_send_msgs=(\d+)`)
	receivedTraffic = regexp.MustCompile(`tot_recv_msgs=(\d+)`)
)

// TestCoturnClient relays from client to client with coturn's tool, in every
// mode it has. The tool's exit status says nothing, its output does.
func TestCoturnClient(t *testing.T) {
	systemtest.Need(t, uclient)
	cfg := testConfig()
	cfg.TLS = testTLS(t)
	cfg.UserQuota = 0 // The tool leaves its allocations to expire.
	s := startServer(t, cfg)
	for transport, flags := range map[string][]string{
		"udp":  {"-p", strconv.Itoa(s.Port())},
		"tcp":  {"-t", "-p", strconv.Itoa(s.Port())},
		"dtls": {"-S", "-p", strconv.Itoa(s.TLSPort())},
		"tls":  {"-S", "-t", "-p", strconv.Itoa(s.TLSPort())},
	} {
		for mode, more := range map[string][]string{
			"channel":       nil,
			"send":          {"-s"},
			"extra":         {"-G"},
			"dont-fragment": {"-g"},
			"negative":      {"-N"},
		} {
			t.Run(transport+"/"+mode, func(t *testing.T) {
				t.Parallel()
				runUclient(t, slices.Concat(flags, more))
			})
		}
	}
}

// TestCoturnClientGoesMad runs the mode in which the tool spoils bytes of its
// own requests. It does not survive that itself, with any server: when it spoils
// a transaction id it waits for the answer forever. The server must not care.
func TestCoturnClientGoesMad(t *testing.T) {
	systemtest.Need(t, uclient)
	cfg := testConfig()
	cfg.TLS = testTLS(t)
	cfg.UserQuota = 0
	s := startServer(t, cfg)
	for transport, flags := range map[string][]string{
		"udp":  {"-p", strconv.Itoa(s.Port())},
		"tcp":  {"-t", "-p", strconv.Itoa(s.Port())},
		"dtls": {"-S", "-p", strconv.Itoa(s.TLSPort())},
	} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			args := append(slices.Clone(flags), "-N", "-R", "-G", "-y", "-c", "-n", "50", "-m", "4", "-W", testSecret, "-u", "bob", "127.0.0.1")
			_ = exec.CommandContext(ctx, uclient, args...).Run() // It is killed, or gives up.
			runUclient(t, flags)
		})
	}
}

// TestCoturnPeerAndSTUNClient relays to coturn's echo server, and asks for the
// own address with its STUN client.
func TestCoturnPeerAndSTUNClient(t *testing.T) {
	systemtest.Need(t, "turnutils_peer")
	systemtest.Need(t, "turnutils_stunclient")
	cfg := loopbackConfig()
	s := startServer(t, cfg)
	_, addr := udpPeer(t)
	port := strconv.Itoa(int(addr.Port()) ^ 1) // Most likely free; the peer says if not.
	peer := exec.CommandContext(t.Context(), "turnutils_peer", "-L", "127.0.0.1", "-p", port)
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Wait() }()
	defer func() { _ = peer.Process.Kill() }()
	runUclientRaw(t, "-e", "127.0.0.1", "-r", port, "-c", "-n", "50", "-m", "4", "-l", "170", "-W", testSecret, "-u", "bob",
		"-p", strconv.Itoa(s.Port()), "127.0.0.1")
	output, err := exec.CommandContext(t.Context(), "turnutils_stunclient", "-p", strconv.Itoa(s.Port()), "127.0.0.1").CombinedOutput()
	if err != nil || !strings.Contains(string(output), "UDP reflexive addr: 127.0.0.1:") {
		t.Errorf("turnutils_stunclient: %v\n%s", err, output)
	}
}

func runUclient(t *testing.T, extra []string) {
	t.Helper()
	runUclientRaw(t, append(extra, "-y", "-c", "-n", "50", "-m", "4", "-l", "170", "-W", testSecret, "-u", "bob", "127.0.0.1")...)
}

func runUclientRaw(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), systemtest.Patience)
	defer cancel()
	output, err := exec.CommandContext(ctx, uclient, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", uclient, err, output)
	}
	lost, sent, received := lastNumber(lostPackets, output), lastNumber(sentMessages, output), lastNumber(receivedTraffic, output)
	if lost != 0 || sent < 4*50 || received < sent {
		t.Errorf("%d sent, %d received, %d lost\n%s", sent, received, lost, output)
	}
}

// lastNumber returns the number in the last match, or -1 when there is none.
func lastNumber(pattern *regexp.Regexp, output []byte) int {
	matches := pattern.FindAllSubmatch(output, -1)
	if len(matches) == 0 {
		return -1
	}
	number, err := strconv.Atoi(string(matches[len(matches)-1][1]))
	if err != nil {
		return -1
	}
	return number
}

// TestCoturnTakesMarkedCredentials has another TURN server of the secret read what the issuer mints: for it the username says who and until when, as before.
func TestCoturnTakesMarkedCredentials(t *testing.T) {
	other := startCoturn(t)
	for _, proof := range consent.Modes() {
		cfg := testConfig()
		cfg.PeerProof = proof
		servers, _ := NewIssuer(cfg, int(other.server.Port())).ICEServers("127.0.0.1", "bob", time.Now())
		c, err := newWireClient("udp", loopbackIPv4, other.server)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.conn.Close() }()
		c.username, c.password = servers[1].Username, servers[1].Credential
		if err := c.challenge(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
			t.Errorf("%s: %q: %v", proof, c.username, err)
		}
	}
}

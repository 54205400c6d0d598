package turnsrv

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v3"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// Names of the servers that the table is held against.
const (
	targetOurs   = "ours"
	targetCoturn = "coturn"
	targetPion   = "pion"
)

// conformanceQuota is how many allocations a user may have at a target. No
// check but that of the quota opens so many.
const conformanceQuota = 4

var (
	// deniedPeer is what every target's policy denies: a documentation address.
	deniedPeer = netip.MustParseAddrPort("192.0.2.1:9")

	// foreignPeer is an IPv6 address that no policy denies.
	foreignPeer = netip.MustParseAddrPort("[2001:4860:4860::8888]:9")

	otherLoopback = netip.MustParseAddr("127.0.0.2")
	loopbackIPv6  = netip.IPv6Loopback()
)

// errNotHere says that a row cannot be tried, since the server has no address of that family.
var errNotHere = errors.New("the server has no such address")

// confTarget is a running server.
type confTarget struct {
	server  netip.AddrPort // server serves UDP and TCP.
	server6 netip.AddrPort // server6 is invalid when the machine has no IPv6.

	// The ports of peers that relays may reach; 0 means any.
	minPeerPort, maxPeerPort uint16

	// Guarded by mu.
	mu      sync.Mutex
	clients []io.Closer
}

// keep leaves a client's socket open until close, because the server remembers
// its allocation: a row whose socket got the same port would find that.
func (c *confTarget) keep(client io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients = append(c.clients, client)
}

// close closes the sockets of all clients.
func (c *confTarget) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, client := range c.clients {
		_ = client.Close()
	}
}

// startOurs starts the server of this package. Its relays are on loopback, and
// since the own relay address is a permitted peer at the ports of relays, the
// peers of the checks are put there.
func startOurs(t *testing.T) *confTarget {
	cfg := testConfig()
	cfg.Listen = loopbacks()
	cfg.RelayIP = loopbacks()
	cfg.UserQuota, cfg.StrictChannels = conformanceQuota, true
	cfg.UnauthRate, cfg.AllocateRate = 1e6, 0
	cfg.MinPort, cfg.MaxPort = 61000, 64999
	s := startServer(t, cfg)
	return &confTarget{
		server:      netip.AddrPortFrom(loopbackIPv4, uint16(s.Port())),
		server6:     onIPv6Loopback(s.Port()),
		minPeerPort: uint16(cfg.MinPort),
		maxPeerPort: uint16(cfg.MaxPort),
	}
}

func loopbacks() []string {
	if hasIPv6Loopback() {
		return []string{loopbackIPv4.String(), loopbackIPv6.String()}
	}
	return []string{loopbackIPv4.String()}
}

// onIPv6Loopback returns the port at ::1 if the machine has it.
func onIPv6Loopback(port int) netip.AddrPort {
	if !hasIPv6Loopback() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(loopbackIPv6, uint16(port))
}

// startPion starts the engine alone, with nothing of ours but the credentials.
func startPion(t *testing.T) *confTarget {
	packets, listener := bindBoth(t)
	relay := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	permits := func(_ net.Addr, peer net.IP) bool { return !peer.Equal(deniedPeer.Addr().AsSlice()) }
	s, err := turn.NewServer(turn.ServerConfig{
		Realm:         "pion",
		LoggerFactory: turntest.QuietLogs(),
		AuthHandler:   pionKey,
		PacketConnConfigs: []turn.PacketConnConfig{
			{PacketConn: packets, RelayAddressGenerator: relay, PermissionHandler: permits},
		},
		ListenerConfigs: []turn.ListenerConfig{
			{Listener: listener, RelayAddressGenerator: relay, PermissionHandler: permits},
		},
	})
	if err != nil {
		t.Fatalf("turn.NewServer: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing pion: %v", err)
		}
	})
	return &confTarget{server: netip.MustParseAddrPort(packets.LocalAddr().String())}
}

// pionKey knows everybody whose name has an expiry that has not passed.
func pionKey(username, realm string, _ net.Addr) ([]byte, bool) {
	expiry, ok := expiryOf(username)
	if !ok || !time.Now().Before(expiry) {
		return nil, false
	}
	return turn.GenerateAuthKey(username, realm, credentialOf(testSecret, username)), true
}

// expiryOf reads until when the username of a credential is good.
func expiryOf(username string) (expiry time.Time, ok bool) {
	digits, _, _ := strings.Cut(username, ":")
	seconds, err := strconv.ParseInt(digits, 10, 64)
	return time.Unix(seconds, 0), err == nil
}

// credentialOf is the credential that belongs to a username.
func credentialOf(secret, username string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// bindBoth binds UDP and TCP on loopback at the same port.
func bindBoth(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range portPicks {
		packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp4", packets.LocalAddr().String())
		if err == nil {
			return packets, listener
		}
		_ = packets.Close()
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

// startCoturn starts Debian's turnserver and waits until it answers.
func startCoturn(t *testing.T) *confTarget {
	systemtest.Need(t, "turnserver")
	packets, listener := bindBoth(t)
	server := netip.MustParseAddrPort(packets.LocalAddr().String())
	_, _ = packets.Close(), listener.Close()
	log := &lockedBuffer{}
	command := exec.Command("turnserver", coturnArguments(server.Port(), t.TempDir())...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatalf("starting coturn: %v", err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
		if t.Failed() && testing.Verbose() {
			t.Logf("coturn said:\n%s", log)
		}
	})
	systemtest.Eventually(t, "coturn answers", func() bool {
		return bindingWorks("udp", server) == nil && bindingWorks("tcp", server) == nil
	})
	return &confTarget{server: server, server6: onIPv6Loopback(int(server.Port()))}
}

func coturnArguments(port uint16, dir string) []string {
	args := []string{
		"-n", "--listening-port", strconv.Itoa(int(port)), "--min-port=20000", "--max-port=24999",
		"--realm=coturn", "--use-auth-secret", "--static-auth-secret=" + testSecret,
		"--user-quota=" + strconv.Itoa(conformanceQuota), "--relay-threads=1",
		"--allow-loopback-peers", "--denied-peer-ip=" + deniedPeer.Addr().String(),
		"--no-tls", "--no-dtls", "--no-cli", "--no-rfc5780", "--no-tcp-relay",
		"--log-file=stdout", "--pidfile=" + filepath.Join(dir, "pid"), "--userdb=" + filepath.Join(dir, "users"),
	}
	for _, addr := range loopbacks() {
		args = append(args, "--listening-ip="+addr, "--relay-ip="+addr)
	}
	return args
}

// bindingWorks tries once, for no longer than a moment.
func bindingWorks(network string, server netip.AddrPort) error {
	return bindingWorksAt(network, loopbackIPv4, server)
}

func bindingWorksAt(network string, from netip.Addr, server netip.AddrPort) error {
	c, err := newWireClient(network, from, server)
	if err != nil {
		return err
	}
	defer func() { _ = c.conn.Close() }()
	m := wireRequest(stun.MethodBinding)
	if err := c.send(m.Raw); err != nil {
		return err
	}
	_, err = c.await(m.TransactionID, wireLate)
	return err
}

// lockedBuffer keeps what a program prints.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String implements fmt.Stringer.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// testbed is what one row of the table works with: a server, users of its own,
// and the peers it has opened.
type testbed struct {
	target *confTarget
	user   string
	// patience is how long a peer waits for a packet that must come.
	patience time.Duration
	peers    []*wirePeer
}

func (b *testbed) close() {
	for _, p := range b.peers {
		_ = p.Close()
	}
}

// credentials returns those of a user that no other row has.
func (b *testbed) credentials(name string) (username, credential string) {
	return Credentials(testSecret, b.user+name, time.Now().Add(2*time.Hour))
}

// dial connects a client that has valid credentials but no nonce.
func (b *testbed) dial(network string, from netip.Addr) (*wireClient, error) {
	server := b.target.server
	if from.Is6() {
		server = b.target.server6
	}
	if !server.IsValid() {
		return nil, errNotHere
	}
	c, err := newWireClient(network, from, server)
	if err != nil {
		return nil, err
	}
	b.target.keep(c.conn)
	c.username, c.password = b.credentials("")
	return c, nil
}

// client connects a client that is ready to make authenticated requests.
func (b *testbed) client(network string) (*wireClient, error) {
	c, err := b.dial(network, loopbackIPv4)
	if err != nil {
		return nil, err
	}
	return c, c.challenge()
}

// wirePeer is the socket of a peer.
type wirePeer struct {
	*net.UDPConn
	patience time.Duration
}

// peer opens a peer where the target's relays may send to.
func (b *testbed) peer(addr netip.Addr) (*wirePeer, error) {
	for range maxRelayBinds {
		port := b.target.minPeerPort
		if port != 0 {
			port += uint16(rand.N(int(b.target.maxPeerPort) - int(port) + 1))
		}
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		if err == nil {
			p := &wirePeer{conn, b.patience}
			b.peers = append(b.peers, p)
			return p, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, errNoRelayPort
}

func (p *wirePeer) addr() netip.AddrPort { return netip.MustParseAddrPort(p.LocalAddr().String()) }

func (p *wirePeer) send(to netip.AddrPort, data []byte) error {
	_, err := p.WriteToUDPAddrPort(data, to)
	return err
}

// receive returns the next packet and who sent it.
func (p *wirePeer) receive() ([]byte, netip.AddrPort, error) {
	if err := p.SetReadDeadline(time.Now().Add(p.patience)); err != nil {
		return nil, netip.AddrPort{}, err
	}
	buf := make([]byte, wireBuffer)
	n, from, err := p.ReadFromUDPAddrPort(buf)
	if err != nil {
		return nil, netip.AddrPort{}, fmt.Errorf("%s: %w", peerWaits, err)
	}
	return buf[:n], wire.Unmapped(from), nil
}

// wants makes sure that the next packet is data.
func (p *wirePeer) wants(data []byte) error {
	got, _, err := p.receive()
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("the peer got %s, want %s", brief(got), brief(data))
	}
	return nil
}

// brief shows the length and the start of data.
func brief(data []byte) string {
	return fmt.Sprintf("%d bytes %q", len(data), data[:min(len(data), 16)])
}

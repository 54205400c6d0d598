package turnsrv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// Addresses of a network of a test's own: two of each family for the server, and one for a client.
var (
	firstIPs  = []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}
	secondIPs = []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")}
	clientIPs = []netip.Addr{netip.MustParseAddr("10.9.0.9"), netip.MustParseAddr("fd09::9")}
)

func texts(addrs ...netip.Addr) (all []string) {
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}

// inBehaviourNetwork runs a test where those addresses are.
func inBehaviourNetwork(t *testing.T, test func(*testing.T)) {
	systemtest.InOwnNetwork(t, func(t *testing.T) {
		systemtest.IP(t, "link set lo up", "")
		for _, addr := range slices.Concat(firstIPs, secondIPs, clientIPs) {
			systemtest.Address(t, addr.String())
		}
		test(t)
	})
}

// discoverable is a server as one family sees it.
type discoverable struct {
	ips    [2]netip.Addr
	ports  [2]uint16
	client netip.Addr

	patience time.Duration
}

func (d *discoverable) at(ip, port int) netip.AddrPort {
	return netip.AddrPortFrom(d.ips[ip&1], d.ports[port&1])
}

// socket is one of a client.
func (d *discoverable) socket() (*net.UDPConn, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(d.client, 0)))
}

// ask sends a Binding request and returns the answer, which came to a socket that may be another, and where it came from.
func (d *discoverable) ask(from, heard *net.UDPConn, to netip.AddrPort, attrs ...stun.Setter) (*stun.Message, netip.AddrPort, error) {
	m := wireRequest(stun.MethodBinding, attrs...)
	if _, err := from.WriteToUDPAddrPort(m.Raw, to); err != nil {
		return nil, netip.AddrPort{}, err
	}
	buffer := make([]byte, 2000)
	_ = heard.SetReadDeadline(time.Now().Add(d.patience))
	n, source, err := heard.ReadFromUDPAddrPort(buffer)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	answer := &stun.Message{Raw: buffer[:n]}
	if err := answer.Decode(); err != nil {
		return nil, source, err
	}
	if answer.TransactionID != m.TransactionID {
		return nil, source, errors.New("an answer to another request")
	}
	return answer, wire.Unmapped(source), nil
}

// plainAddress reads an attribute that holds an address as it is.
func plainAddress(m *stun.Message, attr stun.AttrType) netip.AddrPort {
	value, err := m.Get(attr)
	if err != nil || len(value) < 8 {
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice(value[4:])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(value[2:]))
}

// wantDiscovery looks at an answer to a request that came from mapped to one address and port, and is to come from others.
func (d *discoverable) wantDiscovery(answer *stun.Message, mapped netip.AddrPort, askedIP, askedPort, fromIP, fromPort int) error {
	if err := wantSuccess(answer); err != nil {
		return err
	}
	xor, err := answerAddress(answer, stun.AttrXORMappedAddress)
	if err != nil {
		return err
	}
	for what, pair := range map[string][2]netip.AddrPort{
		"XOR-MAPPED-ADDRESS": {xor, mapped}, "MAPPED-ADDRESS": {plainAddress(answer, stun.AttrMappedAddress), mapped},
		"RESPONSE-ORIGIN": {plainAddress(answer, attrResponseOrigin), d.at(fromIP, fromPort)},
		"OTHER-ADDRESS":   {plainAddress(answer, attrOtherAddress), d.at(askedIP+1, askedPort+1)},
	} {
		if pair[0] != pair[1] {
			return fmt.Errorf("%s is %v, want %v", what, pair[0], pair[1])
		}
	}
	return nil
}

// behaviourRow is one rule of RFC 5780.
type behaviourRow struct {
	name   string
	check  func(*discoverable) error
	coturn string // coturn is what coturn does instead.
}

var behaviourRows = []behaviourRow{
	{name: "6.1: a Binding tells the other address, and where it was answered from", check: asking(0, 0, 0)},
	{name: "6.1: CHANGE-REQUEST without a flag", check: asking(0, 0, 0, changes(0))},
	{name: "6.1: CHANGE-REQUEST of the port", check: asking(0, 0, 1, changes(changePort))},
	{name: "6.1: CHANGE-REQUEST of the address", check: asking(0, 1, 0, changes(changeIP))},
	{name: "6.1: CHANGE-REQUEST of both", check: asking(0, 1, 1, changes(changeIP|changePort))},
	{name: "6.1: asked at the second address", check: asking(1, 0, 0), coturn: "OTHER-ADDRESS"},
	{name: "6.1: CHANGE-REQUEST of the port at the second address", check: asking(1, 0, 1, changes(changePort)), coturn: "OTHER-ADDRESS"},
	{name: "6.1: CHANGE-REQUEST of the address at the second one", check: asking(1, 1, 0, changes(changeIP)), coturn: "it came from"},
	{name: "6.1: CHANGE-REQUEST of both at the second address", check: asking(1, 1, 1, changes(changeIP|changePort)), coturn: "it came from"},
	{name: "6.1: RESPONSE-PORT", check: checkResponsePort},
	{name: "6.1: RESPONSE-PORT and CHANGE-REQUEST", check: checkResponsePortFromElsewhere},
	{name: "6.1: PADDING would amplify", check: checkPadding, coturn: "got success"},
	{name: "7.2: CHANGE-REQUEST of another size", check: checkRefused(400, attrRaw(attrChangeRequest, 0, 0)), coturn: "got success"},
	{name: "7.5: RESPONSE-PORT 0", check: checkRefused(400, attrRaw(attrResponsePort, 0, 0)), coturn: "timeout"},
	{name: "6.1: CHANGE-REQUEST beside what is unknown", check: checkRefused(420, changes(changePort), attrRaw(unknownRequired))},
}

func changes(flags byte) stun.Setter { return attrRaw(attrChangeRequest, 0, 0, 0, flags) }

// asking asks an address at both ports for an answer from another address or port, or neither.
func asking(askedIP, ip, port int, attrs ...stun.Setter) func(*discoverable) error {
	return func(d *discoverable) error {
		c, err := d.socket()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		for askedPort := range 2 {
			answer, source, err := d.ask(c, c, d.at(askedIP, askedPort), attrs...)
			if want := d.at(askedIP+ip, askedPort+port); err == nil && source != want {
				err = fmt.Errorf("it came from %v, want %v", source, want)
			}
			if err == nil {
				err = d.wantDiscovery(answer, c.LocalAddr().(*net.UDPAddr).AddrPort(), askedIP, askedPort, askedIP+ip, askedPort+port)
			}
			if err != nil {
				return fmt.Errorf("asking %v: %w", d.at(askedIP, askedPort), err)
			}
		}
		return nil
	}
}

func checkResponsePort(d *discoverable) error { return d.elsewhere(0, 0) }

func checkResponsePortFromElsewhere(d *discoverable) error {
	return d.elsewhere(1, 1, changes(changeIP|changePort))
}

// elsewhere asks for an answer to another socket.
func (d *discoverable) elsewhere(ip, port int, attrs ...stun.Setter) error {
	c, err := d.socket()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	other, err := d.socket()
	if err != nil {
		return err
	}
	defer func() { _ = other.Close() }()
	to := binary.BigEndian.AppendUint16(nil, other.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	answer, source, err := d.ask(c, other, d.at(0, 0), append(attrs, attrRaw(attrResponsePort, to...))...)
	if err == nil && source != d.at(ip, port) {
		err = fmt.Errorf("it came from %v, want %v", source, d.at(ip, port))
	}
	if err != nil {
		return err
	}
	return d.wantDiscovery(answer, c.LocalAddr().(*net.UDPAddr).AddrPort(), 0, 0, ip, port)
}

func checkPadding(d *discoverable) error {
	const padding = stun.AttrType(0x0026)
	return checkRefused(420, attrRaw(padding, make([]byte, 64)...))(d)
}

func checkRefused(code int, attrs ...stun.Setter) func(*discoverable) error {
	return func(d *discoverable) error {
		c, err := d.socket()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		answer, _, err := d.ask(c, c, d.at(0, 0), attrs...)
		if err != nil {
			return err
		}
		return wantCode(answer, code)
	}
}

// TestBehaviourDiscovery holds the rows against a server with two addresses of both families, however it listens, and against coturn.
func TestBehaviourDiscovery(t *testing.T) {
	inBehaviourNetwork(t, func(t *testing.T) {
		for name, listen := range map[string][]string{
			"all addresses": {"0.0.0.0", "::"}, "the first addresses": texts(firstIPs...),
			"both": texts(slices.Concat(firstIPs, secondIPs)...), "both, the second before": texts(slices.Concat(secondIPs, firstIPs)...),
		} {
			for _, path := range dataPaths {
				cfg := testConfig()
				cfg.Listen, cfg.RelayIP, cfg.AlternateIP, cfg.UnauthRate = listen, texts(firstIPs...), texts(secondIPs...), 1e6
				path.choose(&cfg)
				s := startServer(t, cfg)
				holdBehaviour(t, name+"/"+path.name, s.Port(), false)
			}
		}
		holdBehaviour(t, "coturn", startDiscoverableCoturn(t), true)
	})
}

// holdBehaviour holds a server at a port, and the next one, against the rows.
func holdBehaviour(t *testing.T, name string, port int, coturn bool) {
	for family, first := range firstIPs {
		d := &discoverable{ips: [2]netip.Addr{first, secondIPs[family]}, ports: [2]uint16{uint16(port), uint16(port + 1)}, client: clientIPs[family]}
		for _, row := range behaviourRows {
			t.Run(fmt.Sprintf("%s/%v/%s", name, first, row.name), func(t *testing.T) {
				differs := coturn && row.coturn != ""
				d.patience = wirePatience
				if differs {
					d.patience = wireQuiet
				}
				err := row.check(d)
				switch {
				case !differs && err != nil:
					t.Error(err)
				case differs && (err == nil || !strings.Contains(err.Error(), row.coturn)):
					t.Errorf("got %v, while the table says %q", err, row.coturn)
				}
			})
		}
	}
}

func startDiscoverableCoturn(t *testing.T) (port int) {
	systemtest.Need(t, "turnserver")
	port = 40_000
	dir := t.TempDir()
	args := []string{"-n", "--listening-port", strconv.Itoa(port), "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "--relay-threads=1",
		"--log-file=stdout", "--pidfile=" + filepath.Join(dir, "pid"), "--userdb=" + filepath.Join(dir, "users")}
	for _, addr := range texts(firstIPs[0], secondIPs[0], firstIPs[1], secondIPs[1]) {
		args = append(args, "--listening-ip="+addr)
	}
	command := exec.Command("turnserver", args...)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	systemtest.Eventually(t, "coturn answers", func() bool {
		return bindingWorksAt("udp", firstIPs[1], netip.AddrPortFrom(secondIPs[1], uint16(port+1))) == nil
	})
	return port
}

// TestNATDiscovery has coturn's tool look for a NAT, where there is none.
func TestNATDiscovery(t *testing.T) {
	systemtest.Need(t, "turnutils_natdiscovery")
	inBehaviourNetwork(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Listen, cfg.RelayIP, cfg.AlternateIP = []string{"0.0.0.0", "::"}, texts(firstIPs...), texts(secondIPs...)
		s := startServer(t, cfg)
		for family, first := range firstIPs {
			out, err := exec.CommandContext(t.Context(), "turnutils_natdiscovery", "-m", "-f", "-t", "-T", "1", "-L", clientIPs[family].String(),
				"-p", strconv.Itoa(s.Port()), first.String()).CombinedOutput()
			for _, want := range []string{"NAT with Endpoint Independent Mapping!", "NAT with Endpoint Independent Filtering!"} {
				if err != nil || !strings.Contains(string(out), want) {
					t.Errorf("%v, %v: no %q in\n%s", first, err, want, out)
				}
			}
		}
	})
}

// TestDiscoveryIsBounded has one source ask more than a stranger is answered, each request twice: nothing longer than a plain answer, or to
// another port, comes for that.
func TestDiscoveryIsBounded(t *testing.T) {
	inBehaviourNetwork(t, func(t *testing.T) {
		const rate = 5
		now := time.Now()
		cfg := testConfig()
		cfg.Listen, cfg.RelayIP, cfg.AlternateIP, cfg.UnauthRate = []string{"0.0.0.0"}, texts(firstIPs[0]), texts(secondIPs[0]), rate
		cfg.now = func() time.Time { return now }
		s := startServer(t, cfg)
		d := &discoverable{ips: [2]netip.Addr{firstIPs[0], secondIPs[0]}, ports: [2]uint16{uint16(s.Port()), uint16(s.Port() + 1)}, client: clientIPs[0]}
		c, err := d.socket()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		asks := func(attrs ...stun.Setter) (answers, long int) {
			for range 20 * rate {
				m := wireRequest(stun.MethodBinding, attrs...)
				for range 2 {
					if _, err := c.WriteToUDPAddrPort(m.Raw, d.at(0, 0)); err != nil {
						t.Fatal(err)
					}
				}
			}
			// The server reads its queue in order, and answers what a client of TCP asks later; what is refused never comes.
			systemtest.Eventually(t, "the server has read all", func() bool { return bindingWorksAt("tcp", d.client, d.at(0, 0)) == nil })
			buffer := make([]byte, 2000)
			for {
				_ = c.SetReadDeadline(time.Now().Add(wireQuiet))
				n, err := c.Read(buffer)
				if err != nil {
					return answers, long
				}
				answers++
				if m := (&stun.Message{Raw: buffer[:n]}); m.Decode() != nil || m.Contains(attrOtherAddress) {
					long++
				}
			}
		}
		if answers, long := asks(changes(changePort)); answers != 2*rate || long != answers {
			t.Errorf("%d answers, %d of discovery, want %d", answers, long, 2*rate)
		}
		if answers, long := asks(); answers < 20*rate || long != 0 {
			t.Errorf("%d plain answers, %d of discovery, want %d at least and none", answers, long, 20*rate)
		}
	})
}

// TestDiscoveryServesBindingsAlone asks where the server would not listen but for discovery, and elsewhere for what needs UDP or a second address.
func TestDiscoveryServesBindingsAlone(t *testing.T) {
	inBehaviourNetwork(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Listen, cfg.RelayIP, cfg.AlternateIP, cfg.UnauthRate = texts(firstIPs...), texts(firstIPs...), texts(secondIPs[0]), 1e6
		s := startServer(t, cfg)
		port := uint16(s.Port())
		for _, at := range []netip.AddrPort{netip.AddrPortFrom(firstIPs[0], port+1), netip.AddrPortFrom(secondIPs[0], port), netip.AddrPortFrom(secondIPs[0], port+1)} {
			c, err := newWireClient("udp", clientIPs[0], at)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.exchange(wireRequest(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))); !errors.Is(err, errSilent) {
				t.Errorf("an Allocate at %v: %v", at, err)
			}
			if s.front.policy.Load().Permits(at) {
				t.Errorf("relays may reach %v", at)
			}
			_ = c.conn.Close()
		}
		for network, at := range map[string]netip.Addr{"tcp": firstIPs[0], "udp": firstIPs[1]} {
			from := clientIPs[slices.Index(firstIPs, at)]
			c, err := newWireClient(network, from, netip.AddrPortFrom(at, port))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := c.exchange(wireRequest(stun.MethodBinding, changes(changePort)))
			if err == nil {
				err = want420(answer, attrChangeRequest)
			}
			if err != nil {
				t.Errorf("over %s at %v: %v", network, at, err)
			}
			if answer, err = c.exchange(wireRequest(stun.MethodBinding)); err != nil || answer.Contains(attrOtherAddress) || answer.Contains(attrResponseOrigin) {
				t.Errorf("over %s at %v: %v, %v", network, at, answer, err)
			}
			_ = c.conn.Close()
		}
	})
}

// TestSecondAddressOfTheServer has one that is seen elsewhere, and some that cannot be.
func TestSecondAddressOfTheServer(t *testing.T) {
	inBehaviourNetwork(t, func(t *testing.T) {
		first, second := firstIPs[0].String(), secondIPs[0].String()
		cfg := testConfig()
		cfg.Listen, cfg.RelayIP, cfg.ExternalIP, cfg.AlternateIP = []string{"0.0.0.0"}, []string{first}, []string{"198.51.100.1"}, []string{"198.51.100.2/" + second}
		s := startServer(t, cfg)
		seen := &discoverable{ips: [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")},
			ports: [2]uint16{uint16(s.Port()), uint16(s.Port() + 1)}, client: clientIPs[0], patience: wirePatience}
		c, err := seen.socket()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		answer, _, err := seen.ask(c, c, netip.AddrPortFrom(firstIPs[0], uint16(s.Port())), changes(changeIP))
		if err == nil {
			err = seen.wantDiscovery(answer, c.LocalAddr().(*net.UDPAddr).AddrPort(), 0, 0, 1, 0)
		}
		if err != nil {
			t.Error(err)
		}
		for what, change := range map[string]func(*Config){
			"alone":                   func(c *Config) { c.Listen, c.AlternateIP = []string{second}, []string{second} },
			"that of the relays":      func(c *Config) { c.AlternateIP = []string{first} },
			"of no listener's family": func(c *Config) { c.AlternateIP = []string{secondIPs[1].String()} },
			"of another machine":      func(c *Config) { c.AlternateIP = []string{"10.9.9.9"} },
			"two of a family":         func(c *Config) { c.AlternateIP = []string{first, second} },
			"a pair of two families":  func(c *Config) { c.AlternateIP = []string{"198.51.100.2/" + secondIPs[1].String()} },
			"no address":              func(c *Config) { c.AlternateIP = []string{"second"} },
			"no port after it":        func(c *Config) { c.Port, c.AlternateIP = 65535, []string{second} },
			"the port of TLS":         func(c *Config) { c.Port, c.TLSPort, c.AlternateIP = 5348, 5349, []string{second} },
		} {
			wrong := testConfig()
			wrong.Listen, wrong.RelayIP = []string{"0.0.0.0"}, []string{first}
			change(&wrong)
			if s, err := New(wrong); err == nil || !strings.Contains(err.Error(), "--turn-alternate-ip") {
				t.Errorf("%s: %v", what, err)
				_ = s.Close()
			}
		}
	})
}

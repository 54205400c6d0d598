package turnsrv

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/auth"
	"cline-meet/signal/turnsrv/internal/consent"
	"cline-meet/signal/turnsrv/internal/wire"
)

// victim is a service at work, with a note of what reached it.
type victim struct {
	service
	conn *net.UDPConn
	addr netip.AddrPort
	from netip.AddrPort // from is the relay: what others send ends the service.

	mu  sync.Mutex
	got [][]byte
	end chan struct{}
}

func newVictim(t *testing.T, s service, host, relay netip.AddrPort) *victim {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(host))
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{service: s, conn: conn, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), from: relay, end: make(chan struct{})}
	go v.serve()
	t.Cleanup(func() { _ = conn.Close(); <-v.end })
	return v
}

func (v *victim) serve() {
	defer close(v.end)
	buffer := make([]byte, 65536)
	for {
		n, from, err := v.conn.ReadFromUDPAddrPort(buffer)
		if from = wire.Unmapped(from); err != nil || from != v.from {
			return
		}
		packet := bytes.Clone(buffer[:n])
		if v.reply != nil {
			_, _ = v.conn.WriteToUDPAddrPort(v.reply(packet, from), from)
		}
		v.mu.Lock()
		v.got = append(v.got, packet)
		v.mu.Unlock()
	}
}

// reached returns how many packets have come.
func (v *victim) reached() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.got)
}

// all returns all that came, once what was sent before has.
func (v *victim) all(t *testing.T) [][]byte {
	t.Helper()
	if !v.conn.LocalAddr().(*net.UDPAddr).IP.IsLoopback() {
		t.Fatal("a service is not on loopback")
	}
	sayLast(t, v.addr, v.end)
	return v.got
}

// lastWord ends who reads.
const lastWord = "that is all"

// sayLast says it at an address until it is heard.
func sayLast(t *testing.T, to netip.AddrPort, heard <-chan struct{}) {
	t.Helper()
	word, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = word.Close() }()
	for { // A full buffer drops it.
		if _, err := word.Write([]byte(lastWord)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// crowd is at one port of every address of this machine, and counts the checks that come. Nothing else may.
type crowd struct {
	conn   *net.UDPConn
	port   uint16
	checks int // checks is whole when end is closed.
	end    chan struct{}
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	c := &crowd{conn: conn, port: conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), end: make(chan struct{})}
	go c.serve(t)
	t.Cleanup(func() { _ = conn.Close(); <-c.end })
	return c
}

func (c *crowd) serve(t *testing.T) {
	defer close(c.end)
	buffer := make([]byte, 2000)
	for {
		n, err := c.conn.Read(buffer)
		packet := buffer[:n]
		switch {
		case err != nil || string(packet) == lastWord:
			return
		case n < wire.STUNHeader || !bytes.Equal(packet, testCheck(packet[9])):
			t.Errorf("%x got through", packet)
		default:
			c.checks++
		}
	}
}

// at is the crowd at an address.
func (c *crowd) at(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, c.port) }

// count returns how many checks have come.
func (c *crowd) count(t *testing.T) int {
	t.Helper()
	sayLast(t, c.at(loopbackIPv4), c.end)
	return c.checks
}

// attacker is a client with credentials of the signaling and all that a server lets it have.
type attacker struct {
	*wireClient
	relay netip.AddrPort
	way   string
}

// attackServer is a server that lets its relays reach this machine.
func attackServer(t *testing.T, dataPath bool, change func(*Config)) *Server {
	t.Helper()
	cfg := testConfig()
	cfg.DataPath = dataPath
	cfg.Listen = []string{"127.0.0.1", "::1"}
	cfg.RelayIP = []string{"127.0.0.1", "::1"}
	cfg.AllowPeers = []string{"127.0.0.0/8", "127.0.0.1", "::1"}
	cfg.UnauthRate = 1e6
	cfg.TLS = testTLS(t)
	if change != nil {
		change(&cfg)
	}
	return startServer(t, cfg)
}

// newAttacker allocates in a family over a transport, with credentials as the signaling mints them.
func newAttacker(t *testing.T, s *Server, transport string, family byte) *attacker {
	t.Helper()
	c := dialed(t, s, transport, "eve")
	c.username, c.password = auth.Credentials(testSecret, "eve", time.Now().Add(time.Hour), auth.ExpiryUser, consent.ModeOf(s.cfg.PeerProof))
	if err := c.challenge(); err != nil {
		t.Fatal(err)
	}
	return &attacker{wireClient: c, relay: c.allocates(t, attrFamily(family))}
}

// open permits a victim and with channels binds one to it.
func (a *attacker) open(t *testing.T, number int, v *victim) {
	t.Helper()
	var err error
	if a.way == "channel" {
		_, err = a.accepts(stun.MethodChannelBind, attrChannel(uint16(minChannel+number)), attrPeer(v.addr))
	} else {
		_, err = a.accepts(stun.MethodCreatePermission, attrPeer(v.addr))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// throw sends a packet to a victim.
func (a *attacker) throw(t *testing.T, number int, v *victim, packet []byte) {
	t.Helper()
	var err error
	if a.way == "channel" {
		err = a.sendOn(uint16(minChannel+number), packet)
	} else {
		err = a.sendTo(v.addr, packet)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fence returns when the server has decided about all that was sent before. Each victim has one of its own, since a transport drops what is
// sent without a pause.
func (a *attacker) fence(t *testing.T) {
	t.Helper()
	fence := wireRequest(stun.MethodBinding)
	systemtest.Until(t, "the server answers", func() error {
		if err := a.send(fence.Raw); err != nil {
			return err
		}
		_, err := a.await(fence.TransactionID, time.Second)
		return err
	})
}

// TestAttackMatrix attacks services of all kinds through a relay, with credentials that are valid, over every transport and both families, in both
// ways of sending and with and without data loops. What reaches them is the attacker's checks as they are, and no more than their rate lets through; and what
// they send back does not reach the attacker, unless it is an answer to a check that was sent to them.
func TestAttackMatrix(t *testing.T) {
	for _, dataPath := range []bool{true, false} {
		s := attackServer(t, dataPath, nil)
		for _, family := range []byte{wire.FamilyIPv4, wire.FamilyIPv6} {
			for _, transport := range []string{"udp", "tcp", "tls", "dtls"} {
				for _, way := range []string{"indication", "channel"} {
					t.Run(fmt.Sprintf("loop=%v/IPv%d/%s/%s", dataPath, 2*family+2, transport, way), func(t *testing.T) {
						a := newAttacker(t, s, transport, family)
						a.way = way
						attackAll(t, a)
					})
				}
			}
		}
	}
}

// attackAll has the attacker go at every service.
func attackAll(t *testing.T, a *attacker) {
	host := netip.AddrPortFrom(a.relay.Addr(), 0)
	var victims []*victim
	for i, s := range services() {
		v := newVictim(t, s, host, a.relay)
		a.open(t, i, v)
		victims = append(victims, v)
	}
	payloads := [][]byte{{0x80, 96, 0, 1}, {22, 254, 253, 0}, {64, 0, 0, 1, 7}, {0, 1, 0, 0}, longTerm()}
	for round := range byte(2) {
		for i, v := range victims {
			a.throw(t, i, v, v.request)
			a.throw(t, i, v, testCheck(round))
			a.fence(t)
		}
		for _, v := range victims { // Their replies are on their way then.
			systemtest.Eventually(t, v.name+" is reached by a check", func() bool { return v.reached() > int(round) })
		}
		a.fence(t)
		for i, v := range victims {
			for _, mapped := range []netip.AddrPort{v.addr, a.relay} {
				a.throw(t, i, v, testAnswer(round, mapped))
			}
			a.throw(t, i, v, v.request)
			for _, p := range payloads {
				a.throw(t, i, v, p)
			}
			a.fence(t)
		}
	}
	for _, v := range victims {
		v.wantsChecks(t)
	}
	a.wantsNoReplies(t)
}

// wantsChecks looks at what reached a service. One that sends back what it gets has asked by that.
func (v *victim) wantsChecks(t *testing.T) {
	t.Helper()
	got := v.all(t)
	for _, packet := range got {
		check := slices.ContainsFunc([]byte{0, 1}, func(n byte) bool { return bytes.Equal(packet, testCheck(n)) })
		answer := slices.ContainsFunc([]byte{0, 1}, func(n byte) bool { return bytes.Equal(packet, testAnswer(n, v.addr)) })
		if !check && !(answer && bytes.Equal(v.reply(testCheck(0), v.from), testCheck(0))) {
			t.Errorf("%s got %x", v.name, packet)
		}
	}
	if len(got) == 0 || len(got) > 4 {
		t.Errorf("%s got %d packets", v.name, len(got))
	}
}

// wantsNoReplies looks at what came back: checks of the attacker's own, and what answers them as an agent would.
func (a *attacker) wantsNoReplies(t *testing.T) {
	t.Helper()
	for _, p := range a.payloads {
		m, err := wire.Decode(p.data)
		if err != nil || m.Type != stun.BindingRequest && (m.Type != stun.BindingSuccess || !m.Contains(stun.AttrMessageIntegrity)) {
			t.Errorf("%v, %d sent back %x", p.peer, p.channel, p.data)
		}
	}
}

// TestManyAddressesAreReachedSlowly sends checks and data to 10,000 addresses: of the checks the rate of the allocation gets through, whatever the transport,
// and of the rest nothing.
func TestManyAddressesAreReachedSlowly(t *testing.T) {
	const addresses, atOnce = 10_000, 50
	all := newCrowd(t)
	s := attackServer(t, *dataPath, func(c *Config) { c.MaxPermissions = addresses })
	a := newAttacker(t, s, "udp", wire.FamilyIPv4)
	began := time.Now()
	for first := 0; first < addresses; first += atOnce {
		var peers []stun.Setter
		var wave []netip.AddrPort
		for n := first; n < first+atOnce; n++ {
			addr := all.at(netip.AddrFrom4([4]byte{127, 1, byte(n >> 8), byte(n)}))
			wave, peers = append(wave, addr), append(peers, attrPeer(addr))
		}
		if _, err := a.accepts(stun.MethodCreatePermission, peers...); err != nil {
			t.Fatal(err)
		}
		for _, addr := range wave {
			for _, packet := range [][]byte{testCheck(0), {0x80, 96, 0, 1}, dnsQuery(1)} {
				if err := a.sendTo(addr, packet); err != nil {
					t.Fatal(err)
				}
			}
		}
		a.fence(t)
	}
	a.fence(t) // The answer of one may leave together with what came before it.
	most := 200 + int(100*time.Since(began).Seconds()) + 1
	checks := all.count(t)
	if checks < 200 || checks > most {
		t.Errorf("%d checks got through to %d addresses, want 200 to %d", checks, addresses, most)
	}
	denied := map[string]uint64{}
	for _, d := range s.List()[0].Denied {
		denied[d.Direction+" "+d.Reason] = d.Packets
	}
	if denied["to_peer unproved"] != 2*addresses || denied["to_peer rate"] != uint64(addresses-checks) {
		t.Errorf("denied %v", denied)
	}
}

// TestUserChecksAtOneRate has one user check from allocations that are replaced when their own rate is used up.
func TestUserChecksAtOneRate(t *testing.T) {
	const addresses, allocations = 10, 12
	all := newCrowd(t)
	s := attackServer(t, *dataPath, nil)
	began := time.Now()
	for range allocations {
		a := newAttacker(t, s, "tcp", wire.FamilyIPv4)
		for i := range byte(addresses) {
			addr := all.at(netip.AddrFrom4([4]byte{127, 1, 0, 1 + i}))
			if _, err := a.accepts(stun.MethodCreatePermission, attrPeer(addr)); err != nil {
				t.Fatal(err)
			}
			for n := range byte(20) {
				if err := a.sendTo(addr, testCheck(n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := a.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
			t.Fatal(err)
		}
	}
	most := int(checkRate*(2+time.Since(began).Seconds())) + 1
	if checks := all.count(t); checks < 2*checkRate || checks > most {
		t.Errorf("%d checks of one user got through, want %d to %d", checks, 2*checkRate, most)
	}
}

// TestOneBurstReachesNobody allocates, checks and sends data without waiting for an answer, which one turn of a data loop may read as a whole.
func TestOneBurstReachesNobody(t *testing.T) {
	s := attackServer(t, *dataPath, nil)
	all := newCrowd(t)
	addr := all.at(loopbackIPv4)
	data := func(payload []byte) []byte {
		return wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication), attrPeer(addr), attrRaw(stun.AttrData, payload...)).Raw
	}
	for n := range byte(16) {
		c := dialed(t, s, "udp", "eve")
		c.username, c.password = auth.Credentials(testSecret, "eve", time.Now().Add(time.Hour), auth.ExpiryUser, consent.STUN)
		if err := c.challenge(); err != nil {
			t.Fatal(err)
		}
		var burst [][]byte
		for range 10 { // They keep the loop busy while the rest comes.
			burst = append(burst, c.signed(stun.MethodRefresh).Raw)
		}
		burst = append(burst, c.signed(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)).Raw,
			c.signed(stun.MethodCreatePermission, attrPeer(addr)).Raw, data(testCheck(n)))
		burst = append(burst, slices.Repeat([][]byte{data([]byte{0x80, 96, 0, 1})}, 20)...)
		for _, packet := range burst {
			if err := c.send(packet); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // The answer of one may leave together with what came before it.
			(&attacker{wireClient: c}).fence(t)
		}
	}
	if all.count(t) == 0 {
		t.Error("not even a check got through")
	}
}

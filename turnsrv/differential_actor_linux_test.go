package turnsrv

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/batch"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

// actorNetworks is how the clients of a stage reach the server. The second one comes over IPv6.
var actorNetworks = []string{"udp", "udp", "udp", "tcp", "tls", "dtls"}

// growSize is the size of the first datagram to every relay.
const growSize = usualDatagram + 1000

// actor is a client on the stage.
type actor struct {
	stage   *stage
	name    string
	network string
	v6      bool
	wire    *wireClient
	mark    batch.Mark // mark is that of the last frame over UDP.
	lives   int        // lives counts its allocations, whose relays have a name each.
	relays  []netip.AddrPort
}

// connect begins a new connection and gets a nonce.
func (c *actor) connect() {
	t := c.stage.t
	t.Helper()
	host := stageRelay4
	if c.v6 {
		host = stageRelay6
	}
	port := c.stage.s.Port()
	if c.network == "tls" || c.network == "dtls" {
		port = c.stage.s.TLSPort()
	}
	c.stage.names[netip.AddrPortFrom(host, uint16(port))] = "the server"
	conn, err := c.dial(net.JoinHostPort(host.String(), strconv.Itoa(port)))
	if err != nil {
		t.Fatalf("%s over %s: %v", c.name, c.network, err)
	}
	c.wire = &wireClient{conn: conn}
	if c.network == "tcp" || c.network == "tls" {
		c.wire.reader = bufio.NewReaderSize(conn, wireBuffer)
	}
	c.stage.names[wire.Unmapped(c.wire.local())] = c.name
	c.wire.username, c.wire.password = Credentials(testSecret, c.name, time.Now().Add(24*365*time.Hour))
	if err := c.wire.learn(c.ask(wireRequest(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)))); err != nil {
		t.Fatal(err)
	}
}

func (c *actor) dial(server string) (net.Conn, error) {
	switch c.network {
	case "dtls":
		return turntest.DialDTLS(server)
	case "tls":
		return tls.Dial("tcp", server, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
	case "tcp":
		return net.Dial("tcp", server)
	}
	conn, err := net.Dial("udp", server)
	if err == nil {
		_ = conn.(*net.UDPConn).SetReadBuffer(4 << 20)
		batch.TellMarks(conn.(*net.UDPConn), c.v6)
	}
	return conn, err
}

// request makes a request and notes its answer.
func (c *actor) request(method stun.Method, attrs ...stun.Setter) *stun.Message {
	c.stage.t.Helper()
	answer := c.ask(c.wire.signed(method, attrs...))
	if answerCode(answer) == 438 {
		if err := c.wire.learn(answer); err != nil {
			c.stage.t.Fatal(err)
		}
		answer = c.ask(c.wire.signed(method, attrs...))
	}
	c.noteAnswer(answer)
	return answer
}

// noteAnswer notes all of an answer that does not depend on chance.
func (c *actor) noteAnswer(m *stun.Message) {
	line := m.Type.String()
	for _, a := range m.Attributes {
		switch a.Type {
		case stun.AttrXORMappedAddress, stun.AttrXORRelayedAddress:
			var xored stun.XORMappedAddress
			if err := xored.GetFromAs(m, a.Type); err != nil {
				c.stage.t.Error(err)
			}
			addr, _ := netip.AddrFromSlice(xored.IP)
			line += fmt.Sprintf(", %s %s", a.Type, c.stage.nameOf(netip.AddrPortFrom(addr.Unmap(), uint16(xored.Port))))
		case stun.AttrNonce, stun.AttrMessageIntegrity, stun.AttrReservationToken:
			line += ", " + a.Type.String()
		default:
			line += fmt.Sprintf(", %s %x", a.Type, a.Value)
		}
	}
	c.stage.note(c.name+": answers", "%s", line)
}

// ask sends a request and waits for its answer; what else comes is noted.
func (c *actor) ask(m *stun.Message) *stun.Message {
	c.stage.t.Helper()
	if err := c.wire.send(m.Raw); err != nil {
		c.stage.t.Fatalf("%s: %v", c.name, err)
	}
	for {
		frame := c.read("the answer to " + m.Type.Method.String())
		if answer := (&stun.Message{Raw: frame}); !wire.IsChannelData(frame) && answer.Decode() == nil && answer.TransactionID == m.TransactionID {
			return answer
		}
		c.noteFrame(frame)
	}
}

func (c *actor) read(what string) []byte {
	c.stage.t.Helper()
	frame, err := c.readFrame()
	if err != nil || len(frame) < wire.ChannelHeader {
		c.stage.t.Fatalf("%s waits for %s: %x, %v", c.name, what, frame, err)
	}
	return frame
}

func (c *actor) readFrame() ([]byte, error) {
	conn, ok := c.wire.conn.(*net.UDPConn)
	if !ok {
		return c.wire.read(systemtest.Patience)
	}
	buffer, control := make([]byte, wireBuffer), make([]byte, batch.ControlSpace)
	_ = conn.SetReadDeadline(time.Now().Add(systemtest.Patience))
	n, oobn, _, _, err := conn.ReadMsgUDPAddrPort(buffer, control)
	c.mark = batch.MarkOf(control[:oobn])
	return buffer[:n], err
}

// noteFrame notes a frame as it came, but for the ports of relays and the transaction id of an indication.
func (c *actor) noteFrame(frame []byte) {
	if wire.IsChannelData(frame) {
		c.stage.note(fmt.Sprintf("%s on channel %x", c.name, binary.BigEndian.Uint16(frame)), "mark %x, %s", c.mark, summary(frame))
		return
	}
	m := &stun.Message{Raw: frame}
	if err := m.Decode(); err != nil {
		c.stage.t.Errorf("%s got %x: %v", c.name, frame, err)
		return
	}
	from := "nobody"
	if m.Type == stun.NewType(stun.MethodData, stun.ClassIndication) {
		peer, err := answerAddress(m, stun.AttrXORPeerAddress)
		if err != nil {
			c.stage.t.Error(err)
		}
		if from = c.stage.nameOf(peer); from == "the warden" {
			return
		}
		address := frame[wire.STUNHeader+wire.AttributeHeader:]
		clear(address[2 : 4+len(peer.Addr().AsSlice())])
	}
	clear(frame[8:wire.STUNHeader])
	c.stage.note(fmt.Sprintf("%s from %s", c.name, from), "mark %x, %s", c.mark, summary(frame))
}

// allocate asks for relays of both families, lets the wardens send, and sends the first large datagram.
func (c *actor) allocate() {
	w := c.stage
	w.t.Helper()
	had := len(c.relays) > 0
	answer := c.ask(c.wire.signed(stun.MethodAllocate, attrTransport(wire.ProtocolUDP), attrAdditionalFamily(wire.FamilyIPv6)))
	if answerCode(answer) == 438 {
		_ = c.wire.learn(answer)
		answer = c.ask(c.wire.signed(stun.MethodAllocate, attrTransport(wire.ProtocolUDP), attrAdditionalFamily(wire.FamilyIPv6)))
	}
	if had || answerCode(answer) != 0 {
		c.noteAnswer(answer)
		return
	}
	c.lives++
	for _, a := range answer.Attributes {
		if a.Type != stun.AttrXORRelayedAddress {
			continue
		}
		only := &stun.Message{TransactionID: answer.TransactionID, Attributes: stun.Attributes{a}}
		relay, err := answerAddress(only, a.Type)
		if err != nil {
			w.t.Fatal(err)
		}
		c.relays = append(c.relays, relay)
		w.names[relay] = fmt.Sprintf("relay %d of %s, life %d", len(c.relays)-1, c.name, c.lives)
	}
	c.noteAnswer(answer)
	c.admitWardens()
	for _, relay := range c.relays {
		w.grown++
		for range 2 {
			_, _ = w.wardens[familyIndex(relay.Addr())].WriteToUDPAddrPort(make([]byte, growSize), relay)
		}
	}
}

// admitWardens gives the wardens permissions.
func (c *actor) admitWardens() {
	for _, relay := range c.relays {
		warden := stageWarden4
		if relay.Addr().Is6() {
			warden = stageWarden6
		}
		c.request(stun.MethodCreatePermission, attrPeer(netip.AddrPortFrom(warden, 0)))
	}
}

// release forgets the relays, which are closed.
func (c *actor) release() { c.relays = nil }

// fence returns when all that the client has sent has left, and what was sent to its relays before has come. A data loop sends an
// answer together with data that was read before the request, hence the second one is for the first.
func (c *actor) fence() {
	w := c.stage
	w.t.Helper()
	c.speak(2) // Or a listener that hears nothing else for long would look for marks more seldom.
	for range 2 {
		c.ask(wireRequest(stun.MethodBinding))
	}
	c.speak(0)
	for _, relay := range c.relays {
		want := fmt.Sprintf("fence %d of %s", w.fences, c.name)
		if _, err := w.wardens[familyIndex(relay.Addr())].WriteToUDPAddrPort([]byte(want), relay); err != nil {
			w.t.Fatal(err)
		}
		for {
			frame := c.read(want)
			if m := (&stun.Message{Raw: frame}); !wire.IsChannelData(frame) && m.Decode() == nil {
				if data, err := m.Get(stun.AttrData); err == nil && string(data) == want {
					break
				}
			}
			c.noteFrame(frame)
		}
	}
}

// sendAll sends frames, as far as there is a connection.
func (c *actor) sendAll(frames ...[]byte) {
	for _, frame := range frames {
		if err := c.wire.send(frame); err != nil {
			c.stage.t.Errorf("%s: %v", c.name, err)
		}
	}
}

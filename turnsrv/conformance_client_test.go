package turnsrv

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire"
)

const (
	// wirePatience is how long a server has for an answer or a packet that must come.
	wirePatience = systemtest.Patience

	// wireQuiet is how long a server that answers other requests may keep one
	// waiting until it counts as unanswered.
	wireQuiet = 400 * time.Millisecond

	// wireLate is how long an answer that must not come is still waited for
	// after the answer to a later request.
	wireLate = 40 * time.Millisecond

	// wireBuffer takes any frame: a STUN message of 65535 bytes has a header, too.
	wireBuffer = 1 << 17
)

// errSilent says that a request was not answered although a later one was.
var errSilent = errors.New("no answer")

// wireClient speaks STUN and TURN over one socket without any mercy: it sends
// whatever bytes a check has made, and hands out whatever comes back. It is used
// by one goroutine.
type wireClient struct {
	conn   net.Conn
	reader *bufio.Reader // reader is nil on UDP.

	// What the next signed request says.
	username, password string
	realm, nonce       string

	// payloads holds packets of peers that came while an answer was waited for.
	payloads []wirePayload
}

// wirePayload is what a peer sent, as the server wrapped it.
type wirePayload struct {
	peer    netip.AddrPort // peer is the XOR-PEER-ADDRESS of a Data indication.
	channel uint16         // channel is the number of a ChannelData message.
	data    []byte
}

// newWireClient connects from an address of this machine, at any port. A client of dtls takes whichever address the system does.
func newWireClient(network string, from netip.Addr, server netip.AddrPort) (*wireClient, error) {
	local := netip.AddrPortFrom(from, 0)
	var conn net.Conn
	var err error
	switch network {
	case "tcp":
		conn, err = dialTCP(local, server)
	case "tls":
		conn, err = dialTLS(local, server)
	case "dtls":
		conn, err = turntest.DialDTLS(server.String())
	default:
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(local), net.UDPAddrFromAddrPort(server))
	}
	if err != nil {
		return nil, err
	}
	c := &wireClient{conn: conn}
	if network == "tcp" || network == "tls" {
		c.reader = bufio.NewReaderSize(conn, wireBuffer)
	}
	return c, nil
}

func dialTCP(local, server netip.AddrPort) (net.Conn, error) {
	conn, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(local), net.TCPAddrFromAddrPort(server))
	if err != nil {
		return nil, err
	}
	// Without this, closing would hold the port for a minute, and a test that
	// listens at it would fail.
	if err := conn.SetLinger(0); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func dialTLS(local, server netip.AddrPort) (net.Conn, error) {
	under, err := dialTCP(local, server)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(under, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
	if err := conn.Handshake(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// local returns the address that the server must see.
func (c *wireClient) local() netip.AddrPort {
	return netip.MustParseAddrPort(c.conn.LocalAddr().String())
}

func (c *wireClient) key() stun.MessageIntegrity {
	return stun.NewLongTermIntegrity(c.username, c.realm, c.password)
}

// wireMessage builds a message with a fresh transaction id.
func wireMessage(t stun.MessageType, attrs ...stun.Setter) *stun.Message {
	return stun.MustBuild(append([]stun.Setter{stun.TransactionID, t}, attrs...)...)
}

// wireRequest builds a request without credentials.
func wireRequest(method stun.Method, attrs ...stun.Setter) *stun.Message {
	return wireMessage(stun.NewType(method, stun.ClassRequest), attrs...)
}

// signed builds a request with the client's credentials behind attrs.
func (c *wireClient) signed(method stun.Method, attrs ...stun.Setter) *stun.Message {
	return wireRequest(method, append(slices.Clone(attrs),
		stun.NewUsername(c.username), stun.NewRealm(c.realm), stun.NewNonce(c.nonce), c.key())...)
}

func (c *wireClient) send(frame []byte) error {
	_, err := c.conn.Write(frame)
	return err
}

// read returns the next frame. It leaves a stream as it was when the time is up.
func (c *wireClient) read(wait time.Duration) ([]byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	if c.reader == nil {
		buf := make([]byte, wireBuffer)
		n, err := c.conn.Read(buf)
		return buf[:n], err
	}
	header, err := c.reader.Peek(4)
	if err != nil {
		return nil, err
	}
	size := wire.STUNHeader + int(binary.BigEndian.Uint16(header[2:]))
	if header[0]>>6 == 1 {
		size = wire.ChannelHeader + (int(binary.BigEndian.Uint16(header[2:]))+3)&^3
	}
	frame := make([]byte, size)
	if _, err := c.reader.Peek(size); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(c.reader, frame)
	return frame, err
}

// next returns the next answer, or nil when it has put a packet of a peer into
// payloads.
func (c *wireClient) next(wait time.Duration) (*stun.Message, error) {
	frame, err := c.read(wait)
	if err != nil {
		return nil, err
	}
	if len(frame) > 0 && frame[0]>>6 == 1 {
		return nil, c.keepChannelData(frame)
	}
	m := &stun.Message{Raw: frame}
	if err := m.Decode(); err != nil {
		return nil, fmt.Errorf("the server sent %x: %w", frame, err)
	}
	if m.Type == stun.NewType(stun.MethodData, stun.ClassIndication) {
		return nil, c.keepData(m)
	}
	return m, nil
}

func (c *wireClient) keepChannelData(frame []byte) error {
	if len(frame) < wire.ChannelHeader {
		return fmt.Errorf("the server sent ChannelData without a header: %x", frame)
	}
	length := int(binary.BigEndian.Uint16(frame[2:]))
	rest := frame[wire.ChannelHeader:]
	if len(rest) != length && len(rest) != (length+3)&^3 {
		return fmt.Errorf("the server sent ChannelData of length %d with %d bytes", length, len(rest))
	}
	c.payloads = append(c.payloads, wirePayload{channel: binary.BigEndian.Uint16(frame), data: rest[:length]})
	return nil
}

func (c *wireClient) keepData(m *stun.Message) error {
	peer, err := answerAddress(m, stun.AttrXORPeerAddress)
	if err != nil {
		return fmt.Errorf("Data indication: %w", err)
	}
	data, err := m.Get(stun.AttrData)
	if err != nil {
		return fmt.Errorf("Data indication without DATA: %w", err)
	}
	c.payloads = append(c.payloads, wirePayload{peer: peer, data: data})
	return nil
}

// await returns the answer to a transaction, or an error that is a timeout.
func (c *wireClient) await(id [stun.TransactionIDSize]byte, wait time.Duration) (*stun.Message, error) {
	deadline := time.Now().Add(wait)
	for {
		m, err := c.next(time.Until(deadline))
		if err != nil {
			return nil, err
		}
		if m != nil && m.TransactionID == id {
			return m, nil
		}
	}
}

// exchange sends a request once and returns its answer. The error is errSilent
// when the server has answered a later Binding request meanwhile.
func (c *wireClient) exchange(m *stun.Message) (*stun.Message, error) {
	if err := c.send(m.Raw); err != nil {
		return nil, err
	}
	answer, err := c.await(m.TransactionID, wireLate)
	if !isTimeout(err) {
		return answer, err
	}
	return c.awaitPastFence(m.TransactionID, wireQuiet)
}

// awaitPastFence sends a Binding request and waits for the answer to an earlier
// transaction, the time of late longer than for the one to Binding.
func (c *wireClient) awaitPastFence(id [stun.TransactionIDSize]byte, late time.Duration) (*stun.Message, error) {
	fence := wireRequest(stun.MethodBinding)
	if err := c.send(fence.Raw); err != nil {
		return nil, err
	}
	wait := wirePatience
	for {
		m, err := c.next(wait)
		switch {
		case isTimeout(err) && wait == late:
			return nil, errSilent
		case err != nil:
			return nil, fmt.Errorf("waiting for the fence: %w", err)
		case m == nil:
		case m.TransactionID == id:
			return m, nil
		case m.TransactionID == fence.TransactionID:
			wait = late
		}
	}
}

// ignored sends a frame and makes sure that nothing answers it. id is the
// transaction id in it.
func (c *wireClient) ignored(frame []byte, id [stun.TransactionIDSize]byte) error {
	if err := c.send(frame); err != nil {
		return err
	}
	answer, err := c.awaitPastFence(id, wireLate)
	if errors.Is(err, errSilent) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("answered with %s, want silence", describeAnswer(answer))
}

// challenge fetches a realm and a nonce, as every client does first.
func (c *wireClient) challenge() error {
	answer, err := c.exchange(wireRequest(stun.MethodAllocate, attrTransport(17)))
	if err != nil {
		return fmt.Errorf("challenge: %w", err)
	}
	if err := wantCode(answer, 401); err != nil {
		return fmt.Errorf("challenge: %w", err)
	}
	return c.learn(answer)
}

// learn takes the realm and the nonce of an error.
func (c *wireClient) learn(answer *stun.Message) error {
	var realm stun.Realm
	var nonce stun.Nonce
	if err := realm.GetFrom(answer); err != nil {
		return fmt.Errorf("%s without REALM", describeAnswer(answer))
	}
	if err := nonce.GetFrom(answer); err != nil || len(nonce) == 0 {
		return fmt.Errorf("%s without NONCE", describeAnswer(answer))
	}
	c.realm, c.nonce = realm.String(), nonce.String()
	return nil
}

// call makes an authenticated request. It takes a new nonce when the server
// calls the one it has stale, since a server may do so at any time.
func (c *wireClient) call(method stun.Method, attrs ...stun.Setter) (*stun.Message, error) {
	answer, err := c.exchange(c.signed(method, attrs...))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	if answerCode(answer) != 438 {
		return answer, nil
	}
	if err := c.learn(answer); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	if answer, err = c.exchange(c.signed(method, attrs...)); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return answer, nil
}

// accepts makes a request that must succeed, with an answer that is signed.
func (c *wireClient) accepts(method stun.Method, attrs ...stun.Setter) (*stun.Message, error) {
	answer, err := c.call(method, attrs...)
	if err != nil {
		return nil, err
	}
	if err := wantSuccess(answer); err != nil {
		return nil, err
	}
	return answer, c.wantIntegrity(answer)
}

// refuses makes a request that must fail with a code.
func (c *wireClient) refuses(code int, method stun.Method, attrs ...stun.Setter) error {
	answer, err := c.call(method, attrs...)
	if err != nil {
		return err
	}
	return wantCode(answer, code)
}

func (c *wireClient) wantIntegrity(answer *stun.Message) error {
	if !answer.Contains(stun.AttrMessageIntegrity) {
		return fmt.Errorf("%s without MESSAGE-INTEGRITY", describeAnswer(answer))
	}
	if err := c.key().Check(answer); err != nil {
		return fmt.Errorf("%s with a wrong MESSAGE-INTEGRITY: %w", describeAnswer(answer), err)
	}
	return nil
}

// sendTo sends data to a peer in a Send indication.
func (c *wireClient) sendTo(peer netip.AddrPort, data []byte, attrs ...stun.Setter) error {
	m := wireMessage(stun.NewType(stun.MethodSend, stun.ClassIndication),
		append([]stun.Setter{attrPeer(peer), attrRaw(stun.AttrData, data...)}, attrs...)...)
	return c.send(m.Raw)
}

// wireChannelData is a ChannelData message with so many bytes of padding.
func wireChannelData(channel uint16, data []byte, padding int) []byte {
	frame := binary.BigEndian.AppendUint16(nil, channel)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(data)))
	return append(append(frame, data...), make([]byte, padding)...)
}

// sendOn sends data on a channel, padded as RFC 8656 12.5 wants it on a stream.
func (c *wireClient) sendOn(channel uint16, data []byte) error {
	padding := 0
	if c.reader != nil {
		padding = -len(data) & 3
	}
	return c.send(wireChannelData(channel, data, padding))
}

// receive returns the next packet of a peer.
func (c *wireClient) receive() (wirePayload, error) {
	deadline := time.Now().Add(wirePatience)
	for len(c.payloads) == 0 {
		if _, err := c.next(time.Until(deadline)); err != nil {
			return wirePayload{}, fmt.Errorf("waiting for a packet of a peer: %w", err)
		}
	}
	first := c.payloads[0]
	c.payloads = c.payloads[1:]
	return first, nil
}

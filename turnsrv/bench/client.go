package bench

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/pion/stun/v2"
)

const (
	// answerTimeout is how long a request is waited for, over UDP before it is
	// sent again.
	answerTimeout = 500 * time.Millisecond
	attempts      = 8

	stunHeader    = 20
	channelHeader = 4
	firstChannel  = 0x4000
)

// errMismatch is a 437: the server still has, or has no more, what the client
// means.
var errMismatch = errors.New("the server refused with 437")

// credential is a TURN username and password.
type credential struct{ username, password string }

// mint makes a TURN-REST credential of a shared secret that lives for a day.
func mint(secret string) credential {
	username := strconv.FormatInt(time.Now().Add(24*time.Hour).Unix(), 10) + ":bench"
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(username))
	return credential{username, base64.StdEncoding.EncodeToString(mac.Sum(nil))}
}

// client is a TURN client that does no more than the bench needs. It is owned by
// one goroutine.
type client struct {
	conn   net.Conn
	stream bool // stream says that messages follow each other without borders.
	who    credential
	key    stun.MessageIntegrity
	realm  stun.Realm
	nonce  stun.Nonce
	relay  netip.AddrPort
	buffer *[clientBuffer]byte
}

// clientBuffer is room for what a server answers and for a frame of a stream.
const clientBuffer = 4 << 10

// buffers are those of clients whose goroutine has given them back.
var buffers = sync.Pool{New: func() any { return new([clientBuffer]byte) }}

// dial connects a client to a server over udp, tcp or tls.
func dial(transport, server string, who credential) (*client, error) {
	c := &client{who: who, stream: transport != "udp", buffer: buffers.Get().(*[clientBuffer]byte)}
	var err error
	if transport == "tls" {
		// The traffic is measured, not the server's identity.
		c.conn, err = tls.Dial("tcp", server, &tls.Config{InsecureSkipVerify: true})
	} else {
		c.conn, err = net.Dial(transport, server)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to the server: %w", err)
	}
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

// allocate makes an allocation, after the 401 that tells realm and nonce.
func (c *client) allocate() error {
	transport := stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}
	answer, err := c.call(stun.MethodAllocate, raw(transport))
	if err != nil {
		return err
	}
	if value, _ := answer.Get(stun.AttrXORRelayedAddress); len(value) < 8 { // At less than two bytes the library panics.
		return errors.New("the relayed address is no address")
	}
	var relay stun.XORMappedAddress
	if err := relay.GetFromAs(answer, stun.AttrXORRelayedAddress); err != nil {
		return fmt.Errorf("reading the relayed address: %w", err)
	}
	addr, _ := netip.AddrFromSlice(relay.IP)
	c.relay = netip.AddrPortFrom(addr.Unmap(), uint16(relay.Port))
	return nil
}

// bind binds a channel to a peer.
func (c *client) bind(number uint16, peer netip.AddrPort) error {
	value := binary.BigEndian.AppendUint32(nil, uint32(number)<<16)
	channel := stun.RawAttribute{Type: stun.AttrChannelNumber, Value: value}
	_, err := c.call(stun.MethodChannelBind, raw(channel), peerAddress(peer))
	return err
}

// release ends the allocation.
func (c *client) release() error {
	_, err := c.call(stun.MethodRefresh, raw(stun.RawAttribute{Type: stun.AttrLifetime, Value: make([]byte, 4)}))
	return err
}

// raw is a stun.Setter for an attribute.
type raw stun.RawAttribute

// AddTo implements stun.Setter.
func (r raw) AddTo(m *stun.Message) error {
	m.Add(r.Type, r.Value)
	return nil
}

func peerAddress(peer netip.AddrPort) stun.Setter {
	return setter(func(m *stun.Message) error {
		a := stun.XORMappedAddress{IP: peer.Addr().AsSlice(), Port: int(peer.Port())}
		return a.AddToAs(m, stun.AttrXORPeerAddress)
	})
}

type setter func(*stun.Message) error

// AddTo implements stun.Setter.
func (s setter) AddTo(m *stun.Message) error { return s(m) }

// call makes an authenticated request, again when the server wants another nonce.
func (c *client) call(method stun.Method, setters ...stun.Setter) (*stun.Message, error) {
	for range 3 {
		answer, err := c.exchange(method, setters)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		if answer.Type.Class == stun.ClassSuccessResponse {
			return answer, nil
		}
		var code stun.ErrorCodeAttribute
		if err := code.GetFrom(answer); err != nil {
			return nil, fmt.Errorf("%s was refused without a code", method)
		}
		if code.Code == stun.CodeAllocMismatch {
			return nil, fmt.Errorf("%s: %w", method, errMismatch)
		}
		if code.Code != stun.CodeUnauthorized && code.Code != stun.CodeStaleNonce {
			return nil, fmt.Errorf("%s was refused with %d", method, code.Code)
		}
		if c.nonce.GetFrom(answer) != nil || c.realm.GetFrom(answer) != nil {
			return nil, fmt.Errorf("%s: %d without realm and nonce", method, code.Code)
		}
		if c.key == nil {
			c.key = stun.NewLongTermIntegrity(c.who.username, c.realm.String(), c.who.password)
		}
	}
	return nil, fmt.Errorf("%s: the server does not take the credential", method)
}

func (c *client) exchange(method stun.Method, setters []stun.Setter) (*stun.Message, error) {
	all := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, setters...)
	if c.key != nil {
		all = append(all, stun.NewUsername(c.who.username), c.realm, c.nonce, c.key)
	}
	request, err := stun.Build(all...)
	if err != nil {
		return nil, err
	}
	for range attempts {
		if _, err := c.conn.Write(request.Raw); err != nil {
			return nil, err
		}
		answer, err := c.await(request.TransactionID)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && !c.stream {
			continue
		}
		return answer, err
	}
	return nil, errors.New("no answer")
}

// await reads until the answer to a request comes. Data is lost meanwhile.
func (c *client) await(id [stun.TransactionIDSize]byte) (*stun.Message, error) {
	limit := answerTimeout
	if c.stream {
		limit *= attempts
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(limit))
	if c.stream {
		defer func() { _ = c.conn.SetReadDeadline(time.Time{}) }()
	}
	for {
		frame, err := c.read()
		if err != nil {
			return nil, err
		}
		answer := new(stun.Message)
		if !stun.IsMessage(frame) {
			continue
		}
		if _, err := answer.Write(frame); err == nil && answer.TransactionID == id {
			return answer, nil
		}
	}
}

// read returns the next message, STUN or ChannelData, without padding.
func (c *client) read() ([]byte, error) {
	if !c.stream {
		n, err := c.conn.Read(c.buffer[:])
		return c.buffer[:n], err
	}
	if _, err := io.ReadFull(c.conn, c.buffer[:channelHeader]); err != nil {
		return nil, err
	}
	size := channelHeader + int(binary.BigEndian.Uint16(c.buffer[2:]))
	if c.buffer[0]>>6 == 0 {
		size += stunHeader - channelHeader
	}
	padded := (size + 3) &^ 3
	if padded > len(c.buffer) {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	_, err := io.ReadFull(c.conn, c.buffer[channelHeader:padded])
	return c.buffer[:size], err
}

// Package turnclient is a TURN client for what looks at servers from outside: the bench, and the check of a deployment.
// It does one thing at a time, refreshes nothing and hides no answer.
package turnclient

import (
	"crypto/hmac"
	"crypto/sha1"
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
	// AnswerTimeout is how long a request is waited for, over UDP before it is
	// sent again.
	AnswerTimeout = 500 * time.Millisecond
	// Attempts is how often a request is sent, unless a client says otherwise.
	Attempts = 8

	// ChannelHeader is the length of what precedes the data of a channel.
	ChannelHeader = 4
	// FirstChannel is the lowest number of a channel.
	FirstChannel = 0x4000

	stunHeader = 20
)

// A Refusal is the error response to a request.
type Refusal struct {
	Method stun.Method
	Code   stun.ErrorCode
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("%s was refused with %d", r.Method, r.Code) }

// Refused says whether err is a refusal with that code.
func Refused(err error, code stun.ErrorCode) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Code == code
}

// ErrSilent says that no answer came.
var ErrSilent = errors.New("no answer")

// Credential is a TURN username and password.
type Credential struct{ Username, Password string }

// Mint makes a TURN-REST credential of a shared secret that lives for that long from now.
func Mint(secret, user string, now time.Time, ttl time.Duration) Credential {
	username := strconv.FormatInt(now.Add(ttl).Unix(), 10) + ":" + user
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(username))
	return Credential{username, base64.StdEncoding.EncodeToString(mac.Sum(nil))}
}

// Client has one connection to a server. It is owned by one goroutine; another one may Send while it reads.
type Client struct {
	Conn     net.Conn
	Relay    netip.AddrPort // Relay is where the allocation is.
	Attempts int            // Attempts is how often a request is sent, over a stream how many timeouts it is waited for.

	stream bool // stream says that messages follow each other without borders.
	who    Credential
	key    stun.MessageIntegrity
	realm  stun.Realm
	nonce  stun.Nonce
	buffer *[bufferSize]byte
}

// bufferSize is room for what a server answers and for a frame of a stream.
const bufferSize = 4 << 10

// buffers are those of clients whose owners have recycled them.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// New makes a client of a connection. Over a stream messages have no borders.
func New(conn net.Conn, stream bool, who Credential) *Client {
	return &Client{Conn: conn, Attempts: Attempts, stream: stream, who: who, buffer: buffers.Get().(*[bufferSize]byte)}
}

// Close closes the connection. What the server holds for it lasts until it expires, see Release.
func (c *Client) Close() { _ = c.Conn.Close() }

// Recycle lets another client have the memory of this one, which must not be used afterwards.
func (c *Client) Recycle() { buffers.Put(c.buffer) }

// Identify has the client show another credential from now on.
func (c *Client) Identify(who Credential) { c.who, c.key = who, nil }

// Bind asks the server which address it sees the client at.
func (c *Client) Bind() (netip.AddrPort, error) {
	answer, err := c.exchange(stun.MethodBinding, nil)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: %w", stun.MethodBinding, err)
	}
	if answer.Type.Class != stun.ClassSuccessResponse {
		return netip.AddrPort{}, refusal(stun.MethodBinding, answer)
	}
	return addressIn(answer, stun.AttrXORMappedAddress)
}

// Families of relays, RFC 8656, section 18.6.
const (
	IPv4 = 1
	IPv6 = 2
)

// Allocate makes an allocation of UDP, after the 401 that tells realm and nonce.
func (c *Client) Allocate() error { return c.allocate() }

// AllocateOf makes an allocation in an address family.
func (c *Client) AllocateOf(family byte) error {
	return c.allocate(raw{Type: stun.AttrRequestedAddressFamily, Value: []byte{family, 0, 0, 0}})
}

func (c *Client) allocate(more ...stun.Setter) error {
	answer, err := c.call(stun.MethodAllocate, append(more, requestedUDP)...)
	if err == nil {
		c.Relay, err = addressIn(answer, stun.AttrXORRelayedAddress)
	}
	return err
}

var requestedUDP = raw{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}

// AllocateUnproven asks for an allocation without any credential.
func (c *Client) AllocateUnproven() error {
	c.key = nil
	answer, err := c.exchange(stun.MethodAllocate, []stun.Setter{requestedUDP})
	if err == nil && answer.Type.Class != stun.ClassSuccessResponse {
		err = refusal(stun.MethodAllocate, answer)
	}
	return err
}

// addressIn reads an address of an answer.
func addressIn(answer *stun.Message, attribute stun.AttrType) (netip.AddrPort, error) {
	// The library panics at less than two bytes, and makes up what an address lacks.
	if value, _ := answer.Get(attribute); len(value) < 8 || value[1] == IPv6 && len(value) < 20 {
		return netip.AddrPort{}, fmt.Errorf("%s is no address", attribute)
	}
	var a stun.XORMappedAddress
	if err := a.GetFromAs(answer, attribute); err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading %s: %w", attribute, err)
	}
	addr, _ := netip.AddrFromSlice(a.IP)
	return netip.AddrPortFrom(addr.Unmap(), uint16(a.Port)), nil
}

// Permit opens the relay for a peer.
func (c *Client) Permit(peer netip.AddrPort) error {
	_, err := c.call(stun.MethodCreatePermission, peerAddress(peer))
	return err
}

// BindChannel binds a channel to a peer.
func (c *Client) BindChannel(number uint16, peer netip.AddrPort) error {
	value := binary.BigEndian.AppendUint32(nil, uint32(number)<<16)
	_, err := c.call(stun.MethodChannelBind, raw{Type: stun.AttrChannelNumber, Value: value}, peerAddress(peer))
	return err
}

// Release ends the allocation.
func (c *Client) Release() error {
	_, err := c.call(stun.MethodRefresh, raw{Type: stun.AttrLifetime, Value: make([]byte, 4)})
	return err
}

// Send sends data through a channel.
func (c *Client) Send(channel uint16, data []byte) error {
	frame := make([]byte, ChannelHeader+len(data), ChannelHeader+len(data)+3)
	binary.BigEndian.PutUint16(frame, channel)
	binary.BigEndian.PutUint16(frame[2:], uint16(len(data)))
	copy(frame[ChannelHeader:], data)
	if c.stream {
		frame = frame[:(len(frame)+3)&^3]
	}
	_, err := c.Conn.Write(frame)
	return err
}

// Receive returns the data of the next packet that a peer sent before the deadline, through a channel or without one.
// It is valid until the next call.
func (c *Client) Receive(deadline time.Time) ([]byte, error) {
	_ = c.Conn.SetReadDeadline(deadline)
	for {
		frame, err := c.Read()
		if err != nil {
			return nil, err
		}
		if data, ok := payload(frame); ok {
			return data, nil
		}
	}
}

// payload returns what a peer sent, if that is what a frame holds.
func payload(frame []byte) (data []byte, ok bool) {
	if stun.IsMessage(frame) {
		m := &stun.Message{Raw: frame}
		if m.Decode() != nil || m.Type.Method != stun.MethodData {
			return nil, false
		}
		data, err := m.Get(stun.AttrData)
		return data, err == nil
	}
	if len(frame) < ChannelHeader || frame[0]>>6 != 1 {
		return nil, false
	}
	size := ChannelHeader + int(binary.BigEndian.Uint16(frame[2:]))
	if size > len(frame) {
		return nil, false
	}
	return frame[ChannelHeader:size], true
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
func (c *Client) call(method stun.Method, setters ...stun.Setter) (*stun.Message, error) {
	var refused error
	for range 3 {
		answer, err := c.exchange(method, setters)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		if answer.Type.Class == stun.ClassSuccessResponse {
			return answer, nil
		}
		refused = refusal(method, answer)
		if !Refused(refused, stun.CodeUnauthorized) && !Refused(refused, stun.CodeStaleNonce) {
			return nil, refused
		}
		if c.nonce.GetFrom(answer) != nil || c.realm.GetFrom(answer) != nil {
			return nil, fmt.Errorf("%w, without realm and nonce", refused)
		}
		if c.key == nil {
			c.key = stun.NewLongTermIntegrity(c.who.Username, c.realm.String(), c.who.Password)
		}
	}
	return nil, fmt.Errorf("%w: the server does not take the credential", refused)
}

// refusal makes an error of an error response.
func refusal(method stun.Method, answer *stun.Message) error {
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(answer); err != nil {
		return fmt.Errorf("%s was refused without a code", method)
	}
	return &Refusal{method, code.Code}
}

func (c *Client) exchange(method stun.Method, setters []stun.Setter) (*stun.Message, error) {
	all := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, setters...)
	if c.key != nil {
		all = append(all, stun.NewUsername(c.who.Username), c.realm, c.nonce, c.key)
	}
	request, err := stun.Build(all...)
	if err != nil {
		return nil, err
	}
	for range c.Attempts {
		if _, err := c.Conn.Write(request.Raw); err != nil {
			return nil, err
		}
		answer, err := c.await(request.TransactionID)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && !c.stream {
			continue
		}
		return answer, err
	}
	return nil, ErrSilent
}

// await reads until the answer to a request comes. Data is lost meanwhile.
func (c *Client) await(id [stun.TransactionIDSize]byte) (*stun.Message, error) {
	limit := AnswerTimeout
	if c.stream {
		limit *= time.Duration(c.Attempts)
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(limit))
	if c.stream {
		defer func() { _ = c.Conn.SetReadDeadline(time.Time{}) }()
	}
	for {
		frame, err := c.Read()
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

// Read returns the next message, STUN or ChannelData, without padding.
func (c *Client) Read() ([]byte, error) {
	if !c.stream {
		n, err := c.Conn.Read(c.buffer[:])
		return c.buffer[:n], err
	}
	if _, err := io.ReadFull(c.Conn, c.buffer[:ChannelHeader]); err != nil {
		return nil, err
	}
	size := ChannelHeader + int(binary.BigEndian.Uint16(c.buffer[2:]))
	if c.buffer[0]>>6 == 0 {
		size += stunHeader - ChannelHeader
	}
	padded := (size + 3) &^ 3
	if padded > len(c.buffer) {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	_, err := io.ReadFull(c.Conn, c.buffer[ChannelHeader:padded])
	return c.buffer[:size], err
}

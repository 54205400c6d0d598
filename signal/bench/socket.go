package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

const (
	// maxMessage is the largest message of a server that is understood.
	maxMessage = 128 << 10

	// setupTimeout is how long a connection, and each answer while it is set up, may take.
	setupTimeout = 15 * time.Second

	maxSize          = 32 << 10
	spareDescriptors = 64
)

// socket is one client. While it is set up it is a net.Conn of one goroutine; afterwards a loop owns it.
type socket struct {
	// Fixed once it is set up.
	dialect *dialect
	number  int
	user    string // user is who the server says this client is.
	peer    string // peer is whom it sends to.
	room    string

	conn net.Conn // conn is nil when a loop has the socket.
	rest []byte   // rest is what came and is no whole frame yet.

	// Owned by the loop.
	fd      int
	out     []byte // out is what the kernel has not taken yet.
	deaf    bool   // deaf says that the socket is not read.
	closed  bool
	why     string                                // why tells how the server closed it.
	mayEnd  bool                                  // mayEnd says that the server may close it.
	lenient bool                                  // lenient says that the server may refuse what it sends.
	handle  func(m *message, now time.Time) error // handle is called with every text message.
}

// dial opens a WebSocket. Control may set options of the socket; it may be nil.
func dial(ctx context.Context, address, path string, control func(string, string, syscall.RawConn) error) (*socket, error) {
	dialer := net.Dialer{Timeout: setupTimeout, Control: control}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to the server: %w", err)
	}
	s := &socket{conn: conn, fd: -1}
	if err := s.upgrade(address, path); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// upgrade makes the connection a WebSocket (RFC 6455, section 4.1).
func (s *socket) upgrade(address, path string) error {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // Never fails, as its documentation says.
	key := base64.StdEncoding.EncodeToString(nonce[:])
	_ = s.conn.SetDeadline(time.Now().Add(setupTimeout))
	request := "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n\r\n"
	if _, err := s.conn.Write([]byte(request)); err != nil {
		return fmt.Errorf("asking for a WebSocket: %w", err)
	}
	reader := bufio.NewReaderSize(s.conn, 4<<10)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return fmt.Errorf("asking for a WebSocket: %w", err)
	}
	_ = response.Body.Close()
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if response.StatusCode != http.StatusSwitchingProtocols ||
		response.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) {
		return fmt.Errorf("the server does not open a WebSocket: %s", response.Status)
	}
	early, err := reader.Peek(reader.Buffered())
	s.rest = bytes.Clone(early)
	return err
}

// await returns the next message that want accepts, while the socket is set up. Others are dropped;
// an error message ends it.
func (s *socket) await(what string, want func(*message) bool) (message, error) {
	_ = s.conn.SetDeadline(time.Now().Add(setupTimeout))
	for {
		m, err := s.next()
		if err != nil {
			return m, fmt.Errorf("waiting for %s: %w", what, err)
		}
		if want(&m) {
			return m, nil
		}
		if refusal(&m) {
			return m, fmt.Errorf("waiting for %s: the server says %s %s", what, m.kind, m.data)
		}
	}
}

// refusal reports whether a message says that a client may not do what it wants.
func refusal(m *message) bool {
	switch strings.ToLower(string(m.kind)) {
	case "error", "room_full", "id-taken":
		return true
	}
	return false
}

// next returns the next text message.
func (s *socket) next() (message, error) {
	for {
		op, payload, length, err := parseFrame(s.rest)
		if err != nil {
			return message{}, err
		}
		if length == 0 {
			if err := s.fill(); err != nil {
				return message{}, err
			}
			continue
		}
		s.rest = s.rest[length:]
		switch op {
		case opText:
			var m message
			if !s.dialect.read(payload, &m) {
				return m, errors.New("a message is no JSON object")
			}
			return m, nil
		case opPing:
			err = s.sendFrame(opPong, payload)
		case opClose:
			err = fmt.Errorf("the server closed the connection: %s", closeText(payload))
		}
		if err != nil {
			return message{}, err
		}
	}
}

func (s *socket) fill() error {
	buffer := make([]byte, 2<<10)
	n, err := s.conn.Read(buffer)
	s.rest = append(s.rest[:len(s.rest):len(s.rest)], buffer[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// sendFrame sends while the socket is set up.
func (s *socket) sendFrame(op byte, payload []byte) error {
	_, err := s.conn.Write(appendFrame(nil, op, payload, mathrand.Uint32()))
	return err
}

// join enters a room and learns who this client is: its own user_joined comes before any other.
func (s *socket) join(room string) error {
	if err := s.sendFrame(opText, []byte(joinMessage(room, ""))); err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	m, err := s.await("the own user_joined", func(m *message) bool { return string(m.kind) == "user_joined" })
	s.user, s.room = string(m.user), room
	return err
}

// joinMessage asks for a room; an id asks for an ack.
func joinMessage(room, id string) string {
	if id != "" {
		id = `"id":"` + id + `",`
	}
	return `{"type":"join_room",` + id + `"data":"{\"room_id\":\"` + room + `\"}"}`
}

// Package client speaks the wire contract of the signaling server from Go. Tests and load
// generators use it, and programs that join rooms beside browsers may.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"
)

// queueLen is how many received messages may wait for Next before the connection is read no
// further.
const queueLen = 256

const writeTimeout = 10 * time.Second

// Message is a message in either direction. Fields that a type does not use stay empty.
type Message struct {
	Type     string          `json:"type"`
	ID       string          `json:"id,omitempty"`
	UserID   string          `json:"user_id,omitempty"`
	RoomID   string          `json:"room_id,omitempty"`
	TargetID string          `json:"target_id,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
	// Missed are the users whom the message that an ack answers did not reach, or may not have. The same message
	// with the same ID may be sent again: it reaches those alone.
	Missed []string `json:"missed,omitempty"`
	// Raw is the frame as it was received.
	Raw []byte `json:"-"`
}

// Document decodes the data, whether it is plain JSON or JSON encoded as a string.
func (m Message) Document(to any) error {
	data := []byte(m.Data)
	if len(data) > 0 && data[0] == '"' {
		var inner string
		if err := json.Unmarshal(data, &inner); err != nil {
			return fmt.Errorf("decoding data of %s: %w", m.Type, err)
		}
		data = []byte(inner)
	}
	if err := json.Unmarshal(data, to); err != nil {
		return fmt.Errorf("decoding data of %s: %w", m.Type, err)
	}
	return nil
}

// Greeting is what the first message of a connection says of the session.
type Greeting struct {
	// Resumed says that the user and the room are those of before.
	Resumed bool `json:"resumed"`
	// Gap says that messages are lost all the same. What the room is like a user_joined of one's own says,
	// which is among the kept ones; there is none for who is in no room.
	Gap bool `json:"gap"`
	// Kept is how many messages follow that were kept.
	Kept int `json:"kept"`
}

// Greeting reads a stun_config that is the first message of a connection.
func (m Message) Greeting() (g Greeting, err error) {
	err = m.Document(&g)
	return g, err
}

// Client is one WebSocket to a signaling server. Its methods may be called by any goroutine.
type Client struct {
	ws       *websocket.Conn
	received chan Message
	stop     chan struct{}
	reader   sync.WaitGroup
	cancel   context.CancelFunc // ends what the reader waits for
	response *http.Response
	dialer   Dialer
	expiries chan time.Duration

	// readErr is why reading ended; it is set before received is closed.
	readErr error

	writing sync.Mutex
	closing sync.Once

	mu     sync.Mutex
	token  string
	got    uint64 // frames that count, of the whole session
	limits Limits
	pace   *rate.Limiter // nil as long as the server has not said how fast it takes messages
}

// Dial connects to a server's /ws, whose URL may begin with http or ws. The header is sent along;
// it may be nil.
func Dial(ctx context.Context, address string, header http.Header) (*Client, error) {
	return Dialer{}.Dial(ctx, address, header)
}

// A Dialer connects to servers in a way of its own. The zero Dialer is as the function Dial.
type Dialer struct {
	Tokens TokenSource // Tokens is nil for none.
	// WebSocket is how connections are opened; nil is websocket.DefaultDialer. Its subprotocols are not used.
	WebSocket *websocket.Dialer
}

// Dial connects as the function Dial does. What Resume opens later is opened in the same way.
func (d Dialer) Dial(ctx context.Context, address string, header http.Header) (*Client, error) {
	return d.dial(ctx, address, nil, header, 0)
}

// Resume connects to a server, which may be another node, and asks for the session that this client
// had; the query of its URL is kept. The client must be closed, or its connection lost, and Next must
// have returned all that came. The first message tells whether the session was resumed, see Greeting; header
// must carry the session's cookie if that was sent before. What has no answer yet may be sent again with the same ID.
func (c *Client) Resume(ctx context.Context, address string, header http.Header) (*Client, error) {
	c.mu.Lock()
	token, got := c.token, c.got
	c.mu.Unlock()
	session := url.Values{"resume": {token}, "got": {strconv.FormatUint(got, 10)}}
	return c.dialer.dial(ctx, address, session, header, got)
}

// dial connects to an address with values added to its query. Its errors name the address as it was
// given, without those values, because a resume token is a secret.
func (d Dialer) dial(ctx context.Context, address string, query url.Values, header http.Header, got uint64) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("dialing: %w", err)
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	values := u.Query()
	maps.Copy(values, query)
	u.RawQuery = values.Encode()
	ws, response, err := d.open(ctx, u.String(), header)
	if err != nil {
		if response != nil {
			if response.StatusCode == http.StatusUnauthorized {
				err = ErrUnauthorized
			}
			text, _ := io.ReadAll(response.Body) // It has 1 KB at most.
			err = &StatusError{response.StatusCode, response.Status, strings.TrimSpace(string(text)), err}
		}
		return nil, fmt.Errorf("dialing %s: %w", address, err)
	}
	c := &Client{ws: ws, response: response, received: make(chan Message, queueLen), stop: make(chan struct{}), got: got,
		dialer: d, expiries: make(chan time.Duration, 1)}
	reading, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.reader.Go(func() {
		defer cancel()
		c.read()
	})
	if d.Tokens != nil {
		c.reader.Go(func() { c.renewTokens(reading) })
	}
	return c, nil
}

// A StatusError is an answer of HTTP to who asked for a WebSocket.
type StatusError struct {
	Code   int
	Status string // Status is the code with its name.
	Text   string // Text is what the server says of it, 1 KB at most.
	err    error
}

// Error implements error.
func (e *StatusError) Error() string { return e.Status + ": " + e.err.Error() }

// Unwrap returns what is missing for a WebSocket.
func (e *StatusError) Unwrap() error { return e.err }

// Cookies returns the cookies that the server set.
func (c *Client) Cookies() []*http.Cookie { return c.response.Cookies() }

func (c *Client) read() {
	defer close(c.received)
	for {
		_, frame, err := c.ws.ReadMessage()
		if err != nil {
			c.readErr = explain(err)
			return
		}
		m := Message{Raw: frame}
		if err := json.Unmarshal(frame, &m); err != nil {
			c.readErr = fmt.Errorf("decoding a frame: %w", err)
			return
		}
		c.count(m)
		select {
		case c.received <- m:
		case <-c.stop:
			c.readErr = errClosed
			return
		}
	}
}

// count keeps book of what a resume needs: the newest token, and how many frames came of those that
// are not of one connection only.
func (c *Client) count(m Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Type {
	case "stun_config":
		var doc struct {
			Greeting
			Limits
			Token     string `json:"resume_token"`
			ExpiresIn int    `json:"auth_expires_in"`
		}
		_ = m.Document(&doc) // A server that sends none cannot resume.
		if c.token == "" && !doc.Resumed {
			c.got = 0
		}
		c.token = doc.Token
		c.noteExpiry(doc.ExpiresIn)
		c.limitLocked(doc.Limits)
	case "reconnect":
	default:
		c.got++
	}
}

// Next returns the next message. When the connection has ended its error is that of the
// connection, a *websocket.CloseError if the server closed it.
func (c *Client) Next(ctx context.Context) (Message, error) {
	select {
	case m, ok := <-c.received:
		if !ok {
			return Message{}, c.readErr
		}
		return m, nil
	case <-ctx.Done():
		return Message{}, ctx.Err()
	}
}

// Send writes one message. It waits as long as the server would find it too fast; what the server would not take
// fails with ErrTooLarge or ErrNotUTF8.
func (c *Client) Send(m Message) error {
	frame, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", m.Type, err)
	}
	if err := c.admit(frame); err != nil {
		return fmt.Errorf("sending %s: %w", m.Type, err)
	}
	return c.SendFrame(frame)
}

// SendFrame writes a text frame as it is, whatever the limits of the server.
func (c *Client) SendFrame(frame []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.ws.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := c.ws.WriteMessage(websocket.TextMessage, frame); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// Join asks to enter a room; the answer comes through Next.
func (c *Client) Join(room string) error {
	doc, _ := json.Marshal(map[string]string{"room_id": room}) // Strings always encode.
	data, _ := json.Marshal(string(doc))
	return c.Send(Message{Type: "join_room", Data: data})
}

// WebSocket returns the connection beneath, for what the other methods do not offer.
func (c *Client) WebSocket() *websocket.Conn { return c.ws }

// Cut closes the connection without a word, as a lost network does. What had come can still be had
// from Next; Close comes after that.
func (c *Client) Cut() { _ = c.ws.NetConn().Close() }

// Close says goodbye, cuts the connection and waits for the reader. It may be called again.
func (c *Client) Close() error {
	c.closing.Do(func() {
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		_ = c.ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
		close(c.stop)
		c.cancel()
		_ = c.ws.Close()
		c.reader.Wait()
	})
	return nil
}

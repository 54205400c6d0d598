package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// ErrUnauthorized says that the server wants a token, or another one.
var ErrUnauthorized = errors.New("the server refuses the token (401)")

// ErrTokenExpired says that the server has ended the connection because its token had expired.
var ErrTokenExpired = errors.New("the token has expired")

// closeExpired is the server's close code for that.
const closeExpired = 4501

// TokenSource returns the token to show, such as one that it gets from the backend of the product. It is asked for
// each connection, once more when its token is refused, and before a token expires.
type TokenSource func(ctx context.Context) (string, error)

// Token is the source of a token that never changes.
func Token(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// Dial connects as the function Dial does, with a token. The connection keeps its token fresh, and resumes with one as well.
func (tokens TokenSource) Dial(ctx context.Context, address string, header http.Header) (*Client, error) {
	return Dialer{Tokens: tokens}.Dial(ctx, address, header)
}

// open opens a WebSocket with a token, if there is a source of some. When a token is refused it asks once for another one.
func (d Dialer) open(ctx context.Context, url string, header http.Header) (*websocket.Conn, *http.Response, error) {
	dialer := *websocket.DefaultDialer
	if d.WebSocket != nil {
		dialer = *d.WebSocket
	}
	if d.Tokens == nil {
		return dialer.DialContext(ctx, url, header)
	}
	refused := ""
	for {
		token, err := d.Tokens(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("getting a token: %w", err)
		}
		dialer.Subprotocols = []string{"signal.v1", "bearer." + token}
		ws, response, err := dialer.DialContext(ctx, url, header)
		if err == nil || response == nil || response.StatusCode != http.StatusUnauthorized || refused != "" {
			return ws, response, err
		}
		refused = token
	}
}

// explain says in an error of the connection that the token was the reason.
func explain(err error) error {
	var closed *websocket.CloseError
	if errors.As(err, &closed) && closed.Code == closeExpired {
		return fmt.Errorf("%w: %w", ErrTokenExpired, err)
	}
	return err
}

// noteExpiry tells who renews tokens for how many seconds the present one is good, 0 for ever.
func (c *Client) noteExpiry(seconds int) {
	if c.dialer.Tokens == nil {
		return
	}
	select {
	case <-c.expiries: // What was said before is no longer true.
	default:
	}
	c.expiries <- time.Duration(seconds) * time.Second
}

// retryToken is how long to wait when no token could be had, or it was refused.
const retryToken = 5 * time.Second

// beforeExpiry is how long before its token expires a client asks for another one: a minute, or a quarter of a shorter
// life.
func beforeExpiry(left time.Duration) time.Duration { return left - min(time.Minute, left/4) }

// renewTokens sends a fresh token before the present one expires, until ctx ends.
func (c *Client) renewTokens(ctx context.Context) {
	timer := time.NewTimer(0)
	<-timer.C
	defer timer.Stop()
	for {
		select {
		case left := <-c.expiries:
			if timer.Stop(); left > 0 {
				timer.Reset(beforeExpiry(left))
			}
		case <-timer.C:
			c.renewToken(ctx)
			timer.Reset(retryToken) // Unless the server says before how long the new one is good.
		case <-ctx.Done():
			return
		}
	}
}

// renewToken sends a fresh token, if one can be had. The answer says how long that is good, or is an error.
func (c *Client) renewToken(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	token, err := c.dialer.Tokens(ctx)
	if err != nil {
		return
	}
	data, _ := json.Marshal(map[string]string{"token": token}) // A string always encodes.
	_ = c.Send(Message{Type: "auth", Data: data})              // Whoever reads hears of a connection that is lost.
}

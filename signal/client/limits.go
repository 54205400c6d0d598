package client

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

var (
	// ErrTooLarge says that a message is larger than the server takes.
	ErrTooLarge = errors.New("message too large")
	// ErrNotUTF8 says that a message holds what is not UTF-8, for which the server would close the connection.
	ErrNotUTF8 = errors.New("message is not UTF-8")
)

var errClosed = errors.New("client is closed")

// Limits are what a server takes of one client, as it says when it greets; 0 is what it did not say.
type Limits struct {
	// MessageBytes is the size of the largest message.
	MessageBytes int `json:"max_message_bytes"`
	// Rate is how many messages it takes in a second, and Burst how many at once.
	Rate  float64 `json:"message_rate"`
	Burst int     `json:"message_burst"`
}

// Limits returns what the server has said last.
func (c *Client) Limits() Limits {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.limits
}

// The part of the limits that is used: on its way what was sent evenly comes in bunches.
const (
	shareOfRate  = 0.9
	shareOfBurst = 0.8
)

// limitLocked obeys limits from now on.
func (c *Client) limitLocked(l Limits) {
	c.limits = l
	if l.Rate <= 0 || l.Burst <= 0 {
		return
	}
	limit, burst := rate.Limit(l.Rate*shareOfRate), max(1, int(float64(l.Burst)*shareOfBurst))
	if c.pace == nil {
		c.pace = rate.NewLimiter(limit, burst)
		return
	}
	c.pace.SetLimit(limit)
	c.pace.SetBurst(burst)
}

// admit returns when a frame may be sent, or why it may not be.
func (c *Client) admit(frame []byte) error {
	c.mu.Lock()
	size, pace := c.limits.MessageBytes, c.pace
	c.mu.Unlock()
	switch {
	case size > 0 && len(frame) > size:
		return fmt.Errorf("%w: it has %d bytes, and the server takes %d", ErrTooLarge, len(frame), size)
	case !utf8.Valid(frame):
		return ErrNotUTF8
	case pace == nil:
		return nil
	}
	turn := pace.Reserve()
	if turn.Delay() == 0 {
		return nil
	}
	select {
	case <-time.After(turn.Delay()):
		return nil
	case <-c.stop:
		turn.Cancel()
		return errClosed
	}
}

package client

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// TestAdmitKeepsToTheRate sends as fast as it is let, to a server that counts.
func TestAdmitKeepsToTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{stop: make(chan struct{})}
		for range 1000 { // A server that has said nothing takes what comes.
			if err := c.admit([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		c.limitLocked(Limits{Rate: 10, Burst: 10})
		server, begun := rate.NewLimiter(10, 10), time.Now()
		for range 100 {
			if err := c.admit([]byte("x")); err != nil || !server.Allow() {
				t.Fatalf("after %v: %v, or too fast", time.Since(begun), err)
			}
		}
		if took := time.Since(begun); took > 12*time.Second {
			t.Errorf("100 messages took %v", took)
		}
		c.limitLocked(Limits{Rate: 1000, Burst: 1000})
		begun = time.Now()
		for range 800 {
			_ = c.admit([]byte("x"))
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("800 messages took %v with other limits", took)
		}
		c.limitLocked(Limits{Rate: 0.001, Burst: 1})
		go func() {
			time.Sleep(time.Second)
			close(c.stop)
		}()
		for range 2 {
			_ = c.admit([]byte("x"))
		}
		if err := c.admit([]byte("x")); err != errClosed {
			t.Errorf("a closed client waits: %v", err)
		}
	})
}

func TestAdmitRefuses(t *testing.T) {
	c := &Client{}
	c.limitLocked(Limits{MessageBytes: 10})
	for frame, want := range map[string]error{"1234567890": nil, "12345678901": ErrTooLarge, "\xff": ErrNotUTF8, strings.Repeat("é", 5): nil} {
		if err := c.admit([]byte(frame)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", frame, err, want)
		}
	}
}

// TestLimitsAreHeard reads them from the greeting.
func TestLimitsAreHeard(t *testing.T) {
	c := &Client{}
	c.count(Message{Type: "stun_config", Data: []byte(`{"max_message_bytes":65536,"message_rate":0.5,"message_burst":200}`)})
	if got, want := c.Limits(), (Limits{65536, 0.5, 200}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

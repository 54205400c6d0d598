package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// gate serves /ws to who has the token "good", and lets the test say the rest.
func gate(t *testing.T, expires string, then func(ws *websocket.Conn)) (address string) {
	t.Helper()
	upgrader := websocket.Upgrader{Subprotocols: []string{"signal.v1"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if offered := websocket.Subprotocols(r); len(offered) != 2 || offered[0] != "signal.v1" || offered[1] != "bearer.good" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("upgrading: %v", err)
			return
		}
		defer func() { _ = ws.Close() }()
		_ = ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"stun_config","data":{"resume_token":"r","auth_expires_in":`+expires+`}}`))
		then(ws)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/ws"
}

// source returns tokens one after the other, the last one again and again.
func source(tokens ...string) TokenSource {
	var mu sync.Mutex
	return func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		token := tokens[0]
		if len(tokens) > 1 {
			tokens = tokens[1:]
		}
		return token, nil
	}
}

func TestTokenIsAskedForAgainWhenItIsRefused(t *testing.T) {
	address := gate(t, "0", func(ws *websocket.Conn) { _, _, _ = ws.ReadMessage() })
	c, err := source("old", "good").Dial(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.WebSocket().Subprotocol() != "signal.v1" {
		t.Errorf("the subprotocol is %q", c.WebSocket().Subprotocol())
	}
	if _, err := c.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	again, err := c.Resume(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	for _, tokens := range []TokenSource{Token("secret"), source("secret", "secret too")} {
		if _, err := tokens.Dial(t.Context(), address, nil); !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "secret") {
			t.Errorf("with a token that stays bad: %v", err)
		}
	}
	broken := errors.New("no backend")
	if _, err := TokenSource(func(context.Context) (string, error) { return "", broken }).Dial(t.Context(), address, nil); !errors.Is(err, broken) {
		t.Errorf("without a token: %v", err)
	}
}

// TestTokenIsRenewed has a token that lasts a second: before that a fresh one is sent.
func TestTokenIsRenewed(t *testing.T) {
	renewed := make(chan string, 1)
	address := gate(t, "1", func(ws *websocket.Conn) {
		_, frame, _ := ws.ReadMessage()
		renewed <- string(frame)
		_ = ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4501, "expired"))
		_, _, _ = ws.ReadMessage()
	})
	c, err := source("good", "better").Dial(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got := <-renewed; got != `{"type":"auth","data":{"token":"better"}}` {
		t.Errorf("renewed with %s", got)
	}
	_, err = c.Next(t.Context())
	for err == nil {
		_, err = c.Next(t.Context())
	}
	if !errors.Is(err, ErrTokenExpired) {
		t.Errorf("ended with %v", err)
	}
}

func TestWhenTokensAreRenewed(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		time.Second: 750 * time.Millisecond, time.Minute: 45 * time.Second, time.Hour: 59 * time.Minute,
	} {
		if got := beforeExpiry(left); got != want {
			t.Errorf("%v before the end: after %v, want %v", left, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked []time.Duration
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		c := &Client{expiries: make(chan time.Duration, 1)}
		c.dialer.Tokens = func(context.Context) (string, error) {
			if asked = append(asked, time.Since(began)); len(asked) == 3 {
				c.noteExpiry(0)
			}
			return "", errors.New("no backend")
		}
		c.noteExpiry(10)
		c.noteExpiry(3600)
		c.renewTokens(ctx)
		if len(asked) != 3 || asked[0] != 59*time.Minute || asked[2] != asked[0]+2*retryToken {
			t.Errorf("asked after %v", asked)
		}
	})
}

package client

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen serves /ws, greets with a resume token, and tells of each request.
func listen(t *testing.T) (address string, requests <-chan *http.Request) {
	t.Helper()
	seen := make(chan *http.Request, 4)
	upgrader := websocket.Upgrader{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("upgrading: %v", err)
			return
		}
		defer func() { _ = ws.Close() }()
		_ = ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"stun_config","data":{"resume_token":"t&1"}}`))
		_ = ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"message"}`))
		_, _, _ = ws.ReadMessage() // Until the client has gone.
	}))
	t.Cleanup(server.Close)
	return server.URL + "/ws", seen
}

func TestResumeKeepsTheQuery(t *testing.T) {
	address, requests := listen(t)
	c, err := Dial(t.Context(), address+"?access=a%2Bb&tag=1&tag=2", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.Close()
	if got := (<-requests).URL.Query().Encode(); got != "access=a%2Bb&tag=1&tag=2" {
		t.Errorf("dialed with the query %s", got)
	}
	again, err := c.Resume(t.Context(), address+"?access=a%2Bb&resume=old", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	if got := (<-requests).URL.Query().Encode(); got != "access=a%2Bb&got=1&resume=t%261" {
		t.Errorf("resumed with the query %s", got)
	}
}

// TestSchemes dials names that contain a scheme's name, as a resolver of none sees them.
func TestSchemes(t *testing.T) {
	address, requests := listen(t)
	host := strings.TrimPrefix(strings.TrimSuffix(address, "/ws"), "http://")
	dialer := *websocket.DefaultDialer
	t.Cleanup(func() { *websocket.DefaultDialer = dialer })
	var dialed string
	websocket.DefaultDialer.NetDialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
		dialed = to
		return (&net.Dialer{}).DialContext(ctx, network, host)
	}
	for address, want := range map[string]string{
		"ws://http.invalid/ws":         "http.invalid:80",
		"http://http.invalid/http":     "http.invalid:80",
		"HTTP://http.invalid:81/?http": "http.invalid:81",
	} {
		c, err := Dial(t.Context(), address, nil)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		_ = c.Close()
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if r := <-requests; dialed != want || r.URL.Path != u.Path {
			t.Errorf("%s dials %s and asks for %s", address, dialed, r.URL)
		}
	}
}

func TestGreetingAndAck(t *testing.T) {
	var first, ack Message
	for text, m := range map[string]*Message{
		`{"type":"stun_config","data":{"resumed":true,"gap":true,"kept":1}}`: &first,
		`{"type":"ack","id":"7","missed":["user-a"]}`:                        &ack,
	} {
		if err := json.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(err)
		}
	}
	if g, err := first.Greeting(); err != nil || g != (Greeting{Resumed: true, Gap: true, Kept: 1}) {
		t.Errorf("%s says %+v (%v)", first.Type, g, err)
	}
	if !slices.Equal(ack.Missed, []string{"user-a"}) {
		t.Errorf("missed by %v", ack.Missed)
	}
}

func TestErrorsTellNoToken(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	c := &Client{token: "secret"}
	for _, address := range []string{server.URL, "http://127.0.0.1:0/ws", "mailto:x"} {
		if _, err := c.Resume(t.Context(), address, nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

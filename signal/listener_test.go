package signal

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	dto "github.com/prometheus/client_model/go"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
)

// TestStopTellsClientsFirst has connections that ask nothing, or never end to ask, while a server stops.
func TestStopTellsClientsFirst(t *testing.T) {
	slowdown := systemtest.Slowdown(t)
	s := start(t)
	for _, text := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\nX: "} {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.Dial(t.Context(), s.url+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.stop()
	}()
	for err == nil {
		_, err = c.Next(t.Context())
	}
	told := time.Since(begin)
	if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("the client is told %v", err)
	}
	<-stopped
	if took, bound := time.Since(begin), 3*time.Second*time.Duration(slowdown()); told > bound || took > bound {
		t.Errorf("the client was told after %v, and the server had stopped after %v", told, took)
	}
}

// exhausted is a listener of a process that has no descriptor left.
type exhausted struct{ net.Listener }

func (exhausted) Accept() (net.Conn, error) { return nil, syscall.EMFILE }

func TestFailingAcceptIsTold(t *testing.T) {
	var log strings.Builder
	s := start(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	l := s.watched(exhausted{s.listener})
	for range 3 {
		if _, err := l.Accept(); !errors.Is(err, syscall.EMFILE) {
			t.Fatal(err)
		}
	}
	var m dto.Metric
	if err := s.metrics.acceptErrors.Write(&m); err != nil || m.Counter.GetValue() != 3 {
		t.Errorf("%v failures are counted (%v)", m.Counter.GetValue(), err)
	}
	if strings.Count(log.String(), "code=accept_failed") != 1 || !strings.Contains(log.String(), "too many open files") {
		t.Errorf("the log says %q", log.String())
	}
}

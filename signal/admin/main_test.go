package admin

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state"
	"cline-meet/signal/turnsrv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tokens of the nodes under test.
const (
	writeToken   = "a-token-that-may-do-all"
	readToken    = "a-token-that-may-read-all"
	metricsToken = "a-token-that-may-read-metrics"
	turnSecret   = "the-secret-of-the-relays"
)

// testNode is one node of a deployment that is all in this process.
type testNode struct {
	*Server
	t       *testing.T
	log     *systemtest.Log
	level   *slog.LevelVar
	drained chan struct{}
}

// startNodes starts nodes that share their state.
func startNodes(t *testing.T, names ...string) []*testNode {
	shared := state.NewMemory()
	var nodes []*testNode
	for _, name := range names {
		cfg := DefaultConfig()
		cfg.Addr, cfg.Tokens, cfg.ReadTokens, cfg.MetricsTokens = "127.0.0.1:0", []string{"an-older-token-of-all", writeToken}, []string{readToken}, []string{metricsToken}
		nodes = append(nodes, startNode(t, shared.Node(name), cfg))
	}
	return nodes
}

func startNode(t *testing.T, shared *state.MemoryNode, cfg Config) *testNode {
	t.Helper()
	registry, log := prometheus.NewRegistry(), new(systemtest.Log)
	logger := slog.New(slog.NewTextHandler(log, nil))
	web := signal.DefaultConfig()
	web.Host, web.Port, web.Clustered = "127.0.0.1", 0, true
	web.Logger, web.Registry, web.State = logger, registry, shared
	web.Page = fstest.MapFS{"index.html": {}}
	web.ICE = func(_, user string) signal.ICEConfig {
		return signal.ICEConfig{Servers: []signal.ICEServer{{URLs: []string{"stun:x"}}, {URLs: []string{"turn:x"}, Username: user}}, TTL: time.Hour}
	}
	srv, err := signal.New(web)
	if err != nil {
		t.Fatal(err)
	}
	relay := turnsrv.DefaultConfig()
	relay.Listen, relay.Port, relay.RelayIP, relay.Secrets = []string{"127.0.0.1"}, 0, []string{"127.0.0.1"}, []string{turnSecret}
	relay.Logger, relay.Registerer = logger, registry
	turn, err := turnsrv.New(relay)
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{t: t, log: log, level: new(slog.LevelVar), drained: make(chan struct{})}
	if n.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	n.Attach(Parts{Signal: srv, TURN: turn, State: shared, Registry: registry, Level: n.level, Log: logger, Version: "of the test",
		URLs:  func() []string { return []string{"turn:x"} },
		Drain: func(ctx context.Context) { close(n.drained); srv.Drain(ctx) },
		Rotate: func(_ context.Context, name string) error {
			logger.Info("rotated", "name", name)
			return nil
		}})
	shared.Subscribe(srv.Events())
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Run() })
	running.Go(func() {
		if err := n.Run(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		n.Shutdown(context.Background())
		_, _ = srv.Shutdown(context.Background()), turn.Close()
		running.Wait()
		http.DefaultClient.CloseIdleConnections()
	})
	return n
}

// call sends a request with a token, unless that is empty, and returns the status and the body.
func (n *testNode) call(token, method, path, body string, header ...string) (int, string) {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), method, "http://"+n.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// get reads something that must be there.
func get[T any](n *testNode, path string) (v T) {
	n.t.Helper()
	status, text := n.call(readToken, http.MethodGet, path, "")
	if err := json.Unmarshal([]byte(text), &v); status != http.StatusOK || err != nil {
		n.t.Fatalf("GET %s: %d %s (%v)", path, status, text, err)
	}
	return v
}

// guest is a client in a room.
type guest struct {
	*client.Client
	t    *testing.T
	user string
	hub  client.Message
}

func (n *testNode) dial(query string, header http.Header) *guest {
	n.t.Helper()
	c, err := client.Dial(n.t.Context(), "http://"+n.parts.Signal.Addr().String()+"/ws"+query, header)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	g := &guest{Client: c, t: n.t}
	g.hub = g.expect("stun_config")
	g.user = g.hub.UserID
	return g
}

func (n *testNode) enter(room string) *guest {
	n.t.Helper()
	g := n.dial("", nil)
	if err := g.Join(room); err != nil {
		n.t.Fatal(err)
	}
	g.expect("user_joined")
	return g
}

// expect returns the next message of a type and drops what comes before.
func (g *guest) expect(typ string) client.Message {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), systemtest.Patience)
	defer cancel()
	for {
		m, err := g.Next(ctx)
		if err != nil {
			g.t.Fatalf("waiting for %s: %v", typ, err)
		}
		if m.Type == typ {
			return m
		}
	}
}

// dialUDP returns a socket to the TURN server of a node.
func (n *testNode) dialUDP() net.Conn {
	n.t.Helper()
	conn, err := net.Dial("udp", (&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.parts.TURN.Port()}).String())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

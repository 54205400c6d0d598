package signal

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state"
	"cline-meet/signal/state/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, redistest.Dialing()) }

// patience bounds every wait of a test; it decides only how a failure ends.
const patience = systemtest.Patience

// testServer is a running server with a room of tools around it.
type testServer struct {
	*Server
	t    testing.TB
	url  string
	stop func()
}

// subscriber is a state that is to be subscribed to.
type subscriber interface{ Subscribe(state.Events) }

// start runs a server on free ports; the test's end stops it and checks that nothing is left.
func start(t testing.TB, change ...func(*Config)) *testServer {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Host, cfg.Port = "127.0.0.1", 0
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Registry = prometheus.NewRegistry()
	cfg.Page = fstest.MapFS{"index.html": {Data: []byte("<title>page</title>")}, "signal.js": {Data: []byte("export {}")}}
	cfg.ICE = func(host, user string) ICEConfig {
		return ICEConfig{Servers: []ICEServer{
			{URLs: []string{"stun:" + host}},
			{URLs: []string{"turn:" + host}, Username: user, Credential: "c"},
		}, TTL: time.Hour}
	}
	cfg.State = state.NewMemory().Node("n1")
	for _, f := range change {
		f(&cfg)
	}
	srv, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.State.(subscriber).Subscribe(srv.Events())
	ran := make(chan error, 1)
	go func() { ran <- srv.Run() }()
	s := &testServer{Server: srv, t: t, url: "http://" + srv.Addr().String()}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(func() {
		s.stop()
		if n, r := len(srv.everybody()), srv.roomCount(); n != 0 || r != 0 {
			t.Errorf("%d participants and %d rooms are left", n, r)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// peer is a client in a test: every step that fails ends the test.
type peer struct {
	*client.Client
	t      testing.TB
	user   string
	hub    client.Message // the first stun_config
	header http.Header    // the session's cookie, once it is asked for
}

func (s *testServer) dial(header http.Header) *peer {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, s.url+"/ws", header)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &peer{Client: c, t: s.t}
	s.t.Cleanup(func() { _ = c.Close() })
	p.hub = p.expect("stun_config")
	p.user = p.hub.UserID
	return p
}

// enter dials and joins a room, and reads all that the join causes at the joiner.
func (s *testServer) enter(room string) *peer {
	s.t.Helper()
	p := s.dial(nil)
	p.join(room)
	return p
}

// token returns the token with which the peer may resume.
func (p *peer) token() string {
	p.t.Helper()
	var doc struct {
		Token string `json:"resume_token"`
	}
	if err := p.hub.Document(&doc); err != nil || doc.Token == "" {
		p.t.Fatalf("no token in %s (%v)", p.hub.Raw, err)
	}
	return doc.Token
}

func (p *peer) join(room string) []string {
	p.t.Helper()
	if err := p.Join(room); err != nil {
		p.t.Fatal(err)
	}
	m := p.expect("user_joined")
	if m.UserID != p.user || m.RoomID != room {
		p.t.Fatalf("own user_joined is %s", m.Raw)
	}
	return users(p.t, m)
}

func users(t testing.TB, m client.Message) []string {
	t.Helper()
	var doc struct{ Users []string }
	if err := m.Document(&doc); err != nil {
		t.Fatal(err)
	}
	return doc.Users
}

// next returns the next message.
func (p *peer) next() client.Message {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	m, err := p.Next(ctx)
	if err != nil {
		p.t.Fatalf("%s waits for a message: %v", p.user, err)
	}
	return m
}

// expect returns the next message, which must be of that type.
func (p *peer) expect(kind string) client.Message {
	p.t.Helper()
	m := p.next()
	if m.Type != kind {
		p.t.Fatalf("%s got %s, want a %s", p.user, m.Raw, kind)
	}
	return m
}

// say sends a frame as it is written.
func (p *peer) say(frame string) {
	p.t.Helper()
	if err := p.SendFrame([]byte(frame)); err != nil {
		p.t.Fatal(err)
	}
}

// expectError returns the message text of the next message, which must be an error of that code.
func (p *peer) expectError(code int) (id, text string) {
	p.t.Helper()
	m := p.expect("error")
	var doc struct {
		Code    int
		Message string
	}
	if err := m.Document(&doc); err != nil || doc.Code != code || doc.Message == "" {
		p.t.Fatalf("got %s, want an error %d (%v)", m.Raw, code, err)
	}
	return m.ID, doc.Message
}

// ended waits for the connection's end and returns its error.
func (p *peer) ended() error {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		if _, err := p.Next(ctx); err != nil {
			if ctx.Err() != nil {
				p.t.Fatalf("%s is still connected", p.user)
			}
			return err
		}
	}
}

var eventually = systemtest.Eventually

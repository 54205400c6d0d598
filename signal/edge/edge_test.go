package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/setting"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient bounds every wait of a test; it decides only how a failure ends.
const patient = systemtest.Patience

const (
	request = "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"
	binding = "\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"
)

// counted counts the connections that have not said what they are.
type counted struct {
	mu   sync.Mutex
	now  map[net.Conn]bool
	most int
}

func (c *counted) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateNew {
		c.now[conn] = true
	} else {
		delete(c.now, conn)
	}
	c.most = max(c.most, len(c.now))
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.now)
}

// part takes the connections of one part, and those that are given up.
type part struct {
	net.Listener
	conns chan net.Conn
}

func serve(t *testing.T, l net.Listener) *part {
	p := &part{l, make(chan net.Conn, 4096)} // Nobody has to take them.
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.conns <- conn
		}
	})
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), l.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		running.Wait()
	})
	return p
}

// next returns the next connection.
func (p *part) next(t *testing.T) net.Conn {
	t.Helper()
	select {
	case conn := <-p.conns:
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patient))
		return conn
	case <-time.After(patient):
		t.Fatal("no connection came")
		return nil
	}
}

// fixture is an edge with both parts.
type fixture struct {
	http, turn *part
	edge       *Edge
	counted    *counted
	log        *systemtest.Log
}

// refusals compares what was counted.
func (f *fixture) refusals(t *testing.T, want map[string]int) {
	t.Helper()
	for _, reason := range []string{refusedNoHeader, refusedStranger, refusedHeader, refusedSilent, refusedHandshake, refusedClosed} {
		var m dto.Metric
		if err := f.edge.refused.WithLabelValues(reason).Write(&m); err != nil {
			t.Fatal(err)
		}
		if got := m.GetCounter().GetValue(); got != float64(want[reason]) {
			t.Errorf("%v refused for %q, want %d", got, reason, want[reason])
		}
	}
}

func start(t *testing.T, cfg Config, secure *tls.Config) *fixture {
	t.Helper()
	f := &fixture{counted: &counted{now: map[net.Conn]bool{}}, log: new(systemtest.Log)}
	f.edge = New(cfg, Surroundings{HTTPS: secure, Under: func(c net.Conn) net.Conn { return c }, Count: f.counted.note,
		Log: slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	web, err := f.edge.ListenHTTP("tcp", "127.0.0.1:0")
	turn, err2 := f.edge.ListenTURN("tcp", "127.0.0.1:0")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	f.turn, f.http = serve(t, turn), serve(t, web)
	return f
}

func onePort() Config { return Config{OnePort: 0} }

func behind(cidrs ...string) Config {
	return Config{OnePort: setting.Derived, HTTPProxies: cidrs, TURNProxies: cidrs}
}

func dial(t *testing.T, to *part) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", to.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patient))
	return conn
}

// say writes a text, a byte at a time if it is to be split.
func say(t *testing.T, conn net.Conn, text string, split bool) {
	t.Helper()
	step := len(text)
	if split {
		step = 1
	}
	for len(text) > 0 {
		if _, err := io.WriteString(conn, text[:step]); err != nil {
			t.Fatal(err)
		}
		text = text[step:]
	}
}

// hear reads as much as text, which must be the same.
func hear(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Errorf("read %q, %v; want %q", got, err, text)
	}
}

// refused waits for the end of a connection that gets no answer.
func refused(t *testing.T, conn net.Conn) {
	t.Helper()
	if got, err := io.ReadAll(conn); len(got) > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read %q, %v", got, err)
	}
}

// TestSilenceDoesNotBlock has a thousand connections that say nothing, or not enough.
func TestSilenceDoesNotBlock(t *testing.T) {
	secure := &tls.Config{Certificates: []tls.Certificate{systemtest.Certificate(t, "example.org")}}
	f := start(t, onePort(), secure)
	const silent = 1000
	begins := []string{"", "P", "PROXY TCP4 ", "\x16", "\x16\x03\x01\x02\x00\x01", "\r\n\r\n"}
	for i := range silent {
		say(t, dial(t, f.turn), begins[i%len(begins)], false)
	}
	systemtest.Eventually(t, "all are known", func() bool { return f.counted.count() == silent })
	conn := dial(t, f.turn)
	say(t, conn, binding, true)
	hear(t, f.turn.next(t), binding)
	web := tls.Client(dial(t, f.turn), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
	say(t, web, request, true)
	hear(t, f.http.next(t), request)
}

// pipes is a listener of connections that are made within the process.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.made:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return addrOf("192.0.2.1:443") }

func addrOf(text string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }

// from is a connection from an address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// TestSilenceEnds has a clock of its own.
func TestSilenceEnds(t *testing.T) {
	for _, begin := range []string{"", "PROXY", "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", "\r", "\x16", "\x16\x03\x01\x02\x00\x01"} {
		for _, client := range []string{"127.0.0.1:1", "203.0.113.7:1"} {
			synctest.Test(t, func(t *testing.T) {
				e := New(Config{HTTPProxies: []string{"127.0.0.1"}}, Surroundings{HTTPS: new(tls.Config), Under: func(c net.Conn) net.Conn { return c },
					Count: func(net.Conn, http.ConnState) {}, Log: slog.New(slog.DiscardHandler)})
				in := &pipes{make(chan net.Conn), make(chan struct{})}
				l := e.on(in, e.web)
				go func() { _, _ = l.Accept() }()
				ours, theirs := net.Pipe()
				in.made <- from{theirs, addrOf(client)}
				began := time.Now()
				go func() { _, _ = io.WriteString(ours, begin) }()
				_, err := io.Copy(io.Discard, ours)
				if took := time.Since(began); err != nil || took > patience {
					t.Errorf("%q of %s ended after %v with %v", begin, client, took, err)
				}
				_ = l.Close()
			})
		}
	}
}

// failing is a listener of a process that has no descriptors left for a while.
type failing struct {
	pipes
	failures int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.failures > 0 {
		f.failures--
		return nil, errors.New("too many open files")
	}
	return f.pipes.Accept()
}

func TestFailuresAreToldAndSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(onePort(), Surroundings{Count: func(net.Conn, http.ConnState) {}, Log: slog.New(slog.DiscardHandler)})
		in := &failing{pipes{make(chan net.Conn), make(chan struct{})}, 3}
		l := e.on(in, e.web)
		turn := make(chan net.Conn, 1)
		go func() {
			conn, _ := l.Accept()
			turn <- conn
		}()
		for range 3 {
			if _, err := e.http.Accept(); err == nil || err.Error() != "too many open files" {
				t.Errorf("HTTP is told %v", err)
			}
		}
		ours, theirs := net.Pipe()
		in.made <- from{theirs, addrOf("203.0.113.7:1")}
		_, _ = io.WriteString(ours, "\x00")
		conn := <-turn
		_, _ = conn.Close(), l.Close()
	})
}

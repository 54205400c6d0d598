package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
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

// headers are all that a proxy may say, with the client that is meant.
func headers(t *testing.T) map[string]struct {
	bytes, client string
	secure        bool
} {
	t.Helper()
	from, to := &net.TCPAddr{IP: net.ParseIP("203.0.113.7").To4(), Port: 4711}, &net.TCPAddr{IP: net.ParseIP("192.0.2.1").To4(), Port: 443}
	six := &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 4711}
	format := func(h *proxyproto.Header, fields ...proxyproto.TLV) string {
		if len(fields) > 0 {
			if err := h.SetTLVs(fields); err != nil {
				t.Fatal(err)
			}
		}
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ssl, err := tlvparse.PP2SSL{Client: tlvparse.PP2_BITFIELD_CLIENT_SSL,
		TLV: []proxyproto.TLV{{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte("TLSv1.3")}}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]struct {
		bytes, client string
		secure        bool
	}{
		"version 1":          {format(proxyproto.HeaderProxyFromAddrs(1, from, to)), "203.0.113.7:4711", false},
		"version 1 and IPv6": {format(proxyproto.HeaderProxyFromAddrs(1, six, six)), "[2001:db8::7]:4711", false},
		"version 1, unknown": {"PROXY UNKNOWN\r\n", "", false},
		"version 2":          {format(proxyproto.HeaderProxyFromAddrs(2, from, to)), "203.0.113.7:4711", false},
		"version 2 and IPv6": {format(proxyproto.HeaderProxyFromAddrs(2, six, six)), "[2001:db8::7]:4711", false},
		"version 2 with TLS": {format(proxyproto.HeaderProxyFromAddrs(2, from, to), ssl), "203.0.113.7:4711", true},
		"version 2, local":   {format(&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}), "", false},
	}
}

func TestProxiesNameTheClient(t *testing.T) {
	f := start(t, behind("127.0.0.0/8"), nil)
	for name, header := range headers(t) {
		for _, split := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, split %v", name, split), func(t *testing.T) {
				for _, to := range []*part{f.http, f.turn} {
					conn := dial(t, to)
					say(t, conn, header.bytes+request, split)
					got := to.next(t)
					want := header.client
					if want == "" {
						want = conn.LocalAddr().String()
					}
					if got.RemoteAddr().String() != want {
						t.Errorf("the client is %v, not %s", got.RemoteAddr(), want)
					}
					if _, secure := got.(interface{ ConnectionState() tls.ConnectionState }); secure != header.secure {
						t.Errorf("secure: %v", secure)
					}
					hear(t, got, request)
					say(t, conn, "more", false)
					hear(t, got, "more")
				}
			})
		}
	}
}

func TestStrangersNameNobody(t *testing.T) {
	for _, cfg := range []Config{behind("192.0.2.0/24"), onePort(), {OnePort: 0, HTTPProxies: []string{"192.0.2.0/24"}}} {
		f := start(t, cfg, nil)
		for name, header := range headers(t) {
			t.Run(name, func(t *testing.T) {
				conn := dial(t, f.turn)
				_, _ = io.WriteString(conn, header.bytes+request)
				refused(t, conn)
			})
		}
		if n := strings.Count(f.log.String(), errStranger.Error()); n != len(headers(t)) {
			t.Errorf("%d lines say so:\n%s", n, f.log)
		}
		conn := dial(t, f.turn)
		say(t, conn, binding, true)
		hear(t, f.turn.next(t), binding)
		if len(f.turn.conns)+len(f.http.conns) > 0 {
			t.Error("a connection with a header was let in")
		}
	}
}

func TestProxiesMustNameTheClient(t *testing.T) {
	f := start(t, behind("127.0.0.1"), nil)
	for _, begin := range []string{request, binding, "PROXY TCP4 somewhere\r\n", "PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n" + request,
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n", strings.Repeat("PROXY ", 40), string(proxyproto.SIGV2) + "\x21\x12\x00\x0c............"} {
		conn := dial(t, f.http)
		_, _ = io.WriteString(conn, begin)
		refused(t, conn)
	}
	if len(f.http.conns) > 0 {
		t.Error("a connection without a header was let in")
	}
	if n := strings.Count(f.log.String(), `"code":"no_proxy_header"`); n != 1 {
		t.Errorf("%d warnings, not one a minute:\n%s", n, f.log)
	}
}

// TestHeaderComesOnce has a client behind a proxy that does send a header say another one.
func TestHeaderComesOnce(t *testing.T) {
	f := start(t, Config{HTTPProxies: []string{"127.0.0.1"}}, nil)
	conn := dial(t, f.turn)
	say(t, conn, "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\nPROXY TCP4 198.51.100.1 192.0.2.1 1 443\r\n"+request, false)
	if got := f.http.next(t); got.RemoteAddr().String() != "203.0.113.7:4711" {
		t.Errorf("the client is %v", got.RemoteAddr())
	}
}

func TestDialNamesNobodyElse(t *testing.T) {
	for _, cfg := range []Config{behind("127.0.0.1"), behind("192.0.2.1")} {
		f := start(t, cfg, nil)
		conn, err := cfg.Dial(t.Context(), "tcp", f.http.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		say(t, conn, request, false)
		got := f.http.next(t)
		if got.RemoteAddr().String() != conn.LocalAddr().String() {
			t.Errorf("the client is %v", got.RemoteAddr())
		}
		hear(t, got, request)
		_ = conn.Close()
	}
}

// TestOnePortSorts sends what HTTP and TURN begin with over all ways to one port.
func TestOnePortSorts(t *testing.T) {
	secure := &tls.Config{Certificates: []tls.Certificate{systemtest.Certificate(t, "example.org")}, NextProtos: []string{alpnACME}}
	f := start(t, onePort(), secure)
	clear := start(t, onePort(), nil)
	handshakeWith := func(name string, protocols ...string) func(t *testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			c := tls.Client(dial(t, f.turn), &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: protocols}) //nolint:gosec // self-signed
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	for name, way := range map[string]struct {
		dial       func(t *testing.T) net.Conn
		http, turn *part // where a request and a STUN message arrive
		secure     bool
	}{
		"clear text":            {func(t *testing.T) net.Conn { return dial(t, clear.turn) }, clear.http, clear.turn, false},
		"clear text beside TLS": {func(t *testing.T) net.Conn { return dial(t, f.turn) }, f.http, f.turn, false},
		"neither SNI nor ALPN":  {handshakeWith(""), f.http, f.turn, true},
		"SNI":                   {handshakeWith("example.org"), f.http, f.turn, true},
		"ALPN of HTTP":          {handshakeWith("", "h2", "http/1.1"), f.http, f.turn, true}, // With TURN, as coturn's clients have it.
		"ALPN of TURN":          {handshakeWith("", "stun.turn"), f.http, f.turn, true},
		"ALPN of STUN":          {handshakeWith("", "stun.nat-discovery"), f.http, f.turn, true},
	} {
		t.Run(name, func(t *testing.T) {
			for text, to := range map[string]*part{request: way.http, binding: way.turn} {
				conn := way.dial(t)
				say(t, conn, text, true)
				got := to.next(t)
				if _, secure := got.(interface{ ConnectionState() tls.ConnectionState }); secure != way.secure {
					t.Errorf("secure: %v", secure)
				}
				hear(t, got, text)
				say(t, got, "answer", true)
				hear(t, conn, "answer")
			}
		})
	}
	t.Run("HTTP/2 alone", func(t *testing.T) {
		c := tls.Client(dial(t, f.turn), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // self-signed
		if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("the handshake ended with %v", err)
		}
	})
	t.Run("an authority", func(t *testing.T) {
		conn := handshakeWith("example.org", alpnACME)(t)
		if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != alpnACME {
			t.Errorf("negotiated %q", got)
		}
		refused(t, conn)
	})
	t.Run("TLS within TLS", func(t *testing.T) {
		conn := handshakeWith("")(t)
		say(t, conn, "\x16\x03\x01", true)
		hear(t, f.http.next(t), "\x16\x03\x01")
	})
	t.Run("TLS without a certificate", func(t *testing.T) {
		conn := dial(t, clear.turn)
		say(t, conn, "\x16\x03\x01", true)
		hear(t, clear.http.next(t), "\x16\x03\x01")
	})
}

// TestHTTPEndsBeforeTURN stops the server as main does.
func TestHTTPEndsBeforeTURN(t *testing.T) {
	f := start(t, onePort(), nil)
	_ = f.http.Close()
	conn := dial(t, f.turn)
	say(t, conn, request, false)
	refused(t, conn)
	conn = dial(t, f.turn)
	say(t, conn, binding, false)
	hear(t, f.turn.next(t), binding)
	silent := dial(t, f.turn)
	systemtest.Eventually(t, "the silent connection is known", func() bool { return f.counted.count() == 1 })
	_ = f.turn.Close()
	refused(t, silent)
	if f.http.Addr() != nil {
		t.Errorf("HTTP is at %v", f.http.Addr())
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

// FuzzBeginning sends anything, in pieces of any size, and follows it to its part.
func FuzzBeginning(f *testing.F) {
	for _, text := range []string{request, binding, "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n" + request, "PROXY UNKNOWN\r\n" + binding,
		string(proxyproto.SIGV2) + "\x21\x11\x00\x0c\xcb\x00\x71\x07\xc0\x00\x02\x01\x12\x67\x01\xbb" + request,
		"OPTIONS * HTTP/1.1\r\n\r\n", "PUT / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x40\x00\x00\x00", "\x16\x03\x01", "\xff", ""} {
		f.Add([]byte(text), byte(1), true)
		f.Add([]byte(text), byte(255), false)
	}
	f.Fuzz(func(t *testing.T, sent []byte, piece byte, trusted bool) {
		e := New(Config{HTTPProxies: []string{"127.0.0.1"}}, Surroundings{Count: func(net.Conn, http.ConnState) {}, Log: slog.New(slog.DiscardHandler)})
		l := e.on(&pipes{closed: make(chan struct{})}, e.web)
		defer func() { _ = l.Close() }()
		client := "203.0.113.9:1"
		if trusted {
			client = "127.0.0.1:1"
		}
		begun := sent
		header, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(sent)))
		if trusted && err == nil {
			begun = sent[bytes.IndexByte(sent, '\n')+1:]
			if header.Version == 2 {
				begun = sent[16+int(sent[14])<<8+int(sent[15]):]
			}
		}
		conn, to, err := l.open(from{&slow{sent: sent, piece: 1 + int(piece)}, addrOf(client)})
		_, reqErr := http.ReadRequest(bufio.NewReader(bytes.NewReader(begun)))
		isSTUN := len(begun) >= 20 && begun[0] < 4 && string(begun[4:8]) == "\x21\x12\xa4\x42"
		isProxied := header != nil
		switch {
		case err != nil:
			if trusted == isProxied && (reqErr == nil || isSTUN) && (header == nil || header.Command.IsLocal() || isTCP(header)) {
				t.Fatalf("refused %q of %s: %v", sent, client, err)
			}
			return
		case trusted != isProxied:
			t.Fatalf("let in %q of %s", sent, client)
		case reqErr == nil && to != e.http || isSTUN && to != l.queue:
			t.Fatalf("%q went to the wrong part", sent)
		}
		if got, _ := io.ReadAll(conn); !bytes.Equal(got, begun) {
			t.Fatalf("of %q the part gets %q", sent, got)
		}
	})
}

func isTCP(h *proxyproto.Header) bool {
	_, _, ok := h.TCPAddrs()
	return ok
}

// slow is a connection that brings a few bytes at a time, and ends.
type slow struct {
	net.Conn
	sent  []byte
	piece int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.sent) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.sent[:min(s.piece, len(s.sent))])
	s.sent = s.sent[n:]
	return n, nil
}

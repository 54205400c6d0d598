package edge

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

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

package edge

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/pires/go-proxyproto"
)

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

package edge

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

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
		f.refusals(t, map[string]int{refusedStranger: len(headers(t))})
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
	f.refusals(t, map[string]int{refusedNoHeader: 2, refusedHeader: 5})
}

// version2 is a header of version 2 with any version, command, family, protocol and length.
func version2(command, family byte, length int, rest string) string {
	return string(proxyproto.SIGV2) + string([]byte{command, family, byte(length >> 8), byte(length)}) + rest
}

// TestHeadersAtTheEdgeOfTheProtocol sends what a proxy may say, although few do, and what it must not.
func TestHeadersAtTheEdgeOfTheProtocol(t *testing.T) {
	const (
		local, proxy                = 0x20, 0x21
		unspec, tcp4, udp4, unixFam = 0x00, 0x11, 0x12, 0x31
		from4                       = "\xcb\x00\x71\x07\xc0\x00\x02\x01\x12\x67\x01\xbb" // 203.0.113.7:4711 to 192.0.2.1:443
		client                      = "203.0.113.7:4711"
	)
	padding := func(n int) string { return "\x04" + string([]byte{byte(n >> 8), byte(n)}) + strings.Repeat("\x00", n) } // PP2_TYPE_NOOP
	longest := padding(4096 - len(from4) - 3)
	for name, c := range map[string]struct{ bytes, client, reason string }{
		"local with an address":      {version2(local, tcp4, 12, from4), "itself", ""},
		"local with too few bytes":   {version2(local, tcp4, 3, "abc"), "itself", ""},
		"local with fields":          {version2(local, unspec, 7, padding(4)), "itself", ""},
		"fields of no use":           {version2(proxy, tcp4, 12+7, from4+padding(4)), client, ""},
		"fields to the limit":        {version2(proxy, tcp4, 4096, from4+longest), client, ""},
		"field that is cut off":      {version2(proxy, tcp4, 12+3, from4+"\x20\xff\xff"), client, ""},
		"a UNIX socket":              {version2(proxy, unixFam, 216, strings.Repeat("/", 216)), "", refusedHeader},
		"UDP":                        {version2(proxy, udp4, 12, from4), "", refusedHeader},
		"no family":                  {version2(proxy, unspec, 0, ""), "", refusedHeader},
		"no such family":             {version2(proxy, 0x41, 12, from4), "", refusedHeader},
		"no such protocol":           {version2(proxy, 0x13, 12, from4), "", refusedHeader},
		"version 3":                  {version2(0x31, tcp4, 12, from4), "", refusedHeader},
		"no such command":            {version2(0x22, tcp4, 12, from4), "", refusedHeader},
		"shorter than its address":   {version2(proxy, tcp4, 4, from4), "", refusedHeader},
		"longer than we take":        {version2(proxy, tcp4, 65535, from4), "", refusedHeader},
		"version 1 of UDP":           {"PROXY UDP4 203.0.113.7 192.0.2.1 4711 443\r\n", "", refusedHeader},
		"version 1, IPv6 as IPv4":    {"PROXY TCP4 2001:db8::7 192.0.2.1 4711 443\r\n", "", refusedHeader},
		"version 1, port too large":  {"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n", "", refusedHeader},
		"version 1, negative port":   {"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n", "", refusedHeader},
		"version 1, a field missing": {"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n", "", refusedHeader},
		"version 1, no CR":           {"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n", "", refusedHeader},
		"version 1, too long":        {"PROXY TCP4 " + strings.Repeat("0", 200) + "\r\n", "", refusedHeader},
		"version 1 in lower case":    {"proxy tcp4 203.0.113.7 192.0.2.1 4711 443\r\n", "", refusedNoHeader},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, behind("127.0.0.1"), nil)
			conn := dial(t, f.http)
			_, _ = io.WriteString(conn, c.bytes+request)
			if c.reason != "" {
				refused(t, conn)
				f.refusals(t, map[string]int{c.reason: 1})
				return
			}
			got, want := f.http.next(t), c.client
			if want == "itself" {
				want = conn.LocalAddr().String()
			}
			if got.RemoteAddr().String() != want {
				t.Errorf("the client is %v, not %s", got.RemoteAddr(), want)
			}
			hear(t, got, request)
		})
	}
}

// TestHeaderThatEnds closes a connection within a header, wherever that may be.
func TestHeaderThatEnds(t *testing.T) {
	f := start(t, behind("127.0.0.1"), nil)
	cut := 0
	for _, header := range headers(t) {
		for n := range len(header.bytes) {
			conn := dial(t, f.http)
			_, _ = io.WriteString(conn, header.bytes[:n])
			_ = conn.(*net.TCPConn).CloseWrite()
			refused(t, conn)
			cut++
		}
	}
	if len(f.http.conns) > 0 {
		t.Error("a connection without the whole of a header was let in")
	}
	if f.counted.count() > 0 {
		t.Errorf("%d of %d connections are counted yet", f.counted.count(), cut)
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

package signal

import (
	"cline-meet/signal/signal/client"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestOrigin(t *testing.T) {
	for _, test := range []struct {
		origin, host string
		secure       bool
		ok           bool
	}{
		{"", "a.example", false, true},
		{"http://a.example", "a.example", false, true},
		{"http://A.example:80", "a.example", false, true},
		{"http://a.example", "a.example:80", false, true},
		{"https://a.example", "a.example:443", true, true},
		{"https://a.example", "a.example", false, false},
		{"http://a.example", "a.example", true, false},
		{"http://a.example:8080", "a.example", false, false},
		{"http://b.example", "a.example", false, false},
		{"http://a.example.b.example", "a.example", false, false},
		{"null", "a.example", false, false},
		{"file://", "a.example", false, false},
		{"http://[::1]:8080", "[::1]:8080", false, true},
		{"https://friend.example", "a.example", false, true},
		{"http://friend.example", "a.example", false, false},
	} {
		who := clientID{secure: test.secure, hosts: []string{test.host}}
		err := checkOrigin(test.origin, who, []string{"https://friend.example:443"}, false)
		if (err == nil) != test.ok {
			t.Errorf("%+v: %v", test, err)
		}
	}
	if checkOrigin("", clientID{}, nil, true) == nil {
		t.Error("a missing origin passed although it is required")
	}
	if err := checkOrigin("null", clientID{}, []string{"*"}, false); err != nil {
		t.Errorf("* does not allow all: %v", err)
	}
}

// TestForwardedOrigin asks behind a proxy that speaks TLS for us, as proxies tell of it, whether a page is ours.
func TestForwardedOrigin(t *testing.T) {
	const ours, proxy = "https://signal.example", "10.0.0.1:5"
	for _, test := range []struct {
		name, origin, remote, host string
		header                     http.Header
		ok                         bool
	}{
		{"https", ours, proxy, "signal.example", http.Header{"X-Forwarded-Proto": {"https"}}, true},
		{"upper case", ours, proxy, "signal.example", http.Header{"X-Forwarded-Proto": {"HTTPS"}}, true},
		{"WebSocket", ours, proxy, "signal.example", http.Header{"X-Forwarded-Proto": {"WSS"}}, true},
		{"two proxies", ours, proxy, "signal.example", http.Header{"X-Forwarded-Proto": {"https, http"}}, true},
		{"two proxies, no space", ours, proxy, "signal.example", http.Header{"X-Forwarded-Proto": {"https,https"}}, true},
		{"two lines", ours, proxy, "signal.example", http.Header{"X-Forwarded-Proto": {"https", "http"}}, true},
		{"the client spoke HTTP", ours, proxy, "signal.example", http.Header{"X-Forwarded-Proto": {"http, https"}}, false},
		{"a proxy that rewrites Host", ours, proxy, "backend:8080", http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"signal.example"}}, true},
		{"two that rewrite Host", ours, proxy, "backend:8080", http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"signal.example, inner"}}, true},
		{"one that leaves out the port", ours + ":8443", proxy, "signal.example:8443", http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"signal.example"}}, true},
		{"another host", ours, proxy, "backend:8080", http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"other.example"}}, false},
		{"Forwarded", ours, proxy, "backend:8080", http.Header{"Forwarded": {"for=192.0.2.7;Proto=HTTPS;host=signal.example"}}, true},
		{"Forwarded, quoted", ours + ":8443", proxy, "backend:8080", http.Header{"Forwarded": {`for="[2001:db8::7]"; proto=https; host="signal.example:8443"`}}, true},
		{"Forwarded, two proxies", ours, proxy, "backend:8080", http.Header{"Forwarded": {"proto=https;host=signal.example, proto=http;host=inner"}}, true},
		{"Forwarded beside what the proxy knows", ours, proxy, "signal.example", http.Header{"Forwarded": {"proto=https"}, "X-Forwarded-Proto": {"http"}}, false},
		{"rubbish", ours, proxy, "signal.example", http.Header{"Forwarded": {";;=,proto"}, "X-Forwarded-Proto": {" , "}}, false},
		{"no proxy of ours", ours, "192.0.2.1:5", "signal.example", http.Header{"X-Forwarded-Proto": {"https"}}, false},
		{"no proxy of ours, another host", "http://signal.example", "192.0.2.1:5", "backend", http.Header{"X-Forwarded-Host": {"signal.example"}}, false},
	} {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.RemoteAddr, r.Host, r.Header = test.remote, test.host, test.header
		who := identify(r, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
		if err := checkOrigin(test.origin, who, nil, false); (err == nil) != test.ok {
			t.Errorf("%s: %v of %+v", test.name, err, who)
		}
		if who.addr != netip.MustParseAddrPort(test.remote).Addr() {
			t.Errorf("%s: it is %s", test.name, who.addr)
		}
	}
}

func TestOriginOverTheWire(t *testing.T) {
	s := start(t)
	s.dial(http.Header{"Origin": {s.url}})
	_, err := client.Dial(t.Context(), s.url+"/ws", http.Header{"Origin": {"http://evil.example"}})
	if err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("foreign origin: %v", err)
	}
}

func TestIdentify(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, test := range []struct {
		remote, forwarded, proto string
		tls                      bool
		addr                     string
		secure                   bool
	}{
		{"192.0.2.1:5", "", "", false, "192.0.2.1", false},
		{"192.0.2.1:5", "203.0.113.9", "https", false, "192.0.2.1", false},
		{"10.1.1.1:5", "203.0.113.9", "https", false, "203.0.113.9", true},
		{"10.1.1.1:5", "1.1.1.1, 203.0.113.9, 10.2.2.2", "http", false, "203.0.113.9", false},
		{"10.1.1.1:5", "nonsense", "", true, "10.1.1.1", true},
		{"10.1.1.1:5", "203.0.113.9:4711", "https", false, "203.0.113.9", true},
		{"10.1.1.1:5", "[2001:db8::7]:4711, 10.2.2.2:80", "https", false, "2001:db8::7", true},
		{"[::ffff:10.1.1.1]:5", "2001:db8::7", "wss", false, "2001:db8::7", true},
	} {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.RemoteAddr = test.remote
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if test.proto != "" {
			r.Header.Set("X-Forwarded-Proto", test.proto)
		}
		got := identify(r, proxies)
		if got.addr.String() != test.addr || got.secure != test.secure {
			t.Errorf("%+v: got %v", test, got)
		}
	}
	a, b := client6("2001:db8::1"), client6("2001:db8::ffff:1")
	if a.prefix() != b.prefix() || a.prefix() == client6("2001:db8:0:1::1").prefix() {
		t.Error("IPv6 addresses are not counted by /64")
	}
}

func client6(addr string) (c clientID) { return clientID{addr: netip.MustParseAddr(addr)} }

func TestSecureCookieBehindProxy(t *testing.T) {
	s := start(t, func(c *Config) { c.TrustedProxies = []string{"127.0.0.1"} })
	res, _ := s.get("/", http.Header{"X-Forwarded-Proto": {"https"}})
	c := res.Cookies()
	if len(c) != 1 || c[0].Name != "__Host-signal_session" || !c[0].Secure {
		t.Errorf("cookies %v", c)
	}
}

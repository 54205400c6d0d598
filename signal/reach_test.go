package signal

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

func TestWhatABrowserFindsIsHeldAgainstWhatItIsTold(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		name              string
		udp, tcp          *bool
		addr, host, relay string
		codes, names      string
	}{
		{"all is well", &yes, &yes, "203.0.113.9", "198.51.100.7:8080", "198.51.100.7", "", ""},
		{"under a name", &yes, &yes, "203.0.113.9", "signal.example.org", "198.51.100.7", "", ""},
		{"in a LAN", &yes, &yes, "192.168.1.9", "192.168.1.7:8080", "192.168.1.7", "", ""},
		{"a carrier's network", &yes, &yes, "100.64.0.9", "signal.example.org", "10.0.0.7", "", ""},
		{"behind a NAT", &yes, &yes, "203.0.113.9", "198.51.100.7", "10.0.0.7", "relay_elsewhere WARN", "--turn-external-ip 198.51.100.7"},
		{"behind a NAT under a name", &yes, &yes, "203.0.113.9", "signal.example.org", "10.0.0.7", "relay_elsewhere WARN", "to the address that the internet"},
		{"at another address", &yes, &yes, "203.0.113.9", "[2001:db8::7]:8080", "2001:db8::8", "relay_elsewhere WARN", "--turn-external-ip 2001:db8::7"},
		{"of another family", &yes, &yes, "2001:db8::9", "[2001:db8::7]", "198.51.100.7", "", ""},
		{"UDP closed", &no, &yes, "203.0.113.9", "h", "198.51.100.7", "relay_unreached_udp INFO", "--turn-port"},
		{"all closed", &no, &no, "203.0.113.9", "h", "198.51.100.7", "relay_unreached WARN", "--turn-public-host"},
		{"all closed, of which there is UDP alone", &no, nil, "192.168.1.9", "h", "192.168.1.7", "relay_unreached WARN", ""},
		{"nothing told", nil, nil, "203.0.113.9", "h", "198.51.100.7", "", ""},
	} {
		who := clientID{addr: netip.MustParseAddr(test.addr), host: test.host}
		notes := sighting{test.udp, test.tcp}.notes(who, netip.MustParseAddr(test.relay))
		var codes, texts []string
		for _, n := range notes {
			codes, texts = append(codes, n.Code+" "+n.Level.String()), append(texts, n.Text)
		}
		if got := strings.Join(codes, ", "); got != test.codes || !strings.Contains(strings.Join(texts, "\n"), test.names) {
			t.Errorf("%s: %s, want %s\n%s", test.name, got, test.codes, strings.Join(texts, "\n"))
		}
	}
}

// TestFirstBrowserTells lets browsers ask and tell. A page of another site, one on this machine, and the second one are not heard.
func TestFirstBrowserTells(t *testing.T) {
	var log systemtest.Log
	relay := netip.MustParseAddr("10.0.0.7")
	s := start(t, func(c *Config) {
		c.TrustedProxies = []string{"127.0.0.1"}
		c.RelayAddress = func() netip.Addr { return relay }
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	from := func(addr string) http.Header { return http.Header{"X-Forwarded-For": {addr}} }
	wanted := func(addr string) bool {
		t.Helper()
		res, body := s.get("/reach", from(addr))
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", res.Status, body)
		}
		return strings.Contains(body, "true")
	}
	tell := func(addr, origin, body string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/reach", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = from(addr)
		r.Header.Set("Origin", origin)
		res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	const good, outside = `{"udp":false,"tcp":false}`, "203.0.113.9"
	if wanted("127.0.0.2") || wanted("10.0.0.7") || !wanted(outside) {
		t.Error("the wrong ones are asked")
	}
	for _, refused := range []struct {
		origin, body string
		status       int
	}{{"https://elsewhere.example", good, http.StatusForbidden}, {"", good, http.StatusForbidden}, {s.url, "nonsense", http.StatusBadRequest},
		{s.url, `{"udp":"` + strings.Repeat("x", sightingLimit) + `"}`, http.StatusBadRequest}} {
		if got := tell(outside, refused.origin, refused.body); got != refused.status {
			t.Errorf("%.40s of %q: %d", refused.body, refused.origin, got)
		}
	}
	if tell("127.0.0.2", s.url, good) != http.StatusNoContent || strings.Contains(log.String(), "relay_") {
		t.Errorf("who is on this machine is heard:\n%s", &log)
	}
	for range 2 {
		if got := tell(outside, s.url, good); got != http.StatusNoContent {
			t.Errorf("told: %d", got)
		}
	}
	if text := log.String(); strings.Count(text, "code=relay_unreached ") != 1 && strings.Count(text, "code=relay_unreached\n") != 1 || strings.Count(text, "code=relay_elsewhere") != 1 {
		t.Errorf("logged:\n%s", text)
	}
	if wanted(outside) {
		t.Error("another one is asked")
	}
}

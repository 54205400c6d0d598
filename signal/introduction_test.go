package signal

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

func TestIntroductionLeavesOutWhatThereIsNot(t *testing.T) {
	var out strings.Builder
	Introduction{
		Version: "1.0", Pages: []string{"http://a/", "http://b/"}, ICE: [][]string{{"stun:a"}, {"turn:a", "turns:a"}}, State: "in memory",
	}.Print(&out)
	want := `signal 1.0: WebRTC signaling and TURN

  page     http://a/
  page     http://b/
  ICE      stun:a
  ICE      turn:a  turns:a
  state    in memory

`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}

func TestPages(t *testing.T) {
	lan := netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct {
		bind string
		tls  bool
		lan  netip.Addr
		want []string
	}{
		{"127.0.0.1", false, lan, []string{"http://localhost:PORT/"}},
		{"0.0.0.0", false, lan, []string{"http://localhost:PORT/", "http://192.0.2.1:PORT/"}},
		{"0.0.0.0", true, netip.MustParseAddr("2001:db8::1"), []string{"https://localhost:PORT/", "https://[2001:db8::1]:PORT/"}},
		{"0.0.0.0", false, netip.MustParseAddr("127.0.0.1"), []string{"http://localhost:PORT/"}},
		{"0.0.0.0", false, netip.Addr{}, []string{"http://localhost:PORT/"}},
	} {
		s := start(t, func(c *Config) {
			if c.Host = tt.bind; tt.tls {
				c.TLS = &tls.Config{Certificates: []tls.Certificate{systemtest.Certificate(t, "localhost")}}
			}
		})
		port := strconv.Itoa(s.Addr().(*net.TCPAddr).Port)
		urls, hosts := s.Pages(tt.lan)
		for i := range urls {
			urls[i] = strings.ReplaceAll(urls[i], ":"+port+"/", ":PORT/")
		}
		if !slices.Equal(urls, tt.want) || len(hosts) != len(urls) {
			t.Errorf("on %s beside %v: %v, hosts %v", tt.bind, tt.lan, urls, hosts)
		}
	}
}

package turnsrv

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestHostAt(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")
	for _, test := range []struct {
		host, node string
		external   netip.Addr
		want       string
		ok         bool
	}{
		{"", "", netip.Addr{}, "", true},
		{"turn.example.org", "a", netip.Addr{}, "turn.example.org", true},
		{Auto, "", v4, "198.51.100.7", true},
		{Auto, "", netip.Addr{}, "", false},
		{"{address}.turn.example.org", "", v4, "198-51-100-7.turn.example.org", true},
		{"{address}.turn.example.org", "", v6, "2001-0db8-0000-0000-0000-0000-0000-0007.turn.example.org", true},
		{"{address}.turn.example.org", "", netip.Addr{}, "", false},
		{"{node}.turn.example.org", "ip-10-0-1-7.ec2.internal", netip.Addr{}, "ip-10-0-1-7-ec2-internal.turn.example.org", true},
		{"{node}-{address}.example.org", "a", v4, "a-198-51-100-7.example.org", true},
		{"{node}.example.org", "", v4, label(hostname) + ".example.org", true},
	} {
		cfg := Config{PublicHost: test.host, KubernetesNode: test.node}
		if got, ok := cfg.HostAt(test.external); ok != test.ok || ok && got != test.want {
			t.Errorf("%q of %q at %v: %q, %v, want %q, %v", test.host, test.node, test.external, got, ok, test.want, test.ok)
		}
	}
}

func TestPublicHostIsAHost(t *testing.T) {
	for text, named := range map[string]string{"": "", "turn.example.org": "", "{node}.turn.example.org": "", "{address}.example.org": "", Auto: "", "192.0.2.1": "",
		"{nodes}.example.org": "{node}", "{node.example.org": "{node}", "turn:{node}.example.org": "host alone", "{node}.example.org:3478": "host alone", "a b": "host name"} {
		if err := checkPublicHost(text); (err == nil) != (named == "") || err != nil && !strings.Contains(err.Error(), named) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

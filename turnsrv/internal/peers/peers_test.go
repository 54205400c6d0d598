package peers

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/peers/peerstest"
	"cline-meet/signal/turnsrv/internal/relayaddr"
)

// policyConfig is a node with relay ports from 50000 to 50010.
func policyConfig() Config { return Config{MinPort: 50000, MaxPort: 50010} }

func newTestPolicy(t testing.TB, cfg Config, own ...relayaddr.Address) *Policy {
	t.Helper()
	p, err := New(cfg, own...)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return p
}

// ownAddress is a node's relay address without a NAT.
func ownAddress(text string) relayaddr.Address {
	return relayaddr.Address{Bind: netip.MustParseAddr(text), Seen: netip.MustParseAddr(text)}
}

func TestDisguisedPeersAreDenied(t *testing.T) {
	if len(peerstest.Disguised) < 60 {
		t.Errorf("only %d disguises", len(peerstest.Disguised))
	}
	cfg := Config{MinPort: 49152, MaxPort: 65535}
	cfg.Forbidden = peerstest.Forbidden
	for _, own := range []relayaddr.Address{{}, ownAddress("127.0.0.1"), ownAddress("::1"), ownAddress("10.0.0.1"), ownAddress("192.0.2.9"), ownAddress("11.22.33.44"), ownAddress("2620:0:1::6379")} {
		p := newTestPolicy(t, cfg, own)
		for _, peer := range peerstest.Disguised {
			if p.Permits(peer) {
				t.Errorf("own address %v: %v is permitted", own.Bind, peer)
			}
		}
	}
}

func TestPeersOfTheInternetArePermitted(t *testing.T) {
	cfg := policyConfig()
	cfg.Forbidden = peerstest.Forbidden
	p := newTestPolicy(t, cfg)
	for _, peer := range peerstest.AddrPorts(
		"1.1.1.1:53", "8.8.8.8:0", "8.8.8.8:65535", "100.63.255.255:9", "100.128.0.1:9", "126.255.255.255:9", "128.0.0.0:9", "172.15.0.1:9",
		"172.32.0.1:9", "192.0.3.1:9", "198.17.0.1:9", "198.20.0.1:9", "223.255.255.255:9", "1.0.0.0:9", "11.22.33.44:6378", "11.22.33.43:6379",
		"[2606:4700::1111]:53", "[2a00::1]:9", "[2001:200::1]:9", "[2620:0:1::6379]:6378", "[3ffe::1]:9", "[2003::1]:9", "[::ffff:8.8.8.8]:9",
		"[64:ff9b::808:808]:9", "[2002:808:808::1]:9", "[2a00::5efe:8.8.8.8]:9", "[2606:4700::1111%eth0]:53",
	) {
		if !p.Permits(peer) {
			t.Errorf("%v is denied", peer)
		}
	}
	if p.Permits(netip.AddrPort{}) {
		t.Error("what is no address is permitted")
	}
}

func TestOwnAddressIsPermittedAtRelayPortsOnly(t *testing.T) {
	nat := relayaddr.Address{Bind: netip.MustParseAddr("192.168.7.7"), Seen: netip.MustParseAddr("198.51.100.7")}
	p := newTestPolicy(t, policyConfig(), nat, ownAddress("2001:db8::7"))
	for text, want := range map[string]bool{
		"192.168.7.7:50000": true, "192.168.7.7:50010": true, "192.168.7.7:49999": false, "192.168.7.7:50011": false, "192.168.7.7:3478": false,
		"192.168.7.7:6379": false, "192.168.7.7:0": false, "[::ffff:192.168.7.7]:53": false, "[::ffff:192.168.7.7]:50005": true,
		"198.51.100.7:50005": true, "198.51.100.7:3478": false, "198.51.100.8:50005": false, "[2002:c0a8:707::]:53": false,
		"[2001:db8::7]:50005": true, "[2001:db8::7%eth0]:50005": true, "[2001:db8::7]:53": false, "[2001:db8::8]:50005": false, "8.8.8.8:53": true,
	} {
		if got := p.Permits(netip.MustParseAddrPort(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestAllowAndDenyPeers(t *testing.T) {
	for _, tt := range []struct {
		name            string
		allow, deny     string
		permits, denies string
	}{
		{"open a private network", "10.0.0.0/8", "",
			"10.0.0.1:9 10.255.255.255:9 [::ffff:10.0.0.1]:9", "192.168.0.1:9 11.22.33.44:6379"},
		{"open it in disguise", "::ffff:10.0.0.0/104", "", "10.0.0.1:9 10.255.255.255:9", "192.168.0.1:9 [::10.0.0.1]:9"},
		{"open it as NAT64", "64:ff9b::10.0.0.0/104", "", "10.0.0.1:9 [64:ff9b::10.0.0.1]:9", "11.22.33.44:6379 192.168.0.1:9"},
		{"open it as 6to4", "2002:a00::/24", "", "10.0.0.1:9 [2002:a00:1::1]:9", "192.168.0.1:9"},
		{"the most specific wins", "10.0.0.0/8,10.1.2.0/24", "10.1.0.0/16",
			"10.0.0.1:9 10.1.2.3:9 10.2.0.0:9", "10.1.0.1:9 10.1.3.0:9 10.1.1.255:9"},
		{"on equal length a denial wins", "10.0.0.0/8", "::ffff:a00:0/104", "8.8.8.8:9", "10.0.0.1:9"},
		{"one address", "10.0.0.1", "8.8.8.8", "10.0.0.1:9 8.8.8.9:9", "10.0.0.2:9 8.8.8.8:9 [64:ff9b::8.8.8.8]:9"},
		{"deny all but one network", "198.51.100.0/24", "0.0.0.0/0,::/0",
			"198.51.100.1:9 192.168.7.7:50005", "8.8.8.8:9 [64:ff9b::8.8.8.8]:9 192.168.7.7:9"},
		{"allow all opens nothing special", "0.0.0.0/0,::/0", "",
			"8.8.8.8:9 [2a00::1]:9 [4000::1]:9", "10.0.0.1:9 127.0.0.1:9 [::1]:9 [fe80::1]:9 [fd00::1]:9 [::8.8.8.8]:9 [2001:db8::1]:9 224.0.0.1:9"},
		{"the mapped form is all of IPv4", "", "::ffff:0:0/96", "[2a00::1]:9", "8.8.8.8:9 [::ffff:8.8.8.8]:9 [64:ff9b::8.8.8.8]:9"},
		{"deny one form, not all of IPv4", "", "64:ff9b::/96,2002::/16", "8.8.8.8:9 [2a00::1]:9", "[64:ff9b::8.8.8.8]:9 [2002:808:808::]:9"},
		{"open a form, not what it hides", "::/96,::ffff:0:0:0/96,64:ff9b:1::/48,2001::/32", "",
			"[::8.8.8.8]:9 [::ffff:0:8.8.8.8]:9 [64:ff9b:1::1]:9 [2001:0:808:808:0:0:f7f7:f7f7]:9",
			"[::10.0.0.1]:9 [::ffff:0:127.0.0.1]:9 [2001:0:808:808:0:0:80ff:fffe]:9 [::1]:9 [::]:9"},
		{"loopback", "127.0.0.0/8,::1", "", "127.0.0.1:9 [::1]:9", "0.0.0.0:9 [::]:9 127.0.0.1:6380 127.3.3.3:6380 [::1]:6380"},
		{"never more than one host", "224.0.0.0/4,255.255.255.255,ff00::/8,0.0.0.0/8,::/128", "", "0.0.0.1:9",
			"224.0.0.1:9 255.255.255.255:9 [ff02::1]:9 0.0.0.0:9 [::]:9"},
		{"deny own relays", "", "192.168.7.0/24", "192.168.7.7:50005", "192.168.7.8:50005"},
		{"deny own relays by name", "", "192.168.7.7", "8.8.8.8:9", "192.168.7.7:50005"},
		{"allow own ports by name", "192.168.7.7", "", "192.168.7.7:9 192.168.7.7:50005", "192.168.7.7:6379 192.168.7.7:6380"},
		{"a wide allowance leaves own ports closed", "192.168.0.0/16", "", "192.168.7.8:9 192.168.7.7:50005", "192.168.7.7:9"},
		{"forbidden whatever is allowed", "11.22.33.44,::/96,2620:0:1::6379", "", "11.22.33.44:9",
			"11.22.33.44:6379 [::11.22.33.44]:6379 [2620:0:1::6379]:6379 11.22.33.45:8080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := policyConfig()
			cfg.Allow = setting.ParseList(tt.allow)
			cfg.Deny = setting.ParseList(tt.deny)
			cfg.Forbidden = append(peerstest.AddrPorts("192.168.7.7:6379"), peerstest.Forbidden...)
			p := newTestPolicy(t, cfg, ownAddress("192.168.7.7"))
			for _, peer := range peerstest.AddrPorts(strings.Fields(tt.permits)...) {
				if !p.Permits(peer) {
					t.Errorf("%v is denied", peer)
				}
			}
			for _, peer := range peerstest.AddrPorts(strings.Fields(tt.denies)...) {
				if p.Permits(peer) {
					t.Errorf("%v is permitted", peer)
				}
			}
		})
	}
}

// TestForbiddenPeersOfThisMachine opens everything that the machine has and
// forbids one port by the unspecified address and one by the address that the
// relays are bound to.
func TestForbiddenPeersOfThisMachine(t *testing.T) {
	addrs, err := relayaddr.OfMachine()
	if err != nil || len(addrs) == 0 {
		t.Fatalf("OfMachine: %v, %v", addrs, err)
	}
	nat := relayaddr.Address{Bind: netip.MustParseAddr("192.168.7.7"), Seen: netip.MustParseAddr("198.51.100.7")}
	for _, everywhere := range []string{"0.0.0.0:6379", "[::]:6379", "[::ffff:0.0.0.0]:6379"} {
		cfg := policyConfig()
		cfg.Forbidden = peerstest.AddrPorts(everywhere, "192.168.7.7:8080")
		for _, addr := range append(addrs, nat.Bind, nat.Seen, netip.MustParseAddr("127.7.7.7")) {
			cfg.Allow = append(cfg.Allow, addr.String())
		}
		p := newTestPolicy(t, cfg, nat)
		for _, text := range cfg.Allow {
			addr := netip.MustParseAddr(text)
			if p.Permits(netip.AddrPortFrom(addr, 6379)) {
				t.Errorf("%s: %s is permitted at that port", everywhere, addr)
			}
			if addr.Is4() && p.Permits(netip.AddrPortFrom(netip.AddrFrom16(addr.As16()), 6379)) {
				t.Errorf("%s: the mapped %s is permitted at that port", everywhere, addr)
			}
			if own := addr == nat.Bind || addr == nat.Seen; p.Permits(netip.AddrPortFrom(addr, 8080)) == own {
				t.Errorf("%s: %s at port 8080 is permitted: %v", everywhere, addr, !own)
			}
		}
	}
}

func TestNewPeerPolicyRefuses(t *testing.T) {
	cfg := policyConfig()
	cfg.Allow, cfg.Deny = []string{"x"}, []string{"10.0.0.1/8"}
	want := `--turn-allow-peer: "x" is neither a CIDR nor an IP address` + "\n" +
		"--turn-deny-peer: 10.0.0.1/8 has bits beyond its length; the CIDR is 10.0.0.0/8"
	if _, err := New(cfg); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestParsePeer(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.0.0.1": "10.0.0.1/32", "::1": "::1/128", "::/0": "::/0", "fe80::/10": "fe80::/10",
		"::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:10.0.0.1": "10.0.0.1/32", "::ffff:0:0/96": "0.0.0.0/0",
		"64:ff9b::/96": "64:ff9b::/96", "64:ff9b::a00:0/104": "10.0.0.0/8", "64:ff9b::/97": "0.0.0.0/1", "2002::/16": "2002::/16",
		"2002:a00::/24": "10.0.0.0/8", "2002:a00:1::/48": "10.0.0.1/32", "2002:a00:1:2::/64": "10.0.0.1/32", "::a00:0/104": "10.0.0.0/8",
		"::ffff:0:a00:0/104": "10.0.0.0/8", "::/96": "::/96", "::/128": "::/128", "2001::/32": "2001::/32",
		"": "", "10.0.0.0/": "", "10.0.0.0/33": "", "10.0.0.0/-1": "", "10.0.0.0/08": "", "10.0.0.1/8": "", "10.0.0/8": "", "::ffff:10.0.0.0/8": "",
		"::ffff:0:0/95": "", "fe80::1%eth0": "", "fe80::%eth0/64": "", "localhost": "", "10.0.0.0-10.0.0.9": "", "*": "", "10.0.0.0/8 ": "",
	} {
		got, err := parse(text)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q: got %v, %v, want %q", text, got, err, want)
		}
	}
}

// isInternal says whether an address leads into a network that a relay must not
// open. It judges by the standard library instead of the policy's table.
func isInternal(addr netip.Addr) bool {
	return !addr.IsGlobalUnicast() || addr.IsPrivate() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
		netip.MustParsePrefix("100.64.0.0/10").Contains(addr) || netip.MustParsePrefix("0.0.0.0/8").Contains(addr)
}

// disguises returns every form in which v4 can be written, beginning with itself.
func disguises(v4 [4]byte) []netip.Addr {
	all := []netip.Addr{netip.AddrFrom4(v4)}
	n := binary.BigEndian.Uint32(v4[:])
	for _, format := range []string{
		"::%[1]x:%[2]x", "::ffff:%[1]x:%[2]x", "::ffff:0:%[1]x:%[2]x", "64:ff9b::%[1]x:%[2]x", "64:ff9b:1::%[1]x:%[2]x",
		"2002:%[1]x:%[2]x::", "2002:%[1]x:%[2]x:1:2:3:4:5", "2001:0:808:808:0:0:%[3]x:%[4]x",
		"2a00::5efe:%[1]x:%[2]x", "2a00::200:5efe:%[1]x:%[2]x", "fe80::5efe:%[1]x:%[2]x", "fe80::5efe:%[1]x:%[2]x%%eth0", "::ffff:%[1]x:%[2]x%%1",
	} {
		all = append(all, netip.MustParseAddr(fmt.Sprintf(format, n>>16, n&0xffff, ^n>>16, ^n&0xffff)))
	}
	return all
}

func FuzzPeerPolicy(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1}, uint16(9))
	f.Add([]byte{8, 8, 8, 8}, uint16(443))
	f.Add(netip.MustParseAddr("64:ff9b::7f00:1").AsSlice(), uint16(0))
	cfg := policyConfig()
	p := newTestPolicy(f, cfg)
	rules, err := rules(cfg, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, ip []byte, port uint16) {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return
		}
		peer := netip.AddrPortFrom(addr, port)
		got := p.Permits(peer)
		if got && isInternal(addr.Unmap()) {
			t.Errorf("%v is permitted", peer)
		}
		// The flattened rules decide as the rules one by one.
		plain := relayaddr.Plain(addr)
		if relayaddr.IsDestination(plain) && p.verdict(plain) != decideAmong(rules, plain) {
			t.Errorf("%v: verdict %d, the rules say %d", plain, p.verdict(plain), decideAmong(rules, plain))
		}
		v4 := [4]byte(ip[len(ip)-4:])
		forms := disguises(v4)
		for _, form := range forms {
			if p.Permits(netip.AddrPortFrom(form, port)) && (isInternal(forms[0]) || !p.Permits(netip.AddrPortFrom(forms[0], port))) {
				t.Errorf("%v is permitted as %v", forms[0], form)
			}
		}
	})
}

func FuzzCIDRs(f *testing.F) {
	f.Add("10.0.0.0/8", "10.1.0.0/16")
	f.Add("::ffff:10.0.0.0/104", "64:ff9b::a00:0/104")
	f.Fuzz(func(t *testing.T, allow, deny string) {
		cfg := policyConfig()
		cfg.Allow = setting.ParseList(allow)
		cfg.Deny = setting.ParseList(deny)
		cfg.Forbidden = peerstest.Forbidden
		if len(cfg.Allow)+len(cfg.Deny) > 64 {
			return
		}
		var invalid setting.Problems
		cfg.Check(&invalid)
		p, err := New(cfg)
		if (err != nil) != (len(invalid) > 0) {
			t.Fatalf("check says %v, New %v", invalid, err)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "--turn-allow-peer: ") && !strings.HasPrefix(err.Error(), "--turn-deny-peer: ") {
				t.Errorf("the error names no flag: %v", err)
			}
			return
		}
		for _, text := range slices.Concat(cfg.Allow, cfg.Deny) {
			checkPeerPrefix(t, text)
		}
		checkRulesHold(t, cfg, p)
	})
}

// checkPeerPrefix reads a valid CIDR and what was read once more.
func checkPeerPrefix(t *testing.T, text string) {
	prefix, err := parse(text)
	if err != nil || !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr() != relayaddr.Plain(prefix.Addr()) {
		t.Fatalf("%q: got %v, %v", text, prefix, err)
	}
	if again, err := parse(prefix.String()); err != nil || again != prefix {
		t.Errorf("%q: read as %v and then as %v, %v", text, prefix, again, err)
	}
}

// checkRulesHold probes both ends of every rule.
func checkRulesHold(t *testing.T, cfg Config, p *Policy) {
	rules, _ := rules(cfg, nil)
	for _, r := range rules {
		for _, addr := range []netip.Addr{r.prefix.Addr(), lastAddr(r.prefix)} {
			want := decideAmong(rules, addr)
			if !relayaddr.IsDestination(addr) {
				want = verdictDenied
			}
			if got := p.verdict(addr); got != want {
				t.Errorf("%v: verdict %d, the rules say %d", addr, got, want)
			}
			if want == verdictDenied && p.Permits(netip.AddrPortFrom(addr, 9)) {
				t.Errorf("%v is permitted against the rules", addr)
			}
		}
	}
	for _, peer := range peerstest.Forbidden {
		if p.Permits(peer) {
			t.Errorf("the forbidden %v is permitted", peer)
		}
	}
}

// TestPermitsAllocatesNothing guards what is asked for every packet.
func TestPermitsAllocatesNothing(t *testing.T) {
	cfg := policyConfig()
	cfg.Forbidden = peerstest.Forbidden
	p := newTestPolicy(t, cfg, ownAddress("192.168.7.7"))
	peers := append(peerstest.AddrPorts("8.8.8.8:9", "192.168.7.7:50005", "[2a00::1%eth0]:9", "[64:ff9b::8.8.8.8]:6379"), peerstest.Disguised...)
	if n := testing.AllocsPerRun(100, func() {
		for _, peer := range peers {
			p.Permits(peer)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPermits(b *testing.B) {
	for _, cidrs := range []int{0, 1000} {
		cfg := policyConfig()
		cfg.Forbidden = peerstest.Forbidden
		for i := range cidrs {
			cfg.Deny = append(cfg.Deny, fmt.Sprintf("20.%d.%d.0/24", i/250, i%250))
		}
		p := newTestPolicy(b, cfg, ownAddress("192.168.7.7"))
		for _, peer := range peerstest.AddrPorts("93.184.216.34:50000", "192.168.7.7:50005", "[2606:4700::1111]:50000", "[64:ff9b::808:808]:6379") {
			b.Run(fmt.Sprintf("cidrs=%d/%v", cidrs, peer), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.Permits(peer)
				}
			})
		}
	}
}

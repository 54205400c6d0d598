package relayaddr

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/setting"
)

// configOf says nothing but these lists.
func configOf(relays, external string) Config {
	return Config{Relays: setting.ParseList(relays), External: setting.ParseList(external), Log: slog.New(slog.DiscardHandler)}
}

func TestRelayAddresses(t *testing.T) {
	local := Address{loopback, loopback}
	for _, tt := range []struct {
		name            string
		relay, external string
		v4, v6          Address
		want            string // A part of the error.
	}{
		{name: "configured", relay: "127.0.0.1", v4: local},
		{name: "configured, mapped", relay: "::ffff:127.0.0.1", v4: local},
		{name: "plain", relay: "127.0.0.1", external: "198.51.100.7", v4: Address{loopback, netip.MustParseAddr("198.51.100.7")}},
		{name: "own pair", relay: "127.0.0.1", external: "198.51.100.8/127.0.0.2,198.51.100.7/127.0.0.1",
			v4: Address{loopback, netip.MustParseAddr("198.51.100.7")}},
		{name: "pair before plain", relay: "127.0.0.1", external: "198.51.100.8,198.51.100.7/127.0.0.1",
			v4: Address{loopback, netip.MustParseAddr("198.51.100.7")}},
		{name: "plain for want of a pair", relay: "127.0.0.1", external: "198.51.100.8,198.51.100.7/127.0.0.2",
			v4: Address{loopback, netip.MustParseAddr("198.51.100.8")}},
		{name: "pairs of the other family", relay: "127.0.0.1", external: "2001:db8::7/fd00::1", v4: local},
		{name: "no own pair", relay: "127.0.0.1", external: "198.51.100.8/127.0.0.2",
			want: "--turn-external-ip: no pair is for relay address 127.0.0.1"},
		{name: "external IPv6 for nothing", relay: "127.0.0.1", external: "2001:db8::7",
			want: "--turn-external-ip: an external IPv6 address needs an IPv6 relay address"},
		{name: "foreign relay", relay: "198.51.100.77", want: "--turn-relay-ip: binding a relay to 198.51.100.77: "},
		{name: "foreign IPv6 relay", relay: "127.0.0.1,2001:db8::77", want: "--turn-relay-ip: binding a relay to 2001:db8::77: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v4, v6, err := Find(t.Context(), configOf(tt.relay, tt.external))
			if tt.want != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil || v4 != tt.v4 || v6 != tt.v6 {
				t.Errorf("got %v, %v, %v, want %v, %v", v4, v6, err, tt.v4, tt.v6)
			}
		})
	}
}

func TestRelayAddressesOfBothFamilies(t *testing.T) {
	if checkBindable(netip.IPv6Loopback()) != nil {
		systemtest.Unable(t, "this machine has no IPv6")
	}
	v4, v6, err := Find(t.Context(), configOf("::1,127.0.0.1", "2001:db8::7,198.51.100.7"))
	want4 := Address{loopback, netip.MustParseAddr("198.51.100.7")}
	want6 := Address{netip.IPv6Loopback(), netip.MustParseAddr("2001:db8::7")}
	if err != nil || v4 != want4 || v6 != want6 {
		t.Errorf("got %v, %v, %v, want %v, %v", v4, v6, err, want4, want6)
	}
	v4, v6, err = Find(t.Context(), configOf("::1", ""))
	if err != nil || v4 != (Address{PrimaryIPv4(), PrimaryIPv4()}) || v6.Seen != netip.IPv6Loopback() {
		t.Errorf("IPv6 alone: got %v, %v, %v", v4, v6, err)
	}
}

func TestTranslate(t *testing.T) {
	nat := Address{Bind: netip.MustParseAddr("10.0.0.1"), Seen: netip.MustParseAddr("198.51.100.7")}
	nat6 := Address{Bind: netip.MustParseAddr("fd00::1"), Seen: netip.MustParseAddr("2001:db8::7")}
	for _, tt := range []struct {
		address        Address
		seen, bind     string
		onlyTranslates bool // present gives another form back.
	}{
		{nat, "198.51.100.7:50000", "10.0.0.1:50000", false},
		{nat, "[::ffff:198.51.100.7]:50000", "10.0.0.1:50000", true},
		{nat, "198.51.100.8:50000", "198.51.100.8:50000", false},
		{nat, "[2001:db8::7]:50000", "[2001:db8::7]:50000", false},
		{nat6, "[2001:db8::7]:50000", "[fd00::1]:50000", false},
		{nat6, "198.51.100.7:50000", "198.51.100.7:50000", false},
		{Address{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.1")}, "10.0.0.1:50000", "10.0.0.1:50000", false},
		{Address{}, "10.0.0.1:50000", "10.0.0.1:50000", false},
	} {
		seen, bind := netip.MustParseAddrPort(tt.seen), netip.MustParseAddrPort(tt.bind)
		if got := tt.address.Translate(seen); got != bind {
			t.Errorf("%v: %v is translated to %v, want %v", tt.address, seen, got, bind)
		}
		if got := tt.address.Present(bind); got != seen && !tt.onlyTranslates {
			t.Errorf("%v: %v is presented as %v, want %v", tt.address, bind, got, seen)
		}
	}
	if n := testing.AllocsPerRun(100, func() { nat.Present(nat.Translate(netip.AddrPortFrom(nat.Seen, 9))) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// stunServer answers on loopback with what answer returns for the count of
// requests so far, beginning with 1. It returns the server's host:port.
func stunServer(t *testing.T, answer func(request *stun.Message, count int) [][]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for count := 1; ; count++ {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			request := &stun.Message{Raw: buf[:n]}
			if err := request.Decode(); err != nil {
				t.Errorf("a request that is no STUN message: %v", err)
				continue
			}
			for _, reply := range answer(request, count) {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func bindingSuccess(request *stun.Message, seen string) []byte {
	mapped := &stun.XORMappedAddress{IP: net.ParseIP(seen), Port: 9}
	return stun.MustBuild(stun.NewTransactionIDSetter(request.TransactionID), stun.BindingSuccess, mapped, stun.Fingerprint).Raw
}

// always returns a server's answer that is always the same.
func always(build func(request *stun.Message) []byte) func(*stun.Message, int) [][]byte {
	return func(request *stun.Message, _ int) [][]byte { return [][]byte{build(request)} }
}

func TestSTUNQuery(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(request *stun.Message, count int) [][]byte
		want   string // The address or a part of the error.
	}{
		{"answer", always(func(r *stun.Message) []byte { return bindingSuccess(r, "198.51.100.7") }), "198.51.100.7"},
		{"third try", func(r *stun.Message, count int) [][]byte {
			if count < 3 {
				return nil
			}
			return [][]byte{bindingSuccess(r, "198.51.100.7")}
		}, "198.51.100.7"},
		{"rubbish first", func(r *stun.Message, _ int) [][]byte {
			foreign := stun.MustBuild(stun.TransactionID, stun.BindingSuccess)
			return [][]byte{{1, 2, 3}, r.Raw[:20], bindingSuccess(foreign, "198.51.100.66"), bindingSuccess(r, "198.51.100.7")}
		}, "198.51.100.7"},
		{"silence", func(*stun.Message, int) [][]byte { return nil }, "no address after 3 tries: "},
		{"error", always(func(r *stun.Message) []byte {
			return stun.MustBuild(stun.NewTransactionIDSetter(r.TransactionID), stun.BindingError, stun.CodeServerError).Raw
		}), "no address after 3 tries: the server answered error 500"},
		{"no address", always(func(r *stun.Message) []byte {
			return stun.MustBuild(stun.NewTransactionIDSetter(r.TransactionID), stun.BindingSuccess).Raw
		}), "no address after 3 tries: the server answered without a mapped address"},
		{"other family", always(func(r *stun.Message) []byte { return bindingSuccess(r, "2001:db8::7") }), "the server answered with 2001:db8::7, of another family"},
		{"no host", always(func(r *stun.Message) []byte { return bindingSuccess(r, "0.0.0.0") }), "0.0.0.0 is not an address that peers can send to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := stunQuery{server: stunServer(t, tt.answer), wait: 5 * time.Second, tries: 3}
			switch tt.name {
			case "silence":
				q.wait = 20 * time.Millisecond
			case "third try":
				q.wait = 250 * time.Millisecond
			}
			got, err := q.run(t.Context(), loopback)
			if text := got.String(); err == nil && text != tt.want || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %s, %v, want %s", text, err, tt.want)
			}
		})
	}
}

func TestSTUNQueryFails(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := taken.LocalAddr().String()
	_ = taken.Close()
	q := stunQuery{server: closed, wait: 20 * time.Millisecond, tries: 2}
	if _, err := q.run(t.Context(), loopback); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody listens: got %v", err)
	}
	q.server = "[::1]:9"
	if _, err := q.run(t.Context(), loopback); err == nil {
		t.Error("a server of the other family: no error")
	}
}

// TestSTUNQueryEndsWithItsContext cancels as soon as the server was asked.
func TestSTUNQueryEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := stunQuery{wait: time.Hour, tries: 2}
	q.server = stunServer(t, func(*stun.Message, int) [][]byte {
		cancel()
		return nil
	})
	if _, err := q.run(ctx, loopback); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// TestExternalAuto asks a server that says what a NAT would make of the address.
func TestExternalAuto(t *testing.T) {
	cfg := configOf("127.0.0.1", "auto")
	cfg.STUN = stunServer(t, always(func(r *stun.Message) []byte { return bindingSuccess(r, "198.51.100.7") }))
	v4, _, err := Find(t.Context(), cfg)
	if err != nil || v4.Seen.String() != "198.51.100.7" {
		t.Errorf("got %v, %v", v4, err)
	}
}

func TestBestIPv6(t *testing.T) {
	for _, text := range []string{"::1", "fd00::1", "fe80::1", "2001:0:808:808::1", "64:ff9b::1", "8.8.8.8"} {
		if isGlobalIPv6(netip.MustParseAddr(text)) {
			t.Errorf("%s counts as a global unicast IPv6 address", text)
		}
	}
	for _, text := range []string{"2001:db8::1", "2a00::1", "3fff::1", "2002:808:808::1"} {
		if !isGlobalIPv6(netip.MustParseAddr(text)) {
			t.Errorf("%s does not count as a global unicast IPv6 address", text)
		}
	}
	// What is not on this machine cannot be bound.
	if got := bestIPv6([]netip.Addr{{}, loopback, netip.IPv6Loopback(), netip.MustParseAddr("2001:db8::77")}); got.IsValid() {
		t.Errorf("got %v", got)
	}
}

// TestReadBinding reads answers whose address is too short, the last of a packet that is no longer than it must be.
func TestReadBinding(t *testing.T) {
	for size := range 8 {
		answer := stun.MustBuild(stun.TransactionID, stun.BindingSuccess)
		answer.Add(stun.AttrXORMappedAddress, []byte{0, 1, 0, 1, 8, 8, 8}[:size])
		if seen, ok, err := readBinding(answer.Raw[:len(answer.Raw):len(answer.Raw)], answer.TransactionID); !ok || err == nil {
			t.Errorf("an address of %d bytes: %v, %v, %v", size, seen, ok, err)
		}
	}
	answer := bindingSuccess(stun.MustBuild(stun.TransactionID, stun.BindingRequest), "198.51.100.7")
	if seen, ok, err := readBinding(answer, [stun.TransactionIDSize]byte(answer[8:20])); !ok || err != nil || seen.String() != "198.51.100.7" {
		t.Errorf("got %v, %v, %v", seen, ok, err)
	}
}

func FuzzBindingAnswer(f *testing.F) {
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	f.Add(bindingSuccess(request, "198.51.100.7"))
	f.Add(bindingSuccess(request, "2001:db8::7"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		// Every packet counts as an answer to its own transaction.
		var transaction [stun.TransactionIDSize]byte
		if len(packet) >= 20 {
			copy(transaction[:], packet[8:20])
		}
		seen, ok, err := readBinding(packet, transaction)
		if !ok || err != nil {
			return
		}
		checked, err := stunQuery{}.check(seen, loopback)
		if err == nil && (!checked.Is4() || checked.IsUnspecified() || checked.IsMulticast()) {
			t.Errorf("%v was believed", checked)
		}
	})
}

func TestBestIPv4(t *testing.T) {
	for want, text := range map[string][]string{
		"127.0.0.1": {"127.0.0.1", "::1", "169.254.1.1", "fe80::1"},
		"10.0.0.1":  {"127.0.0.1", "10.0.0.1", "192.168.1.1"},
		"8.8.8.8":   {"10.0.0.1", "8.8.8.8", "9.9.9.9"},
	} {
		var addrs []netip.Addr
		for _, a := range text {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		if got := bestIPv4(addrs); got.String() != want {
			t.Errorf("%v: got %s, want %s", text, got, want)
		}
	}
}

package turnsrv

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/signal/setting"
	"cline-meet/signal/turnsrv/internal/wire"
)

// allocatedFrom returns a client of a user at an address, with an allocation, and the error code if there is none.
func allocatedFrom(t *testing.T, s *Server, addr, user string) (*wireClient, int) {
	t.Helper()
	c, err := newWireClient("udp", netip.MustParseAddr(addr), addressOfServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	c.username, c.password = Credentials(testSecret, user, time.Now().Add(time.Hour))
	if err := c.challenge(); err != nil {
		t.Fatal(err)
	}
	answer, err := c.call(stun.MethodAllocate, attrTransport(wire.ProtocolUDP))
	if err != nil {
		t.Fatal(err)
	}
	return c, answerCode(answer)
}

// TestAddressQuota has users without end at one address, and one user at another.
func TestAddressQuota(t *testing.T) {
	cfg := loopbackConfig()
	cfg.AddrQuota, cfg.UserQuota = 3, 2
	s := startServer(t, cfg)
	var first *wireClient
	for _, user := range []string{"a", "b", "c"} {
		c, code := allocatedFrom(t, s, "127.0.0.1", user)
		if code != 0 {
			t.Fatalf("%s got %d", user, code)
		}
		first = c
	}
	if _, code := allocatedFrom(t, s, "127.0.0.1", "d"); code != 486 {
		t.Errorf("the fourth of three got %d", code)
	}
	if _, code := allocatedFrom(t, s, "127.0.0.2", "a"); code != 0 {
		t.Errorf("another address got %d", code)
	}
	if _, code := allocatedFrom(t, s, "127.0.0.2", "a"); code != 486 {
		t.Errorf("the third of a user at two addresses got %d", code)
	}
	if _, err := first.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
		t.Fatal(err)
	}
	if _, code := allocatedFrom(t, s, "127.0.0.1", "d"); code != 0 {
		t.Errorf("after one was released: %d", code)
	}
}

// TestAddressQuotaOfReservations: a port that is held back counts, and so it does for its allocation.
func TestAddressQuotaOfReservations(t *testing.T) {
	q := newQuotas(0, 3, 0)
	r := newReservations(q)
	defer r.close()
	pool := loopbackServer(t).front.pools[0]
	h := holder{owner{name: "alice"}, netip.MustParseAddr("192.0.2.1")}
	if got := q.acquire(h, 2); got != "" {
		t.Fatal(got)
	}
	s, err := pool.open()
	if err != nil {
		t.Fatal(err)
	}
	token := r.hold(s, h)
	if got := q.acquire(holder{owner{name: "bob"}, h.address}, 2); got != quotaAddress {
		t.Errorf("two of one place left: %q", got)
	}
	if r.redeem(token, holder{owner{name: "alice"}, netip.MustParseAddr("192.0.2.2")}) != nil {
		t.Error("another address has redeemed the token")
	}
	r.discard(r.redeem(token, h), h)
	q.release(h, 1)
	if len(q.users) != 0 || len(q.addresses) != 0 || q.all != 0 {
		t.Errorf("%v, %v and %d are left", q.users, q.addresses, q.all)
	}
}

// loopbackServer is a server that nobody needs to reach.
func loopbackServer(t *testing.T) *Server { return startServer(t, loopbackConfig()) }

func TestAddressQuotaByDefault(t *testing.T) {
	for _, test := range []struct{ address, user, total, min, max, want int }{
		{setting.Derived, 32, 1 << 20, 49152, 65535, 2048},
		{setting.Derived, 32, 1000, 49152, 65535, 500},
		{setting.Derived, 32, 1 << 20, 50000, 50199, 100},
		{setting.Derived, 0, 1 << 20, 49152, 65535, 0},
		{setting.Derived, 1, 0, 50000, 50000, 1},
		{0, 32, 1 << 20, 49152, 65535, 0},
		{9000, 32, 1 << 20, 49152, 65535, 8192},
		{9000, 32, 1 << 20, 1024, 65535, 9000},
	} {
		cfg := Config{AddrQuota: test.address, UserQuota: test.user, TotalQuota: test.total, MinPort: test.min, MaxPort: test.max}
		if got := cfg.addressQuota(); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

// TestOfficeIsNoStranger has more clients at one address than it gets answers as a stranger: each proves it.
func TestOfficeIsNoStranger(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UnauthRate = 0.001 // One answer, and hardly another one ever.
	s := startServer(t, cfg)
	for range 20 {
		if _, code := allocatedFrom(t, s, "127.0.0.1", "alice"); code != 0 {
			t.Fatalf("got %d", code)
		}
	}
}

func TestQuotas(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota, cfg.AddrQuota, cfg.TotalQuota = 2, 0, 3
	s := startServer(t, cfg)
	first, _ := allocated(t, s, "udp", "alice")
	allocated(t, s, "udp", "alice")
	if err := wired(t, s, "udp", "alice").refuses(486, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	allocated(t, s, "udp", "bob")
	carol := wired(t, s, "udp", "carol")
	if err := carol.refuses(508, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Error(err)
	}
	if _, err := first.accepts(stun.MethodRefresh, attrLifetime(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := carol.accepts(stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
		t.Errorf("after one was released: %v", err)
	}
}

func TestPermissionAndChannelQuotas(t *testing.T) {
	cfg := loopbackConfig()
	cfg.MaxPermissions, cfg.MaxChannels = 2, 1
	s := startServer(t, cfg)
	c, _ := allocated(t, s, "udp", "alice")
	peer := func(last byte) stun.Setter {
		return attrPeer(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, last}), 9))
	}
	if _, err := c.accepts(stun.MethodCreatePermission, peer(2), peer(3)); err != nil {
		t.Fatal(err)
	}
	if err := c.refuses(508, stun.MethodCreatePermission, peer(4)); err != nil {
		t.Error(err)
	}
	if _, err := c.accepts(stun.MethodCreatePermission, peer(3)); err != nil {
		t.Errorf("refreshing one: %v", err)
	}
	if _, err := c.accepts(stun.MethodChannelBind, attrChannel(0x4000), peer(2)); err != nil {
		t.Fatal(err)
	}
	if err := c.refuses(508, stun.MethodChannelBind, attrChannel(0x4001), peer(3)); err != nil {
		t.Error(err)
	}
}

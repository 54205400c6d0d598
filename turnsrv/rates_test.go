package turnsrv

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"cline-meet/signal/turnsrv/internal/wire"
)

// TestUserAtTheQuotaHarmsNobody sends many more Allocates than the node may answer with an allocation, as a user who has all that
// it may have. Another one at the same address is served.
func TestUserAtTheQuotaHarmsNobody(t *testing.T) {
	cfg := loopbackConfig()
	cfg.UserQuota, cfg.AllocateRate = 1, 20
	s := startServer(t, cfg)
	allocated(t, s, "udp", "mallory")
	mallory := wired(t, s, "udp", "mallory")
	for range 500 {
		if err := mallory.refuses(486, stun.MethodAllocate, attrTransport(wire.ProtocolUDP)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		if _, code := allocatedFrom(t, s, "127.0.0.1", "honest"+strconv.Itoa(i)); code != 0 {
			t.Errorf("an honest user got %d", code)
		}
	}
}

// TestOffenderIsCharged has one user, then one address with ever new users, make 4,000 allocations a second, all of which it
// releases, and others a few.
func TestOffenderIsCharged(t *testing.T) {
	cfg := DefaultConfig()
	home, crowd := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	for name, offender := range map[string]func(i int) holder{
		"a user":     func(int) holder { return holder{owner{name: "mallory"}, crowd} },
		"an address": func(i int) holder { return holder{owner{name: "mallory" + strconv.Itoa(i)}, crowd} },
	} {
		rates := newAllocateRates(&cfg)
		now := time.Unix(1_800_000_000, 0)
		made, refused := 0, map[string]int{}
		const seconds, perSecond = 10, 4000
		for i := range seconds * perSecond {
			now = now.Add(time.Second / perSecond)
			if quota := rates.take(offender(i), now); quota == "" {
				made++
			} else {
				refused[quota]++
			}
			if i%8 != 0 {
				continue
			}
			if quota := rates.take(holder{owner{name: "honest" + strconv.Itoa(i)}, home.Next()}, now); quota != "" {
				t.Fatalf("%s has offended, and somebody elsewhere is refused for %s", name, quota)
			}
			if name == "a user" && i%16 == 0 {
				if quota := rates.take(holder{owner{name: "honest" + strconv.Itoa(i)}, crowd}, now); quota != "" {
					t.Fatalf("%s has offended, and somebody at the same address is refused for %s", name, quota)
				}
			}
		}
		t.Logf("%s: %d of %d were made, refused %v", name, made, seconds*perSecond, refused)
		if refused[quotaRate] > 0 {
			t.Errorf("%s was let get to what all share", name)
		}
	}
}

// TestOfficeGetsItsRelays has 64 users of one address make 27 allocations each within two seconds.
func TestOfficeGetsItsRelays(t *testing.T) {
	cfg := DefaultConfig()
	rates := newAllocateRates(&cfg)
	began, office := time.Unix(1_800_000_000, 0), netip.MustParseAddr("192.0.2.1")
	for i := range officeUsers * 27 {
		now := began.Add(2 * time.Second * time.Duration(i) / (officeUsers * 27))
		if quota := rates.take(holder{owner{name: strconv.Itoa(i % officeUsers)}, office}, now); quota != "" {
			t.Fatalf("allocation %d is refused for %s", i, quota)
		}
	}
}

func TestAllocateRatesOfOne(t *testing.T) {
	for _, test := range []struct {
		all           float64
		user, address int
		wantUser      float64
		wantAddress   float64
	}{
		{2000, 32, 2048, 32, 1000},
		{2000, 4, 100, leastUserRate, 100},
		{2000, 0, 0, 0, 1000},
		{0, 32, 2048, 0, 0},
	} {
		cfg := DefaultConfig()
		cfg.AllocateRate, cfg.UserQuota, cfg.AddrQuota = test.all, test.user, test.address
		if user, address := cfg.allocateRatesOfOne(); user != test.wantUser || address != test.wantAddress {
			t.Errorf("%+v: %v and %v", test, user, address)
		}
	}
}

// TestPaceForgets has ever new users make one allocation each.
func TestPaceForgets(t *testing.T) {
	p := newPace[int](10)
	now := time.Unix(1_800_000_000, 0)
	for i := range 100_000 {
		if now = now.Add(time.Millisecond); !p.allow(i, now) {
			t.Fatalf("user %d was refused", i)
		}
	}
	if len(p.full) > paceSweep {
		t.Errorf("%d are remembered, of whom 100 have allocated within the last tenth of a second", len(p.full))
	}
}

func TestAllocateRate(t *testing.T) {
	cfg := loopbackConfig()
	cfg.AllocateRate = 0.5 // A burst of one.
	s := startServer(t, cfg)
	allocated(t, s, "udp", "alice")
	if _, code := allocatedFrom(t, s, "127.0.0.1", "bob"); code != 486 {
		t.Errorf("the same address got %d", code)
	}
	if _, code := allocatedFrom(t, s, "127.0.0.2", "bob"); code != 508 {
		t.Errorf("another address got %d", code)
	}
}

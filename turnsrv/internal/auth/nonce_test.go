package auth

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestNonces(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	older, newer := newNonces([]string{"old"}), newNonces([]string{"new", "old"})
	nonce := older.fresh(a, now)
	for _, test := range []struct {
		what  string
		valid bool
		got   bool
	}{
		{"fresh", true, older.valid([]byte(nonce), a, now)},
		{"an hour old", true, older.valid([]byte(nonce), a, now.Add(nonceLifetime))},
		{"stale", false, older.valid([]byte(nonce), a, now.Add(nonceLifetime+time.Second))},
		{"from a clock that is a little ahead", true, older.valid([]byte(nonce), a, now.Add(-time.Minute))},
		{"of another client", false, older.valid([]byte(nonce), b, now)},
		{"after rotation", true, newer.valid([]byte(nonce), a, now)},
		{"of another secret", false, newNonces([]string{"new"}).valid([]byte(nonce), a, now)},
		{"changed", false, older.valid([]byte(strings.ToUpper(nonce)), a, now)},
		{"empty", false, older.valid(nil, a, now)},
		{"garbage", false, older.valid([]byte("0123456789012345678901"), a, now)},
	} {
		if test.got != test.valid {
			t.Errorf("%s: valid is %v", test.what, test.got)
		}
	}
	if len(nonce) > 24 {
		t.Errorf("a nonce of %d characters is not short", len(nonce))
	}
}

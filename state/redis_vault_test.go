package state

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// vaults returns those of two nodes with one Redis, whose user may do what the README asks for.
func vaults(t *testing.T) (one, two *Vault) {
	t.Helper()
	server := redistest.Start(t, "--user", "rooms", "on", ">pass", "~sig:*", "&sig:*", "+@hash", "+@sortedset", "+@keyspace", "+@scripting", "+@pubsub", "+info", "+time")
	cfg := DefaultRedisConfig()
	cfg.URL = "redis://rooms:pass@" + server.Addr
	open := func(id string) *Vault {
		r, err := NewRedis(cfg, id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close(context.Background()) })
		return r.Vault("things")
	}
	return open("n1"), open("n2")
}

func TestVaultIsShared(t *testing.T) {
	one, two := vaults(t)
	ctx := t.Context()
	if _, err := two.Get(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	for _, key := range []string{"a/b", "c"} {
		if err := one.Put(ctx, key, []byte(key+"\x00")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := two.Get(ctx, "a/b"); err != nil || string(got) != "a/b\x00" {
		t.Errorf("%q, %v", got, err)
	}
	if err := one.Delete(ctx, "a/b", "z"); err != nil {
		t.Error(err)
	}
	if keys, err := two.Keys(ctx); err != nil || !slices.Equal(keys, []string{"c"}) {
		t.Errorf("%q, %v", keys, err)
	}
	if keys, err := two.redis.Vault("others").Keys(ctx); err != nil || len(keys) != 0 {
		t.Errorf("another vault has %q, %v", keys, err)
	}
}

func TestVaultLocks(t *testing.T) {
	one, two := vaults(t)
	ctx := t.Context()
	free, err := one.Lock(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 2*lockPoll)
	defer cancel()
	if _, err := two.Lock(short, "l"); err == nil { // The client of Redis has words of its own for a time that is over.
		t.Error("two nodes have one lock")
	}
	other, err := two.Lock(ctx, "m")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(free(ctx), other(ctx)); err != nil {
		t.Error(err)
	}
	free, err = two.Lock(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	if left, err := one.redis.client.PTTL(ctx, one.key+":lock:l").Result(); err != nil || left <= 0 || left > lockLife {
		t.Errorf("a lock outlives its node by %v, %v", left, err)
	}
	if err := one.redis.client.Del(ctx, one.key+":lock:l").Err(); err != nil { // As when its life has ended.
		t.Fatal(err)
	}
	taken, err := one.Lock(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	if err := free(ctx); !errors.Is(err, errLockLost) {
		t.Errorf("a lock that was lost: %v", err)
	}
	if err := taken(ctx); err != nil {
		t.Errorf("it went with the old holder's: %v", err)
	}
}

// TestVaultLockIsHeld waits until a lock has been prolonged.
func TestVaultLockIsHeld(t *testing.T) {
	t.Parallel()
	one, _ := vaults(t)
	ctx := t.Context()
	free, err := one.Lock(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	key := one.key + ":lock:l"
	before := lockLife
	systemtest.Eventually(t, "the lock is prolonged", func() bool {
		left, err := one.redis.client.PTTL(ctx, key).Result()
		prolonged := err == nil && left > before+time.Second
		before = left
		return prolonged
	})
	if err := free(ctx); err != nil {
		t.Error(err)
	}
	if keys, err := one.redis.client.HGetAll(ctx, key).Result(); err != nil || len(keys) != 0 {
		t.Errorf("it stays: %v, %v", keys, err)
	}
	if err := one.redis.Close(ctx); err != nil && !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
	if _, err := one.Lock(ctx, "l"); err == nil {
		t.Error("a node that has ended takes locks")
	}
}

package state

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// TestTLSAndACL runs the contract over TLS as a user that may do what the README asks for and no more.
func TestTLSAndACL(t *testing.T) {
	t.Parallel()
	cert, key := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "redis.test"))
	redis := redistest.Start(t, "--tls-port", "PORT", "--port", "0", "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", cert, "--tls-auth-clients", "no",
		"--user", "rooms", "on", ">pass word", "~sig:*", "&sig:*", "+@hash", "+@sortedset", "+@keyspace", "+@scripting", "+@pubsub", "+info", "+time",
		"--user", "default", "off")
	cfg := DefaultRedisConfig()
	at, err := netip.ParseAddrPort(redis.Addr)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Host, cfg.Port, cfg.Username, cfg.Password, cfg.TLSCA, cfg.TLSServerName = at.Addr().String(), int(at.Port()), "rooms", "pass word", cert, "redis.test"
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	cfg = brisk(cfg)
	attach := func(t *testing.T, id string, ev Events) node { return connect(t, cfg, id, ev) }
	t.Run("JoinPrecedesMessage", func(t *testing.T) { testJoinPrecedesMessage(t, attach) })
	t.Run("Nodes", func(t *testing.T) { testNodes(t, attach) })
	t.Run("Dead", func(t *testing.T) {
		dead, one := newSite(t, cfg, "dead"), newSite(t, cfg, "one")
		dead.must(dead.enter("r", "a"))
		dead.must(dead.enter("alone", "a"))
		one.must(one.enter("r", "b"))
		dead.crash()
		agree(t, "r", []string{"b"}, one)
		eventually(t, "the dead node's own room is swept", func() bool { return len(stored(t, one.Redis, "alone")) == 0 })
	})
	t.Run("WrongPassword", func(t *testing.T) {
		wrong := cfg
		wrong.Password = "guess"
		n, err := NewRedis(wrong, "n9")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close(t.Context()) }()
		n.Subscribe(new(ear).events())
		if err := n.Ready(); err == nil || !strings.Contains(err.Error(), "WRONGPASS") || strings.Contains(err.Error(), "guess") {
			t.Errorf("ready: %v", err)
		}
	})
	t.Run("WrongAuthority", func(t *testing.T) {
		wrong := cfg
		wrong.TLSServerName = "other.test"
		n, err := NewRedis(wrong, "n9")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close(t.Context()) }()
		n.Subscribe(new(ear).events())
		if err := n.Ready(); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("ready: %v", err)
		}
	})
}

// vault records what a node is told of the cluster's secrets.
type vault struct {
	mu   sync.Mutex
	have map[string][]string
}

func (v *vault) config(cfg RedisConfig, proposal string) RedisConfig {
	v.have = map[string][]string{}
	cfg.Secrets = map[string]string{"turn": proposal}
	cfg.OnSecret = func(name string, values []string) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.have[name] = slices.Clone(values)
	}
	return cfg
}

func (v *vault) turn() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.have["turn"]
}

// TestSecretsAreShared has three nodes agree on the first one's secret, rotates it under them and
// empties Redis.
func TestSecretsAreShared(t *testing.T) {
	redis := redistest.Start(t)
	cfg := single(redis)
	var v1, v2 vault
	connect(t, v1.config(cfg, "first"), "n1", new(ear).events())
	connect(t, v2.config(cfg, "second"), "n2", new(ear).events())
	both := func(want ...string) func() bool {
		return func() bool { return slices.Equal(v1.turn(), want) && slices.Equal(v2.turn(), want) }
	}
	eventually(t, "both use the first", both("first"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := RotateSecret(ctx, cfg, "turn"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both use a new one and accept the old", func() bool {
		now := v1.turn()
		return len(now) == 2 && now[1] == "first" && slices.Equal(v2.turn(), now)
	})
	current := v1.turn()
	redis.Do("FLUSHALL")
	var v3 vault
	eventually(t, "a node has restored it", func() bool { return redis.Do("HLEN", directoryKeys(cfg.Prefix)[3]) == "1" })
	connect(t, v3.config(cfg, "third"), "n3", new(ear).events())
	eventually(t, "all use what was used", func() bool { return both(current...)() && slices.Equal(v3.turn(), current) })
}

// TestNewcomerReplacesNoSecret has a node start, when Redis has lost its data, before the one that knows the secret can say so.
func TestNewcomerReplacesNoSecret(t *testing.T) {
	for name, rotated := range map[string]bool{"as it was proposed": false, "rotated": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			cfg := single(redis)
			way := newProxy(t, redis.Addr)
			var v1, v2 vault
			var log logBook
			connect(t, v1.config(log.config(behind(cfg, way)), "first"), "n1", new(ear).events())
			if rotated {
				if err := RotateSecret(t.Context(), cfg, "turn"); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the new one is used", func() bool { return len(v1.turn()) == 2 && v1.turn()[1] == "first" })
			}
			known := v1.turn()
			way.frozen.Store(true)
			way.cut()
			redis.Do("FLUSHALL")
			connect(t, v2.config(log.config(cfg), "second"), "n2", new(ear).events())
			eventually(t, "the newcomer's stands", func() bool { return slices.Equal(v2.turn(), []string{"second"}) })
			way.frozen.Store(false)
			way.cut()
			want := append(slices.Clone(known), "second")
			eventually(t, "both use the former one and accept the newcomer's", func() bool {
				return slices.Equal(v2.turn(), want) && slices.Equal(v1.turn(), want)
			})
			if log.count("another node has another secret") > 0 {
				t.Error("who shares a secret is warned of")
			}
			if err := RotateSecret(t.Context(), cfg, "turn"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a rotation stands", func() bool {
				now := v2.turn()
				return len(now) >= 2 && now[1] == known[0] && v1.turn()[0] == now[0]
			})
		})
	}
}

// TestSecretsInRedis has a node that knows a secret, or proposes one, meet what Redis has.
func TestSecretsInRedis(t *testing.T) {
	redis := redistest.Start(t)
	r := connect(t, single(redis), "n1", new(ear).events())
	keys := directoryKeys("other:")
	for _, c := range []struct {
		has, value string
		knows      bool
		want       string
	}{
		{"", "first", false, "first"},
		{"", "new@5,first", true, "new@5,first"},
		{"second", "first", false, "second"},
		{"second", "first", true, "first,second"},
		{"first", "first", true, "first"},
		{"first,second", "second", true, "first,second"},
		{"second", "first,second", true, "first,second"},
		{"second", "new@5,first", true, "new@5,first,second"},
		{"first", "new@5,first", true, "new@5,first"}, // Its node has missed the rotation.
		{"third", "new@5,first,second", true, "new@5,first,third"},
		{"new@5,first", "first", true, "new@5,first"},
		{"new@5,second", "first", true, "new@5,second"},
	} {
		redis.Do("DEL", keys[3])
		if c.has != "" {
			redis.Do("HSET", keys[3], "turn", c.has)
		}
		for range 2 { // The second time changes nothing.
			if err := leaseScript.Run(t.Context(), r.client, keys, "n2", 1000, "{}", 0, 1000, 0, 0, "turn", c.value, c.knows).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if got := redis.Do("HGET", keys[3], "turn"); got != c.want {
			t.Errorf("%q meets %q: %q, want %q", c.value, c.has, got, c.want)
		}
	}
}

// TestNewcomerWaitsForTheSecret has a node find no Redis, and then an empty one: it lets nobody come before a node that knows the secret has.
func TestNewcomerWaitsForTheSecret(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := single(redis)
	ways := []*proxy{newProxy(t, redis.Addr), newProxy(t, redis.Addr)}
	var v1, v2 vault
	connect(t, v1.config(behind(cfg, ways[0]), "first"), "n1", new(ear).events())
	for _, way := range ways {
		way.frozen.Store(true)
		way.cut()
	}
	n2, err := NewRedis(v2.config(behind(cfg, ways[1]), "second"), "n2")
	if err != nil {
		t.Fatal(err)
	}
	n2.patience = patience
	n2.Subscribe(new(ear).events())
	defer func() { _ = n2.Close(t.Context()) }()
	redis.Do("FLUSHALL")
	ways[1].frozen.Store(false)
	ways[1].cut()
	eventually(t, "the newcomer's stands", func() bool { return len(v2.turn()) > 0 })
	ways[0].frozen.Store(false)
	ways[0].cut()
	<-n2.Started()
	if got := v2.turn(); len(got) == 0 || got[0] != "first" {
		t.Errorf("clients come while the secrets are %q", got)
	}
}

func TestValidSecrets(t *testing.T) {
	for _, c := range []struct {
		value string
		want  []string
	}{
		{"", nil},
		{"a", []string{"a"}},
		{"b@100,a", []string{"a", "b"}},
		{"b@99,a", []string{"b", "a"}},
		{"b@100", []string{"b"}},
		{"b@100,", []string{"", "b"}},
	} {
		if got := validSecrets(c.value, 99); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.value, got, c.want)
		}
	}
}

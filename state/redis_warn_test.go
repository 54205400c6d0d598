package state

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// logBook is a log that a test can read.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(line)
}

func (b *logBook) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), text)
}

func (b *logBook) config(cfg RedisConfig) RedisConfig {
	cfg.Logger = slog.New(slog.NewTextHandler(b, nil))
	return cfg
}

// beats waits until a node has renewed its lease some times more.
func beats(t *testing.T, n *Redis, times int) {
	t.Helper()
	for range times {
		last := *n.renewed.Load()
		eventually(t, "a beat", func() bool { return n.renewed.Load().After(last) })
	}
}

// TestCoverageIsWarnedOf starts nodes on a Cluster that requires all slots, and on one that does not.
func TestCoverageIsWarnedOf(t *testing.T) {
	t.Parallel()
	masters, _ := redistest.StartCluster(t, false)
	for _, c := range []struct {
		setting string
		warned  int
	}{{"yes", 1}, {"no", 0}} {
		for _, m := range masters {
			m.Do("CONFIG", "SET", "cluster-require-full-coverage", c.setting)
		}
		var log logBook
		n := connect(t, log.config(patiently(clusterConfig(masters))), "covered-"+c.setting, new(ear).events())
		beats(t, n, 3)
		if got := log.count("set its cluster-require-full-coverage to no"); got != c.warned {
			t.Errorf("%s: warned %d times, want %d", c.setting, got, c.warned)
		}
	}
}

// TestEvictionIsWarnedOf changes the policy of a Redis with and without a limit.
func TestEvictionIsWarnedOf(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
	var log logBook
	n := connect(t, log.config(patiently(single(redis))), "n1", new(ear).events())
	const warning = "set its maxmemory-policy to noeviction"
	want := func(what string, times int) {
		t.Helper()
		beats(t, n, 3)
		if got := log.count(warning); got != times {
			t.Errorf("%s: warned %d times, want %d", what, got, times)
		}
	}
	want("at the start", 1)
	redis.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	want("without eviction", 1)
	redis.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
	want("with another policy", 2)
	redis.Do("CONFIG", "SET", "maxmemory", "0")
	want("without a limit", 2)
}

// TestOtherSecretsAreWarnedOf runs two deployments on one prefix, and a rotation.
func TestOtherSecretsAreWarnedOf(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := patiently(single(redis))
	var logs [3]logBook
	var nodes []*Redis
	for i, secrets := range [][]string{{"old"}, {"new", "old"}, {"other"}} {
		cfg := logs[i].config(cfg)
		cfg.Configured = map[string][]string{SessionSecret: secrets}
		nodes = append(nodes, connect(t, cfg, []string{"n1", "n2", "n3"}[i], new(ear).events()))
	}
	for _, n := range nodes {
		beats(t, n, 4)
	}
	for i, want := range []int{1, 1, 2} {
		if got := logs[i].count("another node has another secret: give all nodes the same --session-secret"); got != want {
			t.Errorf("%s warned %d times, want %d", nodes[i].id, got, want)
		}
	}
	if logs[0].count("other=n3") != 1 {
		t.Error("the warning does not name the node")
	}
	nodes[2].Configure(SessionSecret, []string{"new"})
	systemtest.Eventually(t, "the third node's new secret is known to the first", func() bool {
		nodes[0].mu.Lock()
		defer nodes[0].mu.Unlock()
		return slices.Equal(nodes[0].peers["n3"].info.Secrets[SessionSecret], fingerprints([]string{"new"}))
	})
	for i := range logs {
		for _, secret := range []string{"=old", "=new", "=other"} {
			if logs[i].count(secret) > 0 {
				t.Error("the log tells a secret")
			}
		}
	}
}

package state

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// patience bounds every wait of a test; it decides only how a failure ends.
const patience = systemtest.Patience

var eventually = systemtest.Eventually

// testLog shows what nodes log when LOG is set.
func testLog() *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// single is the config of nodes on one server, which beat fast.
func single(s *redistest.Server) RedisConfig {
	cfg := DefaultRedisConfig()
	cfg.URL = s.URL()
	return brisk(cfg)
}

// brisk makes nodes beat fast and log.
func brisk(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease, cfg.Logger = 200*time.Millisecond, time.Second, testLog()
	return cfg
}

func clusterConfig(masters []*redistest.Server) RedisConfig {
	cfg := DefaultRedisConfig()
	for _, s := range masters {
		cfg.Cluster = append(cfg.Cluster, s.Addr)
	}
	return brisk(cfg)
}

func sentinelConfig(sentinel *redistest.Server) RedisConfig {
	cfg := DefaultRedisConfig()
	cfg.SentinelMaster, cfg.Sentinels = "rooms", []string{sentinel.Addr}
	return brisk(cfg)
}

// connect attaches a node and waits until it is ready; the test's end closes it.
func connect(t *testing.T, cfg RedisConfig, id string, ev Events) *Redis {
	t.Helper()
	n, err := NewRedis(cfg, id)
	if err != nil {
		t.Fatal(err)
	}
	n.Subscribe(ev)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Logf("closing %s: %v", id, err)
		}
	})
	eventually(t, id+" is ready", func() bool { return n.Ready() == nil })
	return n
}

var deployments atomic.Int64

// redisContract runs the contract on a Redis; every test of it has a prefix of its own.
func redisContract(t *testing.T, cfg RedisConfig) {
	t.Helper()
	contract(t, func(*testing.T) attach {
		own := cfg
		// The machine may be so busy that Redis is away for a moment: no node may be taken for dead then,
		// and no join may go by what a node knows alone.
		own.Lease, own.Outage = 20*time.Second, OutageReject
		own.Prefix = fmt.Sprintf("d%d:", deployments.Add(1))
		return func(t *testing.T, id string, ev Events) node { return connect(t, own, id, ev) }
	})
}

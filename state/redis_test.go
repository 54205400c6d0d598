package state

import (
	"context"
	"testing"

	"cline-meet/signal/state/redistest"
)

func TestRedisContract(t *testing.T) {
	t.Parallel()
	redisContract(t, single(redistest.Start(t)))
}

func TestSentinelContract(t *testing.T) {
	t.Parallel()
	_, _, sentinel := redistest.StartSentinel(t)
	redisContract(t, sentinelConfig(sentinel))
}

func TestClusterContract(t *testing.T) {
	t.Parallel()
	masters, _ := redistest.StartCluster(t, false)
	redisContract(t, clusterConfig(masters))
}

func TestRedisNodeIsUnknownUntilItSubscribes(t *testing.T) {
	cfg := single(redistest.Start(t))
	late, err := NewRedis(cfg, "late")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Close(context.Background()) }()
	known := connect(t, cfg, "known", new(ear).events())
	unknownUntilItSubscribes(t, known, late)
}

// TestRedisNodeThatNeverSubscribes is one whose other parts could not be built.
func TestRedisNodeThatNeverSubscribes(t *testing.T) {
	n, err := NewRedis(single(redistest.Start(t)), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

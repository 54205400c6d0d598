package state

import (
	"context"
	"testing"
)

func TestRedisContract(t *testing.T) {
	redisContract(t, startRedis(t).single())
}

func TestSentinelContract(t *testing.T) {
	_, _, sentinel := startSentinel(t)
	redisContract(t, sentinelConfig(sentinel))
}

func TestClusterContract(t *testing.T) {
	masters, _ := startCluster(t, false)
	redisContract(t, clusterConfig(masters))
}

func TestRedisNodeIsUnknownUntilItSubscribes(t *testing.T) {
	cfg := startRedis(t).single()
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
	n, err := NewRedis(startRedis(t).single(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

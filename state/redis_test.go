package state

import "testing"

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

package signal_test

import (
	"context"
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// patience bounds every wait of a test; it decides only how a failure ends.
const patience = systemtest.Patience

// lease is how long the cluster of a test believes in a node that is silent.
const lease = 3 * time.Second

// startNodes starts the program count times over one Redis.
func startNodes(t *testing.T, count int, redis *redistest.Server, flags ...string) []*systemtest.Node {
	t.Helper()
	var programs []string
	for range count {
		programs = append(programs, systemtest.Executable(t))
	}
	return startPrograms(t, programs, redis, flags...)
}

// startPrograms starts nodes of several builds of the program over one Redis.
func startPrograms(t *testing.T, programs []string, redis *redistest.Server, flags ...string) []*systemtest.Node {
	t.Helper()
	flags = append([]string{"--redis-url", redis.URL(), "--state-beat", "1", "--state-lease", strconv.Itoa(int(lease / time.Second)),
		"--address-connections", "10000"}, flags...)
	var nodes []*systemtest.Node
	for _, program := range programs {
		n := systemtest.StartProgram(t, program, flags...)
		t.Cleanup(n.Kill) // There is nobody to drain for.
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.Ready()
	}
	return nodes
}

var eventually = systemtest.Until

// wait pauses what disturbs the nodes, not a check.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func document(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

package service_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"testing"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

// TestServeWithoutItsRedis starts nodes whose Redis is not there: by the policy for outages one serves, and says what is
// missing, and the other is not ready.
func TestServeWithoutItsRedis(t *testing.T) {
	port := systemtest.FreePort(t)
	for policy, want := range map[string]int{"local": http.StatusOK, "reject": http.StatusServiceUnavailable} {
		at := systemtest.StartNode(t, "--redis-url", fmt.Sprintf("redis://127.0.0.1:%d/0", port), "--state-outage", policy)
		if got := status(t, at, "/ready", "connection refused"); got != want { // The first answer counts: a balancer asks no earlier.
			t.Errorf("%s: /ready is %d", policy, got)
		}
		if got := status(t, at, "/health", "ok"); got != http.StatusOK {
			t.Errorf("%s: /health is %d", policy, got)
		}
		c := greeted(t, at)
		if err := c.Join("r"); err != nil {
			t.Fatal(err)
		}
		if m, err := c.Next(t.Context()); err != nil || (m.Type == "error") != (want != http.StatusOK) {
			t.Errorf("%s: joining is answered with %s, %v", policy, m.Raw, err)
		}
		_ = c.Close()
	}
}

// TestReadyWhileRedisIsAway stops the Redis of two nodes: who lets users in without it stays ready and says what is missing.
func TestReadyWhileRedisIsAway(t *testing.T) {
	redis := redistest.Start(t)
	common := []string{"--redis-url", fmt.Sprintf("redis://127.0.0.1:%d/0", redis.Port()), "--state-beat", "0.2", "--state-lease", "1"}
	local, reject := systemtest.StartNode(t, append(common, "--state-outage", "local")...), systemtest.StartNode(t, append(common, "--state-outage", "reject")...)
	for _, at := range []*systemtest.Node{local, reject} {
		systemtest.Eventually(t, "the node is ready", func() bool { return status(t, at, "/ready", "ready") == http.StatusOK })
	}
	redis.Kill()
	systemtest.Eventually(t, "who refuses is not ready", func() bool { return status(t, reject, "/ready", "reasons") == http.StatusServiceUnavailable })
	systemtest.Eventually(t, "the other one says what is missing", func() bool { return status(t, local, "/ready", "problems") == http.StatusOK })
	for _, at := range []*systemtest.Node{local, reject} {
		if got := status(t, at, "/health", "ok"); got != http.StatusOK {
			t.Errorf("/health: %d", got)
		}
	}
	_ = greeted(t, local).Close()
	metrics, err := http.Get("http://" + local.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	body, _ := io.ReadAll(metrics.Body)
	_ = metrics.Body.Close()
	for _, line := range []string{"signal_ready 1", "signal_problems [1-9]", "signal_state_up 0"} {
		if !regexp.MustCompile("(?m)^" + line + "$").Match(body) {
			t.Errorf("no %q", line)
		}
	}
	redis.Start()
	systemtest.Eventually(t, "who refused is ready again", func() bool { return status(t, reject, "/ready", "ready") == http.StatusOK })
}

// status asks a node; an answer without a text in it is none.
func status(t *testing.T, at *systemtest.Node, path, text string) int {
	t.Helper()
	web := http.Client{Timeout: systemtest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := web.Get("http://" + at.HTTP + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if body, _ := io.ReadAll(answer.Body); !bytes.Contains(body, []byte(text)) {
		return 0
	}
	return answer.StatusCode
}

// greeted connects a client and reads its stun_config.
func greeted(t *testing.T, at *systemtest.Node) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), at.URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := c.Next(t.Context()); err != nil || m.Type != "stun_config" {
		t.Fatalf("first message %s, %v", m.Raw, err)
	}
	return c
}

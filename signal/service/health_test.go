package service_test

import (
	"bytes"
	"net"
	"strings"
	"syscall"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

func TestHealth(t *testing.T) {
	node := systemtest.StartNode(t)
	_, port, _ := net.SplitHostPort(node.HTTP)
	var said bytes.Buffer
	if s := signal(t.Context(), t, &said, "health", "--server-port", port); s != 0 {
		t.Errorf("exit status %d, %s", s, &said)
	}
	if err := node.End(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if s := signal(t.Context(), t, &said, "health", "--server-port", port); s != 1 ||
		!strings.Contains(said.String(), "/ready") {
		t.Errorf("without a node: exit status %d, %s", s, &said)
	}
}

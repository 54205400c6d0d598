// Package relaytest is TURN clients of a node that a test runs.
package relaytest

import (
	"net"
	"strconv"
	"testing"

	"github.com/pion/logging"
	"github.com/pion/turn/v3"

	"cline-meet/signal/packaging/systemtest"
)

// Allocate makes a TURN client with a relay of the node.
func Allocate(t testing.TB, at systemtest.Serving, user, password string) (*turn.Client, net.PacketConn) {
	t.Helper()
	c := Client(t, at, user, password)
	relay, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	return c, relay
}

// Client makes a TURN client that has no relay yet.
func Client(t testing.TB, at systemtest.Serving, user, password string) *turn.Client {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	server := net.JoinHostPort("127.0.0.1", strconv.Itoa(at.Turn))
	c, err := turn.NewClient(&turn.ClientConfig{Conn: conn, STUNServerAddr: server, TURNServerAddr: server,
		Username: user, Password: password, LoggerFactory: logging.NewDefaultLoggerFactory()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	return c
}

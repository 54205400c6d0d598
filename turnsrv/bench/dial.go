package bench

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"cline-meet/signal/turnsrv/turnclient"
)

// credentialLife is longer than any measurement.
const credentialLife = 24 * time.Hour

// dial connects a client to a server over udp, tcp or tls.
func dial(transport, server string, who turnclient.Credential) (*turnclient.Client, error) {
	var conn net.Conn
	var err error
	if transport == "tls" {
		// The traffic is measured, not the server's identity.
		conn, err = tls.Dial("tcp", server, &tls.Config{InsecureSkipVerify: true})
	} else {
		conn, err = net.Dial(transport, server)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to the server: %w", err)
	}
	return turnclient.New(conn, transport != "udp", who), nil
}

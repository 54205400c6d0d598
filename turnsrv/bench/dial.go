package bench

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/pion/dtls/v3"

	"cline-meet/signal/turnsrv/turnclient"
)

// credentialLife is longer than any measurement.
const credentialLife = 24 * time.Hour

// dial connects a client to a server over udp, tcp, tls or dtls.
func dial(transport, server string, who turnclient.Credential) (*turnclient.Client, error) {
	conn, err := connect(transport, server)
	if err != nil {
		return nil, fmt.Errorf("connecting to the server: %w", err)
	}
	return turnclient.New(conn, transport == "tcp" || transport == "tls", who), nil
}

// connect does not look at who the server is: it is the traffic that is measured.
func connect(transport, server string) (net.Conn, error) {
	switch transport {
	case "tls":
		return tls.Dial("tcp", server, &tls.Config{InsecureSkipVerify: true})
	case "dtls":
		to, err := net.ResolveUDPAddr("udp", server)
		if err != nil {
			return nil, err
		}
		return dtls.DialWithOptions("udp", to, dtls.WithInsecureSkipVerify(true))
	}
	return net.Dial(transport, server)
}

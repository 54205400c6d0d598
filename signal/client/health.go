package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// healthTimeout bounds one question to a node on this machine.
const healthTimeout = 5 * time.Second

// The paths that a node answers for others to know how it is.
const (
	PathHealth = "/health" // PathHealth is whether it lives.
	PathReady  = "/ready"  // PathReady is whether it takes new users.
)

// Ask asks the node at a base URL, such as http://127.0.0.1:8080, on this machine how it is. The error says what it
// answers but yes, in its own words if it answered. Containers and service managers that have no HTTP
// client of their own use it through `signal health`. It connects by dial, as net.Dialer's DialContext.
func Ask(ctx context.Context, base, path string, dial func(ctx context.Context, network, address string) (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	url := base + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	// The certificate is for the name that users know, and a connection to this machine needs no proof.
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// Package dtls stands in for pion/dtls/v2, which reuses nonces (CVE-2026-26014) and gets no new release. The module
// pion/stun/v2 names it for one function that dials a URL, which nobody here calls; this module, by a replace in
// go.mod, keeps the rest out of the executable. Our DTLS is pion/dtls/v3.
package dtls

import (
	"errors"
	"net"
)

// Config is as much of a client's settings as pion/stun/v2 touches.
type Config struct {
	ServerName string
}

// Client refuses to dial.
func Client(net.Conn, *Config) (net.Conn, error) {
	return nil, errors.New("dtls: there is no client in this program")
}

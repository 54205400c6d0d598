// Package relayaddr finds the addresses of a node's relays: what their sockets are
// bound to, and, behind a 1:1 NAT, what clients and peers see them at. Without a
// setting a node takes the addresses that lead to the internet; what it is seen at
// it can ask Kubernetes or a STUN server.
package relayaddr

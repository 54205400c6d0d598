package edge

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
)

// What clients negotiate (RFC 7301): HTTP, TURN and STUN (RFC 7443), and an authority that looks whether we hold a name
// (RFC 8737), of which the certificate is the answer. Only that one is gone by: many clients negotiate nothing, and
// those of coturn negotiate HTTP for TURN.
const (
	alpnHTTP = "http/1.1" // A WebSocket takes over its connection, which HTTP/2 does not allow.
	alpnTURN = "stun.turn"
	alpnSTUN = "stun.nat-discovery"
	alpnACME = "acme-tls/1"
)

// oneConfig returns a config for all that comes to the one port. A client that names no host, or one that no certificate is
// for, gets that of HTTPS.
func oneConfig(https, turn *tls.Config) *tls.Config {
	if https == nil {
		https = turn
	}
	if https == nil {
		return nil
	}
	cfg := https.Clone()
	if turn != nil && https.GetCertificate != nil && turn.GetCertificate != nil {
		cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			first, err := https.GetCertificate(hello)
			if err == nil && hello.SupportsCertificate(first) == nil {
				return first, nil
			}
			if other, err := turn.GetCertificate(hello); err == nil && hello.SupportsCertificate(other) == nil {
				return other, nil
			}
			return first, err
		}
	}
	for _, name := range []string{alpnHTTP, alpnTURN, alpnSTUN} {
		if !slices.Contains(cfg.NextProtos, name) {
			cfg.NextProtos = append(slices.Clip(cfg.NextProtos), name)
		}
	}
	cfg.DynamicRecordSizingDisabled = true // A frame of TURN is a record.
	return cfg
}

// protocol is what a connection speaks.
type protocol int

const (
	speaksHTTP protocol = iota
	speaksTURN
	speaksTLS
)

// protocolOf tells by the first byte. A TLS connection begins with a handshake record, 22 (RFC 8446, section 5.1), a STUN message
// with two zero bits, of which 0 to 3 are in use (RFC 7983), and a request with a letter. ChannelData, 64 to 79 and so some letters,
// begins no connection, since it needs an allocation. What is none of it HTTP answers best, with a 400 in words. The
// rest of the beginning, such as the magic cookie, is for who gets the connection to judge.
func protocolOf(first byte) protocol {
	switch {
	case first == 22:
		return speaksTLS
	case first < 4:
		return speaksTURN
	}
	return speaksHTTP
}

var (
	errAnswered  = errors.New("the certificate was all that was asked for")
	errHandshake = errors.New("handshake")
)

// sort returns a connection to the one port with the queue of the part that it is for. Clear text is served, too: TURN has proofs of
// its own, and HTTP says that it wants TLS.
func (l *listener) sort(conn *Conn) (net.Conn, *queue, error) {
	first, err := conn.peek()
	if err != nil {
		return nil, nil, err
	}
	spoken := protocolOf(first)
	if spoken == speaksTLS && l.edge.tls != nil {
		return l.secure(conn)
	}
	return conn.settled(), l.of(spoken), nil
}

// secure is sort behind the handshake.
func (l *listener) secure(conn *Conn) (net.Conn, *queue, error) {
	t := tls.Server(l.edge.Under(conn), l.edge.tls)
	if err := t.Handshake(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	if t.ConnectionState().NegotiatedProtocol == alpnACME {
		return nil, nil, errors.Join(errAnswered, t.Close())
	}
	inner := newConn(t)
	first, err := inner.peek()
	if err != nil {
		return nil, nil, err
	}
	return inner.settled(), l.of(protocolOf(first)), nil
}

// of returns the queue of the part that speaks a protocol. TLS within TLS, or where there is no certificate, is for HTTP to refuse.
func (l *listener) of(spoken protocol) *queue {
	if spoken == speaksTURN {
		return l.queue
	}
	return l.edge.http
}

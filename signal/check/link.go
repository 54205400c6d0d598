package check

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/logging"

	"cline-meet/signal/turnsrv/turnclient"
)

// link is a connection to a server.
type link struct {
	conn   net.Conn
	certs  []*x509.Certificate // certs are what a server over TLS or DTLS showed, its own first.
	detail string

	turn *turnclient.Client // turn is nil for a site.
	seen netip.AddrPort     // seen is where a STUN server sees this end.
}

func (l *link) close() { _ = l.conn.Close() }

// dial connects to an address, over TLS or DTLS without a look at the certificate, which is checked for itself.
func dial(ctx context.Context, host string, at netip.Addr, way endpoint) (*link, error) {
	network := map[string]string{overUDP: "udp", overDTLS: "udp", overTCP: "tcp", overTLS: "tcp"}[way.over]
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, netip.AddrPortFrom(at, uint16(way.port)).String())
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn}
	switch way.over {
	case overTLS:
		err = l.secure(ctx, host)
	case overDTLS:
		err = l.secureDatagrams(ctx, host)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

func (l *link) secure(ctx context.Context, host string) error {
	conn := tls.Client(l.conn, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	if err := conn.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("connected, but then %w", ctx.Err())
		}
		return fmt.Errorf("speaks no TLS: %w", err)
	}
	state := conn.ConnectionState()
	l.conn, l.certs, l.detail = conn, state.PeerCertificates, tls.VersionName(state.Version)
	return nil
}

func (l *link) secureDatagrams(ctx context.Context, host string) error {
	quiet := &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	conn, err := dtls.ClientWithOptions(connected{l.conn}, l.conn.RemoteAddr(), dtls.WithInsecureSkipVerify(true), dtls.WithServerName(host),
		dtls.WithFlightInterval(turnclient.AnswerTimeout), dtls.WithDisableRetransmitBackoff(true), dtls.WithLoggerFactory(quiet))
	if err != nil {
		return err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return err
	}
	state, _ := conn.ConnectionState()
	for _, raw := range state.PeerCertificates {
		if cert, err := x509.ParseCertificate(raw); err == nil {
			l.certs = append(l.certs, cert)
		}
	}
	l.conn = conn
	return nil
}

// connected is a UDP socket that is connected, as a net.PacketConn.
type connected struct{ net.Conn }

// ReadFrom implements net.PacketConn.
func (c connected) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.Read(p)
	return n, c.RemoteAddr(), err
}

// WriteTo implements net.PacketConn.
func (c connected) WriteTo(p []byte, _ net.Addr) (int, error) { return c.Write(p) }

// dialSTUN connects to a STUN server and asks it where it sees this end.
func dialSTUN(ctx context.Context, host string, at netip.Addr, way endpoint, who turnclient.Credential) (*link, error) {
	l, err := dial(ctx, host, at, way)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, l.close)()
	l.turn = turnclient.New(l.conn, way.over == overTCP || way.over == overTLS, who)
	l.turn.Attempts = int(patience / turnclient.AnswerTimeout)
	began := time.Now()
	if l.seen, err = l.turn.Bind(); err != nil {
		l.close()
		return nil, cmp.Or(ctx.Err(), err)
	}
	l.detail = join2(l.detail, "RTT "+round(time.Since(began)))
	return l, nil
}

func join2(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

func round(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }

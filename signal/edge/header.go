package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// maxHeaderLine is the length of the longest PROXY header of version 1.
const maxHeaderLine = 107

// The PROXY protocol forbids to guess whether there is a header: who may send one has to, and who may not must not.
// Otherwise a proxy that does not send any would let its clients send their own.
var (
	errNoHeader = errors.New("no PROXY header from a proxy that is to send one: have it do so, or take it from --proxy-protocol or --turn-proxy-protocol")
	errStranger = errors.New("PROXY header from an address that is neither in --proxy-protocol nor, for TURN, in --turn-proxy-protocol")
	errNotTCP   = errors.New("PROXY header without the address of a TCP client")
)

// isSource says whether connections from an address begin with a PROXY header.
func isSource(sources []netip.Prefix, addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	from := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(sources, func(p netip.Prefix) bool { return p.Contains(from) })
}

// noteHeader warns of a proxy that was to name the client and did not.
func (e *Edge) noteHeader(proxy net.Conn, err error) {
	if errors.Is(err, errNoHeader) {
		e.unnamed.Do(func() {
			e.Log.Warn(err.Error(), "proxy", proxy.RemoteAddr().String(), "code", "no_proxy_header")
		})
	}
}

// readHeader takes the client's address from the PROXY header that a proxy sends first.
func (c *Conn) readHeader() error {
	header, err := c.header()
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return errNoHeader
	case err != nil:
		return fmt.Errorf("reading the PROXY header: %w", err)
	case header.Command.IsLocal():
		return nil // The proxy asks for itself, as for its health checks.
	}
	client, _, ok := header.TCPAddrs()
	if !ok {
		return errNotTCP
	}
	c.client, c.secure = client, isSecure(header)
	return nil
}

// refuseHeader fails when a PROXY header comes next.
func (c *Conn) refuseHeader() error {
	_, err := c.header()
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return nil
	case err == nil || !isEnd(err):
		return errStranger
	}
	return err
}

// isEnd says whether err is of the connection, and not of what came.
func isEnd(err error) bool {
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// header reads a PROXY header. The error is proxyproto.ErrNoProxyProtocol, and nothing is read, when something else comes.
func (c *Conn) header() (*proxyproto.Header, error) {
	if _, err := c.peek(); err != nil {
		return nil, err // The reader would take the end for the lack of a header.
	}
	if err := c.awaitLine(); err != nil {
		return nil, err
	}
	return proxyproto.Read(c.ahead)
}

// awaitLine returns when a header of version 1 is there as a whole, if one is to come: the reader takes none that comes in
// pieces.
func (c *Conn) awaitLine() error {
	for n := 1; n <= maxHeaderLine; n++ {
		begin, err := c.ahead.Peek(n)
		if err != nil {
			return err
		}
		signature := min(n, len(proxyproto.SIGV1))
		if !bytes.Equal(begin[:signature], proxyproto.SIGV1[:signature]) || begin[n-1] == '\n' {
			return nil
		}
	}
	return nil
}

// isSecure says whether the client has spoken TLS with the proxy, which versions 2 can tell.
func isSecure(header *proxyproto.Header) bool {
	fields, err := header.TLVs()
	if err != nil {
		return false
	}
	ssl, found := tlvparse.FindSSL(fields)
	return found && ssl.ClientSSL()
}

// Dial connects to HTTP of a node with these settings, as net.Dialer's DialContext: as a proxy that asks for itself, if it takes
// this machine for one.
func (c *Config) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	proxies, _ := sources(c.HTTPProxies)
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil || !isSource(proxies, conn.LocalAddr()) {
		return conn, err
	}
	header := proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}
	if _, err := header.WriteTo(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

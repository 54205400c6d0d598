package turntest

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/logging"

	"cline-meet/signal/packaging/systemtest"
)

// QuietLogs keeps clients from writing to the test's output.
func QuietLogs() logging.LoggerFactory {
	return &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
}

// DTLSHello returns the first packet of a real client.
func DTLSHello(t *testing.T) []byte {
	t.Helper()
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := dtls.ClientWithOptions(socket, server.LocalAddr(),
		dtls.WithInsecureSkipVerify(true), dtls.WithLoggerFactory(QuietLogs()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.HandshakeContext(ctx)
	}()
	_ = server.SetReadDeadline(time.Now().Add(systemtest.Patience))
	buffer := make([]byte, 2000)
	n, _, err := server.ReadFrom(buffer)
	cancel()
	<-done
	_ = client.Close()
	if err != nil {
		t.Fatal(err)
	}
	return buffer[:n]
}

// DialDTLS connects to a DTLS server.
func DialDTLS(address string) (net.Conn, error) {
	c, err := DialDTLSFrom(nil, address)
	if err != nil {
		return nil, err
	}
	return c.Conn, nil
}

// DTLSClient is a client whose socket is known.
type DTLSClient struct {
	*dtls.Conn
	Socket   *net.UDPConn
	Verifies atomic.Int64 // Verifies counts the HelloVerifyRequests that came.

	// Guarded by mu.
	mu   sync.Mutex
	sent [][]byte
}

// Sent returns the datagram that the client sent so many before its last one, if there is one.
func (c *DTLSClient) Sent(before int) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := len(c.sent) - 1 - before
	if at < 0 {
		return nil
	}
	return c.sent[at : at+1]
}

// Crash ends the client without a word to the server.
func (c *DTLSClient) Crash() {
	_ = c.Socket.Close()
	_ = c.Close()
}

// DialDTLSFrom connects to a DTLS server from an address of this machine, any if it is nil.
func DialDTLSFrom(from *net.UDPAddr, address string) (*DTLSClient, error) {
	remote, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	// A connected socket takes replies from the address that was asked alone.
	socket, err := net.DialUDP("udp", from, remote)
	if err != nil {
		return nil, err
	}
	c := &DTLSClient{Socket: socket}
	c.Conn, err = dtls.ClientWithOptions(connectedPacketConn{socket, c}, remote,
		dtls.WithInsecureSkipVerify(true), dtls.WithServerName("localhost"), dtls.WithLoggerFactory(QuietLogs()))
	if err != nil {
		_ = socket.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemtest.Patience)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		c.Crash()
		return nil, err
	}
	return c, nil
}

// connectedPacketConn lets a connected socket be written to with an address.
type connectedPacketConn struct {
	*net.UDPConn
	client *DTLSClient
}

func (c connectedPacketConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.UDPConn.ReadFrom(p)
	if n > 13 && p[0] == 22 && p[13] == 3 { // A handshake record with a HelloVerifyRequest (RFC 6347, section 4.2.1).
		c.client.Verifies.Add(1)
	}
	return n, from, err
}

func (c connectedPacketConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	c.client.mu.Lock()
	c.client.sent = append(c.client.sent, bytes.Clone(p))
	c.client.mu.Unlock()
	return c.Write(p)
}

package certificate

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; it decides only how a failure ends.
const patience = systemtest.Patience

// echo is a TLS server that sends back what it gets until the test ends.
func echo(t *testing.T, cfg *tls.Config) (addr string) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		conns.Wait()
	})
	return listener.Addr().String()
}

// dial connects and returns the connection with the name in the server's certificate.
func dial(t *testing.T, addr string) (conn *tls.Conn, name string) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestCertificateIsReplacedUnderConnections(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := systemtest.WriteCertificate(t, dir, systemtest.Certificate(t, "old"))
	files, err := Load(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	hangup, watched := make(chan os.Signal), make(chan struct{})
	go func() {
		defer close(watched)
		files.Watch(ctx, hangup)
	}()
	defer func() { cancel(); <-watched }()

	addr := echo(t, files.TLSConfig())
	old, name := dial(t, addr)
	if name != "old" {
		t.Errorf("certificate %q", name)
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	hangup <- syscall.SIGHUP
	hangup <- syscall.SIGHUP // It is taken when the first one is done with.
	if _, name := dial(t, addr); name != "old" {
		t.Errorf("without its key the certificate became %q", name)
	}
	systemtest.WriteCertificate(t, dir, systemtest.Certificate(t, "new"))
	hangup <- syscall.SIGHUP
	hangup <- syscall.SIGHUP
	if _, name := dial(t, addr); name != "new" {
		t.Errorf("the certificate that replaced it is %q", name)
	}
	if _, err := old.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	_ = old.SetReadDeadline(time.Now().Add(patience))
	answer := make([]byte, len("still here"))
	if _, err := io.ReadFull(old, answer); err != nil || string(answer) != "still here" {
		t.Errorf("the old connection says %q, %v", answer, err)
	}
}

func TestErrorsNameTheFlags(t *testing.T) {
	_, err := Load("/does/not/exist", "/neither", slog.Default())
	if err == nil || !strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("got %v", err)
	}
}

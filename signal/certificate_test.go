package signal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// writeCertificate makes a self-signed certificate for 127.0.0.1.
func writeCertificate(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		keyFile: {Type: "PRIVATE KEY", Bytes: der}, certFile: {Type: "CERTIFICATE", Bytes: cert},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificateIsReplacedUnderConnections(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, certFile, keyFile, "old")
	cert, err := LoadCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	hangup, watched := make(chan os.Signal), make(chan struct{})
	go func() {
		defer close(watched)
		cert.Watch(ctx, hangup)
	}()
	defer func() { cancel(); <-watched }()

	s := start(t, func(c *Config) { c.TLS = cert.TLSConfig() })
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // self-signed
	dial := func() (*websocket.Conn, *http.Response, string) {
		ws, res, err := dialer.Dial("wss://"+s.Addr().String()+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ws.Close() })
		return ws, res, ws.NetConn().(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	ws, res, name := dial()
	if name != "old" {
		t.Errorf("certificate %q", name)
	}
	if c := res.Cookies(); len(c) != 1 || c[0].Name != "__Host-signal_session" || !c[0].Secure {
		t.Errorf("cookies over TLS: %v", c)
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	hangup <- syscall.SIGHUP
	if _, _, name := dial(); name != "old" {
		t.Errorf("without its key the certificate became %q", name)
	}
	writeCertificate(t, certFile, keyFile, "new")
	hangup <- syscall.SIGHUP
	eventually(t, "the new certificate is served", func() bool {
		_, _, name := dial()
		return name == "new"
	})
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"leave_room"}`)); err != nil {
		t.Fatal(err)
	}
	for {
		_, frame, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("the old connection ended: %v", err)
		}
		if strings.Contains(string(frame), "409") {
			return
		}
	}
}

func TestCertificateErrorsNameTheFlags(t *testing.T) {
	_, err := LoadCertificate("/does/not/exist", "/neither", slog.Default())
	if err == nil || !strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("got %v", err)
	}
	c := DefaultConfig()
	c.TLSCert = "cert.pem"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--tls-key") {
		t.Errorf("a certificate without a key: %v", err)
	}
}

package turnsrv

import (
	"crypto/tls"
	"encoding/pem"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/pion/turn/v3"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
)

// TestMain makes this process, and no other, trust the certificate of testTLS:
// pion/webrtc verifies TURN servers by the system's roots, which Go reads once.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "turnsrv")
	if err != nil {
		panic(err)
	}
	testCertificate = makeCertificate(dir)
	if err := os.Setenv("SSL_CERT_FILE", filepath.Join(dir, "cert.pem")); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		_ = os.RemoveAll(dir)
		os.Exit(status)
	}))
}

var testCertificate tls.Certificate

// makeCertificate makes a self-signed certificate of this machine's loopback
// addresses, and leaves it in dir as cert.pem.
func makeCertificate(dir string) tls.Certificate {
	cert, err := systemtest.SelfSigned("localhost", "127.0.0.1", "::1")
	if err == nil {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
		err = os.WriteFile(filepath.Join(dir, "cert.pem"), text, 0o600)
	}
	if err != nil {
		panic(err)
	}
	return cert
}

// testTLS is a server's config with a certificate that clients in this process
// trust.
func testTLS(*testing.T) *tls.Config {
	return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &testCertificate, nil }}
}

// dataPath lets every test run the other way, too.
var dataPath = flag.Bool("data-path", true, "relay by data loops where the system can")

const testSecret = "open sesame open sesame"

// testConfig is a node on free ports of this machine.
func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Port, cfg.TLSPort = 0, 0
	cfg.Secrets = []string{testSecret}
	cfg.DataPath = *dataPath
	return cfg
}

func startServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func serverAddress(s *Server) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port()))
}

// newClient returns a TURN client over network, "udp" or "tcp".
func newClient(t *testing.T, s *Server, network, username, credential string) *turn.Client {
	t.Helper()
	var conn net.PacketConn
	if network == "tcp" {
		stream, err := net.Dial("tcp4", serverAddress(s))
		if err != nil {
			t.Fatalf("dialing: %v", err)
		}
		conn = turn.NewSTUNConn(stream)
	} else {
		var err error
		if conn, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatalf("listening: %v", err)
		}
	}
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: serverAddress(s), TURNServerAddr: serverAddress(s),
		Conn: conn, Username: username, Password: credential, Realm: "signal", LoggerFactory: turntest.QuietLogs(),
	})
	if err != nil {
		t.Fatalf("turn.NewClient: %v", err)
	}
	t.Cleanup(func() {
		client.Close()
		_ = conn.Close()
	})
	if err := client.Listen(); err != nil {
		t.Fatalf("client.Listen: %v", err)
	}
	return client
}

package service_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/packaging/systemtest"
)

// TestCertificateOfEachService gives TURN a certificate alone, and then HTTPS one of its own, and replaces them.
func TestCertificateOfEachService(t *testing.T) {
	turnDir, webDir := t.TempDir(), t.TempDir()
	turnCert, turnKey := systemtest.WriteCertificate(t, turnDir, systemtest.Certificate(t, "turn", "127.0.0.1"))
	alone := systemtest.StartNode(t, "--turn-tls-cert", turnCert, "--turn-tls-key", turnKey)
	if got := presented(t, relayOverTLS(t, alone)); got != "turn" {
		t.Errorf("TURN has the certificate of %q", got)
	}
	webCert, webKey := systemtest.WriteCertificate(t, webDir, systemtest.Certificate(t, "web", "127.0.0.1"))
	both := systemtest.StartNode(t, "--turn-tls-cert", turnCert, "--turn-tls-key", turnKey, "--tls-cert", webCert, "--tls-key", webKey)
	relay := relayOverTLS(t, both)
	if turn, web := presented(t, relay), presented(t, both.HTTP); turn != "turn" || web != "web" {
		t.Errorf("TURN has the certificate of %q, HTTPS of %q", turn, web)
	}
	systemtest.WriteCertificate(t, turnDir, systemtest.Certificate(t, "next-turn", "127.0.0.1"))
	systemtest.WriteCertificate(t, webDir, systemtest.Certificate(t, "next-web", "127.0.0.1"))
	both.Hangup()
	for addr, want := range map[string]string{relay: "next-turn", both.HTTP: "next-web"} {
		systemtest.Eventually(t, want+" is in use", func() bool { return presented(t, addr) == want })
	}
	systemtest.WriteCertificate(t, turnDir, systemtest.Certificate(t, "elsewhere"))
	both.Hangup()
	systemtest.Eventually(t, "TURN over TLS is not advertised", func() bool { return relayOverTLS(t, both) == "" })
}

// TestPagesWebSocketsAndTURNHaveTheirOwn gives each name of one port a certificate, which is all that a client of that name trusts.
func TestPagesWebSocketsAndTURNHaveTheirOwn(t *testing.T) {
	const page, ws, turn = "app.example.org", "ws.example.org", "turn.example.org"
	trust, certs, keys := map[string]*x509.CertPool{}, map[string]string{}, map[string]string{}
	for _, name := range []string{page, ws, turn} {
		cert := systemtest.Certificate(t, name)
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		trust[name] = x509.NewCertPool()
		trust[name].AddCert(leaf)
		certs[name], keys[name] = systemtest.WriteCertificate(t, t.TempDir(), cert)
	}
	node := systemtest.StartNode(t, "--one-port", "0", "--allowed-origins", "https://"+page, "--turn-tls-cert", certs[turn], "--turn-tls-key", keys[turn],
		"--tls-cert", certs[page]+","+certs[ws], "--tls-key", keys[page]+","+keys[ws])
	at := func(name string) *tls.Config { return &tls.Config{RootCAs: trust[name], ServerName: name} }

	browser := http.Client{Transport: &http.Transport{TLSClientConfig: at(page), DisableKeepAlives: true}}
	response, err := browser.Get(node.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	dialer := websocket.Dialer{TLSClientConfig: at(ws)}
	conn, _, err := dialer.DialContext(t.Context(), strings.Replace(node.URL, "http", "ws", 1)+"ws", http.Header{"Origin": {"https://" + page}})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	relay, err := tls.Dial("tcp", node.HTTP, at(turn))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = relay.Close() }()
	_ = relay.SetDeadline(time.Now().Add(systemtest.Patience))
	_, _ = io.WriteString(relay, "\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl")
	answer := make([]byte, 2)
	if _, err := io.ReadFull(relay, answer); err != nil || string(answer) != "\x01\x01" {
		t.Errorf("TURN answers %q, %v", answer, err)
	}
}

// relayOverTLS returns the address of TURN over TLS that a node tells to who comes by 127.0.0.1, empty for none.
func relayOverTLS(t *testing.T, node *systemtest.Node) string {
	t.Helper()
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // self-signed
	ws, _, err := dialer.DialContext(t.Context(), strings.Replace(node.URL, "http", "ws", 1)+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	var hello struct {
		Data struct{ ICEServers []struct{ URLs []string } }
	}
	if err := ws.ReadJSON(&hello); err != nil {
		t.Fatal(err)
	}
	for _, server := range hello.Data.ICEServers {
		for _, text := range server.URLs {
			if u, err := url.Parse(text); err == nil && u.Scheme == "turns" {
				addr, _, _ := strings.Cut(u.Opaque, "?")
				return addr
			}
		}
	}
	return ""
}

// presented returns the first name in the certificate of a server.
func presented(t *testing.T, addr string) string {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: systemtest.Patience}, "tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // self-signed
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

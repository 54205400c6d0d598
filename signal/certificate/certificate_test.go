package certificate

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, redistest.Dialing()) }

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
	all, err := loadAll("tls", []string{certFile}, []string{keyFile}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	hangup, watched := make(chan os.Signal), make(chan struct{})
	go func() {
		defer close(watched)
		(*all)[0].watch(ctx, hangup)
	}()
	defer func() { cancel(); <-watched }()

	addr := echo(t, (&Set{https: all, turns: newTurns()}).HTTPS())
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

// TestReloadSaysWhatIsWrong replaces a certificate by one that has ended.
func TestReloadSaysWhatIsWrong(t *testing.T) {
	dir, log, now := t.TempDir(), new(systemtest.Log), time.Now()
	certFile, keyFile := systemtest.WriteCertificate(t, dir, systemtest.Certificate(t, "example.org"))
	f, err := load("tls", certFile, keyFile, slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	hangup, watched := make(chan os.Signal), make(chan struct{})
	go func() {
		defer close(watched)
		f.watch(ctx, hangup)
	}()
	defer func() { cancel(); <-watched }()
	systemtest.WriteCertificate(t, dir, systemtest.CertificateBetween(t, now.AddDate(0, -2, 0), now.AddDate(0, -1, 0), "example.org"))
	hangup <- syscall.SIGHUP
	hangup <- syscall.SIGHUP // It is taken when the first one is done with.
	if !strings.Contains(log.String(), `"code":"certificate_expired"`) {
		t.Errorf("the log says\n%s", log)
	}
}

func TestErrorsNameTheFlags(t *testing.T) {
	for flag, c := range map[string]Config{
		"--tls-cert":      {Certs: []string{"/does/not/exist"}, Keys: []string{"/neither"}},
		"--turn-tls-cert": {TURNCerts: []string{"/does/not/exist"}, TURNKeys: []string{"/neither"}},
		"--tls-key":       {Certs: []string{"cert.pem"}},
		"--turn-tls-key":  {TURNKeys: []string{"key.pem"}},
		"3, and 1 in":     {Certs: []string{"a.pem", "b.pem", "c.pem"}, Keys: []string{"key.pem"}},
	} {
		err := c.Validate(false)
		if err == nil {
			_, err = Load(c, slog.New(slog.DiscardHandler))
		}
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: got %v", flag, err)
		}
	}
}

// TestCertificatesByService gives the services certificates of their own, one for both, and one to TURN alone.
func TestCertificatesByService(t *testing.T) {
	web, turn := Config{}, Config{}
	web.Certs, web.Keys = written(t, "web.example.org")
	turn.TURNCerts, turn.TURNKeys = written(t, "*.turn.example.org", "192.0.2.1")
	both := web
	both.TURNCerts, both.TURNKeys = turn.TURNCerts, turn.TURNKeys
	several := web
	sameCerts, sameKeys := written(t, "web.example.org")
	several.Certs, several.Keys = slices.Concat(web.Certs, turn.TURNCerts, sameCerts), slices.Concat(web.Keys, turn.TURNKeys, sameKeys)
	for _, test := range []struct {
		name              string
		config            Config
		https, turn       string // names of the certificates, empty for none
		covered, refused  string
		metrics, warnings []string
	}{
		{"none", Config{}, "", "", "", "web.example.org", nil, nil},
		{"shared", web, "web.example.org", "web.example.org", "web.example.org", "a.turn.example.org", []string{"https,turn"}, []string{"certificate_for_other_name"}},
		{"TURN alone", turn, "", "*.turn.example.org", "192.0.2.1", "192.0.2.2", []string{"turn"}, nil},
		{"several", several, "web.example.org", "web.example.org", "a.turn.example.org", "other.example.org", []string{"https,turn", "https,turn"}, nil},
		{"each", both, "web.example.org", "*.turn.example.org", "a.turn.example.org", "web.example.org", []string{"https", "turn"}, nil},
	} {
		set, err := Load(test.config, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := nameIn(set.HTTPS()); got != test.https || test.config.HTTPS() != (got != "") {
			t.Errorf("%s: HTTPS with %q", test.name, got)
		}
		if got := nameIn(set.TURN()); got != test.turn || test.config.TURN() != (got != "") {
			t.Errorf("%s: TURN with %q", test.name, got)
		}
		if test.covered != "" && !set.Covers(test.covered) || set.Covers(test.refused) {
			t.Errorf("%s: covers %s %v, %s %v", test.name, test.covered, set.Covers(test.covered), test.refused, set.Covers(test.refused))
		}
		var codes []string
		for _, note := range append(set.Notes(time.Now()), set.TURNNotes("a.turn.example.org")...) {
			codes = append(codes, note.Code)
		}
		if got := served(t, set); !slices.Equal(got, test.metrics) || !slices.Equal(codes, test.warnings) {
			t.Errorf("%s: metrics %v, notes %v", test.name, got, codes)
		}
	}
}

// written writes a certificate and its key.
func written(t *testing.T, hosts ...string) (certs, keys []string) {
	t.Helper()
	cert, key := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, hosts...))
	return []string{cert}, []string{key}
}

// TestCertificateIsChosenByName asks for names, over TLS and as DTLS does.
func TestCertificateIsChosenByName(t *testing.T) {
	var c Config
	for _, hosts := range [][]string{{"app.example.org", "192.0.2.1"}, {"ws.example.org"}, {"*.turn.example.org"}} {
		cert, key := written(t, hosts...)
		c.Certs, c.Keys = append(c.Certs, cert...), append(c.Keys, key...)
	}
	set, err := Load(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	addr := echo(t, set.HTTPS())
	for name, want := range map[string]string{
		"": "app.example.org", "app.example.org": "app.example.org", "ws.example.org": "ws.example.org", "WS.example.org": "ws.example.org",
		"eu.turn.example.org": "*.turn.example.org", "turn.example.org": "app.example.org", "other.example.org": "app.example.org",
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: version}) //nolint:gosec // self-signed
			if err != nil {
				t.Fatal(err)
			}
			if got := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; got != want {
				t.Errorf("%q gets %q, want %q", name, got, want)
			}
			_ = conn.Close()
		}
	}
}

// nameIn returns the first name in the certificate of a config, if there is one.
func nameIn(cfg *tls.Config) string {
	if cfg == nil {
		return ""
	}
	cert, err := cfg.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		return err.Error()
	}
	return cert.Leaf.DNSNames[0]
}

// served returns what the metrics say that certificates serve which have begun and have not ended.
func served(t *testing.T, set *Set) (labels []string) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(set)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	begun := map[string]bool{}
	for _, family := range slices.Backward(families) { // They are by name: the start is behind the expiry.
		for _, m := range family.GetMetric() {
			at, serves := time.Unix(int64(m.GetGauge().GetValue()), 0), m.GetLabel()[1].GetValue()
			switch starts := strings.Contains(family.GetName(), "_start_"); {
			case starts != at.Before(time.Now()):
				t.Errorf("%s of %v is %v", family.GetName(), m.GetLabel(), at)
			case starts:
				begun[serves] = true
			case !begun[serves]:
				t.Errorf("nothing says when %v began", m.GetLabel())
			default:
				labels = append(labels, serves)
			}
		}
	}
	slices.Sort(labels)
	return labels
}

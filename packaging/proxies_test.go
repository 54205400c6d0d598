package packaging_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
)

// client is the address of somebody who is no proxy, and forged is what it would like to be taken for.
const clientAddress, forged = "127.0.0.7", "203.0.113.99"

// dialer connects as the client.
func dialer() *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddress)}, Timeout: systemtest.Patience}
}

// fronted is a node with a proxy in front.
type fronted struct {
	proxyTest
	node            *systemtest.Node
	https, turnPort string // where the proxy and the node's TURN over TLS are
}

// proxyTest is a proxy of Debian with its file of the guide.
type proxyTest struct {
	program, file string
	flags         []string // those of the node
	run           func(file string) []string
	path, turn    string // path is that of signal, and turn the name of TURN at the proxy's port, empty if that is not there.
}

var proxyTests = map[string]proxyTest{
	"nginx": {"nginx", "nginx.conf", []string{"--trusted-proxies", "127.0.0.1", "--turn-proxy-protocol", "127.0.0.1"},
		func(file string) []string { return []string{"-c", file, "-g", "daemon off;"} }, "/signal/", "turn.example.org"},
	"HAProxy": {"haproxy", "haproxy.cfg", []string{"--proxy-protocol", "127.0.0.1", "--turn-proxy-protocol", "127.0.0.1"},
		func(file string) []string { return []string{"-db", "-f", file} }, "/signal/", "turn.example.org"},
	"HAProxy with the certificate": {"haproxy", "haproxy-one-port.cfg", []string{"--one-port", "8443", "--proxy-protocol", "127.0.0.1", "--turn-tls-url", "turns:example.org:443?transport=tcp"},
		func(file string) []string { return []string{"-db", "-f", file} }, "/", "example.org"},
	"Caddy": {"caddy", "Caddyfile", []string{"--trusted-proxies", "127.0.0.1"},
		func(file string) []string { return []string{"run", "--adapter", "caddyfile", "--config", file} }, "/signal/", ""},
}

// front starts a node and a proxy with the guide's file, in which only addresses and files are others.
func front(t *testing.T, p proxyTest) fronted {
	t.Helper()
	systemtest.Need(t, p.program)
	if module := "/usr/lib/nginx/modules/ngx_stream_module.so"; p.program == "nginx" {
		if _, err := os.Stat(module); err != nil {
			systemtest.Unable(t, err.Error()+": run make dev-setup")
		}
	}
	dir := t.TempDir()
	own, site := systemtest.Certificate(t, "turn.example.org"), systemtest.Certificate(t, "example.org")
	siteDir := filepath.Join(dir, "site")
	if err := os.MkdirAll(siteDir, 0o755); err != nil {
		t.Fatal(err)
	}
	siteCert, siteKey := systemtest.WriteCertificate(t, siteDir, site)
	cert, key := systemtest.WriteCertificate(t, dir, own)
	turn := strconv.Itoa(systemtest.FreePort(t))
	f := fronted{proxyTest: p, https: "127.0.0.1:" + strconv.Itoa(systemtest.FreePort(t)), turnPort: turn}
	internal := "127.0.0.1:" + strconv.Itoa(systemtest.FreePort(t))
	flags := []string{"--log-level", "debug", "--drain-timeout", "1"}
	if slices.Contains(p.flags, "--one-port") {
		flags = append(flags, "--one-port", "0")
	} else {
		flags = append(flags, "--turn-tls-cert", cert, "--turn-tls-key", key, "--turn-tls-port", turn)
	}
	f.node = systemtest.StartNode(t, append(slices.Clone(p.flags), flags...)...)
	if slices.Contains(p.flags, "--one-port") {
		internal, f.turnPort = f.node.HTTP, strconv.Itoa(f.node.Turn)
	}
	text, err := os.ReadFile(filepath.Join("proxies", p.file))
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(dir, "bundle.pem") // HAProxy wants both in one file.
	if p.program == "haproxy" {
		all := must(t, nil, "cat", siteCert, siteKey)
		if err := os.WriteFile(bundle, []byte(all+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		siteCert = bundle
	}
	config := strings.NewReplacer("listen 443", "listen "+f.https, "bind :443", "bind "+f.https, "127.0.0.1:8443", internal,
		"127.0.0.1:5349", "127.0.0.1:"+turn, "127.0.0.1:8080", f.node.HTTP, "/run/nginx.pid", filepath.Join(dir, "pid"),
		"/etc/ssl/example.org.pem", siteCert, "/etc/ssl/example.org.key", siteKey,
		"example.org {", "{\n\tadmin off\n\tauto_https off\n}\nhttps://example.org:"+f.https[strings.Index(f.https, ":")+1:]+" {\n\ttls "+siteCert+" "+siteKey,
	).Replace(string(text))
	file := filepath.Join(dir, p.file)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	f.start(t, p.program, p.run(file))
	return f
}

// start runs a proxy until the test ends.
func (f fronted) start(t *testing.T, program string, args []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("%s says:\n%s", program, &out)
		}
	})
	systemtest.Until(t, program+" listens", func() error {
		conn, err := net.Dial("tcp", f.https)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// webSocket opens one under the path as a page of the site does, and returns who the node takes the client for.
func (f fronted) webSocket(t *testing.T, header http.Header) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(f.https)
	d := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "example.org"}, //nolint:gosec // self-signed
		NetDialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer().DialContext(ctx, network, f.https)
		}}
	header.Set("Origin", "https://example.org:"+port)
	before := len(f.node.Log.String())
	ws, res, err := d.Dial("wss://example.org:"+port+f.path+"ws", header)
	if err != nil {
		t.Fatalf("%v (%v)", err, res)
	}
	defer func() { _ = ws.Close() }()
	_ = ws.SetReadDeadline(time.Now().Add(systemtest.Patience))
	var greeting struct{ Type string }
	if err := ws.ReadJSON(&greeting); err != nil || greeting.Type != "stun_config" {
		t.Fatalf("greeted with %+v, %v", greeting, err)
	}
	return f.connected(t, before)
}

var connectedLine = regexp.MustCompile(`"msg":"connected","client":"([^"]+)"`)

// connected returns the client of the next WebSocket that the node logs.
func (f fronted) connected(t *testing.T, after int) (client string) {
	t.Helper()
	systemtest.Eventually(t, "the node logs the client", func() bool {
		match := connectedLine.FindStringSubmatch(f.node.Log.String()[after:])
		if match != nil {
			client = match[1]
		}
		return match != nil
	})
	return client
}

// mapped asks TURN over TLS for the own address, over a connection that ends with the test.
func (f fronted) mapped(t *testing.T, raw net.Conn) (string, error) {
	t.Helper()
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(systemtest.Patience))
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: f.turn}) //nolint:gosec // self-signed
	if err := conn.Handshake(); err != nil {
		return "", err
	}
	if name := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; name != f.turn {
		return "", fmt.Errorf("the certificate is that of %s", name)
	}
	if _, err := conn.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); err != nil {
		return "", err
	}
	answer := new(stun.Message)
	answer.Raw = make([]byte, 0, 1500)
	var address stun.XORMappedAddress
	if _, err := answer.ReadFrom(conn); err != nil {
		return "", err
	}
	err := address.GetFrom(answer)
	return address.String(), err
}

// TestProxiesOfDebian has the files of the guide in front of a node: a WebSocket under a path, TURN over TLS by its name, and
// the client's address, which the client cannot choose.
func TestProxiesOfDebian(t *testing.T) {
	for name, p := range proxyTests {
		t.Run(name, func(t *testing.T) {
			f := front(t, p)
			for said, header := range map[string]http.Header{
				"nothing":    {},
				"an address": {"X-Forwarded-For": {forged}, "Forwarded": {"for=" + forged}, "X-Real-Ip": {forged}},
			} {
				if got := f.webSocket(t, header); got != clientAddress {
					t.Errorf("who says %s is taken for %s", said, got)
				}
			}
			f.straight(t)
			if p.turn == "" {
				return
			}
			raw, err := dialer().Dial("tcp", f.https)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := f.mapped(t, raw); err != nil || got != raw.LocalAddr().String() {
				t.Errorf("TURN takes %v for %s, %v", raw.LocalAddr(), got, err)
			}
			raw, err = dialer().Dial("tcp", f.https)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(raw, "PROXY TCP4 "+forged+" 127.0.0.1 1 443\r\n")
			if got, err := f.mapped(t, raw); err == nil {
				t.Errorf("who sends a header to the proxy is served, as %s", got)
			}
		})
	}
}

// straight goes past the proxy, to the node itself, with all that a proxy says.
func (f fronted) straight(t *testing.T) {
	t.Helper()
	d := websocket.Dialer{NetDialContext: dialer().DialContext}
	before := len(f.node.Log.String())
	ws, _, err := d.Dial("ws://"+f.node.HTTP+"/ws", http.Header{"X-Forwarded-For": {forged}, "Forwarded": {"for=" + forged}})
	if err != nil {
		t.Fatal(err)
	}
	_ = ws.Close()
	if got := f.connected(t, before); got != clientAddress {
		t.Errorf("past the proxy the client is %s", got)
	}
	for _, to := range []string{f.node.HTTP, "127.0.0.1:" + f.turnPort} {
		raw, err := dialer().Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.SetDeadline(time.Now().Add(systemtest.Patience))
		_, _ = io.WriteString(raw, "PROXY TCP4 "+forged+" 127.0.0.1 1 443\r\n"+healthRequest)
		answer, _ := io.ReadAll(raw)
		_ = raw.Close()
		if bytes.Contains(answer, []byte(" 200 ")) {
			t.Errorf("a header of a stranger is let in at %s: %s", to, answer)
		}
	}
}

var (
	quotations  = regexp.MustCompile("(?s)```(nginx|haproxy|caddy)\n(.*?)```")
	nodeOptions = regexp.MustCompile(`(?m)^\| \[([^]]+)\].*\| ` + "`(--[^`]+)` \\|$")
)

// TestProxyGuideQuotes holds the guide against the files that are tried, and the settings of the node against the test's.
func TestProxyGuideQuotes(t *testing.T) {
	guide, err := os.ReadFile("proxies/README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("proxies/*")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = unindented(string(text))
	}
	delete(all, "README.md")
	found := quotations.FindAllStringSubmatch(string(guide), -1)
	for _, q := range found {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(name string) bool {
			return strings.Contains(strings.ToLower(name), q[1][:5]) && strings.Contains(all[name], unindented(q[2]))
		}) {
			t.Errorf("no file of %s has\n%s", q[1], q[2])
		}
	}
	told := map[string]string{}
	for _, row := range nodeOptions.FindAllStringSubmatch(string(guide), -1) {
		told[row[1]] = row[2]
	}
	for _, p := range proxyTests {
		if !strings.HasSuffix(told[p.file], strings.Join(p.flags, " ")) {
			t.Errorf("with %s the guide has %q, and the test %q", p.file, told[p.file], p.flags)
		}
	}
	if len(found) == 0 || len(told) != len(all) {
		t.Errorf("%d quotations, settings for %v, and the files %v", len(found), told, files)
	}
}

// unindented has every line without the space around it.
func unindented(text string) string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}

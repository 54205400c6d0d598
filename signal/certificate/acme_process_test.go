package certificate_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/redis/go-redis/v9"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/packaging/systemtest/acmetest"
	"cline-meet/signal/state/redistest"
)

// name is what the nodes of these tests are called.
const name = "signal.example.test"

// ports are those of a node that the authority comes to.
type ports struct{ http, https int }

func freePorts(t *testing.T) ports { return ports{systemtest.FreePort(t), systemtest.FreePort(t)} }

// flags are those of a node that asks an authority.
func (p ports) flags(ca *acmetest.Server, more ...string) []string {
	return append([]string{"--domain", name, "--acme-directory", ca.Directory, "--acme-ca", ca.CA,
		"--server-port", strconv.Itoa(p.https), "--http-port", strconv.Itoa(p.http)}, more...)
}

// TestNameIsProved gets a certificate in every way that there is, and keeps it over a restart.
func TestNameIsProved(t *testing.T) {
	const kid, hmac = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	at := freePorts(t)
	for way, o := range map[string]acmetest.Options{
		"HTTP-01":                 {HTTPPort: at.http, TLSPort: systemtest.FreePort(t)},
		"TLS-ALPN-01":             {HTTPPort: systemtest.FreePort(t), TLSPort: at.https},
		"DNS-01":                  {HTTPPort: systemtest.FreePort(t), TLSPort: systemtest.FreePort(t)},
		"EAB":                     {HTTPPort: at.http, TLSPort: at.https, EAB: [2]string{kid, hmac}},
		"one port":                {HTTPPort: systemtest.FreePort(t), TLSPort: at.https},
		"HTTP-01 over IPv6 alone": {HTTPPort: at.http, TLSPort: systemtest.FreePort(t), Names: "::1"},
	} {
		t.Run(way, func(t *testing.T) {
			ca := acmetest.New(t, o)
			ca.Start()
			flags, calls := at.flags(ca, "--acme-storage", t.TempDir()), ""
			switch way {
			case "DNS-01":
				var program string
				program, calls = ca.Hook()
				flags = append(flags, "--domain", name+",*.rooms.example.test", "--acme-dns-hook", program)
			case "HTTP-01 over IPv6 alone":
				flags = append(flags, "--one-port", strconv.Itoa(at.https), "--turn-listen", "127.0.0.1,::1")
			case "one port":
				flags = append(flags, "--one-port", strconv.Itoa(at.https))
			case "EAB":
				flags = append(flags, "--acme-eab", kid+":"+hmac, "--acme-email", "somebody@example.test")
			}
			node := systemtest.StartNode(t, flags...)
			first := trusted(t, node.HTTP, name, ca.Roots())
			if calls != "" {
				trusted(t, node.HTTP, "any.rooms.example.test", ca.Roots())
				checkCalls(t, calls)
			}
			checkServed(t, node, at, ca.Roots())
			orders := ca.Orders()
			if err := node.End(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ca.Stop()
			node.Start()
			if again := trusted(t, node.HTTP, name, pool(first)); again.SerialNumber.Cmp(first.SerialNumber) != 0 || ca.Orders() != orders {
				t.Errorf("after a restart: %d orders instead of %d", ca.Orders(), orders)
			}
		})
	}
}

// pool trusts one certificate alone.
func pool(cert *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(cert)
	return p
}

// trusted waits until a server has a certificate of a name that a browser accepts, and returns it.
func trusted(t *testing.T, addr, name string, roots *x509.CertPool) (leaf *x509.Certificate) {
	t.Helper()
	systemtest.Until(t, "a certificate of "+name, func() error {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: systemtest.Patience}, "tcp", addr, &tls.Config{ServerName: name, RootCAs: roots})
		if err != nil {
			return err
		}
		leaf = conn.ConnectionState().PeerCertificates[0]
		return conn.Close()
	})
	return leaf
}

// checkCalls looks at how the hook was called: what was set is removed.
func checkCalls(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]int{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) != 3 || !regexp.MustCompile(`^_acme-challenge\.(signal|rooms)\.example\.test$`).MatchString(words[1]) || len(words[2]) != 43 {
			t.Fatalf("the hook was called with %q", words)
		}
		set[words[1]+" "+words[2]] += map[string]int{"present": 1, "cleanup": -1}[words[0]]
	}
	if len(set) < 2 {
		t.Errorf("records %v", set)
	}
	for record, n := range set {
		if n != 0 {
			t.Errorf("%s was set %d times more than removed", record, n)
		}
	}
}

// checkServed looks at all that a node does with its certificate.
func checkServed(t *testing.T, node *systemtest.Node, at ports, roots *x509.CertPool) {
	t.Helper()
	turns := relayOverTLS(t, node, roots)
	if !strings.HasPrefix(turns, name+":") {
		t.Fatalf("TURN over TLS is at %q", turns)
	}
	trusted(t, strings.Replace(turns, name, "127.0.0.1", 1), name, roots)
	web := browser(node.HTTP, at.http, roots)
	defer web.CloseIdleConnections()
	answer, err := web.Get("http://" + name + "/?room=a")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if got := answer.Request.URL.String(); answer.StatusCode != http.StatusOK || got != fmt.Sprintf("https://%s:%d/?room=a", name, at.https) {
		t.Errorf("plain HTTP leads to %s: %s", got, answer.Status)
	}
	if ready := body(t, web, "https://"+name+"/ready"); !strings.Contains(ready, `"ready"`) || strings.Contains(ready, "certificate") {
		t.Errorf("/ready: %s", ready)
	}
	metric := regexp.MustCompile(`signal_certificate_expiry_timestamp_seconds{name="` + name + `",serves="https,turn"} (\S+)`)
	found := metric.FindStringSubmatch(body(t, http.DefaultClient, "http://"+node.Admin+"/metrics"))
	http.DefaultClient.CloseIdleConnections()
	if found == nil {
		t.Fatal("no metric of when the certificate ends")
	}
	if ends, err := strconv.ParseFloat(found[1], 64); err != nil || ends < float64(time.Now().Unix()) {
		t.Errorf("the certificate ends %s", found[1])
	}
}

// browser knows the name of the nodes, whose HTTPS is at an address and whose plain HTTP is on a port.
func browser(https string, plain int, roots *x509.CertPool) *http.Client {
	return &http.Client{Timeout: systemtest.Patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ":80") {
				return new(net.Dialer).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", plain))
			}
			return new(net.Dialer).DialContext(ctx, network, https)
		},
	}}
}

func body(t *testing.T, web *http.Client, url string) string {
	t.Helper()
	answer, err := web.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, _ := io.ReadAll(answer.Body)
	return string(text)
}

// relayOverTLS returns host and port of TURN over TLS as a node tells clients, empty for none. Without roots any
// certificate is accepted.
func relayOverTLS(t *testing.T, node *systemtest.Node, roots *x509.CertPool) string {
	t.Helper()
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{ServerName: name, RootCAs: roots, InsecureSkipVerify: roots == nil}} //nolint:gosec // There is none yet.
	ws, _, err := dialer.DialContext(t.Context(), "wss://"+node.HTTP+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	_, hello, err := ws.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if url := regexp.MustCompile(`turns:([^?"]+)`).FindSubmatch(hello); url != nil {
		return string(url[1])
	}
	return ""
}

// TestAuthorityIsAway starts a node before its authority, and takes that away when it is time to renew.
func TestAuthorityIsAway(t *testing.T) {
	at := freePorts(t)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: at.http, TLSPort: at.https, Lifetime: 30 * time.Second})
	node := systemtest.StartNode(t, at.flags(ca, "--acme-storage", t.TempDir())...)
	web := browser(node.HTTP, at.http, nil)
	web.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	if ready := body(t, web, "https://"+name+"/ready"); !strings.Contains(ready, `"ready"`) || !strings.Contains(ready, "certificate of "+name+": there is none yet") {
		t.Errorf("/ready without a certificate: %s", ready)
	}
	web.CloseIdleConnections()
	if turns := relayOverTLS(t, node, nil); turns != "" {
		t.Errorf("without a certificate TURN over TLS is at %s", turns)
	}
	logged(t, node, "there is no certificate: browsers cannot come")
	ca.Start()
	first := trusted(t, node.HTTP, name, ca.Roots())
	systemtest.Eventually(t, "it is renewed", func() bool {
		return trusted(t, node.HTTP, name, ca.Roots()).SerialNumber.Cmp(first.SerialNumber) != 0
	})
	ca.Stop()
	logged(t, node, "certificate not renewed, the old one stays in use")
	if served(t, node).Issuer.CommonName == "" || !node.Running() {
		t.Error("the old certificate is not served")
	}
	ca.Start()
	roots := ca.Roots() // It is another one, that knows neither the account nor the certificate.
	systemtest.Until(t, "it is renewed after SIGHUP", func() error {
		node.Hangup()
		chain := presented(t, node) // On a busy machine it may have ended before it is looked at.
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: name, Intermediates: intermediates(chain), CurrentTime: chain[0].NotBefore})
		return err
	})
}

// intermediates are those in the chain that a server sends.
func intermediates(chain []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range chain[1:] {
		pool.AddCert(cert)
	}
	return pool
}

func served(t *testing.T, node *systemtest.Node) *x509.Certificate { return presented(t, node)[0] }

// presented returns the chain that a server has, whoever signed it.
func presented(t *testing.T, node *systemtest.Node) []*x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", node.HTTP, &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec // It may have ended.
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates
}

func logged(t *testing.T, node *systemtest.Node, text string) {
	t.Helper()
	systemtest.Eventually(t, "it is logged: "+text, func() bool { return strings.Contains(node.Log.String(), text) })
}

// sharing are the flags of nodes with one Redis.
func sharing(server *redistest.Server) []string {
	return []string{"--redis-url", fmt.Sprintf("redis://127.0.0.1:%d/0", server.Port()), "--session-secret", "a secret of the sessions"}
}

// TestNodesAskOnce has two nodes with one Redis want a certificate at the same time.
func TestNodesAskOnce(t *testing.T) {
	server, at := redistest.Start(t), freePorts(t)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: at.http, TLSPort: at.https})
	nodes := []*systemtest.Node{systemtest.StartNode(t, at.flags(ca, sharing(server)...)...), systemtest.StartNode(t, freePorts(t).flags(ca, sharing(server)...)...)}
	for _, node := range nodes {
		logged(t, node, "there is no certificate: browsers cannot come")
	}
	ca.Start()
	for _, node := range nodes {
		node.Hangup()
	}
	cert := trusted(t, nodes[0].HTTP, name, ca.Roots())
	nodes = append(nodes, systemtest.StartNode(t, freePorts(t).flags(ca, sharing(server)...)...))
	for _, node := range nodes {
		if got := trusted(t, node.HTTP, name, ca.Roots()); got.SerialNumber.Cmp(cert.SerialNumber) != 0 {
			t.Error("each node has a certificate of its own")
		}
	}
	if orders := ca.Orders(); orders != 1 {
		t.Errorf("%d certificates were ordered", orders)
	}
	checkEncrypted(t, server, cert)
}

// TestNodesRenewOnce has it be time to renew for three nodes with one Redis at once.
func TestNodesRenewOnce(t *testing.T) {
	const lives, nodes = 30 * time.Second, 3
	server, at := redistest.Start(t), freePorts(t)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: at.http, TLSPort: at.https, Lifetime: lives})
	ca.Start()
	all := []*systemtest.Node{systemtest.StartNode(t, at.flags(ca, sharing(server)...)...)}
	for len(all) < nodes {
		all = append(all, systemtest.StartNode(t, freePorts(t).flags(ca, sharing(server)...)...))
	}
	first := trusted(t, all[0].HTTP, name, ca.Roots())
	for _, node := range all {
		systemtest.Eventually(t, "it has a newer one", func() bool {
			return trusted(t, node.HTTP, name, ca.Roots()).SerialNumber.Cmp(first.SerialNumber) != 0
		})
	}
	systemtest.Until(t, "all have the same", func() error {
		newest := trusted(t, all[0].HTTP, name, ca.Roots())
		for _, node := range all[1:] {
			if got := trusted(t, node.HTTP, name, ca.Roots()); got.SerialNumber.Cmp(newest.SerialNumber) != 0 {
				return fmt.Errorf("certificates %d and %d", newest.SerialNumber, got.SerialNumber)
			}
		}
		return nil
	})
	// The authority's window for a renewal is all of a certificate's life, so that one may be due at once: what counts is not how many
	// there are, but that none is replaced twice, or ordered beside those that there are.
	systemtest.Until(t, "each order but the first was for a certificate that no other order was for", func() error {
		if orders, replaced := ca.Orders(), ca.Replaced(); replaced == 0 || orders > 1+replaced {
			return fmt.Errorf("%d nodes made %d orders to replace %d certificates", nodes, orders, replaced)
		}
		return nil
	})
}

// TestNodeAnswersForAnother has the authority come to a node that has not asked.
func TestNodeAnswersForAnother(t *testing.T) {
	for _, way := range []string{"HTTP-01", "TLS-ALPN-01"} {
		t.Run(way, func(t *testing.T) {
			server, at := redistest.Start(t), freePorts(t)
			o := acmetest.Options{HTTPPort: at.http, TLSPort: systemtest.FreePort(t)}
			if way == "TLS-ALPN-01" {
				o = acmetest.Options{HTTPPort: systemtest.FreePort(t), TLSPort: at.https}
			}
			ca := acmetest.New(t, o)
			ca.Start()
			asking := systemtest.StartNode(t, freePorts(t).flags(ca, sharing(server)...)...)
			logged(t, asking, "there is no certificate: browsers cannot come")
			answering := systemtest.StartNode(t, at.flags(ca, sharing(server)...)...)
			asking.Hangup()
			for _, node := range []*systemtest.Node{asking, answering} {
				trusted(t, node.HTTP, name, ca.Roots())
			}
		})
	}
}

// checkEncrypted looks for a certificate, and for keys, in all that Redis holds.
func checkEncrypted(t *testing.T, server *redistest.Server, cert *x509.Certificate) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", server.Port())})
	defer func() { _ = client.Close() }()
	values, err := client.HGetAll(t.Context(), "sig:vault:certificates").Result()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for key, value := range values {
		files = append(files, filepath.Ext(key))
		for _, readable := range []string{"PRIVATE KEY", "CERTIFICATE", "PUBLIC", string(cert.Raw[:64]), name, "token", "{"} {
			if strings.Contains(value, readable) && (len(readable) > 1 || strings.HasPrefix(value, readable)) {
				t.Errorf("%s can be read: there is %q in it", key, readable)
			}
		}
	}
	for _, ext := range []string{".crt", ".key", ".json"} {
		if !slices.Contains(files, ext) {
			t.Errorf("Redis holds %v, but no %s", files, ext)
		}
	}
}

package check

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Addresses of the network in which deployments are: two machines of the internet, one that is not there, one of a LAN.
const (
	east    = "5.5.5.1"
	west    = "5.5.5.2"
	nowhere = "5.5.5.9"
	inside  = "10.5.5.1"
	user    = "5.5.5.3" // user is where the checks come from.
	east6   = "2a00:5::1"
	domain  = "signal.test"
	secret  = "north-by-northwest"
)

// layNetwork makes the addresses.
func layNetwork(t *testing.T) {
	t.Helper()
	systemtest.IP(t, "link set lo up", "")
	for _, addr := range []string{user, east, west, inside} {
		systemtest.IP(t, "addr add "+addr+"/32 dev lo", "")
	}
	for _, addr := range []string{east, west} {
		systemtest.IP(t, "route replace local "+addr+" dev lo table local src "+user, "")
	}
	systemtest.IP(t, "route add 5.5.5.0/24 dev lo", "")
	systemtest.Address(t, east6)
}

// node runs one of ours at an address.
func node(t *testing.T, addr string, flags ...string) *systemtest.Node {
	t.Helper()
	n := systemtest.StartNode(t, append([]string{"--server-host", addr, "--turn-listen", addr, "--turn-relay-ip", addr, "--drain-timeout", "1"}, flags...)...)
	if strings.HasPrefix(n.URL, "http:") { // A certificate of the test is none for it.
		n.Ready()
	}
	return n
}

// dual runs one of ours at both families of a machine.
func dual(t *testing.T, flags ...string) *systemtest.Node {
	t.Helper()
	return node(t, east, append([]string{"--server-host", "::", "--turn-listen", east + "," + east6, "--turn-relay-ip", east + "," + east6}, flags...)...)
}

// turnURL is that of a node's TURN server.
func turnURL(n *systemtest.Node, addr string) string { return turnAt(addr, n.Turn) }

func turnAt(addr string, port int) string { return fmt.Sprintf("turn:%s:%d", addr, port) }

// at is the URL of a node under a name.
func at(n *systemtest.Node, scheme, host string) string {
	return scheme + "://" + host + n.HTTP[strings.LastIndex(n.HTTP, ":"):]
}

// tlsFlags writes a certificate and trusts it.
func tlsFlags(t *testing.T, o *Options, cert tls.Certificate) []string {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	o.Roots = x509.NewCertPool()
	o.Roots.AddCert(leaf)
	certFile, keyFile := systemtest.WriteCertificate(t, t.TempDir(), cert)
	return []string{"--tls-cert", certFile, "--tls-key", keyFile}
}

// blocked drops what the arguments of iptables match until the test ends.
func blocked(t *testing.T, program string, match ...string) {
	t.Helper()
	systemtest.Need(t, program)
	change := func(what string) error {
		out, err := exec.Command(program, append([]string{"-w", what, "INPUT", "-j", "DROP"}, match...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", program, err, out)
		}
		return nil
	}
	if err := change("-A"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := change("-D"); err != nil {
			t.Error(err)
		}
	})
}

// program runs a server until the test ends, and waits until it answers at a port of an address.
func program(t *testing.T, answers func() error, name string, args ...string) {
	t.Helper()
	systemtest.Need(t, name)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s: %s", name, text[max(0, len(text)-2000):])
		}
	})
	systemtest.Until(t, name+" answers", answers)
}

// coturn runs Debian's at an address and returns its port.
func coturn(t *testing.T, addr string, args ...string) int {
	t.Helper()
	port := systemtest.FreePort(t)
	dir := t.TempDir()
	program(t, func() error { return answers(addr, port) }, "turnserver", append([]string{
		"-n", "--listening-ip=" + addr, "--relay-ip=" + addr, "--listening-port=" + strconv.Itoa(port), "--min-port=20000", "--max-port=20999",
		"--realm=coturn", "--relay-threads=1", "--no-cli", "--no-rfc5780", "--no-tcp-relay", "--log-file=stdout",
		"--pidfile=" + filepath.Join(dir, "pid"), "--userdb=" + filepath.Join(dir, "users")}, args...)...)
	return port
}

// shared are the arguments of a coturn with the secret, which is for the internet alone.
var shared = []string{"--use-auth-secret", "--static-auth-secret=" + secret, "--denied-peer-ip=169.254.0.0-169.254.255.255", "--no-tls", "--no-dtls"}

// nginx runs a proxy in front of a node, with more in the block of its location, and returns its URL.
func nginx(t *testing.T, upstream, more string) string {
	t.Helper()
	dir, port := t.TempDir(), systemtest.FreePort(t)
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; user root; pid %[1]s/pid; error_log stderr; events {}
http { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
server { listen %[2]s:%[3]d; location /app/ { proxy_pass http://%[4]s/; proxy_http_version 1.1; proxy_set_header Host $http_host; %[5]s } } }`,
		dir, east, port, upstream, more)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program(t, func() error { return listens(east, port) }, "nginx", "-c", conf, "-e", "stderr")
	return fmt.Sprintf("http://%s:%d/app/", east, port)
}

// upgrades is what a proxy needs to pass WebSockets on.
const upgrades = `proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;`

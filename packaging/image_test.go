package packaging_test

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// pullLimit is the size of the compressed image, in bytes.
const pullLimit = 20 << 20

// platform is that of the machine, as the scripts call it.
func platform() string { return strings.TrimSuffix(runtime.GOARCH, "v7") }

// TestImage builds the image twice, from two copies of the source, and runs it as strictly as
// anybody will.
func TestImage(t *testing.T) {
	m := startMachine(t)
	m.env = append(m.env, "IMAGE=signal:test")
	digest := m.build(tree(t))
	m.docker("image", "rm", "--force", m.docker("image", "inspect", "--format", "{{.Id}}", "signal:test"))
	if again := m.build(copyOfTree(t)); again != digest {
		t.Errorf("two builds have the digests %s and %s", digest, again)
	}
	info, err := os.Stat(filepath.Join(tree(t), "dist", "signal-linux-"+platform()+".tar"))
	if err != nil {
		t.Fatal(err)
	}
	unpacked, _ := strconv.Atoi(m.docker("image", "inspect", "--format", "{{.Size}}", "signal:test"))
	t.Logf("%.1f MB to pull, %.1f MB unpacked", float64(info.Size())/1e6, float64(unpacked)/1e6)
	if info.Size() > pullLimit {
		t.Errorf("%d bytes to pull", info.Size())
	}
	m.bindsLowPorts()
	const secret = "a secret of the image's test"
	m.docker("run", "--detach", "--name", "node", "--network", "host", "--read-only", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges", "--health-interval", "1s", "--env", "TURN_SECRET="+secret,
		"--env", "TURN_ALLOW_PEER="+m.ip, "--env", "DRAIN_TIMEOUT=1", "signal:test", "serve", "--server-port", "8088")
	m.healthy("node")
	if user := m.docker("inspect", "--format", "{{.Config.User}}", "node"); user != "65532:65532" {
		t.Errorf("runs as %q", user)
	}
	contract(t, "http://"+m.ip+":8088/ws")
	relays(t, m.ip, "3478", secret)
	m.docker("stop", "--time", "40", "node")
	if status := m.docker("inspect", "--format", "{{.State.ExitCode}}", "node"); status != "0" {
		t.Errorf("ended with status %s:\n%s", status, m.docker("logs", "node"))
	}
}

// bindsLowPorts starts the image on port 443 without root, with the rights that it has by default and with that one alone.
func (m *machine) bindsLowPorts() {
	m.t.Helper()
	for _, rights := range [][]string{nil, {"--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"}} {
		args := append([]string{"run", "--detach", "--name", "low", "--network", "host", "--read-only", "--health-interval", "1s"}, rights...)
		m.docker(append(args, "signal:test", "serve", "--server-port", "443", "--turn-enabled=false")...)
		m.healthy("low")
		m.docker("rm", "--force", "low")
	}
}

// build runs make docker-build in a copy of the source and returns the image's digest.
func (m *machine) build(dir string) string {
	m.t.Helper()
	out := must(m.t, m.env, "make", "--no-print-directory", "-C", dir, "docker-build")
	digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(out)
	if digest == "" {
		m.t.Fatalf("no digest in:\n%s", out)
	}
	return digest
}

// copyOfTree copies the source, with its history, of which the version is made.
func copyOfTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, nil, "bash", "-c", `tar -c --exclude=./dist --exclude=./bin . | tar -x -C "$0"`, dir)
	return dir
}

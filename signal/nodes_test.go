package signal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of a test; it decides only how a failure ends.
const patience = 30 * time.Second

// lease is how long the cluster of a test believes in a node that is silent.
const lease = 3 * time.Second

// program builds the whole program once for all tests of the package.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "signal")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "signal")
	if out, err := exec.Command("go", "build", "-o", binary, "cline-meet/signal").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

// redisServer is a real Redis that a test may stop and start again, empty, on the same port.
type redisServer struct {
	t    *testing.T
	port int
	cmd  *exec.Cmd
}

func startRedis(t *testing.T) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed: run make dev-setup")
		}
		t.Skip("redis-server is not installed: run make dev-setup")
	}
	r := &redisServer{t: t, port: freePort(t)}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

// freePort returns a port that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func (r *redisServer) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", "--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "redis listens", func() error {
		conn, err := net.Dial("tcp4", r.address())
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

// stop kills it without a word; it saves nothing.
func (r *redisServer) stop() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// nodeProcess is one node in a process of its own.
type nodeProcess struct {
	t        *testing.T
	args     []string
	url      string // of the public address, which stays the same over restarts
	turnPort int

	mu  sync.Mutex
	cmd *exec.Cmd // nil while it does not run
	log *bytes.Buffer
}

// startNodes starts the program count times over one Redis.
func startNodes(t *testing.T, count int, redis *redisServer, flags ...string) []*nodeProcess {
	t.Helper()
	var nodes []*nodeProcess
	for range count {
		port, turn := freePort(t), freePort(t)
		n := &nodeProcess{t: t, url: "http://127.0.0.1:" + strconv.Itoa(port), turnPort: turn}
		n.args = append([]string{"serve", "--server-host", "127.0.0.1", "--server-port", strconv.Itoa(port), "--admin-addr", "127.0.0.1:0",
			"--turn-listen", "127.0.0.1", "--turn-port", strconv.Itoa(turn), "--turn-relay-ip", "127.0.0.1", "--log-format", "json",
			"--redis-url", "redis://" + redis.address(), "--state-beat", "1", "--state-lease", strconv.Itoa(int(lease / time.Second)),
			"--address-connections", "10000"}, flags...)
		nodes = append(nodes, n)
		n.start()
		t.Cleanup(func() {
			n.kill()
			if t.Failed() {
				n.mu.Lock()
				defer n.mu.Unlock()
				tail := n.log.Bytes()
				t.Logf("the log of %s ends with:\n%s", n.url, tail[max(0, len(tail)-4<<10):])
			}
		})
	}
	for _, n := range nodes {
		n.ready()
	}
	return nodes
}

// start runs the node; it does not wait until it serves.
func (n *nodeProcess) start() {
	n.t.Helper()
	binary, err := program()
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.log == nil {
		n.log = new(bytes.Buffer)
	}
	cmd := exec.Command(binary, n.args...)
	cmd.Stderr = n.log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd = cmd
}

// ready waits until the node takes users.
func (n *nodeProcess) ready() {
	n.t.Helper()
	eventually(n.t, n.url+" is ready", func() error {
		if !n.running() {
			return errors.New("it does not run")
		}
		return n.get("/ready")
	})
}

func (n *nodeProcess) get(path string) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(n.url + path)
	if err != nil {
		return err
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	return nil
}

// kill ends the process at once.
func (n *nodeProcess) kill() { _ = n.end(syscall.SIGKILL) }

// end sends a signal and waits for the process; it returns how that went.
func (n *nodeProcess) end(s syscall.Signal) error {
	n.mu.Lock()
	cmd := n.cmd
	n.cmd = nil
	n.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(s)
	return cmd.Wait()
}

func (n *nodeProcess) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// eventually polls until check is content.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	within(t, patience, what, check)
}

func within(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.After(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("never: %s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// wait pauses what disturbs the nodes, not a check.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func document(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

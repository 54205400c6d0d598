package systemtest

import (
	"bytes"
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
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Serve are the arguments of a node that disturbs no other: free ports, loopback, a log that Log understands.
var Serve = []string{"serve", "--server-host", "127.0.0.1", "--server-port", "0", "--admin-addr", "127.0.0.1:0",
	"--turn-listen", "127.0.0.1", "--turn-port", "0", "--turn-tls-port", "0", "--turn-relay-ip", "127.0.0.1", "--log-format", "json"}

// Executable returns the path of the program: that of the variable SIGNAL_EXECUTABLE, or one that it builds once for
// all tests of a package.
func Executable(t testing.TB) string {
	t.Helper()
	path, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var executable = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("SIGNAL_EXECUTABLE"); path != "" {
		return path, nil
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "cline-meet/signal").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	dir := strings.TrimSpace(string(root))
	path := filepath.Join(dir, "bin", filepath.Base(os.Args[0]), "signal")
	if out, err := exec.Command("make", "-C", dir, "executable", "OUT="+path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the executable: %w\n%s", err, out)
	}
	return path, nil
})

// Serving is the line of the log in which a node says where it is.
type Serving struct {
	Msg, HTTP, Admin string
	Turn             int
}

// Log takes what a node logs as JSON. The zero Log is ready to be written to.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
	read int // read is how far the lines were searched for where the node is.
	at   Serving
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.text.Write(p)
	for {
		line, _, whole := bytes.Cut(l.text.Bytes()[l.read:], []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.read += len(line) + 1
		var at Serving
		if json.Unmarshal(line, &at) == nil && at.Msg == "serving" {
			l.at = at
		}
	}
}

// String returns all that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Serving waits for the line that says that the node serves, until ended is closed.
func (l *Log) Serving(t testing.TB, ended <-chan struct{}) Serving {
	t.Helper()
	var at Serving
	Until(t, "the node serves", func() error {
		over := false
		select {
		case <-ended:
			over = true
		default:
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if at = l.at; at.Msg == "" && over {
			t.Fatalf("the node ended before it served:\n%s", l.text.String())
		}
		if at.Msg == "" {
			return errNotYet
		}
		return nil
	})
	return at
}

// Node is the program in a process of its own. Its methods may be called by one goroutine at a time, but for Running,
// Freeze, Thaw, Hangup and Log's.
type Node struct {
	Serving        // Serving is where the node is, which stays the same when it is started again.
	URL     string // URL is that of the page.
	Log     *Log   // Log has what all starts logged.
	Program string // Program is the executable that Start runs.

	t    testing.TB
	args []string

	mu      sync.Mutex
	cmd     *exec.Cmd   // cmd is nil while the node does not run.
	process *os.Process // process is that of the last start.
	ended   chan struct{}
	exit    error
}

// StartNode runs the program as Serve says, with more flags, and waits until it serves. The end of the test stops it,
// which must go well.
func StartNode(t testing.TB, flags ...string) *Node {
	t.Helper()
	return StartProgram(t, Executable(t), flags...)
}

// StartProgram is StartNode with another version of the program.
func StartProgram(t testing.TB, program string, flags ...string) *Node {
	t.Helper()
	n := &Node{t: t, Log: new(Log), Program: program, args: append(append([]string(nil), Serve...), flags...)}
	t.Cleanup(func() {
		if err := n.End(syscall.SIGTERM); err != nil {
			t.Errorf("the node ended with %v", err)
		}
		if t.Failed() {
			text := n.Log.String()
			t.Logf("the log of %s ends with:\n%s", n.URL, text[max(0, len(text)-4<<10):])
		}
	})
	n.Start()
	n.Serving = n.Log.Serving(t, n.ended)
	n.URL = "http://" + n.HTTP + "/"
	if all := strings.Join(flags, " "); strings.Contains(all, "--tls-cert") || strings.Contains(all, "--domain") {
		n.URL = "https://" + n.HTTP + "/"
	}
	_, port, _ := net.SplitHostPort(n.HTTP)
	n.args = append(n.args, "--server-port", port, "--turn-port", strconv.Itoa(n.Turn))
	return n
}

// Start runs the node again; it does not wait until it serves.
func (n *Node) Start() {
	n.t.Helper()
	cmd := exec.Command(n.Program, n.args...)
	cmd.Stderr = n.Log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	ended := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.ended, n.process = cmd, ended, cmd.Process
	n.mu.Unlock()
	go func() {
		n.exit = cmd.Wait()
		close(ended)
	}()
}

// Ready waits until the node takes users.
func (n *Node) Ready() {
	n.t.Helper()
	Until(n.t, n.URL+" is ready", func() error {
		if !n.Running() {
			return errors.New("it does not run")
		}
		return n.Get("ready")
	})
}

// Get asks for a path; any answer but 200 is an error with its body.
func (n *Node) Get(path string) error {
	client := http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(n.URL + path)
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

// Running says whether the node was started and not ended.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// PID returns the number of the process, 0 while the node does not run.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// Kill ends the process at once.
func (n *Node) Kill() { _ = n.End(syscall.SIGKILL) }

// Freeze stops the process without ending it, if it runs.
func (n *Node) Freeze() { n.send(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (n *Node) Thaw() { n.send(syscall.SIGCONT) }

// Hangup asks the process to read its settings again, also while End waits for it.
func (n *Node) Hangup() {
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = n.process.Signal(syscall.SIGHUP)
}

func (n *Node) send(s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(s)
	}
}

// End sends a signal, waits for the process and returns how it ended; a node that does not run has ended well.
func (n *Node) End(s syscall.Signal) error {
	n.mu.Lock()
	cmd := n.cmd
	n.cmd = nil
	n.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(s)
	<-n.ended
	return n.exit
}

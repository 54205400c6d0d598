package packaging_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gorilla/websocket"

	"cline-meet/signal/packaging/systemtest"
)

// TestExecutable tries the file that users run.
func TestExecutable(t *testing.T) {
	binary := systemtest.Executable(t)
	t.Run("IsStatic", func(t *testing.T) {
		f, err := elf.Open(binary)
		if err != nil {
			systemtest.Unable(t, "not an ELF file on this system: "+err.Error())
		}
		defer func() { _ = f.Close() }()
		if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 0 || f.Section(".interp") != nil {
			t.Errorf("links %v (%v)", libs, err)
		}
	})
	t.Run("SIGTERM", func(t *testing.T) {
		node := systemtest.StartNode(t)
		c := connect(t, "http://"+node.HTTP+"/ws")
		ended := make(chan error, 1)
		go func() { ended <- node.End(syscall.SIGTERM) }()
		if err := c.end(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("the client's connection ended with %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("BenchWithFlood", func(t *testing.T) {
		serve := serveCommand(t) + " --turn-listen 127.0.0.1 --turn-relay-ip 127.0.0.1 --turn-allow-peer 127.0.0.1 --turn-user-quota 0 --turn-port {port} --turn-secret {secret}"
		bench(t, func(runs []benched) bool {
			return len(runs) == 1 && runs[0].Delivered > 0 && runs[0].P99 > 0 && runs[0].Alone > 0
		}, "turn", "--scenario", "F1", "--command", serve)
	})
	t.Run("BenchOfSignaling", func(t *testing.T) {
		serve := serveCommand(t) + " --turn-enabled=false --server-port {port} --message-rate 10000 --message-burst 10000"
		bench(t, func(runs []benched) bool {
			return len(runs) == 3 && runs[0].Delivered > 0 && runs[1].Delivered > 0 && runs[1].Server == "floor"
		}, "ws", "--scenario", "paced,churn", "--clients", "20", "--rate", "400", "--floor", "--command", serve)
	})
	t.Run("PortInUse", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = taken.Close() }()
		port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
		for _, name := range []string{"server-port", "turn-port"} {
			out, err := exec.Command(binary, append(slices.Clone(systemtest.Serve), "--"+name, port)...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "--"+name) ||
				!strings.Contains(string(out), "address already in use") {
				t.Errorf("--%s %s: %v\n%s", name, port, err, out)
			}
		}
	})
	t.Run("Version", func(t *testing.T) {
		for _, arg := range []string{"version", "--version"} {
			out, err := exec.Command(binary, arg).Output()
			if err != nil || !regexp.MustCompile(`^signal \S+ \(go\S+ \w+/\w+\)\n$`).Match(out) {
				t.Errorf("%s: %q, %v", arg, out, err)
			}
		}
	})
}

// serveCommand is the beginning of a command that starts a server to measure.
func serveCommand(t *testing.T) string {
	return strings.Join(append([]string{systemtest.Executable(t)}, systemtest.Serve...), " ")
}

// benched is one result of a bench.
type benched struct {
	Server    string  `json:"server"`
	Delivered int     `json:"delivered"`
	P99       float64 `json:"p99_us"`
	Alone     float64 `json:"p99_alone_us"`
}

// bench measures for a moment, in which a busy machine may deliver nothing: then once more.
func bench(t *testing.T, measured func([]benched) bool, args ...string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		systemtest.Unable(t, "the generator needs Linux")
	}
	args = append([]string{"bench"}, append(args, "--duration", "200ms", "--json")...)
	systemtest.Until(t, "something is measured", func() error {
		var said bytes.Buffer
		cmd := exec.Command(systemtest.Executable(t), args...)
		cmd.Stderr = &said
		out, err := cmd.Output()
		var report struct{ Results []benched }
		if err = errors.Join(err, json.Unmarshal(out, &report)); err != nil {
			t.Fatalf("%v\n%s%s", err, out, &said)
		}
		if !measured(report.Results) {
			return fmt.Errorf("it has measured\n%s%s", out, &said)
		}
		return nil
	})
}

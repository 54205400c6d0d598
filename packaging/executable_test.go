package packaging_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
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
		if runtime.GOOS != "linux" {
			systemtest.Unable(t, "the generator needs Linux")
		}
		serve := strings.Join(append([]string{binary}, systemtest.Serve...), " ") + " --turn-listen 127.0.0.1 --turn-relay-ip 127.0.0.1" +
			" --turn-allow-peer 127.0.0.1 --turn-user-quota 0 --turn-port {port} --turn-secret {secret}"
		bench := exec.Command(binary, "bench", "turn", "--scenario", "F1", "--duration", "200ms", "--json", "--command", serve)
		var said bytes.Buffer
		bench.Stderr = &said
		out, err := bench.Output()
		var report struct {
			Results []struct {
				Delivered int     `json:"delivered"`
				P99       float64 `json:"p99_us"`
				Alone     float64 `json:"p99_alone_us"`
			} `json:"results"`
		}
		err = errors.Join(err, json.Unmarshal(out, &report))
		if err != nil || len(report.Results) != 1 || report.Results[0].Delivered == 0 || report.Results[0].P99 == 0 || report.Results[0].Alone == 0 {
			t.Errorf("%v\n%s%s", err, out, &said)
		}
	})
	t.Run("BenchOfSignaling", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			systemtest.Unable(t, "the generator needs Linux")
		}
		serve := strings.Join(append([]string{binary}, systemtest.Serve...), " ") + " --turn-enabled=false --server-port {port}" +
			" --message-rate 10000 --message-burst 10000"
		out, err := exec.Command(binary, "bench", "ws", "--scenario", "paced,churn", "--clients", "20", "--rate", "400", "--floor",
			"--duration", "200ms", "--json", "--command", serve).Output()
		var report struct {
			Results []struct {
				Server    string `json:"server"`
				Delivered int    `json:"delivered"`
			} `json:"results"`
		}
		err = errors.Join(err, json.Unmarshal(out, &report))
		if err != nil || len(report.Results) != 3 || report.Results[0].Delivered == 0 || report.Results[1].Delivered == 0 ||
			report.Results[1].Server != "floor" {
			t.Errorf("%v\n%s", err, out)
		}
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

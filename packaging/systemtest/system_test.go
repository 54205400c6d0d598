package systemtest

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFreePortIsOfOneTest takes many of the ports in two processes that run at a time: nobody gets one twice.
func TestFreePortIsOfOneTest(t *testing.T) {
	const ports, other = 500, "SIGNAL_TEST_TAKES_PORTS"
	seen := map[string]bool{}
	note := func(port string) {
		if seen[port] {
			t.Errorf("port %s was taken twice", port)
		}
		seen[port] = true
	}
	for range ports {
		note(strconv.Itoa(FreePort(t)))
	}
	if os.Getenv(other) != "" {
		for port := range seen {
			t.Log("took", port)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), other+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, port, took := strings.Cut(line, "took "); took {
			note(strings.TrimSpace(port))
		}
	}
	if len(seen) != 2*ports && !t.Failed() {
		t.Errorf("%d ports were taken", len(seen))
	}
}

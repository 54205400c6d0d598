// Package systemtest is what tests of several packages need of the system that they run on: programs, ports,
// certificates, patience, and nodes of this project in processes of their own.
package systemtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Patience bounds every wait of a test. It decides only how long a failure takes, so it is more than a machine needs
// that is busy with other things.
const Patience = 2 * time.Minute

// Need skips the test when one of the programs is missing; with CI=true that is a failure.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Unable(t, fmt.Sprintf("%v: run make dev-setup", err))
		}
	}
}

// NeedRoot is Need for what only root may do.
func NeedRoot(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Unable(t, "only root can do that")
	}
	Need(t, programs...)
}

// Unable skips the test for a reason that lies in this machine; with CI=true that is a failure.
func Unable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// FreePort returns a TCP port of the loopback interface that nobody uses now, and that no other test on this machine gets until this
// one ends, in whatever process: the name of a socket stands for it, since the port itself must be free for a program of the test, also
// between two runs of it. It is none of those that the system gives to connections, lest one of another test has it in a moment.
// Port 0 is better where a program says which one it got.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(12_000)
		taken, err := net.Listen("unix", fmt.Sprintf("@signal-test-port-%d", port))
		if err != nil {
			continue
		}
		if l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = l.Close()
			t.Cleanup(func() { _ = taken.Close() })
			return port
		}
		_ = taken.Close()
	}
	t.Fatal("no TCP port is free")
	return 0
}

var errNotYet = errors.New("not yet")

// Eventually polls until holds returns true.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	Until(t, what, func() error {
		if holds() {
			return nil
		}
		return errNotYet
	})
}

// Until polls until check has no objection any more. Its last one is the test's failure.
func Until(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s: %v", what, err)
		}
		<-time.After(pause)
	}
}

// IP runs the program of that name with the words of do. The end of the test runs it with those of undo, unless
// there are none.
func IP(t testing.TB, do, undo string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(do)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", do, err, out)
	}
	if undo != "" {
		t.Cleanup(func() { _ = exec.Command("ip", strings.Fields(undo)...).Run() })
	}
}

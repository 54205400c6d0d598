package systemtest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// inNetwork is set in the process that a test starts in a network namespace of
// its own.
const inNetwork = "SIGNAL_TEST_IN_NETWORK"

// InOwnNetwork runs the test again in a process with a network namespace of its
// own, and test there.
func InOwnNetwork(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if os.Getenv(inNetwork) != "" {
		test(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNetwork+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Err; err != nil {
		t.Fatal(err)
	}
	_, noIP := exec.LookPath("ip")
	output, err := cmd.CombinedOutput()
	if noIP != nil || cmd.ProcessState == nil {
		Unable(t, fmt.Sprintf("no network of its own: %v, %v", noIP, err))
	}
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, output)
	}
}

// Address gives the loopback interface of a network of the test's own an address. It returns when the address is local: that of IPv6 is made so
// by a worker of the kernel, which may come later than the answer to who adds it, and what is sent to it before is lost without a word.
func Address(t testing.TB, addr string) {
	t.Helper()
	do := "addr add " + addr + " dev lo"
	if strings.Contains(addr, ":") {
		do += " nodad"
	}
	IP(t, do, "")
	Eventually(t, addr+" is local", func() bool {
		out, err := exec.Command("ip", "route", "get", addr).Output()
		return err == nil && strings.HasPrefix(string(out), "local ")
	})
}

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

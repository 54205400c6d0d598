//go:build unix

package turntest

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Child is one test of a package in a process of its own, whose memory and
// descriptors are its alone. It lives until its stdin is closed.
type Child struct {
	stdin io.WriteCloser
	lines *bufio.Scanner
}

// Start runs a test with a variable of the environment set. The end of t
// stops it and looks at how it went.
func Start(t *testing.T, test, variable, value string) *Child {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), variable+"="+value)
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &Child{stdin, bufio.NewScanner(stdout)}
	t.Cleanup(func() {
		_ = stdin.Close()
		var rest strings.Builder
		for c.lines.Scan() {
			rest.WriteString(c.lines.Text() + "\n")
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", test, err, &rest)
		}
	})
	return c
}

// Says returns the rest of the next line that begins with a word.
func (c *Child) Says(t *testing.T, word string) string {
	t.Helper()
	for c.lines.Scan() {
		if text, ok := strings.CutPrefix(c.lines.Text(), word+" "); ok {
			return text
		}
	}
	t.Fatalf("the other process never says %q", word)
	return ""
}

// Tell writes a line to the process.
func (c *Child) Tell(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// LimitDescriptors lets this process open that many more.
func LimitDescriptors(t *testing.T, spare int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	limit := syscall.Rlimit{Cur: uint64(len(entries) + spare), Max: uint64(len(entries) + spare)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
}

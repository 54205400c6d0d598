//go:build linux && (amd64 || arm64)

package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a command of a shell, on one core if core is not negative. It ends
// with this process.
func start(command string, core int) (*exec.Cmd, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := pin(core)
	if err != nil {
		return nil, err
	}
	defer restore()
	c := exec.Command("/bin/sh", "-c", "exec "+command)
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("starting %q: %w", command, err)
	}
	return c, nil
}

// pin moves this thread, and what it starts, to one core until restore.
func pin(core int) (restore func(), err error) {
	if core < 0 {
		return func() {}, nil
	}
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("reading the cores of a thread: %w", err)
	}
	one.Set(core)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, fmt.Errorf("pinning to core %d: %w", core, err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }, nil
}

// pinProcess moves all threads of this process to one core.
func pinProcess(core int) error {
	if core < 0 {
		return nil
	}
	var one unix.CPUSet
	one.Set(core)
	if err := eachThread(func(id int) error { return unix.SchedSetaffinity(id, &one) }); err != nil {
		return fmt.Errorf("pinning to core %d: %w", core, err)
	}
	return nil
}

// eachThread calls set with every thread of this process, some of which may end
// meanwhile.
func eachThread(set func(id int) error) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, _ := strconv.Atoi(task.Name())
		if err := set(id); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// cpuOf returns the time that a process has spent on processors, in the system
// and outside; 0 for no process.
func cpuOf(pid int) time.Duration {
	if pid <= 0 {
		return 0
	}
	var t unix.Timespec
	// The clock of another process (clock_getcpuclockid).
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// memoryOf returns the resident memory of a process in bytes; 0 for no process.
func memoryOf(pid int) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kilobytes << 10
		}
	}
	return 0
}

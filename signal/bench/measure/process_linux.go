package measure

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

// start runs a command of a shell, on one core if core is not negative.
func start(command string, core int) (*exec.Cmd, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := pinThread(core)
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

// pinThread moves this thread, and what it starts, to one core until restore.
func pinThread(core int) (restore func(), err error) {
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

// PinProcess moves all threads of this process to one core, unless that is negative.
func PinProcess(core int) error {
	if core < 0 {
		return nil
	}
	var one unix.CPUSet
	one.Set(core)
	if err := EachThread(func(id int) error { return unix.SchedSetaffinity(id, &one) }); err != nil {
		return fmt.Errorf("pinning to core %d: %w", core, err)
	}
	return nil
}

// EachThread calls set with every thread of this process, some of which may end meanwhile.
func EachThread(set func(id int) error) error {
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

// CPU returns the time that a process has spent on processors, in the system and outside; 0 for no
// process.
func CPU(pid int) time.Duration {
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

// memory returns the resident memory of a process in bytes; 0 for no process.
func memory(pid int) int64 {
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

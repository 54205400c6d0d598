package packaging_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

// booted is a Debian whose first process is systemd, in namespaces of its own.
type booted struct {
	*chroot
	network *machine
	init    string // init is the id of its first process.
}

// TestUnderSystemd lives through what an operator does to the service, under a systemd of its own.
func TestUnderSystemd(t *testing.T) {
	old, _ := packages(t, "1.0.0")
	next, _ := packages(t, "1.1.0")
	c := newChroot(t, "systemd", "systemd-sysv", "dbus")
	t.Parallel()
	c.bring(old, next)
	s := c.boot()
	s.run("apt-get install --yes --quiet /" + filepath.Base(old))
	s.run("systemctl enable --now signal")
	s.has("ActiveState", "active") // The start is over when the node serves.
	if got := s.run("stat --format '%U %a' /var/lib/signal"); got != "signal 700" {
		t.Errorf("the state directory belongs to %q", got)
	}
	s.isHardened()
	s.warns()
	s.reloads()
	s.refusesTakenPort()
	s.isWatched()
	s.bindsLowPorts()
	s.upgrades(next)
	s.run("apt-get purge --yes --quiet signal-server")
	if left := s.run("ls -d /etc/signal /var/lib/signal /usr/bin/signal 2>/dev/null || true; getent passwd signal || true; pgrep -x signal || true"); left != "" {
		t.Errorf("a purge leaves %q", left)
	}
	t.Run("domain", func(t *testing.T) { s.during(t).servesDomain(next) }) // The machine is as new.
}

func (s *booted) isHardened() {
	s.t.Helper()
	out, err := s.try("systemd-analyze --no-pager security --threshold=16 signal.service")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	s.t.Log(lines[len(lines)-1])
	if err != nil {
		s.t.Errorf("more exposed than 1.6: %v\n%s", err, out)
	}
}

func (s *booted) warns() {
	s.t.Helper()
	s.logs(`"msg":"serving"`) // The journal may be behind.
	if out := s.run("journalctl --unit signal --priority warning --output cat"); !strings.Contains(out, `"code":"no_tls"`) || strings.Contains(out, `"level":"INFO"`) {
		s.t.Errorf("warnings are\n%s", out)
	}
}

// reloads changes a setting, which the same process takes over.
func (s *booted) reloads() {
	s.t.Helper()
	before := s.property("MainPID")
	s.run("echo 'log-level: debug' >>/etc/signal/signal.yaml && systemctl reload signal")
	s.logs(`"msg":"settings reloaded","settings":["log-level"]`)
	s.has("ActiveState", "active")
	if after := s.property("MainPID"); after != before {
		s.t.Errorf("a reload made process %s of %s", after, before)
	}
}

// refusesTakenPort: a start says that it failed, and is given up after some tries.
func (s *booted) refusesTakenPort() {
	s.t.Helper()
	s.run("systemctl stop signal && systemd-run --quiet --unit holder --service-type notify signal serve --turn-enabled=false --admin-addr=")
	if out, err := s.try("systemctl start signal"); err == nil {
		s.t.Errorf("the start on a port that is taken succeeds: %s", out)
	}
	s.has("ActiveState", "failed")
	s.logs("address already in use")
	s.run("systemctl stop holder && systemctl reset-failed signal && systemctl start signal")
	s.has("ActiveState", "active")
}

// isWatched stops the process, which is then ended and started again.
func (s *booted) isWatched() {
	s.t.Helper()
	s.run("mkdir -p /run/systemd/system/signal.service.d && printf '[Service]\\nWatchdogSec=10\\n' >/run/systemd/system/signal.service.d/test.conf && systemctl daemon-reload && systemctl restart signal")
	before := s.property("MainPID")
	s.run("kill -STOP " + before)
	s.logs("Watchdog timeout")
	systemtest.Eventually(s.t, "another process serves", func() bool {
		return s.property("ActiveState") == "active" && s.property("MainPID") != before
	})
	s.run("rm /run/systemd/system/signal.service.d/test.conf && systemctl daemon-reload && systemctl restart signal")
}

func (s *booted) bindsLowPorts() {
	s.t.Helper()
	s.run("echo 'server-port: 443' >>/etc/signal/signal.yaml && systemctl restart signal && signal health --alive --config /etc/signal/signal.yaml")
	if user := s.run("ps -o user= -p " + s.property("MainPID")); user != "signal" {
		s.t.Errorf("port 443 is bound by %s", user)
	}
}

// upgrades installs the next version over the running one.
func (s *booted) upgrades(deb string) {
	s.t.Helper()
	before := s.property("MainPID")
	s.run("apt-get install --yes --quiet /" + filepath.Base(deb))
	s.has("ActiveState", "active")
	if after := s.property("MainPID"); after == before {
		s.t.Error("an upgrade leaves the old program running")
	}
	if got := s.run("dpkg-query --show --showformat '${Version}' signal-server; tail -n 1 /etc/signal/signal.yaml"); got != "1.1.0server-port: 443" {
		s.t.Errorf("after the upgrade: %q", got)
	}
}

// startInit makes $0 the root of a container, as small as systemd can live in, and starts it there.
const startInit = `
mount --make-rprivate / && mount --bind "$0" "$0" && cd "$0" && mkdir -p old
mount -t proc proc proc && mount -t sysfs -o ro sysfs sys && mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run && mount -t tmpfs tmpfs tmp && mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do : >dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/shm dev/pts && mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts && ln -s pts/ptmx dev/ptmx && ln -s /proc/self/fd dev/fd
pivot_root . old && umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init --show-status=0
`

// boot starts systemd and waits until it has started everything.
func (c *chroot) boot() *booted {
	c.t.Helper()
	systemtest.NeedRoot(c.t, "unshare", "nsenter", "pivot_root")
	c.allowDescriptors()
	network, group := newMachine(c.t, public), controlGroup(c.t)
	var log bytes.Buffer
	cmd := exec.Command("sh", "-euc", `echo $$ >"$0"/cgroup.procs && exec nsenter --net="$1" unshare --cgroup --pid --fork --kill-child --mount --uts --ipc sh -euc "$2" "$3"`,
		group, "/run/netns/"+network.space, startInit, c.dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s := &booted{chroot: c, network: network}
	systemtest.Until(c.t, "systemd has started", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		if s.init = strings.TrimSpace(string(children)); err != nil || s.init == "" {
			return fmt.Errorf("no process yet: %w", err)
		}
		if state, err := s.try("systemctl is-system-running"); err != nil {
			return fmt.Errorf("%s: %w", state, err)
		}
		return nil
	})
	c.t.Cleanup(func() {
		if c.t.Failed() {
			journal, _ := s.try("journalctl --no-pager --lines 60")
			c.t.Logf("journal:\n%s", journal)
		}
	})
	return s
}

// allowDescriptors lets the service have as many as this machine may give, where that is less than the unit asks for.
func (c *chroot) allowDescriptors() {
	c.t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		c.t.Fatal(err)
	}
	dir := filepath.Join(c.dir, "etc/systemd/system/signal.service.d")
	text := fmt.Sprintf("[Service]\nLimitNOFILE=%d\n", min(limit.Max, 1<<20))
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "descriptors.conf"), []byte(text), 0o644)); err != nil {
		c.t.Fatal(err)
	}
}

// controlGroup makes a control group that ends with the test.
func controlGroup(t *testing.T) string {
	t.Helper()
	dir := "/sys/fs/cgroup"
	if _, err := os.Stat(dir + "/unified"); err == nil {
		dir += "/unified"
	}
	dir = filepath.Join(dir, "signal-systemd-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		systemtest.Unable(t, fmt.Sprintf("no control group can be made here: %v", err))
	}
	t.Cleanup(func() {
		systemtest.Until(t, "the control groups are gone", func() error {
			out, err := command(t, nil, "find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	})
	return dir
}

// try runs a shell script beside systemd.
func (s *booted) try(script string) (string, error) {
	s.t.Helper()
	return command(s.t, []string{"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}, "nsenter", "--target", s.init, "--all", "--root", "--wd", "/bin/sh", "-euc", script)
}

// during returns the same machine for a part of the test.
func (s *booted) during(t *testing.T) *booted {
	return &booted{chroot: &chroot{t: t, dir: s.dir}, network: s.network, init: s.init}
}

// run is try, whose failure is the test's.
func (s *booted) run(script string) string {
	s.t.Helper()
	out, err := s.try(script)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

// property returns what systemd knows of the service.
func (s *booted) property(name string) string {
	s.t.Helper()
	return s.run("systemctl show --value --property " + name + " signal")
}

// has waits until a property of the service has a value.
func (s *booted) has(name, value string) {
	s.t.Helper()
	systemtest.Until(s.t, name+" is "+value, func() error {
		if got := s.property(name); got != value {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// logs waits until the journal of the service has a text.
func (s *booted) logs(text string) {
	s.t.Helper()
	systemtest.Eventually(s.t, "the journal has "+text, func() bool {
		return strings.Contains(s.run("journalctl --no-pager --unit signal --output cat"), text)
	})
}

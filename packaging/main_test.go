// Package packaging_test tries what users install: images, compose, packages and scripts.
package packaging_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every program that a test runs, some of which compile everything for another platform.
const patience = 20 * time.Minute

// tree is the repository.
func tree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// command runs a program in the repository and returns what it said; env adds to the environment.
func command(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience) // Cleanups run programs as well.
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = tree(t), append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is command, whose failure is the test's.
func must(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	out, err := command(t, env, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// machine is a network of its own, so that ports are free and nothing on the real machine changes, with
// or without a Docker daemon in it.
type machine struct {
	t     *testing.T
	space string // space is the network namespace.
	ip    string // ip is where the test reaches the machine.
	host  string // host is where the machine reaches the test.
	env   []string
}

// machines counts those of this process, some of which run at a time.
var machines atomic.Int32

// Networks of machines, by a number of the machine and the host's number. A machine in public has an address like one in
// the internet, so that nothing has to be said of addresses; the real ones of that network stay out of reach meanwhile.
const private, public = "10.213.%d.%d", "30.213.%d.%d"

// startMachine is newMachine with a Docker daemon.
func startMachine(t *testing.T) *machine {
	t.Helper()
	systemtest.NeedRoot(t, "dockerd", "docker")
	m := newMachine(t, private)
	m.startDocker()
	return m
}

// newMachine has an address in a network, private or public, and ends with the test.
func newMachine(t *testing.T, network string) *machine {
	t.Helper()
	systemtest.NeedRoot(t, "ip", "nsenter", "unshare")
	number := os.Getpid() + 37*int(machines.Add(1)) // Two packages of tests that run at a time have ids close to each other.
	id := number % 250
	m := &machine{t: t, space: fmt.Sprintf("signal-machine-%d", number), ip: fmt.Sprintf(network, id, 2), host: fmt.Sprintf(network, id, 1)}
	outer, inner := fmt.Sprintf("sgo%d", id), fmt.Sprintf("sgi%d", id)
	systemtest.IP(t, "netns add "+m.space, "netns delete "+m.space)
	systemtest.IP(t, "link add "+outer+" type veth peer name "+inner+" netns "+m.space, "link delete "+outer)
	systemtest.IP(t, "address add "+m.host+"/24 dev "+outer, "")
	systemtest.IP(t, "link set "+outer+" up", "")
	systemtest.IP(t, "-n "+m.space+" address add "+m.ip+"/24 dev "+inner, "")
	systemtest.IP(t, "-n "+m.space+" link set "+inner+" up", "")
	systemtest.IP(t, "-n "+m.space+" link set lo up", "")
	systemtest.IP(t, "-n "+m.space+" route add default via "+m.host, "")
	return m
}

func (m *machine) startDocker() {
	m.t.Helper()
	dir, err := os.MkdirTemp("", "signal-docker") // Shorter than the test's own, which a socket's path can not be.
	if err != nil {
		m.t.Fatal(err)
	}
	m.env = []string{"DOCKER_HOST=unix://" + dir + "/socket", "COMPOSE_PROJECT_NAME=signaltest"}
	var log bytes.Buffer
	daemon := exec.Command("nsenter", "--net=/run/netns/"+m.space, "unshare", "--mount", "dockerd", "--iptables=false", "--ip6tables=false",
		"--bridge=none", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "--log-level", "error",
		"--host", "unix://"+dir+"/socket")
	daemon.Stdout, daemon.Stderr, daemon.WaitDelay = &log, &log, time.Second
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := daemon.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM) // It takes its containers along.
		_ = daemon.Wait()
		if err := os.RemoveAll(dir); err != nil {
			m.t.Error(err)
		}
		if m.t.Failed() {
			m.t.Logf("dockerd:\n%s", &log)
		}
	})
	systemtest.Until(m.t, "dockerd answers", func() error {
		out, err := command(m.t, m.env, "docker", "version")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
}

func (m *machine) docker(args ...string) string {
	m.t.Helper()
	return must(m.t, m.env, "docker", args...)
}

// healthy waits until the image's own check says so.
func (m *machine) healthy(container string) {
	m.t.Helper()
	systemtest.Until(m.t, container+" is healthy", func() error {
		state := m.docker("inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", container)
		if state == "running healthy" {
			return nil
		}
		return fmt.Errorf("%s\n%s", state, m.docker("logs", container))
	})
}

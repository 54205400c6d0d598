// Package redistest runs Redis servers, Sentinel and Cluster for tests.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

// Dialing passes over a goroutine of the Redis client's that looks only once a second whether it is still wanted.
func Dialing() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial")
}

// Server is one redis-server or redis-sentinel process on a port of the loopback interface that stays the same.
type Server struct {
	Addr string // Addr is where it listens, as host:port.
	Dir  string // Dir is its directory, which has its log.

	t       testing.TB
	command func(port string) *exec.Cmd
	cmd     *exec.Cmd // cmd is nil while the server does not run.
	ended   chan struct{}
}

// Start runs a redis-server that keeps nothing on disk until the test ends. An argument PORT stands for its port.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	systemtest.Need(t, "redis-server")
	s := &Server{t: t, Dir: t.TempDir()}
	s.command = func(port string) *exec.Cmd {
		all := []string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.Dir, "--logfile", filepath.Join(s.Dir, "log")}
		if !slices.Contains(args, "--tls-port") {
			all = append(all, "--port", port)
		}
		for _, arg := range args {
			if arg == "PORT" {
				arg = port
			}
			all = append(all, arg)
		}
		return exec.Command("redis-server", all...)
	}
	s.find()
	return s
}

// find starts the server on a free port, and on another one when somebody else was faster.
func (s *Server) find() {
	s.t.Helper()
	for range 5 {
		s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(systemtest.FreePort(s.t)))
		if s.run() {
			s.t.Cleanup(s.Kill)
			return
		}
	}
	s.t.Fatalf("the server does not start:\n%s", s.log())
}

// Start runs a server again that was killed, empty, on the same port.
func (s *Server) Start() {
	s.t.Helper()
	if !s.run() {
		s.t.Fatalf("the server on %s does not start again", s.Addr)
	}
}

// run starts the process and waits until it listens; it returns false if it ends instead.
func (s *Server) run() bool {
	s.t.Helper()
	before := len(s.log())
	s.cmd, s.ended = s.command(strconv.Itoa(s.Port())), make(chan struct{})
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, ended := s.cmd, s.ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	listens := false
	systemtest.Until(s.t, "the server listens", func() error {
		if listens = saysItListens(s.log()[before:]); listens {
			return nil
		}
		select {
		case <-ended:
			s.cmd = nil
			return nil
		default:
			return errors.New("it does not say so")
		}
	})
	return listens
}

// log returns what the server has said so far.
func (s *Server) log() string {
	text, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(text)
}

// saysItListens looks for what a server and a Sentinel say when they have bound their ports. That somebody answers there would not
// tell: another process may have been faster.
func saysItListens(log string) bool {
	return strings.Contains(log, "Ready to accept connections") || strings.Contains(log, "Sentinel ID is")
}

// Kill ends the process as a crash does; a server that does not run stays as it is.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
	s.cmd = nil
}

// Freeze stops the process without ending it.
func (s *Server) Freeze() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (s *Server) Thaw() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Port is that of Addr.
func (s *Server) Port() int {
	_, text, _ := net.SplitHostPort(s.Addr)
	port, _ := strconv.Atoi(text)
	return port
}

// URL is what --redis-url takes.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client returns a connection of the test to the server.
func (s *Server) Client() *redis.Client {
	s.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2, DisableIdentity: true})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Do runs a command and returns its answer as text.
func (s *Server) Do(args ...any) string {
	s.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, Protocol: 2, DisableIdentity: true})
	defer func() { _ = c.Close() }()
	out, err := c.Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		s.t.Fatalf("%v: %v", args, err)
	}
	return fmt.Sprint(out)
}

// follows waits until a replica has what its master has.
func (s *Server) follows() {
	s.t.Helper()
	systemtest.Eventually(s.t, "the replica follows", func() bool {
		return strings.Contains(s.Do("INFO", "replication"), "master_link_status:up")
	})
}

// StartSentinel runs a master, a replica and a Sentinel that watches them as "rooms".
func StartSentinel(t testing.TB) (master, replica, sentinel *Server) {
	t.Helper()
	systemtest.Need(t, "redis-sentinel")
	master = Start(t)
	port := strconv.Itoa(master.Port())
	replica = Start(t, "--replicaof", "127.0.0.1", port, "--repl-diskless-sync-delay", "0")
	replica.follows()
	sentinel = &Server{t: t, Dir: t.TempDir()}
	sentinel.command = func(own string) *exec.Cmd {
		conf := filepath.Join(sentinel.Dir, "sentinel.conf")
		text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nlogfile log\nsentinel monitor rooms 127.0.0.1 %s 1\n"+
			"sentinel down-after-milliseconds rooms 500\nsentinel failover-timeout rooms 3000\n", own, sentinel.Dir, port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command("redis-sentinel", conf)
	}
	sentinel.find()
	systemtest.Eventually(t, "the Sentinel knows the replica", func() bool {
		return strings.Contains(sentinel.Do("INFO", "sentinel"), "slaves=1")
	})
	return master, replica, sentinel
}

// version returns the major version of the redis-server that is installed.
func version(t testing.TB) int {
	t.Helper()
	systemtest.Need(t, "redis-server")
	said, err := exec.Command("redis-server", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, number, _ := strings.Cut(string(said), " v=") // Redis server v=7.0.15 sha=…
	major, _, _ := strings.Cut(number, ".")
	v, err := strconv.Atoi(major)
	if err != nil {
		t.Fatalf("redis-server --version says %q", said)
	}
	return v
}

// StartCluster runs a Cluster of three masters, the first with a replica if asked for. A test that has only an older Redis
// than a Cluster needs is skipped.
func StartCluster(t testing.TB, withReplica bool) (masters []*Server, replica *Server) {
	t.Helper()
	if v := version(t); v < 7 {
		t.Skipf("a Cluster needs Redis 7, this is %d", v)
	}
	var all []*Server
	var buses []int
	start := func(args ...string) *Server {
		bus := systemtest.FreePort(t)
		s := Start(t, append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", strconv.Itoa(bus)}, args...)...)
		all, buses = append(all, s), append(buses, bus)
		return s
	}
	for i := range 3 {
		s := start()
		s.Do("CLUSTER", "ADDSLOTSRANGE", i*16384/3, (i+1)*16384/3-1)
	}
	masters = slices.Clone(all)
	if withReplica {
		replica = start("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
	}
	meet := func() {
		for i, s := range all[1:] {
			all[0].Do("CLUSTER", "MEET", "127.0.0.1", s.Port(), buses[i+1])
		}
	}
	for i, s := range all {
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	meet()
	met := time.Now()
	if replica != nil {
		replica.replicate(masters[0])
	}
	for _, s := range all {
		systemtest.Until(t, "the Cluster is complete", func() error {
			info := s.Do("CLUSTER", "INFO")
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(all))) {
				return nil
			}
			if time.Since(met) > 5*time.Second { // Servers that are slow to meet give up.
				meet()
				met = time.Now()
			}
			return errors.New(info)
		})
	}
	return masters, replica
}

// replicate makes the server of a Cluster a replica, once it has heard of the master.
func (s *Server) replicate(master *Server) {
	s.t.Helper()
	id, c := master.Do("CLUSTER", "MYID"), s.Client()
	systemtest.Until(s.t, "the replica knows its master", func() error {
		return c.Do(context.Background(), "CLUSTER", "REPLICATE", id).Err()
	})
	s.follows()
}

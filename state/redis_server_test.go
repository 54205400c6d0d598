package state

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience bounds every wait of a test; it decides only how a failure ends.
const patience = 30 * time.Second

// eventually polls until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// server is one redis-server or redis-sentinel process.
type server struct {
	t    *testing.T
	addr string
	dir  string
	args []string
	cmd  *exec.Cmd
}

func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: make dev-setup", program)
		}
		t.Skipf("%s is missing: make dev-setup", program)
	}
	return path
}

// freePort returns a port that nobody uses.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// startRedis runs a redis-server that keeps nothing on disk until the test ends.
func startRedis(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), args: args}
	for range 5 {
		port := freePort(t)
		s.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if s.start() {
			t.Cleanup(s.kill)
			return s
		}
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	t.Fatalf("redis-server does not start:\n%s", log)
	return nil
}

// start runs the process on its address and waits until it listens.
func (s *server) start() bool {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	args := []string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir, "--logfile", filepath.Join(s.dir, "log")}
	if !slices.Contains(s.args, "--tls-port") {
		args = append(args, "--port", port)
	}
	for i, arg := range s.args {
		if arg == "PORT" {
			s.args[i] = port
		}
	}
	return s.run(exec.Command(need(s.t, "redis-server"), append(args, s.args...)...))
}

func (s *server) run(cmd *exec.Cmd) bool {
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = cmd
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			_ = c.Close()
			return true
		}
		select {
		case <-ended:
			s.cmd = nil
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	s.kill()
	return false
}

// kill ends the process like a crash.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	for s.cmd.Process.Signal(syscall.Signal(0)) == nil { // Until it has been waited for.
		<-time.After(time.Millisecond)
	}
	s.cmd = nil
}

// freeze stops the process without ending it; thaw lets it go on.
func (s *server) freeze() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

func (s *server) thaw() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// client returns a connection of the test to the server.
func (s *server) client() *redis.Client {
	s.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.addr, Protocol: 2, DisableIdentity: true})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *server) do(args ...any) string {
	s.t.Helper()
	out, err := s.client().Do(context.Background(), args...).Result()
	if err != nil && err != redis.Nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return fmt.Sprint(out)
}

// startSentinel runs a master, a replica and a Sentinel that watches them as "rooms".
func startSentinel(t *testing.T) (master, replica, sentinel *server) {
	t.Helper()
	need(t, "redis-sentinel")
	master = startRedis(t)
	host, port, _ := net.SplitHostPort(master.addr)
	replica = startRedis(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	eventually(t, "the replica follows", func() bool {
		return strings.Contains(replica.do("INFO", "replication"), "master_link_status:up")
	})
	sentinel = &server{t: t, dir: t.TempDir()}
	conf := filepath.Join(sentinel.dir, "sentinel.conf")
	for range 5 {
		free := freePort(t)
		sentinel.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(free))
		text := fmt.Sprintf("bind 127.0.0.1\nport %d\ndir %s\nsentinel monitor rooms %s %s 1\n"+
			"sentinel down-after-milliseconds rooms 500\nsentinel failover-timeout rooms 3000\n", free, sentinel.dir, host, port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if sentinel.run(exec.Command(need(t, "redis-sentinel"), conf)) {
			t.Cleanup(sentinel.kill)
			eventually(t, "the Sentinel knows the replica", func() bool {
				return strings.Contains(sentinel.do("INFO", "sentinel"), "slaves=1")
			})
			return master, replica, sentinel
		}
	}
	t.Fatal("redis-sentinel does not start")
	return nil, nil, nil
}

// startCluster runs a Cluster of three masters, the first with a replica if asked for.
func startCluster(t *testing.T, withReplica bool) (masters []*server, replica *server) {
	t.Helper()
	bus := func() []string {
		return []string{"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", strconv.Itoa(freePort(t))}
	}
	var all []*server
	for range 3 {
		all = append(all, startRedis(t, bus()...))
	}
	masters = all
	if withReplica {
		replica = startRedis(t, append(bus(), "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")...)
		all = append(slices.Clone(all), replica)
	}
	for i, s := range masters {
		s.do("CLUSTER", "ADDSLOTSRANGE", i*16384/3, (i+1)*16384/3-1)
	}
	for i, s := range all {
		s.do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		host, port, _ := net.SplitHostPort(s.addr)
		if i > 0 {
			all[0].do("CLUSTER", "MEET", host, port, s.args[slices.Index(s.args, "--cluster-port")+1])
		}
	}
	if replica != nil {
		id := all[0].do("CLUSTER", "MYID")
		eventually(t, "the replica knows its master", func() bool {
			return replica.client().Do(context.Background(), "CLUSTER", "REPLICATE", id).Err() == nil
		})
		eventually(t, "the replica follows", func() bool {
			return strings.Contains(replica.do("INFO", "replication"), "master_link_status:up")
		})
	}
	for _, s := range all {
		eventually(t, "the Cluster is complete", func() bool {
			info := s.do("CLUSTER", "INFO")
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(all)))
		})
	}
	return masters, replica
}

// testLog shows what nodes log when LOG is set.
func testLog() *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// single is the config of nodes on one server, which beat fast.
func (s *server) single() RedisConfig {
	cfg := DefaultRedisConfig()
	cfg.URL = "redis://" + s.addr
	return brisk(cfg)
}

// brisk makes nodes beat fast and log.
func brisk(cfg RedisConfig) RedisConfig {
	cfg.Beat, cfg.Lease, cfg.Logger = 200*time.Millisecond, time.Second, testLog()
	return cfg
}

func clusterConfig(masters []*server) RedisConfig {
	cfg := DefaultRedisConfig()
	for _, s := range masters {
		cfg.Cluster = append(cfg.Cluster, s.addr)
	}
	return brisk(cfg)
}

func sentinelConfig(sentinel *server) RedisConfig {
	cfg := DefaultRedisConfig()
	cfg.SentinelMaster, cfg.Sentinels = "rooms", []string{sentinel.addr}
	return brisk(cfg)
}

// connect attaches a node and waits until it is ready; the test's end closes it.
func connect(t *testing.T, cfg RedisConfig, id string, ev Events) *Redis {
	t.Helper()
	n, err := NewRedis(cfg, id)
	if err != nil {
		t.Fatal(err)
	}
	n.Subscribe(ev)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Logf("closing %s: %v", id, err)
		}
	})
	eventually(t, id+" is ready", func() bool { return n.Ready() == nil })
	return n
}

var deployments atomic.Int64

// redisContract runs the contract on a Redis; every test of it has a prefix of its own.
func redisContract(t *testing.T, cfg RedisConfig) {
	t.Helper()
	contract(t, func(*testing.T) attach {
		own := cfg
		own.Prefix = fmt.Sprintf("d%d:", deployments.Add(1))
		return func(t *testing.T, id string, ev Events) node { return connect(t, own, id, ev) }
	})
}

//go:build unix

package transport

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/turntest"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestUnfinishedFramesCostNothing holds connections whose frames never end and
// measures the process while they wait.
func TestUnfinishedFramesCostNothing(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	for _, kind := range []Protocol{TCP, TLS} {
		for range 20 {
			conn := dialTransport(t, s, kind)
			if _, err := conn.Write(wiretest.STUN(65480)[:2000]); err != nil {
				t.Fatal(err)
			}
		}
	}
	live := dialTransport(t, s, TCP)
	if err := ping(live, wiretest.STUN(0)); err != nil {
		t.Fatal(err)
	}
	before := cpuTime(t)
	_ = live.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := live.Read(make([]byte, 1)); !isTimeoutError(err) {
		t.Fatalf("waiting: %v", err)
	}
	if used := cpuTime(t) - before; used > 150*time.Millisecond {
		t.Errorf("%v of processor time in half a second of nothing", used)
	}
	if err := ping(live, wiretest.ChannelData(3)); err != nil {
		t.Error(err)
	}
}

const descriptorsEnv = "TURNSRV_TEST_DESCRIPTORS"

// serveWithFewDescriptors is the other process of TestDescriptorsComeBack.
func serveWithFewDescriptors(t *testing.T) {
	s := startTransports(t, testTransports(t), newEcho())
	turntest.LimitDescriptors(t, 4)
	fmt.Printf("port %d\n", s.Port())
	_, _ = io.Copy(io.Discard, os.Stdin)
	if turntest.ValueOf(t, s.common.Metrics.socketErrors.WithLabelValues("tcp")) == 0 {
		t.Error("the process never ran out of descriptors")
	}
}

// TestDescriptorsComeBack takes all descriptors of a server, which runs in a process of its own, and gives them back.
func TestDescriptorsComeBack(t *testing.T) {
	if os.Getenv(descriptorsEnv) != "" {
		serveWithFewDescriptors(t)
		return
	}
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		systemtest.Unable(t, "there is no /proc here")
	}
	port, err := strconv.Atoi(turntest.Start(t, "TestDescriptorsComeBack", descriptorsEnv, "1").Says(t, "port"))
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range 16 {
		conn, err := net.Dial("tcp4", at("127.0.0.1", port))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write(wiretest.STUN(0)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	_ = conns[0].SetReadDeadline(time.Now().Add(systemtest.Patience))
	if _, err := io.ReadFull(conns[0], make([]byte, 20)); err != nil {
		t.Fatalf("the first client: %v", err)
	}
	last := conns[len(conns)-1]
	_ = last.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := last.Read(make([]byte, 20)); !isTimeoutError(err) {
		t.Fatalf("the server has descriptors for everybody: %v", err)
	}
	for _, conn := range conns[:len(conns)-1] {
		_ = conn.Close()
	}
	_ = last.SetReadDeadline(time.Now().Add(systemtest.Patience))
	if _, err := io.ReadFull(last, make([]byte, 20)); err != nil {
		t.Errorf("the descriptors came back, the server did not: %v", err)
	}
}

package turnsrv

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// uclient is coturn's test client.
const uclient = "turnutils_uclient"

var (
	lostPackets     = regexp.MustCompile(`Total lost packets (\d+)`)
	sentMessages    = regexp.MustCompile(`tot_send_msgs=(\d+)`)
	receivedTraffic = regexp.MustCompile(`tot_recv_msgs=(\d+)`)
)

// TestCoturnClient relays from client to client with coturn's tool, over UDP
// and over TCP. The tool's exit status says nothing, its output does.
func TestCoturnClient(t *testing.T) {
	if _, err := exec.LookPath(uclient); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("coturn's tools are not installed: %v", err)
		}
		t.Skipf("coturn's tools are not installed: %v", err)
	}
	s := startServer(t, testConfig())
	for _, tt := range []struct {
		name string
		args []string
	}{{"udp", nil}, {"tcp", []string{"-t"}}} {
		t.Run(tt.name, func(t *testing.T) { runUclient(t, s, tt.args...) })
	}
	eventually(t, "the connections are gone", func() bool { return openStreams(s) == 0 })
	if got := valueOf(t, s.metrics.toPeerPackets); got < 2*4*50 {
		t.Errorf("%v relayed packets were counted, want at least 400", got)
	}
}

func openStreams(s *Server) int {
	open := 0
	for _, l := range s.transports.streams {
		l.mu.Lock()
		open += len(l.conns)
		l.mu.Unlock()
	}
	return open
}

func runUclient(t *testing.T, s *Server, extra ...string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append(extra, "-y", "-c", "-n", "50", "-m", "4", "-l", "170", "-W", testSecret, "-u", "bob",
		"-p", strconv.Itoa(s.Port()), "127.0.0.1")
	output, err := exec.CommandContext(ctx, uclient, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", uclient, err, output)
	}
	lost, sent, received := lastNumber(lostPackets, output), lastNumber(sentMessages, output), lastNumber(receivedTraffic, output)
	if lost != 0 || sent < 4*50 || received != sent {
		t.Errorf("%d sent, %d received, %d lost\n%s", sent, received, lost, output)
	}
}

// lastNumber returns the number in the last match, or -1 when there is none.
func lastNumber(pattern *regexp.Regexp, output []byte) int {
	matches := pattern.FindAllSubmatch(output, -1)
	if len(matches) == 0 {
		return -1
	}
	number, err := strconv.Atoi(string(matches[len(matches)-1][1]))
	if err != nil {
		return -1
	}
	return number
}

package check

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// TestNodeExaminesItself starts nodes that tell clients what is right, and what leads nowhere. A node says so once, and serves.
func TestNodeExaminesItself(t *testing.T) {
	t.Setenv("SIGNAL_EXECUTABLE", systemtest.Executable(t))
	systemtest.InOwnNetwork(t, func(t *testing.T) {
		layNetwork(t)
		good := node(t, east, "--turn-public-host", east)
		port := systemtest.FreePort(t)
		blocked(t, "iptables", "-p", "udp", "--dport", strconv.Itoa(port), "-d", west)
		bad := node(t, west, "--turn-public-host", west, "--turn-port", strconv.Itoa(port))
		systemtest.Eventually(t, "the node says that UDP is not answered", func() bool { return strings.Contains(bad.Log.String(), `"code":"own_turn_unanswered"`) })
		if text := bad.Log.String(); !strings.Contains(text, `"level":"INFO","msg":"turn:5.5.5.2 does not answer this machine (UDP port `+strconv.Itoa(port)) || strings.Count(text, `"code":"own_`) != 1 {
			t.Errorf("the node says\n%s", text)
		}
		if text := good.Log.String(); strings.Contains(text, `"code":"own_`) { // It began earlier, and needs less time.
			t.Errorf("a node that is right says\n%s", text)
		}
	})
}

func TestWhatANodeSaysOfItsNames(t *testing.T) {
	o := Options{now: time.Now, lookup: lookup}
	relay := netip.MustParseAddr(west)
	for url, want := range map[string]string{
		"turn:nowhere.test":                     "own_name_unresolved WARN",
		"turn:v4.signal.test:1?transport=udp":   "own_name_elsewhere INFO, own_turn_unanswered INFO",
		"turn:127.0.0.1:1?transport=tcp":        "own_turn_unanswered INFO",
		"turns:two.signal.test:1?transport=tcp": "own_turn_unanswered INFO",
	} {
		var codes []string
		for _, n := range o.examine(t.Context(), group([]string{url})[0], relay) {
			codes = append(codes, n.Code+" "+n.Level.String())
		}
		if got := strings.Join(codes, ", "); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

package service_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/pion/turn/v3"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/packaging/systemtest/relaytest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/turnsrv"
)

// TestHangupReloads changes the settings file of a running node. SIGHUP takes over what a node can, names the rest,
// and never ends the process.
func TestHangupReloads(t *testing.T) {
	file, write := settingsFile(t)
	const old, next = "the-secret-before-it", "the-newest-of-the-secrets"
	write("turn-secret: " + old + "\nlog-level: info\n")
	node := systemtest.StartNode(t, "--config", file, "--drain-timeout", "60")
	hangup := reloads(t, node)

	if taken, waiting := hangup(""); len(taken) != 0 || len(waiting) != 0 {
		t.Errorf("nothing has changed, yet %q is taken over and %q waits", taken, waiting)
	}
	write("turn-secret: [" + next + ", " + old + "]\nlog-level: debug\nturn-users: [alice:wonderland]\nturn-deny-peer: [192.0.2.0/24]\nmax-room-users: 4\n")
	taken, waiting := hangup("")
	if want := []string{"log-level", "turn-deny-peer", "turn-secret", "turn-users"}; !slices.Equal(slices.Sorted(slices.Values(taken)), want) {
		t.Errorf("taken over %q, want %q", taken, want)
	}
	if !slices.Equal(waiting, []string{"max-room-users"}) {
		t.Errorf("waits for a restart: %q", waiting)
	}
	for _, secret := range []string{old, next} {
		caller, relay := allocated(t, node, secret)
		_ = relay.Close()
		caller.Close()
	}
	if user, password := minted(t, node); relayable(t, node, user, password) != nil {
		t.Error("what the node mints after the reload opens nothing")
	}
	if err := relayable(t, node, "alice", "wonderland"); err != nil {
		t.Errorf("the new static user: %v", err)
	}
	if !strings.Contains(node.Log.String(), `"level":"DEBUG"`) {
		t.Error("the level of the log has not changed")
	}

	write("turn-secret: [" + next + "]\nmax-room-users: many\n")
	if hangup("max-room-users"); !node.Running() {
		t.Fatal("wrong settings ended the node")
	}
	if err := relayable(t, node, "alice", "wonderland"); err != nil {
		t.Errorf("wrong settings replaced the ones before: %v", err)
	}
	stopsDespite(t, node, next)
}

// TestHangupReplacesSecretsOfTokens takes a secret of tokens away from a running node.
func TestHangupReplacesSecretsOfTokens(t *testing.T) {
	const old, next = "the secret of tokens that was before", "the newest of the secrets of tokens"
	file, write := settingsFile(t)
	write("auth-secret: [" + old + "]\n")
	node := systemtest.StartNode(t, "--config", file)
	hangup := reloads(t, node)
	enters := func(secret string) bool {
		t.Helper()
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.Token(token).Dial(t.Context(), node.URL+"ws", nil)
		if err == nil {
			_ = c.Close()
		} else if !errors.Is(err, client.ErrUnauthorized) {
			t.Fatal(err)
		}
		return err == nil
	}
	if !enters(old) || enters(next) {
		t.Error("before: the secret opens nothing, or another one does")
	}
	write("auth-secret: [" + next + "]\n")
	if taken, _ := hangup(""); !slices.Equal(taken, []string{"auth-secret"}) || enters(old) || !enters(next) {
		t.Errorf("%q was taken over", taken)
	}
	write("")
	if _, waiting := hangup(""); !slices.Equal(waiting, []string{"auth-secret"}) || !enters(next) {
		t.Errorf("to let everybody in needs a restart, yet %q waits", waiting)
	}
}

// TestHangupReplacesWhoIsTrusted lets in a page of another site, and then one of ours that a proxy serves, both of which were refused.
func TestHangupReplacesWhoIsTrusted(t *testing.T) {
	file, write := settingsFile(t)
	write("")
	node := systemtest.StartNode(t, "--config", file)
	hangup := reloads(t, node)
	enters := func(origin string) bool {
		c, err := client.Dial(t.Context(), node.URL+"ws", http.Header{"Origin": {origin}, "X-Forwarded-Proto": {"https"}})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	const friend = "https://app.example.org"
	ours := "https://" + node.HTTP
	if enters(friend) || enters(ours) {
		t.Error("before: a page is let in that nobody allowed")
	}
	write("allowed-origins: " + friend + "\n")
	if taken, _ := hangup(""); !slices.Equal(taken, []string{"allowed-origins"}) || !enters(friend) || enters(ours) {
		t.Errorf("%q was taken over, and the page of the new origin is let in: %v", taken, enters(friend))
	}
	write("trusted-proxies: 127.0.0.1\n")
	taken, waiting := hangup("")
	if slices.Sort(taken); !slices.Equal(taken, []string{"allowed-origins", "trusted-proxies"}) || len(waiting) > 0 || enters(friend) || !enters(ours) {
		t.Errorf("%q was taken over, and our page behind the proxy is let in: %v", taken, enters(ours))
	}
}

// settingsFile returns the name of a file that is not there yet, and what writes it.
func settingsFile(t *testing.T) (file string, write func(text string)) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "signal.yaml")
	return file, func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// reloads returns a function that sends SIGHUP and returns what the log says of it: which settings were taken over and
// which wait for a restart, or that nothing was, with a refusal that names what is wrong.
func reloads(t *testing.T, node *systemtest.Node) func(refused string) (taken, waiting []string) {
	return func(refused string) (taken, waiting []string) {
		t.Helper()
		begin := len(node.Log.String())
		node.Hangup()
		systemtest.Eventually(t, "the settings are read again", func() bool {
			over := false
			for line := range strings.Lines(node.Log.String()[begin:]) {
				var record struct {
					Msg, Error string
					Settings   []string
				}
				_ = json.Unmarshal([]byte(line), &record) // The last line may be half there.
				switch record.Msg {
				case "settings reloaded":
					taken, over = record.Settings, true
				case "settings have changed that need a restart":
					waiting = record.Settings
				case "settings not reloaded, the old ones stay in use":
					over = refused != "" && strings.Contains(record.Error, refused)
				}
			}
			return over
		})
		return taken, waiting
	}
}

// allocated makes a client with a relay by a shared secret.
func allocated(t *testing.T, node *systemtest.Node, secret string) (*turn.Client, net.PacketConn) {
	t.Helper()
	user, password := turnsrv.Credentials(secret, "bob", time.Now().Add(time.Minute))
	return relaytest.Allocate(t, node.Serving, user, password)
}

// minted returns the credentials that the node gives to who comes in.
func minted(t *testing.T, node *systemtest.Node) (user, password string) {
	t.Helper()
	c, err := client.Dial(t.Context(), "ws://"+node.HTTP+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	hello, err := c.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ice struct{ ICEServers []turnsrv.ICEServer }
	if err := hello.Document(&ice); err != nil || len(ice.ICEServers) != 2 {
		t.Fatalf("%s (%v)", hello.Raw, err)
	}
	return ice.ICEServers[1].Username, ice.ICEServers[1].Credential
}

// relayable says whether the credentials open an allocation.
func relayable(t *testing.T, node *systemtest.Node, username, credential string) error {
	t.Helper()
	client := relaytest.Client(t, node.Serving, username, credential)
	defer client.Close()
	relay, err := client.Allocate()
	if err != nil {
		return err
	}
	return relay.Close()
}

// stopsDespite stops a node that a call keeps from ending, and sends SIGHUP meanwhile.
func stopsDespite(t *testing.T, node *systemtest.Node, secret string) {
	t.Helper()
	caller, relay := allocated(t, node, secret)
	ended := make(chan error, 1)
	go func() { ended <- node.End(syscall.SIGTERM) }()
	systemtest.Eventually(t, "the node waits for its call", func() bool {
		return strings.Contains(node.Log.String(), "waiting for relayed calls to end")
	})
	node.Hangup()
	_ = relay.Close()
	caller.Close()
	if err := <-ended; err != nil {
		t.Errorf("SIGHUP during the stop: ended with %v", err)
	}
}

// TestSystemdHearsOfTheNode: a start is over when the node serves, and fails when it does not.
func TestSystemdHearsOfTheNode(t *testing.T) {
	manager := systemtest.StartManager(t)
	node := systemtest.StartNode(t)
	manager.Hears("READY=1")
	node.Hangup()
	manager.Hears(`RELOADING=1\nMONOTONIC_USEC=\d+\n`)
	manager.Hears("READY=1")
	_, port, _ := net.SplitHostPort(node.HTTP)
	out, err := exec.Command(node.Program, append(slices.Clone(systemtest.Serve), "--server-port", port)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--server-port") {
		t.Errorf("on a port that is taken: %v, %s", err, out)
	}
	if err := node.End(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v", err)
	}
	manager.Hears("STOPPING=1") // The node that did not start has told nothing.
}

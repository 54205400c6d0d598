package admin

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"cline-meet/signal/packaging/systemtest"
)

// admin runs the command against a node.
func (n *testNode) admin(args ...string) (out string, err error) {
	var stdout, stderr bytes.Buffer
	app := &cli.App{Name: "signal", Commands: []*cli.Command{Command(&stdout, &stderr)}, ExitErrHandler: func(*cli.Context, error) {}}
	err = app.RunContext(n.t.Context(), append([]string{"signal", "admin", "--admin-addr", n.Addr().String(), "--admin-token", writeToken + ", another"}, args...))
	return stdout.String() + stderr.String(), err
}

// TestCommandDoesEachTask runs every command as an operator would, against two nodes.
func TestCommandDoesEachTask(t *testing.T) {
	nodes := startNodes(t, "a", "b")
	one, two := nodes[0].enter("blue"), nodes[1].enter("blue")
	systemtest.Eventually(t, "the room is known", func() bool { return len(get[room](nodes[0], "/v1/rooms/blue").Members) == 2 })
	for _, test := range []struct {
		args []string
		says []string
	}{
		{[]string{"rooms"}, []string{"ROOM", "blue  2", one.user + " " + two.user}},
		{[]string{"rooms", "blue"}, []string{"blue  2"}},
		{[]string{"users"}, []string{one.user, two.user, "127.0.0.1", "connected"}},
		{[]string{"users", "--room", "red"}, []string{"USER"}},
		{[]string{"users", two.user}, []string{two.user, "b "}},
		{[]string{"relays"}, []string{"RELAY"}},
		{[]string{"nodes"}, []string{"a ", "b ", "ready", "of the test"}},
		{[]string{"tell-room", "blue", `{"text":"hello"}`}, []string{"receivers: 2"}},
		{[]string{"tell-user", one.user, `"you"`}, []string{"receivers: 1"}},
		{[]string{"log-level", "b", "warn"}, nil},
		{[]string{"rotate", "turn-secret"}, nil},
		{[]string{"revoke", one.user}, []string{"relays: 0"}},
		{[]string{"kick", two.user}, []string{"relays: 0"}},
		{[]string{"close", "blue"}, []string{"kicked: 1"}},
		{[]string{"drain", "a"}, nil},
	} {
		out, err := nodes[0].admin(test.args...)
		if err != nil {
			t.Errorf("%v: %v", test.args, err)
		}
		if test.args[0] == "kick" {
			systemtest.Eventually(t, "the room is smaller", func() bool { return len(get[room](nodes[0], "/v1/rooms/blue").Members) == 1 })
		}
		for _, want := range test.says {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in\n%s", test.args, want, out)
			}
		}
	}
	if got := nodes[1].level.Level().String(); got != "WARN" {
		t.Errorf("the level of b is %s", got)
	}
	out, err := nodes[0].admin("--json", "nodes")
	var l list[node]
	if err != nil || json.Unmarshal([]byte(out), &l) != nil || len(l.Items) != 2 {
		t.Errorf("--json: %s (%v)", out, err)
	}
}

// TestTablesCommandNoTerminal prints what a user may be called.
func TestTablesCommandNoTerminal(t *testing.T) {
	var out bytes.Buffer
	if err := table(&out, "NAME", []connection{{Name: "é\x1b[2J\u202e\n"}}, func(c connection) []string { return []string{c.Name} }); err != nil || out.String() != "NAME\né?[2J??\n" {
		t.Errorf("printed %q (%v)", out.String(), err)
	}
}

// TestCommandSaysWhatIsWrong has wrong arguments and refusals of the node.
func TestCommandSaysWhatIsWrong(t *testing.T) {
	n := startNodes(t, "a")[0]
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"kick"}, "give USER"},
		{[]string{"kick", "user-x"}, "there is no user user-x"},
		{[]string{"tell-room", "blue", "hello"}, "not JSON"},
		{[]string{"log-level", "a", "loud"}, "expected value to be one of"},
		{[]string{"--admin-addr", "127.0.0.1:1", "rooms"}, "--admin-addr"},
		{[]string{"--admin-token", "wrong", "rooms"}, "not valid here"},
	} {
		if out, err := n.admin(test.args...); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v: %s (%v), not %q", test.args, out, err, test.says)
		}
	}
}

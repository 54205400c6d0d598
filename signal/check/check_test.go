package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestTargets(t *testing.T) {
	for text, want := range map[string]string{
		"turn:turn.example.org":                     "turn.example.org [UDP port 3478 TCP port 3478]",
		"turn:192.0.2.1:3479?transport=tcp":         "192.0.2.1 [TCP port 3479]",
		"TURNS:[2001:db8::1]:443":                   "2001:db8::1 [TLS port 443 DTLS port 443]",
		"turns:turn.example.org?transport=udp":      "turn.example.org [DTLS port 5349]",
		"stun:[2001:db8::1]":                        "2001:db8::1 [UDP port 3478 TCP port 3478]",
		"turn:turn.example.org?transport=sctp":      "",
		"turn:turn.example.org:0":                   "",
		"turn:":                                     "",
		"turn:[2001:db8::1]x":                       "",
		"turn:user@turn.example.org":                "",
		"turn:turn.example.org:3478?transport=UDP":  "turn.example.org [UDP port 3478]",
		"turns:turn.example.org:443?transport=tcp ": "",
	} {
		u, err := parseRelayURL(text)
		var ways []string
		for _, e := range u.endpoints {
			ways = append(ways, e.String())
		}
		if got := u.host + " [" + strings.Join(ways, " ") + "]"; (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"https://signal.example.org": "https://signal.example.org/", "wss://signal.example.org:8443/ws": "https://signal.example.org:8443/",
		"http://192.0.2.1:8080/app/": "http://192.0.2.1:8080/app/", "ws://h/app/ws?x=1#y": "http://h/app/", "signal.example.org": "", "ftp://h": "", "https://": "",
	} {
		u, err := parseSite(text)
		if (err == nil) != (want != "") || err == nil && u.String() != want {
			t.Errorf("%s: %v, %v, want %s", text, u, err, want)
		}
	}
}

// TestWhatIsWrongIsMarkedOnce has checks fail for each other's sake.
func TestWhatIsWrongIsMarkedOnce(t *testing.T) {
	says := func(err error) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return "detail", err }
	}
	p := plan{target: "it"}
	bad := p.add("bad", "mend it", says(errors.New("broken")))
	p.add("behind", "", says(nil), bad)
	like := p.add("like", "", says(errors.New("broken too"))).explainedBy(bad)
	p.add("likewise", "", says(errors.New("broken as well"))).explainedBy(like)
	p.add("good", "", says(nil)).explainedBy(bad)
	p.add("other", "mend all", says(faultf("mend this", "not %d", 1)))
	p.add("none", "", says(untried("there is none")))
	p.start(t.Context())
	want := []Result{
		{"it", "bad", Wrong, "broken", "mend it"},
		{"it", "behind", Skipped, "not tried: see bad", ""},
		{"it", "like", Skipped, "broken too: see bad", ""},
		{"it", "likewise", Skipped, "broken as well: see like", ""},
		{"it", "good", Good, "detail", ""},
		{"it", "other", Wrong, "not 1", "mend this"},
		{"it", "none", Skipped, "there is none", ""},
	}
	results := p.wait()
	if !slices.Equal(results, want) {
		t.Errorf("results %+v", results)
	}
	var table, document bytes.Buffer
	if err := errors.Join(Print(&table, results), PrintJSON(&document, results)); err != nil {
		t.Fatal(err)
	}
	if text := table.String(); strings.Count(text, "✗ ") != 2 || !strings.Contains(text, "→ mend this\n") || !strings.Contains(text, "2 wrong") {
		t.Errorf("printed\n%s", text)
	}
	var read struct {
		OK     bool
		Checks []Result
	}
	if err := json.Unmarshal(document.Bytes(), &read); err != nil || read.OK || len(read.Checks) != len(want) {
		t.Errorf("%v: %s", err, &document)
	}
}

// TestCommandSaysWhatIsMeant gives it nonsense. What it is told in confidence it never prints.
func TestCommandSaysWhatIsMeant(t *testing.T) {
	t.Setenv("TURN_SECRET", "confidential-secret")
	t.Setenv("TURN_PASSWORD", "confidential-password")
	t.Setenv("SIGNAL_TOKEN", "confidential-token")
	t.Setenv("SIGNAL_COOKIE", "confidential-cookie")
	for _, test := range []struct {
		args string
		want string
	}{
		{"", "say what to check"},
		{"example.org", "neither an http"},
		{"turn:example.org:x", "not a port"},
		{"turn:127.0.0.1 --json", "flags come before"},
		{"--timeout 0 turn:127.0.0.1", "--timeout"},
		{"--ca /does/not/exist turn:127.0.0.1", "--ca"},
		{"turn:127.0.0.1:1", errWrong.Error()},
		{"--help", ""},
	} {
		var out bytes.Buffer
		app := &cli.App{Commands: []*cli.Command{Command(&out)}, Writer: &out, ErrWriter: &out, ExitErrHandler: func(*cli.Context, error) {}}
		err := app.RunContext(t.Context(), append([]string{"signal", "check"}, strings.Fields(test.args)...))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("check %s: %v", test.args, err)
		}
		if strings.Contains(out.String()+errorText(err), "confidential") {
			t.Errorf("check %s prints what is secret:\n%s", test.args, &out)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

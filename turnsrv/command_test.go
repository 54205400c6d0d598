package turnsrv

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// credentials runs the command and returns what it prints.
func credentials(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	app := &cli.App{Commands: []*cli.Command{CredentialsCommand(&out)}, Writer: io.Discard, ErrWriter: io.Discard, ExitErrHandler: func(*cli.Context, error) {}}
	err := app.RunContext(t.Context(), append([]string{"signal", "credentials", "--user", "bob"}, args...))
	return out.String(), err
}

func TestCredentialsCommand(t *testing.T) {
	const north = "north-by-northwest"
	args := []string{"--ttl", "90s", "--turn-secret", north, "--turn-public-host"}
	out, err := credentials(t, append(args, "turn.example.org")...)
	parts := regexp.MustCompile(`^username   (\d+):bob\ncredential (\S+)\n$`).FindStringSubmatch(out)
	if err != nil || parts == nil {
		t.Fatalf("printed %q, %v", out, err)
	}
	unix, _ := strconv.ParseInt(parts[1], 10, 64)
	if left := time.Until(time.Unix(unix, 0)); left <= 0 || left > 91*time.Second {
		t.Errorf("credentials live %v", left)
	}
	if _, want := Credentials(north, "bob", time.Unix(unix, 0)); parts[2] != want {
		t.Errorf("credential %q, want %q", parts[2], want)
	}
	out, err = credentials(t, append(args, "turn.example.org", "--json")...)
	if err != nil || !strings.Contains(out, `"turn:turn.example.org:3478?transport=udp"`) || !json.Valid([]byte(out)) {
		t.Errorf("printed %s, %v", out, err)
	}
	for proof, marks := range map[string]string{"off": "", "stun": "0", "room": "00"} {
		out, err := credentials(t, append(args, "turn.example.org", "--peer-proof", proof)...)
		if err != nil || !regexp.MustCompile(`^username   `+marks+`[1-9]\d*:bob\n`).MatchString(out) {
			t.Errorf("--peer-proof %s prints %q, %v", proof, out, err)
		}
	}
	for _, host := range []string{Auto, "{node}.example.org", "{address}.example.org"} {
		if out, err := credentials(t, append(args, host)...); err != nil {
			t.Errorf("without a URL %s prints %q, %v", host, out, err)
		}
	}
}

func TestCredentialsCommandRefuses(t *testing.T) {
	given := []string{"--turn-secret", "north-by-northwest"}
	for wrong, want := range map[string]string{
		"--peer-proof ice": "-peer-proof: ",
		"--ttl 0":          "-ttl: ", "--ttl 5e9": "-ttl: ", "--ttl -1h": "-ttl: ", "--ttl soon": "-ttl: ",
		"--json --turn-public-host auto":                  "--turn-public-host: auto is another host at every node",
		"--json --turn-public-host {node}.example.org":    "--turn-public-host: {node}.example.org is another host",
		"--json --turn-public-host {address}.example.org": "--turn-public-host: {address}.example.org is another host",
		"--turn-public-host https://turn.example.org":     "such as turn.example.org",
	} {
		if out, err := credentials(t, append(given, strings.Fields(wrong)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s prints %q, %v", wrong, out, err)
		}
	}
	if _, err := credentials(t); err == nil || !strings.Contains(err.Error(), "TURN_SECRET") {
		t.Errorf("without a secret: %v", err)
	}
}

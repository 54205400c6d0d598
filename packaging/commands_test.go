package packaging_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// elsewhere are the commands of the guides that other tests run.
var elsewhere = map[string]string{
	"make dev-setup":                     "make test itself",
	"make lint":                          "make test itself",
	"make lint-js":                       "make test itself",
	"packaging/test.sh":                  "make test itself",
	"make release":                       "TestRelease",
	"make package":                       "TestDeb",
	"packaging/install.sh":               "TestInstallScript",
	"make docker-build":                  "TestImage",
	"make dev":                           "TestCompose",
	"make stop":                          "TestCompose",
	"make docker-compose-logs":           "TestCompose",
	"make k8s-secrets":                   "TestPods",
	"make k8s-deploy":                    "TestClusterTargets",
	"make k8s-deploy OVERLAY=autoscaled": "TestClusterTargets",
	"make k8s-deploy IMAGE=registry.example.org/signal:0.1.0":  "TestClusterTargets",
	"make full-deploy IMAGE=registry.example.org/signal:0.1.0": "TestClusterTargets",
	"make k8s-status":       "TestClusterTargets",
	"make k8s-port-forward": "TestClusterTargets",
	"make minikube-start minikube-deploy minikube-service": "TestClusterTargets",
	"sudo apt install ./dist/signal-server_*_amd64.deb":    "TestDeb",
	"sudo systemctl enable --now signal":                   "TestUnderSystemd",
	"systemctl restart":                                    "TestUnderSystemd",
	"systemctl reload signal":                              "TestUnderSystemd",
	"go test -run TestRollingRestart -v ./signal":          "TestRollingRestart",
	"go test ./turnsrv/...":                                "make test itself",
	"go test ./turnsrv -data-path=false":                   "make test itself",
	"signal bench turn":                                    "TestServerPassesVerify",
	"signal bench ws":                                      "TestScenarios",
	"signal check":                                         "TestDeployments",
	"signal admin":                                         "TestCommandDoesEachTask",
	"signal init":                                          "TestInitWritesWhatServeTakes",
	"signal credentials":                                   "TestCredentialsCommand",
	"signal credentials --peer-proof room":                 "TestCredentialsCommand",

	"PROGRAM present _acme-challenge.signal.example.org VALUE": "TestNameIsProved",
	"PROGRAM cleanup _acme-challenge.signal.example.org VALUE": "TestNameIsProved",
}

// TestCommands runs the commands of the guides, as they are written, on a machine on which HOST and
// redis.internal are names of its own. A command that the guides have must be run here or by the test
// that elsewhere names, or untested.md says why it cannot be.
func TestCommands(t *testing.T) {
	t.Parallel()
	n := newNewcomer(t)
	n.starts("make run", "signal health")
	n.asks("signal health --alive", "signal check turn:HOST")
	n.runs("curl -i http://HOST:8080/health", "curl http://127.0.0.1:9090/metrics", "signal version", "signal man", "signal licenses",
		"signal completion bash", "signal serve --check", "signal init --domain signal.example.org", "signal credentials --user bob --ttl 24h")
	n.relays(`turnutils_uclient -y -c -n 50 -m 4 -l 170 -W "$TURN_SECRET" -u bob HOST`)
	n.stops()

	n.runs("signal bench ws --help", "signal bench turn --help", `signal bench turn --scenario S1,S2 --command "signal serve --turn-listen 127.0.0.1 --turn-port {port} --turn-secret {secret} `+
		`--turn-relay-ip 127.0.0.1 --turn-min-port {min} --turn-max-port {max} --turn-allow-peer 127.0.0.1/32 --turn-user-quota 0"`)
	n.runs("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -keyout key.pem -out cert.pem " +
		"-subj /CN=localhost -addext subjectAltName=DNS:localhost")
	n.env = append(n.env, "ADMIN_TOKEN=south")
	n.starts("bin/signal serve --tls-cert cert.pem --tls-key key.pem", "curl --fail --cacert cert.pem https://localhost:8080/ready")
	n.runs(`curl -H "Authorization: Bearer $ADMIN_TOKEN" http://127.0.0.1:9090/metrics`, "signal admin rooms", "signal admin users", "signal admin relays", "signal admin nodes",
		"signal admin --json rooms")
	n.lists(`api() { curl -sS -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' "$@"; }`, "api http://127.0.0.1:9090/v1/rooms",
		`api -X POST http://127.0.0.1:9090/v1/rooms/blue/messages -d '{"data":{"text":"We close in five minutes."}}'`,
		"api -X POST http://127.0.0.1:9090/v1/users/user-gwyx6sfq-xs4b/kick")
	n.relays(`turnutils_uclient -S -t -y -c -n 50 -m 4 -l 170 -W "$TURN_SECRET" -u bob -p 5349 HOST`)
	n.stops()

	n.starts("redis-server --bind 127.0.0.1 --save '' --dir "+t.TempDir(), "redis-cli ping")
	redis := n.process
	n.starts("signal serve --redis-url redis://redis.internal:6379/0", "signal health")
	n.env = append(n.env, "REDIS_URL=redis://redis.internal:6379/0")
	n.runs("signal rotate-secret turn")
	n.stops()
	n.process = redis
	n.stops()

	n.accountFor(strings.Fields(must(t, nil, "git", "ls-files", "*README.md", "CONTRIBUTING.md")))
}

// newcomer follows the guides.
type newcomer struct {
	*machine
	dir     string
	names   string // names is the hosts file.
	env     []string
	done    map[string]bool
	process *process
}

// process runs until stops.
type process struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

func newNewcomer(t *testing.T) *newcomer {
	t.Helper()
	systemtest.NeedRoot(t, "curl", "openssl", "turnutils_uclient", "redis-server", "redis-cli")
	n := &newcomer{machine: newMachine(t, private), dir: copyOfTree(t), names: filepath.Join(t.TempDir(), "hosts"), done: map[string]bool{}}
	if err := os.WriteFile(n.names, []byte("127.0.0.1 localhost redis.internal\n"+n.ip+" HOST\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.env = append(os.Environ(), "PATH="+filepath.Join(n.dir, "bin")+":"+os.Getenv("PATH"), "TURN_SECRET=north-by-northwest",
		"DRAIN_TIMEOUT=1") // Coturn's client leaves its allocations to expire.
	return n
}

// shell is a command line in the newcomer's copy of the source.
func (n *newcomer) shell(line string) *exec.Cmd {
	cmd := exec.Command("nsenter", "--net=/run/netns/"+n.space, "unshare", "--mount", "bash", "-euc",
		`mount --bind "$0" /etc/hosts && exec bash -euc "$1"`, n.names, line)
	cmd.Dir, cmd.Env, cmd.WaitDelay = n.dir, n.env, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// runs runs commands to their end.
func (n *newcomer) runs(lines ...string) {
	n.t.Helper()
	for _, line := range lines {
		n.done[line] = true
		if out, err := n.shell(line).CombinedOutput(); err != nil {
			n.t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
}

// asks is runs for commands that give up after some seconds, in which a busy machine may not answer.
func (n *newcomer) asks(lines ...string) {
	n.t.Helper()
	for _, line := range lines {
		n.done[line] = true
		systemtest.Until(n.t, line, func() error {
			if out, err := n.shell(line).CombinedOutput(); err != nil {
				return errors.New(string(out))
			}
			return nil
		})
	}
}

// lists runs lines in one shell, one of which is for the others. Together they say what the admin API lists.
func (n *newcomer) lists(lines ...string) {
	n.t.Helper()
	for _, line := range lines {
		n.done[line] = true
	}
	if out, err := n.shell(strings.Join(lines, "\n")).CombinedOutput(); err != nil || !strings.Contains(string(out), `"items"`) {
		n.t.Errorf("%q: %v\n%s", lines, err, out)
	}
}

// relays runs coturn's client, whose exit status says nothing.
func (n *newcomer) relays(line string) {
	n.t.Helper()
	n.done[line] = true
	losesNothing(n.t, 200, func() (string, error) {
		out, err := n.shell(line).CombinedOutput()
		return string(out), err
	})
}

// starts runs a command until stops, and waits until another one succeeds.
func (n *newcomer) starts(line, ready string) {
	n.t.Helper()
	n.done[line] = true
	p := &process{cmd: n.shell(line)}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.process = p
	n.t.Cleanup(func() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); _ = p.cmd.Wait() })
	n.asks(ready)
}

// stops presses Ctrl-C.
func (n *newcomer) stops() {
	n.t.Helper()
	p := n.process
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
		n.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil && p.cmd.ProcessState.ExitCode() > 2 {
		n.t.Errorf("%v:\n%s", err, &p.log)
	}
}

// accountFor compares what the guides have with what was run.
func (n *newcomer) accountFor(guides []string) {
	n.t.Helper()
	reasons, err := os.ReadFile("untested.md")
	if err != nil {
		n.t.Fatal(err)
	}
	untested := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| .{10,} \\|$").FindAllStringSubmatch(string(reasons), -1) {
		untested[row[1]] = true
	}
	accounted := slices.Concat(slices.Collect(maps.Keys(n.done)), slices.Collect(maps.Keys(elsewhere)), slices.Collect(maps.Keys(untested)))
	var found []string
	for _, guide := range guides {
		found = append(found, commands(n.t, filepath.Join("..", guide))...)
	}
	if len(found) == 0 {
		n.t.Errorf("there are no commands in %q", guides)
	}
	for _, c := range found {
		if !slices.Contains(accounted, c) {
			n.t.Errorf("%s: no test runs it, and untested.md has no reason", c)
		}
	}
	for _, c := range slices.Concat(slices.Collect(maps.Keys(elsewhere)), slices.Collect(maps.Keys(untested))) {
		if !slices.Contains(found, c) {
			n.t.Errorf("%s is in no guide any more", c)
		}
	}
	for c, test := range elsewhere {
		if strings.HasPrefix(test, "Test") {
			must(n.t, nil, "grep", "--recursive", "--quiet", "--include=*_test.go", "^func "+test+"(", ".")
		}
		if n.done[c] || untested[c] {
			n.t.Errorf("%s is accounted for twice", c)
		}
	}
}

var (
	block   = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```")
	anyCode = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	inline  = regexp.MustCompile("`([^`]+)`")
	spaces  = regexp.MustCompile(`\s+`)
	remark  = regexp.MustCompile(`(?m)\s+# .*$`)
	// typed tells what people type from other code.
	typed = regexp.MustCompile(`^(make|sudo|curl|openssl|go|docker|docker-compose|kubectl|minikube|systemctl|apt|bin/signal|` +
		`turnutils_uclient|signal [a-z-]+) |^(packaging|k8s)/[a-z-]+\.sh|^signal [a-z]+$`)
)

// commands finds what a guide tells people to type, with single spaces and without remarks.
func commands(t *testing.T, guide string) []string {
	t.Helper()
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, b := range block.FindAllStringSubmatch(string(text), -1) {
		script := remark.ReplaceAllString(strings.ReplaceAll(b[1], "\\\n", " "), "")
		lines = append(lines, strings.Split(strings.TrimSpace(script), "\n")...)
	}
	for _, i := range inline.FindAllStringSubmatch(anyCode.ReplaceAllString(string(text), ""), -1) {
		if c := spaces.ReplaceAllString(i[1], " "); typed.MatchString(c) && c != "signal serve" {
			lines = append(lines, c)
		}
	}
	for i := range lines {
		lines[i] = strings.TrimSpace(spaces.ReplaceAllString(lines[i], " "))
	}
	return lines
}

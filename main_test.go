package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"debug/elf"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/turn/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/packaging/systemtest/relaytest"
	"cline-meet/signal/signal"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/signal/service"
	"cline-meet/signal/state/redistest"
	"cline-meet/signal/turnsrv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, redistest.Dialing()) }

// patience bounds every wait of a test; it decides only how a failure ends.
const patience = systemtest.Patience

// quiet are the arguments of a node that disturbs no other.
var quiet = append([]string{"signal"}, systemtest.Serve...)

// north is a TURN secret.
const north = "north-by-northwest"

// process is a node that runs inside this process.
type process struct {
	systemtest.Serving
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{} // ended is closed when the node has stopped, with its exit status set.
	status int
}

// running runs a node with more arguments until it is stopped, or the test ends, and waits until it serves.
func running(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{t: t, cancel: cancel, ended: make(chan struct{})}
	log := new(systemtest.Log)
	go func() {
		defer close(p.ended)
		p.status = run(ctx, slices.Concat(quiet, args), io.Discard, log)
	}()
	t.Cleanup(p.stop)
	p.Serving = log.Serving(t, p.ended)
	return p
}

// stop stops the node, which must go well.
func (p *process) stop() {
	p.t.Helper()
	p.cancel()
	if <-p.ended; p.status != 0 {
		p.t.Errorf("exit status %d", p.status)
	}
}

func TestServeThreeTimesInOneProcess(t *testing.T) {
	before := goleak.IgnoreCurrent()
	for range 3 {
		at := running(t)
		c := dial(t, at.Serving)
		at.cancel()
		if err := end(t, c); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("the client's connection ended with %v", err)
		}
		at.stop()
		_ = c.Close()
	}
	goleak.VerifyNone(t, before)
}

// dial connects a client and reads its stun_config, which must name this node's TURN server.
func dial(t *testing.T, at systemtest.Serving) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, "http://"+at.HTTP+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("turn:127.0.0.1:%d?transport=udp", at.Turn); m.Type != "stun_config" || !bytes.Contains(m.Raw, []byte(want)) {
		t.Fatalf("first message %s lacks %s", m.Raw, want)
	}
	return c
}

// end waits for the connection's end.
func end(t *testing.T, c *client.Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if _, err := c.Next(ctx); err != nil {
			return err
		}
	}
}

func TestExecutable(t *testing.T) {
	binary := systemtest.Executable(t)
	t.Run("IsStatic", func(t *testing.T) {
		f, err := elf.Open(binary)
		if err != nil {
			systemtest.Unable(t, "not an ELF file on this system: "+err.Error())
		}
		defer func() { _ = f.Close() }()
		if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 0 || f.Section(".interp") != nil {
			t.Errorf("links %v (%v)", libs, err)
		}
	})
	t.Run("SIGTERM", func(t *testing.T) {
		node := systemtest.StartNode(t)
		c := dial(t, node.Serving)
		ended := make(chan error, 1)
		go func() { ended <- node.End(syscall.SIGTERM) }()
		if err := end(t, c); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("the client's connection ended with %v", err)
		}
		_ = c.Close()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("BenchWithFlood", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			systemtest.Unable(t, "the generator needs Linux")
		}
		serve := strings.Join(append([]string{binary}, quiet[1:]...), " ") + " --turn-listen 127.0.0.1 --turn-relay-ip 127.0.0.1" +
			" --turn-allow-peer 127.0.0.1 --turn-user-quota 0 --turn-port {port} --turn-secret {secret}"
		out, err := exec.Command(binary, "bench", "turn", "--scenario", "F1", "--duration", "200ms", "--json", "--command", serve).Output()
		var report struct {
			Results []struct {
				Delivered int     `json:"delivered"`
				P99       float64 `json:"p99_us"`
				Alone     float64 `json:"p99_alone_us"`
			} `json:"results"`
		}
		err = errors.Join(err, json.Unmarshal(out, &report))
		if err != nil || len(report.Results) != 1 || report.Results[0].Delivered == 0 || report.Results[0].P99 == 0 || report.Results[0].Alone == 0 {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("BenchOfSignaling", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			systemtest.Unable(t, "the generator needs Linux")
		}
		serve := strings.Join(append([]string{binary}, quiet[1:]...), " ") + " --turn-enabled=false --server-port {port}" +
			" --message-rate 10000 --message-burst 10000"
		out, err := exec.Command(binary, "bench", "ws", "--scenario", "paced,churn", "--clients", "20", "--rate", "400", "--floor",
			"--duration", "200ms", "--json", "--command", serve).Output()
		var report struct {
			Results []struct {
				Server    string `json:"server"`
				Delivered int    `json:"delivered"`
			} `json:"results"`
		}
		err = errors.Join(err, json.Unmarshal(out, &report))
		if err != nil || len(report.Results) != 3 || report.Results[0].Delivered == 0 || report.Results[1].Delivered == 0 ||
			report.Results[1].Server != "floor" {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("PortInUse", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = taken.Close() }()
		port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
		for _, name := range []string{"server-port", "turn-port"} {
			out, err := exec.Command(binary, append(slices.Clone(quiet[1:]), "--"+name, port)...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "--"+name) ||
				!strings.Contains(string(out), "address already in use") {
				t.Errorf("--%s %s: %v\n%s", name, port, err, out)
			}
		}
	})
	t.Run("Version", func(t *testing.T) {
		for _, arg := range []string{"version", "--version"} {
			out, err := exec.Command(binary, arg).Output()
			if err != nil || !regexp.MustCompile(`^signal \S+ \(go\S+ \w+/\w+\)\n$`).Match(out) {
				t.Errorf("%s: %q, %v", arg, out, err)
			}
		}
	})
}

func TestEveryWrongSettingIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signal.yaml")
	if err := os.WriteFile(file, []byte("max-room-users: -1\nno-such-key: 1\nturn-realm: \"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TURN_MIN_PORT", "many")
	t.Setenv("READ_TIMEOUT", "soon")
	for _, test := range []struct {
		args  []string
		named []string
	}{
		{nil, []string{"turn-min-port", "read-timeout", "max-room-users", "no-such-key"}},
		{[]string{"--server-port", "abc", "--max-frame-bytes", "1", "--nonsense", "7", "--turn-max-port=99999", "--log-level", "loud"},
			[]string{"server-port", "max-frame-bytes", "nonsense", "turn-max-port", "log-level", "turn-min-port", "read-timeout", "max-room-users", "no-such-key"}},
	} {
		var stderr bytes.Buffer
		status := run(t.Context(), append([]string{"signal", "serve", "--config", file}, test.args...), io.Discard, &stderr)
		if status != 1 {
			t.Errorf("%v: exit status %d", test.args, status)
		}
		for _, name := range test.named {
			if !strings.Contains(stderr.String(), name) {
				t.Errorf("%v: %s is not named in:\n%s", test.args, name, &stderr)
			}
		}
	}
}

func TestWrongValuesAreNamed(t *testing.T) {
	for _, args := range [][]string{
		{"--server-port", "70000", "--turn-min-port", "70000", "--drain-timeout", "0", "--log-format", "xml"},
		{"stray"},
		{"--config", "/does/not/exist"},
	} {
		var stderr bytes.Buffer
		if status := run(t.Context(), append([]string{"signal", "serve"}, args...), io.Discard, &stderr); status != 1 {
			t.Errorf("%v: exit status %d", args, status)
		}
		for _, a := range args {
			if (strings.HasPrefix(a, "--") || a == "stray") && !strings.Contains(stderr.String(), a) {
				t.Errorf("%s is not named in:\n%s", a, &stderr)
			}
		}
	}
}

// TestUnknownCommandIsNamed types a command wrong.
func TestUnknownCommandIsNamed(t *testing.T) {
	for typed, meant := range map[string]string{"sevre": "signal serve", "heal": "signal health", "credential": "signal credentials", "nonsense": "signal --help"} {
		var stderr bytes.Buffer
		if status := run(t.Context(), []string{"signal", typed}, io.Discard, &stderr); status != 1 || !strings.Contains(stderr.String(), `"`+typed+`"`) ||
			!strings.Contains(stderr.String(), meant) {
			t.Errorf("%s: exit status %d, %s", typed, status, &stderr)
		}
	}
}

// TestEveryKindOfSettingRefusesInWords gives every setting what is none of its kind, by flag and by
// variable. A new setting is covered by being in the table.
func TestEveryKindOfSettingRefusesInWords(t *testing.T) {
	wrong := map[string][]string{
		"*setting.duration": {"5e9", "NaN", "1e10", "inf", "-1", "-1s", "1e999", "99999999h", "soon"},
		"*setting.whole":    {"many", "1.5", "NaN", "9223372036854775807", "99999999999999999999", "-99999999999999999999"},
		"*setting.number":   {"fast", "NaN", "inf", "1e308", "1e400", "-1"},
		"*setting.truth":    {"maybe", "2", "NaN"},
		"*setting.text":     nil,
		"*setting.list":     nil,
	}
	seen := map[string]int{}
	for _, s := range service.NewSettings().Table {
		kind := fmt.Sprintf("%T", s.Value)
		texts, known := wrong[kind]
		if seen[kind]++; !known {
			t.Errorf("--%s is of a kind that this test does not know: %s", s.Name, kind)
		}
		for _, text := range texts {
			refused(t, s.Name, text, "--"+s.Name+"="+text)
			t.Run(s.EnvVars[0], func(t *testing.T) {
				t.Setenv(s.EnvVars[0], text)
				refused(t, s.Name, text)
			})
		}
	}
	if len(seen) != len(wrong) {
		t.Errorf("kinds of settings: %v", seen)
	}
}

// refused runs serve, which must end with an error in words that names the setting and what was given.
func refused(t *testing.T, name, text string, args ...string) {
	t.Helper()
	var stderr bytes.Buffer
	status := run(t.Context(), append([]string{"signal", "serve", "--check"}, args...), io.Discard, &stderr)
	said := stderr.String()
	if status != 1 || !strings.Contains(said, "--"+name+": ") || strings.Contains(said, "strconv") || strings.Contains(said, "invalid value") {
		t.Errorf("%s given to --%s %v: exit status %d, %s", text, name, args, status, said)
	}
}

func TestIntroduction(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	read, w := io.Pipe()
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, append(slices.Clone(quiet), "--log-format", "text"), w, io.Discard)
		_ = w.Close()
	}()
	var text strings.Builder
	lines := bufio.NewScanner(read)
	for lines.Scan() && lines.Text() != "" || text.Len() < 100 {
		text.WriteString(lines.Text() + "\n")
	}
	stop()
	_, _ = io.Copy(io.Discard, read)
	if s := <-status; s != 0 {
		t.Errorf("exit status %d", s)
	}
	for _, part := range []string{"http://localhost:", "turn:localhost:", "transport=tcp", "127.0.0.1, UDP ports 49152-65535",
		"in memory", "/metrics"} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("%q is missing in:\n%s", part, &text)
		}
	}
}

func TestTURNOff(t *testing.T) {
	at := running(t, "--turn-enabled=false", "--turn-url", "turn:turn.example.org:3478", "--turn-secret", north)
	c, err := client.Dial(t.Context(), "http://"+at.HTTP+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(t.Context())
	if err != nil || at.Turn != 0 || !bytes.Contains(m.Raw, []byte(`"turn:turn.example.org:3478"`)) ||
		!bytes.Contains(m.Raw, []byte(`"credential"`)) {
		t.Errorf("first message %s (%v), TURN port %d", m.Raw, err, at.Turn)
	}
	_ = c.Close()
	at.stop()
}

// TestStopLetsCallsEnd stops a node while it relays: the call goes on until its client ends it, and
// then the node has stopped.
func TestStopLetsCallsEnd(t *testing.T) {
	at := running(t, "--turn-secret", north)
	user, password := turnsrv.Credentials(north, "bob", time.Now().Add(time.Minute))
	caller, relay := relaytest.Allocate(t, at.Serving, user, password)
	callee, other := relaytest.Allocate(t, at.Serving, user, password)
	at.cancel()
	for gone := false; !gone; {
		_, err := http.Get("http://" + at.HTTP + "/health")
		gone = err != nil
	}
	// Both sides have to open themselves for the other before anything passes.
	for _, r := range []struct {
		from net.PacketConn
		to   net.Addr
	}{{relay, other.LocalAddr()}, {other, relay.LocalAddr()}} {
		if _, err := r.from.WriteTo([]byte("still here"), r.to); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := relay.WriteTo([]byte("goodbye"), other.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_ = other.SetReadDeadline(time.Now().Add(patience))
	for text := ""; text != "goodbye"; {
		n, _, err := other.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		text = string(buf[:n])
	}
	select {
	case <-at.ended:
		t.Fatalf("the node stopped with status %d during a call", at.status)
	default:
	}
	for _, end := range []func() error{relay.Close, other.Close} {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	caller.Close()
	callee.Close()
	at.stop()
}

func TestMetricsOfBothParts(t *testing.T) {
	at := running(t)
	c := dial(t, at.Serving)
	res, err := http.Get("http://" + at.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"signal_connections 1", "signal_rooms 0", "signal_turn_allocations", "go_goroutines", "process_open_fds"} {
		if !bytes.Contains(body, []byte("\n"+name)) {
			t.Errorf("%s is not exported", name)
		}
	}
	_ = c.Close()
	at.stop()
}

func TestHealth(t *testing.T) {
	at := running(t)
	_, port, _ := net.SplitHostPort(at.HTTP)
	var stderr bytes.Buffer
	if s := run(t.Context(), []string{"signal", "health", "--server-port", port}, io.Discard, &stderr); s != 0 {
		t.Errorf("exit status %d, %s", s, &stderr)
	}
	at.stop()
	if s := run(t.Context(), []string{"signal", "health", "--server-port", port}, io.Discard, &stderr); s != 1 ||
		!strings.Contains(stderr.String(), "/ready") {
		t.Errorf("without a node: exit status %d, %s", s, &stderr)
	}
}

// TestPagesAndCompletionsNameEverySetting holds what the packages install against the flags.
func TestPagesAndCompletionsNameEverySetting(t *testing.T) {
	for _, args := range [][]string{{"man"}, {"completion", "fish"}} {
		var out bytes.Buffer
		if status := run(t.Context(), append([]string{"signal"}, args...), &out, io.Discard); status != 0 {
			t.Fatalf("%v: exit status %d", args, status)
		}
		text := strings.ReplaceAll(out.String(), `\-`, "-")
		for _, f := range service.NewSettings().Table.Flags() {
			if !strings.Contains(text, f.Names()[0]) {
				t.Errorf("%v lacks %s", args, f.Names()[0])
			}
		}
	}
	var page bytes.Buffer
	run(t.Context(), []string{"signal", "man"}, &page, io.Discard)
	for _, part := range []string{".SH ENVIRONMENT", `\fBTURN_SECRET\fP`, `\fBSIGNAL_CONFIG\fP`, ".SH FILES", "/etc/signal/signal.yaml", ".SH SIGNALS", "SIGHUP", ".SH EXIT STATUS"} {
		if !strings.Contains(page.String(), part) {
			t.Errorf("the manual lacks %s", part)
		}
	}
	var stderr bytes.Buffer
	if status := run(t.Context(), []string{"signal", "completion", "dos"}, io.Discard, &stderr); status != 1 {
		t.Errorf("completion dos: exit status %d, %s", status, &stderr)
	}
}

// TestBashCompletion has bash itself complete.
func TestBashCompletion(t *testing.T) {
	binary := systemtest.Executable(t)
	for words, want := range map[string]string{"hea": "health", "serve --turn-r": "--turn-realm --turn-relay-ip"} {
		script := `source <(signal completion bash); COMP_WORDS=(signal ` + words + `)
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _signal; echo "${COMPREPLY[@]}"`
		cmd := exec.Command("bash", "-c", script)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%q completes to %q (%v), want %q", words, out, err, want)
		}
	}
}

// TestREADMENamesEverySetting holds the settings table of the README against the flags and --help.
func TestREADMENamesEverySetting(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	type setting struct{ flag, env string }
	var told, real []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| `([A-Z_]+)` \\|").FindAllStringSubmatch(string(readme), -1) {
		told = append(told, fmt.Sprint(setting{row[1], row[2]}))
	}
	var help bytes.Buffer
	if status := run(t.Context(), []string{"signal", "serve", "--help"}, &help, io.Discard); status != 0 {
		t.Fatalf("--help: exit status %d", status)
	}
	for _, f := range service.NewSettings().Table.Flags() {
		name, env := f.Names()[0], f.(cli.DocGenerationFlag).GetEnvVars()
		want := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if name == "config" {
			want = "SIGNAL_CONFIG"
		}
		if !slices.Equal(env, []string{want}) {
			t.Errorf("--%s has the variables %v, want %s", name, env, want)
			continue
		}
		real = append(real, fmt.Sprint(setting{name, env[0]}))
		if !regexp.MustCompile(`(?m)--` + name + `\b.*\[\$` + env[0] + `\]`).Match(help.Bytes()) {
			t.Errorf("--help lacks --%s with $%s", name, env[0])
		}
		if f.(cli.CategorizableFlag).GetCategory() == "" {
			t.Errorf("--%s has no category", name)
		}
	}
	slices.Sort(told)
	slices.Sort(real)
	real = slices.Compact(real) // One with fixed labels has a description for each of their values.
	if !slices.Equal(told, real) {
		t.Errorf("the settings differ:\nREADME %v\nflags  %v", told, real)
	}
}

// TestREADMEsNameEveryMetric compares the tables of the parts' READMEs with what a node registers.
func TestREADMEsNameEveryMetric(t *testing.T) {
	var readmes []byte
	for _, part := range []string{"signal", "signal/admin", "turnsrv", "state"} {
		text, err := os.ReadFile(part + "/README.md")
		if err != nil {
			t.Fatal(err)
		}
		readmes = append(readmes, text...)
	}
	port := redistest.Start(t).Port()
	n := startNode(t, func(s *service.Settings) {
		s.Redis.Host, s.Redis.Port = "127.0.0.1", port
		cert, key := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "localhost"))
		s.Certificate.Certs, s.Certificate.Keys = []string{cert}, []string{key}
	})
	descriptions := make(chan *prometheus.Desc, 1000)
	n.registry.Describe(descriptions)
	close(descriptions)
	var told, real []string
	for d := range descriptions {
		if name := regexp.MustCompile(`fqName: "(signal_\w+)"`).FindStringSubmatch(d.String()); name != nil {
			real = append(real, name[1])
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| (`signal_.*?) \\|").FindAllStringSubmatch(string(readmes), -1) {
		for _, name := range regexp.MustCompile("`(signal_\\w+)").FindAllStringSubmatch(row[1], -1) {
			told = append(told, name[1])
		}
	}
	slices.Sort(told)
	slices.Sort(real)
	real = slices.Compact(real) // One with fixed labels has a description for each of their values.
	if !slices.Equal(told, real) {
		t.Errorf("the metrics differ:\nREADMEs %v\nnode   %v", told, real)
	}
}

// TestNodeWithoutTURNNamesThatOfOthers is a cluster whose TURN servers are on other nodes than its
// signaling.
func TestNodeWithoutTURNNamesThatOfOthers(t *testing.T) {
	port := redistest.Start(t).Port()
	onRedis := func(s *service.Settings) { s.Redis.Host, s.Redis.Port = "127.0.0.1", port }
	turn := startNode(t, func(s *service.Settings) { onRedis(s); s.TURN.PublicHost = turnsrv.Auto })
	web := startNode(t, func(s *service.Settings) { onRedis(s); s.TURN.Enabled = false })
	want := "turn:127.0.0.1:" + strconv.Itoa(turn.turn.Port()) + "?transport=udp"
	var servers []signal.ICEServer
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if servers = web.directory.ICE("signal.example.org", "bob").Servers; len(servers) == 1 {
			break
		}
	}
	if len(servers) != 1 || servers[0].URLs[0] != want {
		t.Fatalf("ICE servers %+v, want %s", servers, want)
	}
	mac := hmac.New(sha1.New, []byte(turn.settings.TURN.Secrets[0]))
	mac.Write([]byte(servers[0].Username))
	if credential := base64.StdEncoding.EncodeToString(mac.Sum(nil)); credential != servers[0].Credential {
		t.Error("the credential is not of the secret that the cluster agreed on")
	}
}

// startNode builds a node on loopback, which the test's end stops.
func startNode(t *testing.T, change func(*service.Settings)) *node {
	t.Helper()
	s := service.NewSettings()
	s.Signal.Host, s.Signal.Port, s.Admin.Addr = "127.0.0.1", 0, ""
	s.TURN.Listen, s.TURN.Port, s.TURN.TLSPort, s.TURN.RelayIP = []string{"127.0.0.1"}, 0, 0, []string{"127.0.0.1"}
	change(s)
	n, err := newNode(s, slog.New(slog.DiscardHandler), new(slog.LevelVar))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, stop := context.WithCancel(context.Background())
		stop()
		if err := n.run(ctx, func() {}); err != nil {
			t.Error(err)
		}
	})
	return n
}

// iceOf asks a node for ICE servers with a session's cookie, or any new one's.
func iceOf(t *testing.T, at systemtest.Serving, cookie *http.Cookie) (*http.Cookie, []turnsrv.ICEServer) {
	t.Helper()
	web := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	if cookie == nil {
		page, err := web.Get("http://" + at.HTTP + "/")
		if err != nil {
			t.Fatal(err)
		}
		_ = page.Body.Close()
		cookie = page.Cookies()[0]
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.HTTP+"/ice", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.AddCookie(cookie)
	answer, err := web.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	var ice struct{ ICEServers []turnsrv.ICEServer }
	if err := json.NewDecoder(answer.Body).Decode(&ice); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("/ice: %s, %v", answer.Status, err)
	}
	return cookie, ice.ICEServers
}

// TestNodesShareSecretsAndTURN takes a session from one node to the other, and allocates at the other
// with the credentials that the first one gave for it.
func TestNodesShareSecretsAndTURN(t *testing.T) {
	redis := []string{"--redis-host", "127.0.0.1", "--redis-port", strconv.Itoa(redistest.Start(t).Port()), "--state-beat", "0.2"}
	one, two := running(t, redis...), running(t, redis...)
	var cookie *http.Cookie
	var servers []turnsrv.ICEServer
	deadline := time.Now().Add(patience)
	for len(servers) != 3 {
		if time.Now().After(deadline) {
			t.Fatalf("ICE servers %v", servers)
		}
		cookie, servers = iceOf(t, one.Serving, cookie)
		<-time.After(10 * time.Millisecond)
	}
	own, other := fmt.Sprintf("turn:127.0.0.1:%d?transport=udp", one.Turn), fmt.Sprintf("turn:127.0.0.1:%d?transport=udp", two.Turn)
	if servers[1].URLs[0] != own || servers[2].URLs[0] != other {
		t.Errorf("ICE servers %v, want %s before %s", servers, own, other)
	}
	iceOf(t, two.Serving, cookie) // The other node knows the session.
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	server := net.JoinHostPort("127.0.0.1", strconv.Itoa(two.Turn))
	c, err := turn.NewClient(&turn.ClientConfig{Conn: socket, STUNServerAddr: server, TURNServerAddr: server,
		Username: servers[2].Username, Password: servers[2].Credential})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	relay, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	_ = relay.Close()
}

// TestDrainingNodeNamesTheOtherFirst has a node that goes away send clients elsewhere.
func TestDrainingNodeNamesTheOtherFirst(t *testing.T) {
	port := redistest.Start(t).Port()
	change := func(s *service.Settings) {
		s.Redis.Host, s.Redis.Port, s.Redis.Beat = "127.0.0.1", port, 200*time.Millisecond
	}
	one, two := startNode(t, change), startNode(t, change)
	deadline := time.Now().Add(patience)
	for len(one.state.Nodes()) != 1 || len(one.state.Nodes()[0].TURN) == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("nodes %v", one.state.Nodes())
		}
		<-time.After(10 * time.Millisecond)
	}
	one.directory.Drain()
	servers := one.directory.ICE("127.0.0.1", "bob").Servers
	if want := fmt.Sprintf("turn:127.0.0.1:%d?transport=udp", two.turn.Port()); len(servers) != 3 || servers[1].URLs[0] != want {
		t.Errorf("ICE servers %v, want %s first", servers, want)
	}
}

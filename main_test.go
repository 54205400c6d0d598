package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/turn/v3"
	"github.com/prometheus/client_golang/prometheus"
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

package admin

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"cline-meet/signal/state"
)

// document is what the tests need of the OpenAPI document.
type document struct {
	OpenAPI string
	Paths   map[string]map[string]struct {
		OperationID string
		Security    []map[string][]string
	}
}

func (n *testNode) document() (d document) {
	n.t.Helper()
	status, text := n.call(readToken, http.MethodGet, "/v1/openapi.json", "")
	if err := json.Unmarshal([]byte(text), &d); status != http.StatusOK || err != nil || len(d.Paths) < 10 || !strings.HasPrefix(d.OpenAPI, "3.1") {
		n.t.Fatalf("document: %d, %d paths of version %q (%v)", status, len(d.Paths), d.OpenAPI, err)
	}
	return d
}

// route is one operation with nobody and nothing in its path.
type route struct {
	method, path string
	least        role
}

// routes are all that the document has, and those that are no part of the API.
func (n *testNode) routes() []route {
	all := []route{{"GET", "/metrics", roleMetrics}, {"GET", "/v1/openapi.json", roleRead}, {"GET", "/debug/pprof/cmdline", roleWrite}}
	fill := strings.NewReplacer("{room}", "nowhere", "{user}", "user-nobody", "{node}", "no-node", "{id}", "no-node.1", "{name}", "turn-secret")
	for path, methods := range n.document().Paths {
		for method, op := range methods {
			least := map[string]role{"read": roleRead, "write": roleWrite}[op.Security[0]["token"][0]]
			all = append(all, route{strings.ToUpper(method), fill.Replace(path), least})
		}
	}
	return all
}

// TestEachRoleDoesItsPart asks for each route with each role. What a role may do goes by its own
// ways (a room that is not there is 404), what it may not is 401 or 403, and changes nothing.
func TestEachRoleDoesItsPart(t *testing.T) {
	n := startNodes(t, "a")[0]
	for _, r := range n.routes() {
		for _, who := range []struct {
			token string
			role  role
			deny  int
		}{
			{"", roleNobody, 401}, {"no-token-of-this-node", roleNobody, 401}, {metricsToken, roleMetrics, 403},
			{readToken, roleRead, 403}, {"an-older-token-of-all", roleWrite, 0}, {writeToken, roleWrite, 0},
		} {
			status, text := n.call(who.token, r.method, r.path, `{"data":1,"level":"info"}`)
			switch denied := status == 401 || status == 403; {
			case who.role < r.least && status != who.deny:
				t.Errorf("%s %s as %s: %d %s, not %d", r.method, r.path, who.role, status, text, who.deny)
			case who.role >= r.least && denied:
				t.Errorf("%s %s as %s: %d %s", r.method, r.path, who.role, status, text)
			}
		}
	}
	if text := n.log.String(); strings.Contains(text, "rotated") == false || strings.Contains(text, "token-that") {
		t.Errorf("the log has a token, or nobody rotated anything: %s", text)
	}
}

// TestLoopbackReads has a node without tokens: who is on the machine may read all and change nothing.
func TestLoopbackReads(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Addr = "127.0.0.1:0"
	n := startNode(t, state.NewMemory().Node("a"), cfg)
	for path, want := range map[string]int{"/metrics": 200, "/v1/rooms": 200, "/debug/pprof/cmdline": 200, "/v1/nothing": 404} {
		if status, text := n.call("", http.MethodGet, path, ""); status != want {
			t.Errorf("GET %s: %d %s", path, status, text)
		}
	}
	if status, _ := n.call("", http.MethodDelete, "/v1/rooms/r", ""); status != 403 {
		t.Errorf("closing a room without a token: %d", status)
	}
}

// TestPagesOfOtherSitesDoNothing has a browser send what a page of another site can make it send.
func TestPagesOfOtherSitesDoNothing(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Addr = "127.0.0.1:0"
	open := startNode(t, state.NewMemory().Node("a"), cfg)
	closed := startNodes(t, "a")[0]
	_, port, _ := net.SplitHostPort(open.Addr().String())
	for _, test := range []struct {
		n      *testNode
		token  string
		header []string
		want   int
	}{
		{open, "", []string{"Origin", "https://evil.example"}, 403},
		{open, "", []string{"Origin", "null"}, 403},
		{open, "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{open, "", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{open, "", []string{"Host", "evil.example:" + port}, 403},
		{open, "", []string{"Host", "localhost:" + port}, 200},
		{open, "", []string{"Host", "[::1]"}, 200},
		{open, "", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{open, "", []string{"Sec-Fetch-Site", "none"}, 200},
		{closed, readToken, []string{"Host", "signal.internal"}, 200},
		{closed, readToken, []string{"Origin", "https://evil.example"}, 403},
		{closed, "", []string{"Cookie", "token=" + writeToken}, 401},
	} {
		if status, text := test.n.call(test.token, http.MethodGet, "/v1/rooms", "", test.header...); status != test.want {
			t.Errorf("with %v: %d %s, not %d", test.header, status, text, test.want)
		}
	}
}

// TestProfilesStayOffTheNetwork has two nodes that listen on the network, of which one is told to serve profiles.
func TestProfilesStayOffTheNetwork(t *testing.T) {
	for _, told := range []bool{false, true} {
		cfg := DefaultConfig()
		cfg.Addr, cfg.Tokens, cfg.Pprof = "0.0.0.0:0", []string{writeToken}, told
		n := startNode(t, state.NewMemory().Node("a"), cfg)
		want := map[bool]int{false: 404, true: 200}[told]
		if status, _ := n.call(writeToken, http.MethodGet, "/debug/pprof/cmdline", ""); status != want {
			t.Errorf("told %v: %d", told, status)
		}
	}
}

// TestSocketIsForItsUser has a node listen on a Unix socket, twice after one another, as after a crash.
func TestSocketIsForItsUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	cfg := DefaultConfig()
	cfg.Addr = "unix:" + path
	n := startNode(t, state.NewMemory().Node("a"), cfg)
	if _, err := New(cfg); err == nil {
		t.Error("a second node took the socket of a living one")
	}
	a := newAPI(cfg.Addr, "")
	defer a.client.CloseIdleConnections()
	if _, err := a.do(t.Context(), http.MethodPut, "/v1/nodes/a/log-level", map[string]string{"level": "debug"}); err != nil {
		t.Errorf("writing by the socket: %v", err)
	}
	if n.level.Level().String() != "DEBUG" {
		t.Errorf("the level is %s", n.level.Level())
	}
}

// TestProblemsAreOfRFC9457 looks at every kind of refusal.
func TestProblemsAreOfRFC9457(t *testing.T) {
	n := startNodes(t, "a")[0]
	for _, test := range []struct {
		token, method, path, body string
		status                    int
		says                      string
	}{
		{"", "GET", "/v1/rooms", "", 401, "bearer token"},
		{readToken, "DELETE", "/v1/rooms/r", "", 403, "write role"},
		{readToken, "GET", "/v1/rooms/r", "", 404, "nobody is in room r"},
		{readToken, "GET", "/v1/room", "", 404, "openapi.json"},
		{readToken, "GET", "/v1/rooms?limit=9999", "", 422, "validation"},
		{readToken, "GET", "/v1/rooms?colour=red", "", 422, "validation"},
		{writeToken, "PUT", "/v1/nodes/a/log-level", `{"level":"loud"}`, 422, "validation"},
		{writeToken, "PUT", "/v1/nodes/a/log-level", `{"level":"info","level":"debug"}`, 400, "duplicate"},
		{writeToken, "POST", "/v1/rooms/r/messages", "{\"data\":\"\xff\"}", 400, "UTF-8"},
		{writeToken, "POST", "/v1/rooms/r/messages", `{"data":"` + strings.Repeat("x", maxBody) + `"}`, 413, "large"},
		{writeToken, "POST", "/v1/nodes/b/drain", "", 404, "no node b"},
	} {
		status, text := n.call(test.token, test.method, test.path, test.body)
		var p huma.ErrorModel
		err := json.Unmarshal([]byte(text), &p)
		if status != test.status || err != nil || p.Status != status || p.Title == "" || !strings.Contains(text, test.says) {
			t.Errorf("%s %s: %d %s (%v), want %d with %q", test.method, test.path, status, text, err, test.status, test.says)
		}
	}
}

// TestChangesAreAudited counts the lines of the log.
func TestChangesAreAudited(t *testing.T) {
	n := startNodes(t, "a")[0]
	n.call(writeToken, http.MethodPut, "/v1/nodes/a/log-level", `{"level":"warn"}`)
	n.level.Set(0)
	n.call(readToken, http.MethodPost, "/v1/users/user-x/kick", "")
	n.call(readToken, http.MethodGet, "/v1/rooms", "")
	var lines []string
	for line := range strings.Lines(n.log.String()) {
		if strings.Contains(line, "msg=admin") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 2 || !strings.Contains(lines[0], "action=set-log-level path=/v1/nodes/a/log-level by=write-token-2") || !strings.Contains(lines[0], "status=204") ||
		!strings.Contains(lines[1], "action=kick-user path=/v1/users/user-x/kick by=read-token-1") || !strings.Contains(lines[1], "status=403") {
		t.Errorf("audit: %q", lines)
	}
}

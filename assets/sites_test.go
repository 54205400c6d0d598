package assets_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// startSites runs a web server over TLS, whose port it returns. Browsers find it as any name that ends with .test, as they
// do with everything on this machine.
func startSites(t *testing.T, h http.Handler) (port string) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{systemtest.Certificate(t, "one.test")}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return portOf(t, server.Listener)
}

func portOf(t *testing.T, l net.Listener) string {
	t.Helper()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// probe answers with the cookie of a request and sets one that is meant for pages of all sites.
func probe(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Set-Cookie", "probe=x; Path=/; Secure; SameSite=None")
	_, _ = fmt.Fprint(w, r.Header.Get("Cookie"))
}

// emptyPage is ready and does nothing.
func emptyPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	_, _ = fmt.Fprint(w, "<script>window.signalPage = { log: [] }</script>")
}

// probed returns the cookies that a page sends to the probe at that port of the server's site, once it may have one.
func probed(p pagetest.Page, port string) (cookies string) {
	p.T.Helper()
	ask := fmt.Sprintf(`fetch("https://signal.test:%s", {credentials: "include"}).then((r) => r.text())`, port)
	for range 2 {
		cookies = pagetest.Evaluate[string](p, ask)
	}
	return cookies
}

// TestCallBetweenSites has pages of two sites, neither of them the server's, import signal.js from there and call each other, in a browser
// that keeps third-party cookies away. Both lose their sockets and resume, twice; nobody sees anybody leave.
func TestCallBetweenSites(t *testing.T) {
	sites := startSites(t, http.FileServer(http.Dir("testdata")))
	cookies := startSites(t, http.HandlerFunc(probe))
	cert, key := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "signal.test"))
	one, two := "https://one.test:"+sites, "https://two.test:"+sites
	node := systemtest.StartNode(t, "--tls-cert", cert, "--tls-key", key, "--allowed-origins", one+","+two, "--turn-public-host", "127.0.0.1")
	t.Cleanup(node.Kill) // There is nobody to drain for.
	l := startLine(t, node.HTTP)
	server := "https://signal.test:" + portOf(t, l.listener)
	browser := pagetest.Start(t, chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1"), chromedp.Flag("test-third-party-cookie-phaseout", true))
	page := "/other-site.html?transport=relay-udp&server=" + server
	a, b := browser.Open(t, one+page), browser.Open(t, two+page)
	if got := probed(browser.Open(t, "https://page.signal.test:"+startSites(t, http.HandlerFunc(emptyPage))), cookies); got == "" {
		t.Error("the browser sends no cookie to its own site")
	}
	both := []pagetest.Page{a, b}
	ids := []string{a.User(), b.User()}
	for _, p := range both {
		if got := probed(p, cookies); got != "" {
			t.Errorf("the browser sends the cookie %q of another site", got)
		}
		p.Connected(1, pagetest.Connection.Relayed)
		pagetest.Evaluate[int](p, `(window.resumes = 0, window.leavers = 0,
			window.signalPage.client.addEventListener("resumed", ({ detail }) => (window.resumes += detail.gap ? 100 : 1)),
			window.signalPage.client.addEventListener("userleft", () => window.leavers++), 0)`)
	}
	for cut := 1; cut <= 2; cut++ {
		l.cut()
		for _, p := range both {
			pagetest.Until(p, "the session is resumed", "window.resumes", func(n int) bool { return n == cut })
			p.Connected(1, pagetest.Connection.Relayed)
		}
	}
	pagetest.Talk(a, b, "still the same call")
	if got := []string{a.User(), b.User()}; !slices.Equal(got, ids) {
		t.Errorf("%v became %v", ids, got)
	}
	for _, p := range both {
		if n := pagetest.Evaluate[int](p, "window.leavers"); n != 0 {
			t.Errorf("%s was told %d times that somebody left", p.User(), n)
		}
		servers := pagetest.Evaluate[[]struct{ Credential string }](p, "window.signalPage.fetchICE()")
		if !slices.ContainsFunc(servers, func(s struct{ Credential string }) bool { return s.Credential != "" }) {
			t.Errorf("fetch /ice: %+v", servers)
		}
		if status := pagetest.Evaluate[int](p, fmt.Sprintf(`fetch("%s/health").then((r) => r.status)`, server)); status != http.StatusOK {
			t.Errorf("fetch /health: %d", status)
		}
	}
}

// TestForeignPageIsRefused has a page that nobody allowed get nothing of it.
func TestForeignPageIsRefused(t *testing.T) {
	sites := startSites(t, http.HandlerFunc(emptyPage))
	cert, key := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "signal.test"))
	node := systemtest.StartNode(t, "--tls-cert", cert, "--tls-key", key, "--allowed-origins", "https://one.test:"+sites)
	server := "https://signal.test:" + node.HTTP[len("127.0.0.1:"):]
	p := pagetest.Start(t, chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1")).Open(t, "https://two.test:"+sites)
	for what, expression := range map[string]string{
		"import":  `import("%s/signal.js")`,
		"ICE":     `fetch("%s/ice", { headers: { authorization: "Bearer x" } })`,
		"health":  `fetch("%s/health")`,
		"socket":  `new Promise((resolve, reject) => { const s = new WebSocket("%s/ws".replace("http", "ws")); s.onopen = resolve; s.onerror = reject; })`,
		"cookies": `fetch("%s/ice", { credentials: "include" })`,
	} {
		if got := pagetest.Evaluate[string](p, "("+fmt.Sprintf(expression, server)+`).then(() => "worked", () => "refused")`); got != "refused" {
			t.Errorf("%s %s", what, got)
		}
	}
}

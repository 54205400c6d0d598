package assets_test

import (
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// TestPageTellsWhetherRelaysCanBeReached opens the page through a proxy, which says that the browser is elsewhere: at a node whose TURN
// server is where clients are told, and at one where nobody is.
func TestPageTellsWhetherRelaysCanBeReached(t *testing.T) {
	t.Parallel()
	browser := pagetest.Start(t)
	for _, test := range []struct {
		flags []string
		code  string
	}{
		{nil, ""},
		{[]string{"--turn-url", "turn:127.0.0.1:1?transport=udp,turn:127.0.0.1:1?transport=tcp"}, "relay_unreached"},
	} {
		node := systemtest.StartNode(t, append(test.flags, "--trusted-proxies", "127.0.0.1")...)
		target, err := url.Parse(node.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.Out.Header.Set("X-Forwarded-For", "10.5.5.5")
		}})
		t.Cleanup(proxy.Close)
		page := browser.Open(t, proxy.URL+"/?autojoin=1&room=r&media=none")
		pagetest.Until(page, "the page has told", `fetch("reach").then((answer) => answer.json()).then(({ wanted }) => wanted)`, func(wanted bool) bool { return !wanted })
		if text := node.Log.String(); (test.code != "") != strings.Contains(text, `"code":"relay_unreached`) || !strings.Contains(text, `"code":"`+test.code) {
			t.Errorf("with %q the node says\n%s", test.flags, text)
		}
	}
}

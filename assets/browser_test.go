package assets_test

import (
	"slices"
	"strings"
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// call opens a page for each of two people, waits until they see each other by the transport that
// the link asks for, and lets them chat.
func call(t *testing.T, browser pagetest.Browser, link, transport string) (a, b pagetest.Page) {
	t.Helper()
	a, b = browser.Open(t, link), browser.Open(t, link)
	want, relayed := strings.CutPrefix(transport, "relay-")
	asked := func(c pagetest.Connection) bool { return !relayed || c.Relayed() && c.RelayProtocol == want }
	for _, p := range []pagetest.Page{a, b} {
		for _, c := range p.Connected(1, asked) {
			t.Logf("selected pair: %s to %s over %s, relay protocol %q", c.LocalType, c.RemoteType, c.Protocol, c.RelayProtocol)
		}
	}
	pagetest.Talk(a, b, "hello from a")
	pagetest.Talk(b, a, "hello from b")
	return a, b
}

// TestCallOverTLS opens the page over HTTPS and relays over TURN in TLS.
func TestCallOverTLS(t *testing.T) {
	t.Parallel()
	cert, key := systemtest.WriteCertificate(t, t.TempDir(), systemtest.Certificate(t, "127.0.0.1"))
	node, browser := systemtest.StartNode(t, "--tls-cert", cert, "--tls-key", key), pagetest.Start(t)
	call(t, browser, node.URL+"?autojoin=1&room=tls&transport=relay-tls", "relay-tls")
}

func TestTwoWindowsSeeAndHearEachOther(t *testing.T) {
	node, browser := systemtest.StartNode(t), pagetest.Start(t)
	for _, transport := range []string{"all", "relay-udp", "relay-tcp"} {
		t.Run(transport, func(t *testing.T) {
			link := node.URL + "?autojoin=1&room=" + transport + "&transport=" + transport
			a, b := call(t, browser, link, transport)

			t.Log("a reloads and is somebody new to b")
			before := a.User()
			a.Reload()
			after := a.User()
			if after == before {
				t.Errorf("%s has the same id after a reload", after)
			}
			pagetest.Until(b, "b sees only the new one", "window.signalPage.users", func(users []string) bool {
				return slices.Equal(users, []string{b.User(), after})
			})
			a.Connected(1)
			b.Connected(1)
			pagetest.Talk(b, a, "welcome back")
		})
	}
}

func TestThreeTabsOfOneBrowser(t *testing.T) {
	link := systemtest.StartNode(t).URL + "?autojoin=1&room=tabs&media=synthetic"
	browser := pagetest.Start(t)
	var pages []pagetest.Page
	users := map[string]bool{}
	sessions := map[string]bool{}
	for range 3 {
		p := browser.OpenTab(t, link)
		pages = append(pages, p)
		user := p.User()
		users[user] = true
		sessions[user[:strings.LastIndex(user, "-")]] = true
	}
	if len(users) != 3 || len(sessions) != 1 {
		t.Errorf("three tabs are the participants %v of the sessions %v", users, sessions)
	}
	for _, p := range pages {
		p.Connected(2)
	}
	pagetest.Talk(pages[0], pages[1], "to all")
	pagetest.Talk(pages[2], pages[0], "from the third")
}

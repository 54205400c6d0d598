package k8s_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// turnHost is the name that the guide proposes for machines with a certificate.
const turnHost = "{address}.turn.example.org"

var (
	gap   = flag.Duration("gap", time.Second, "longest time without a new frame of video in the rolling update, on a machine that does nothing else")
	drain = flag.Int("drain", 15, "seconds that a pod drains in the rolling update, at most; 0 takes the manifest's")
)

// TestRollingUpdate updates three machines one after the other, with the command, the environment and
// the preStop of the DaemonSet, under a call that only relays carry, which clients reach by TLS: the page
// as well as TURN, each with the certificate of its Secret, and each machine under a name of its own.
// Browsers keep relays that they left for more than a minute, so that the manifest's drain takes that
// long for each machine; less time is the harder test.
func TestRollingUpdate(t *testing.T) {
	dir := sourceWith(t, []string{"gateway"}, "https", "certificate")
	edit(t, filepath.Join(dir, "base/settings.env"), "TURN_PUBLIC_HOST=auto", "TURN_PUBLIC_HOST="+turnHost)
	f := newFleet(t, renderIn(t, dir, "daemonset"), 3)
	link := f.service() + "?autojoin=1&room=rolling&media=synthetic&transport=relay-tls"
	overTLS := func(c pagetest.Connection) bool { return c.Relayed() && c.RelayProtocol == "tls" }
	pages := f.openPages([]string{link, link, link}, overTLS)
	slowdown := systemtest.Slowdown(t)
	for _, p := range pages {
		watch(p)
	}
	for i, m := range f.machines {
		took := m.stop()
		m.start()
		for j, p := range pages {
			text := fmt.Sprintf("line %d of page %d", i, j)
			p.Say(text)
			for k, other := range pages {
				if k != j {
					other.Hears(text)
				}
			}
		}
		t.Logf("%s took %v to end", m.name, took.Round(100*time.Millisecond))
	}
	limit := time.Duration(slowdown()) * *gap
	for i, p := range pages {
		if left := left(p); len(left) > 0 {
			t.Errorf("page %d was told that someone left: %q", i, left)
		}
		worst := time.Duration(pagetest.Evaluate[int](p, "window.worstGap")) * time.Millisecond
		t.Logf("page %d had no new frame for at most %v", i, worst)
		if worst > limit {
			t.Errorf("page %d had no new frame for %v, want at most %v", i, worst, limit)
		}
	}
	for _, m := range f.machines {
		if !strings.Contains(m.said(), `"source":"kubernetes node `+m.name) {
			t.Errorf("%s does not say where its external address is from:\n%s", m.name, m.said())
		}
	}
}

// openPages opens each link for one person, in a browser that knows the names of the machines, and waits until all see each other by
// connections of which all of that holds.
func (f *fleet) openPages(links []string, that ...func(pagetest.Connection) bool) []pagetest.Page {
	f.t.Helper()
	var names []string
	for _, m := range f.machines {
		names = append(names, "MAP "+strings.ReplaceAll(turnHost, "{address}", strings.ReplaceAll(m.ip, ".", "-"))+" "+m.ip)
	}
	browser := pagetest.Start(f.t, chromedp.Flag("host-resolver-rules", strings.Join(names, ",")))
	var pages []pagetest.Page
	for _, link := range links {
		pages = append(pages, browser.Open(f.t, link))
	}
	for _, p := range pages {
		p.Connected(len(links)-1, that...)
	}
	return pages
}

// watch measures from now on the longest time in which any other's video did not move.
func watch(p pagetest.Page) {
	p.T.Helper()
	pagetest.Evaluate[int](p, `(() => {
		window.worstGap = 0;
		const last = new Map();
		setInterval(async () => {
			const now = performance.now();
			for (const c of await window.signalPage.peers()) {
				const before = last.get(c.id);
				if (!before || before.frames !== c.framesDecoded) last.set(c.id, { frames: c.framesDecoded, at: now });
				else window.worstGap = Math.max(window.worstGap, Math.round(now - before.at));
			}
		}, 50);
		return 0;
	})()`)
}

// left returns the lines of the log in which others leave.
func left(p pagetest.Page) []string {
	p.T.Helper()
	return slices.DeleteFunc(p.Log(), func(line string) bool { return !strings.Contains(line, " left") })
}

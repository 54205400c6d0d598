package k8s_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

var (
	gap   = flag.Duration("gap", time.Second, "longest time without a new frame of video in the rolling update")
	drain = flag.Int("drain", 15, "seconds that a pod drains in the rolling update, at most; 0 takes the manifest's")
)

// TestRollingUpdate updates three machines one after the other, with the command, the environment and
// the preStop of the DaemonSet, under a call that only relays carry. Browsers keep relays that they
// left for more than a minute, so that the manifest's drain takes that long for each machine; less time
// is the harder test.
func TestRollingUpdate(t *testing.T) {
	f := newFleet(t, "daemonset", 3)
	link := f.service() + "?autojoin=1&room=rolling&media=synthetic&transport=relay"
	pages := openPages(t, `c.localType === "relay" && c.remoteType === "relay"`, link, link, link)
	for _, p := range pages {
		p.watch()
	}
	for i, m := range f.machines {
		took := m.stop()
		m.start()
		for j, p := range pages {
			text := fmt.Sprintf("line %d of page %d", i, j)
			p.say(text)
			for k, other := range pages {
				if k != j {
					other.hears(text)
				}
			}
		}
		t.Logf("%s took %v to end", m.name, took.Round(100*time.Millisecond))
	}
	for i, p := range pages {
		if left := p.left(); len(left) > 0 {
			t.Errorf("page %d was told that someone left: %q", i, left)
		}
		worst := time.Duration(evaluate[int](p, "window.worstGap")) * time.Millisecond
		t.Logf("page %d had no new frame for at most %v", i, worst)
		if worst > *gap {
			t.Errorf("page %d had no new frame for %v, want at most %v", i, worst, *gap)
		}
	}
	for _, m := range f.machines {
		if !strings.Contains(m.said(), `"source":"kubernetes node `+m.name) {
			t.Errorf("%s does not say where its external address is from:\n%s", m.name, m.said())
		}
	}
}

// page is one person with the test page.
type page struct {
	t   *testing.T
	tab context.Context
}

// openPages opens each link for one person and waits until all see each other, on connections c of which
// that holds.
func openPages(t *testing.T, that string, links ...string) []page {
	t.Helper()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath("chromium"), chromedp.UserDataDir(t.TempDir()), chromedp.Flag("no-sandbox", os.Geteuid() == 0),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-renderer-backgrounding", true), chromedp.Flag("disable-backgrounding-occluded-windows", true))
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	browser, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() { cancel(); cancelAllocator() })
	if _, err := chromedp.Run(browser, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	var pages []page
	for _, link := range links {
		tab, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
		t.Cleanup(cancel)
		if _, err := chromedp.Run(tab, chromedp.Navigate(link)); err != nil {
			t.Fatalf("opening %s: %v", link, err)
		}
		pages = append(pages, page{t, tab})
	}
	for i, p := range pages {
		poll(t, fmt.Sprintf("page %d sees the others", i), func() string {
			if seen := evaluate[int](p, `window.signalPage.peers().then(all => all.filter(c => c.framesDecoded > 5 &&
				c.dataChannel === "open" && (`+that+`)).length)`); seen != len(links)-1 {
				return fmt.Sprintf("%d of them\n%s\n%s", seen, evaluate[string](p, "window.signalPage.peers().then(JSON.stringify)"),
					strings.Join(evaluate[[]string](p, "window.signalPage.log"), "\n"))
			}
			return ""
		})
	}
	return pages
}

// watch measures from now on the longest time in which any other's video did not move.
func (p page) watch() {
	p.t.Helper()
	evaluate[int](p, `(() => {
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

func (p page) say(text string) {
	p.t.Helper()
	evaluate[int](p, fmt.Sprintf("(window.signalPage.sendChat(%q), 0)", text))
}

func (p page) hears(text string) {
	p.t.Helper()
	poll(p.t, text, func() string {
		for _, line := range evaluate[[]struct{ Text string }](p, "window.signalPage.chat") {
			if line.Text == text {
				return ""
			}
		}
		return "not yet\n" + strings.Join(evaluate[[]string](p, "window.signalPage.log"), "\n")
	})
}

// left returns the lines of the log in which others leave.
func (p page) left() []string {
	p.t.Helper()
	return slices.DeleteFunc(evaluate[[]string](p, "window.signalPage.log"), func(line string) bool { return !strings.Contains(line, " left") })
}

func evaluate[T any](p page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.tab, 30*time.Second)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// certificate is self-signed for an address.
func certificate(t *testing.T, ip string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(ip)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

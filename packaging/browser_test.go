package packaging_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// callAcross has two people call each other with a browser, one on each node, relayed in any case.
func callAcross(t *testing.T, m *machine) {
	need(t, "chromium")
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath("chromium"),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("no-sandbox", os.Geteuid() == 0),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("use-fake-ui-for-media-stream", true),
		chromedp.Flag("use-fake-device-for-media-stream", true),
	)
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancelAllocator()
	browser, cancel := chromedp.NewContext(allocator)
	defer cancel()
	if _, err := chromedp.Run(browser, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	seen := map[string]bool{}
	var pages []context.Context
	until(t, "pages on both nodes", func() string {
		page, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
		t.Cleanup(cancel)
		link := "http://" + m.ip + ":8080/?autojoin=1&room=across&media=synthetic&transport=relay"
		if _, err := chromedp.Run(page, chromedp.Navigate(link)); err != nil {
			return err.Error()
		}
		node := evaluate[string](t, page, nodeOfPage, func(s string) bool { return s != "" })
		pages, seen[node] = append(pages, page), true
		if len(seen) < 2 {
			return "all on " + node
		}
		return ""
	})
	for _, page := range pages {
		evaluate[int](t, page, decoding, func(n int) bool { return n == len(pages)-1 })
	}
	t.Logf("%d people on %d nodes see each other through relays", len(pages), len(seen))
}

const (
	// nodeOfPage tells the nodes apart by the port of their TURN server.
	nodeOfPage = `window.signalPage?.log.join(" ").match(/turn:[^?, ]+/)?.[0] ?? ""`
	// decoding counts the others whose video arrives through relays on both sides.
	decoding = `window.signalPage.peers().then(all => all.filter(c =>
		c.framesDecoded > 5 && c.localType === "relay" && c.remoteType === "relay").length)`
)

// evaluate polls an expression of a page until ok accepts its value.
func evaluate[T any](t *testing.T, page context.Context, expression string, ok func(T) bool) T {
	t.Helper()
	var value T
	until(t, expression, func() string {
		ctx, cancel := context.WithTimeout(page, 10*time.Second)
		defer cancel()
		var err error
		value, err = chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
		switch {
		case err != nil:
			return err.Error()
		case !ok(value):
			return "not yet"
		}
		return ""
	})
	return value
}

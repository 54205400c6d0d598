// Package pagetest drives the test page in Chromium, for the tests of whatever serves it.
package pagetest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"cline-meet/signal/packaging/systemtest"
)

// Browser is one Chromium with a fake camera and microphone, which trusts every certificate.
type Browser struct{ ctx context.Context }

// Start runs a browser, with more flags, until the test ends. Without Chromium the test is skipped, or fails in CI.
func Start(t *testing.T, flags ...chromedp.ExecAllocatorOption) Browser {
	t.Helper()
	systemtest.Need(t, "chromium")
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath("chromium"),
		chromedp.WSURLReadTimeout(systemtest.Patience),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("no-sandbox", os.Geteuid() == 0),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.Flag("ignore-certificate-errors", true),
		chromedp.Flag("use-fake-ui-for-media-stream", true),
		chromedp.Flag("use-fake-device-for-media-stream", true),
	)
	options = append(options, flags...)
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() { cancel(); cancelAllocator() })
	if _, err := chromedp.Run(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return Browser{ctx}
}

// Page is one tab with the test page.
type Page struct {
	T        *testing.T
	Tab      context.Context // chromedp's
	failures *failures
}

// failures are the requests that the browser gave up, and the errors that nobody caught.
type failures struct {
	mu   sync.Mutex
	list []string
}

// note is called by the loop that reads what the browser says.
func (f *failures) note(event any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e := event.(type) {
	case *network.EventLoadingFailed:
		f.list = append(f.list, e.ErrorText)
	case *runtime.EventExceptionThrown:
		f.list = append(f.list, e.ExceptionDetails.Text)
	}
}

// take returns what failed since the last call.
func (f *failures) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.list
	f.list = nil
	return list
}

// networkChanged is why Chromium gives up requests when this machine gets or loses an address, as it
// does by tests that make networks of their own.
const networkChanged = "net::ERR_NETWORK_CHANGED"

// Open opens a link to the page as a person of its own, with cookies of its own, and waits until
// the page is ready. The tab is closed when the test ends.
func (b Browser) Open(t *testing.T, link string) Page {
	t.Helper()
	return b.open(t, link, chromedp.WithNewBrowserContext())
}

// OpenTab is Open for one more tab of one and the same person.
func (b Browser) OpenTab(t *testing.T, link string) Page {
	t.Helper()
	return b.open(t, link)
}

func (b Browser) open(t *testing.T, link string, options ...chromedp.ContextOption) Page {
	t.Helper()
	failed := new(failures)
	tab, cancel := chromedp.NewContext(b.ctx, append(options, chromedp.WithListener(failed.note))...)
	t.Cleanup(cancel)
	p := Page{t, tab, failed}
	t.Cleanup(func() {
		if t.Failed() {
			log, err := evaluate[[]string](p, "[`${location.href} ${document.readyState}`].concat(window.signalPage?.log ?? [])")
			t.Logf("log of %s (%v):\n%s", link, err, strings.Join(log, "\n"))
		}
	})
	p.load(link, chromedp.Navigate(link))
	return p
}

// Reload loads the page anew and waits until it is ready again.
func (p Page) Reload() {
	p.T.Helper()
	p.load("the page again", chromedp.Reload())
}

// load waits for the sign of the page that it is ready. The browser's word is not enough: a tab is
// born with an empty page, and on a busy machine the end of loading that one may be taken for it. A
// page whose modules Chromium gave up since the network changed is asked for again.
func (p Page) load(what string, load chromedp.Action[chromedp.Void]) {
	p.T.Helper()
	ask := func() {
		p.T.Helper()
		_, err := chromedp.Run(p.Tab, load) // A tab lives as long as its first context.
		if err != nil && !strings.Contains(err.Error(), networkChanged) {
			p.T.Fatalf("opening %s: %v", what, err)
		}
	}
	ask()
	var failed []string
	systemtest.Until(p.T, "the page is ready", func() error {
		state, err := evaluate[string](p, `window.signalPage ? "ready" : location.href`)
		if state == "ready" {
			return nil
		}
		news := p.failures.take()
		failed = append(failed, news...)
		if slices.Contains(news, networkChanged) {
			p.T.Logf("the network of this machine changed while %s was loaded", what)
			ask()
		}
		return fmt.Errorf("it is at %q (%v), and failed: %q", state, err, failed)
	})
}

// Evaluate returns the value of an expression, which may be a promise.
func Evaluate[T any](p Page, expression string) T {
	p.T.Helper()
	value, err := evaluate[T](p, expression)
	if err != nil {
		p.T.Fatalf("%s: %v", expression, err)
	}
	return value
}

func evaluate[T any](p Page, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(p.Tab, systemtest.Patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Until polls an expression until ok accepts its value, and returns that.
func Until[T any](p Page, what, expression string, ok func(T) bool) T {
	p.T.Helper()
	var value T
	systemtest.Until(p.T, what, func() error {
		var err error
		if value, err = evaluate[T](p, expression); err == nil && ok(value) {
			return nil
		}
		return fmt.Errorf("last %+v (%v)", value, err)
	})
	return value
}

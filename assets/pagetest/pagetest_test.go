package pagetest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOpenWaitsForTheSign opens a page that is loaded long before it is ready.
func TestOpenWaitsForTheSign(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<script src="late.js"></script>`)
	})
	mux.HandleFunc("GET /late.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = io.WriteString(w, `addEventListener("load", () => setTimeout(() => (window.signalPage = { log: ["ready"] }), 500))`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p := Start(t).Open(t, server.URL)
	for _, load := range []func(){func() {}, p.Reload} {
		load()
		if log := p.Log(); len(log) != 1 {
			t.Errorf("the page is not ready: %q", log)
		}
	}
}

package client

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// ready answers as a node does, with what it says and whether it takes new users.
func ready(status int, says string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(says))
	})
}

func TestAsk(t *testing.T) {
	well := httptest.NewServer(ready(http.StatusOK, "ok"))
	defer well.Close()
	if err := Ask(t.Context(), well.URL, PathReady, nil); err != nil {
		t.Error(err)
	}
	leaving := httptest.NewServer(ready(http.StatusServiceUnavailable, "draining\n"))
	defer leaving.Close()
	if err := Ask(t.Context(), leaving.URL, PathReady, nil); err == nil || err.Error() != "503 Service Unavailable: draining" {
		t.Errorf("a draining node says %v", err)
	}
	leaving.Close()
	if err := Ask(t.Context(), leaving.URL, PathReady, nil); err == nil || !strings.Contains(err.Error(), "/ready") {
		t.Errorf("a node that is gone says %v", err)
	}
}

// TestAskOverTLS has a certificate that is for another name and of nobody we know.
func TestAskOverTLS(t *testing.T) {
	node := httptest.NewTLSServer(ready(http.StatusOK, "ok"))
	defer node.Close()
	if err := Ask(t.Context(), node.URL, PathReady, nil); err != nil {
		t.Error(err)
	}
}

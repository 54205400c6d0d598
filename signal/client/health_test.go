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

func TestAskReady(t *testing.T) {
	well := httptest.NewServer(ready(http.StatusOK, "ok"))
	defer well.Close()
	if err := AskReady(t.Context(), well.URL); err != nil {
		t.Error(err)
	}
	leaving := httptest.NewServer(ready(http.StatusServiceUnavailable, "draining\n"))
	defer leaving.Close()
	if err := AskReady(t.Context(), leaving.URL); err == nil || err.Error() != "503 Service Unavailable: draining" {
		t.Errorf("a draining node says %v", err)
	}
	leaving.Close()
	if err := AskReady(t.Context(), leaving.URL); err == nil || !strings.Contains(err.Error(), "/ready") {
		t.Errorf("a node that is gone says %v", err)
	}
}

// TestAskReadyOverTLS has a certificate that is for another name and of nobody we know.
func TestAskReadyOverTLS(t *testing.T) {
	node := httptest.NewTLSServer(ready(http.StatusOK, "ok"))
	defer node.Close()
	if err := AskReady(t.Context(), node.URL); err != nil {
		t.Error(err)
	}
}

package check

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"cline-meet/signal/signal/client"
)

// TestRefusalsAreNamed has servers refuse a WebSocket: what they say of it is the cause.
func TestRefusalsAreNamed(t *testing.T) {
	for _, c := range []struct {
		code             int
		says, found, fix string
	}{
		{401, "the token has expired", "the token has expired", "give a token"},
		{403, "origin is neither ours nor in --allowed-origins", "the origin", "--allowed-origins"},
		{403, "", "the origin", "--allowed-origins"},
		{403, "the backend does not allow this", "the backend does not allow this", "--auth-url"},
		{503, "the server has as many connections as it can hold", "is full", "--max-connections"},
		{503, "", "is full", "--max-connections"},
		{503, "who you are cannot be asked now: try again", "cannot be asked now", "--auth-url"},
		{502, "<html>no</html>", "no server behind it", "--server-port"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, c.says, c.code) }))
		var d client.Dialer
		_, err := d.Dial(t.Context(), server.URL, nil)
		server.Close()
		s := &site{o: &Options{Token: "a token"}, base: &url.URL{Scheme: "https", Host: "signal.example.org"}}
		var why *fault
		if !errors.As(s.refusal(err), &why) || !strings.Contains(why.reason, c.found) || !strings.Contains(why.remedy, c.fix) {
			t.Errorf("%d %q: %+v", c.code, c.says, why)
		}
	}
}

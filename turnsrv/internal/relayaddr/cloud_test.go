package relayaddr

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// metadata serves what a cloud does: answers by method and path, to who shows a header.
func metadata(t *testing.T, header, value string, answers map[string]string) cloud {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.RequestURI()]
		if !ok || r.Method == http.MethodGet && header != "" && r.Header.Get(header) != value {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	return cloud{server.URL, systemtest.Patience}
}

func TestCloudsTellTheExternalAddress(t *testing.T) {
	const token, public = "PUT /latest/api/token", "198.51.100.7"
	for _, test := range []struct {
		name, header, value, path, answer, want string
	}{
		{"AWS", "X-aws-ec2-metadata-token", "token", "/latest/meta-data/public-ipv4", public, public},
		{"OpenStack", "", "", "/latest/meta-data/public-ipv4", public + "\n", public},
		{"Google Cloud", "Metadata-Flavor", "Google", "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip", public, public},
		{"Azure", "Metadata", "true", "/metadata/instance/network/interface/0/ipv4/ipAddress/0/publicIpAddress?api-version=2021-02-01&format=text", public, public},
		{"DigitalOcean", "", "", "/metadata/v1/interfaces/public/0/ipv4/address", public, public},
		{"Hetzner", "", "", "/hetzner/v1/metadata/public-ipv4", public, public},
		{"a machine without one", "", "", "/latest/meta-data/public-ipv4", "", "invalid IP"},
		{"a private one", "", "", "/hetzner/v1/metadata/public-ipv4", "10.0.0.7", "invalid IP"},
		{"a page", "", "", "/hetzner/v1/metadata/public-ipv4", "<html>welcome</html>", "invalid IP"},
		{"IPv6", "", "", "/hetzner/v1/metadata/public-ipv4", "2001:db8::7", "invalid IP"},
		{"another service", "", "", "/", "hello", "invalid IP"},
	} {
		answers := map[string]string{"GET " + test.path: test.answer}
		if test.name == "AWS" {
			answers[token] = "token"
		}
		c := metadata(t, test.header, test.value, answers)
		if got, source := c.externalIP(t.Context()); got.String() != test.want || got.IsValid() && source != test.name {
			t.Errorf("%s: %s of %q", test.name, got, source)
		}
	}
}

// TestCloudIsNotWaitedFor has a service that answers nothing, and one that sends to another address.
func TestCloudIsNotWaitedFor(t *testing.T) {
	stop := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	t.Cleanup(func() { close(stop); silent.Close() })
	began, slowdown := time.Now(), systemtest.Slowdown(t)
	if got, _ := (cloud{silent.URL, metadataWait}).externalIP(t.Context()); got.IsValid() {
		t.Errorf("found %s", got)
	}
	if took := time.Since(began); took > 2*metadataWait*time.Duration(slowdown()) {
		t.Errorf("it took %v", took)
	}
	elsewhere := metadata(t, "", "", map[string]string{"GET /hetzner/v1/metadata/public-ipv4": "198.51.100.7"})
	sends := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.url+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(sends.Close)
	if got, _ := (cloud{sends.URL, systemtest.Patience}).externalIP(t.Context()); got.IsValid() {
		t.Errorf("found %s at another address", got)
	}
}

func TestWhatIsTranslated(t *testing.T) {
	for text, want := range map[string]bool{"10.0.0.7": true, "172.31.0.1": true, "192.168.1.1": true, "100.64.0.1": true, "169.254.1.1": true, "fd00::7": true,
		"198.51.100.7": false, "127.0.0.1": false, "2001:db8::7": false} {
		if got := isTranslated(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

package relayaddr

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/pion/stun/v2"

	"cline-meet/signal/packaging/systemtest"
)

// TestRelayAddressesOfANetwork runs where it may give the machine addresses:
// none but loopback, a private IPv6 one, a global one.
func TestRelayAddressesOfANetwork(t *testing.T) { systemtest.InOwnNetwork(t, findRelayAddresses) }

func findRelayAddresses(t *testing.T) {
	systemtest.IP(t, "link set lo up", "")
	expectRelays(t, "127.0.0.1", "")
	systemtest.Address(t, "fd00::7")
	systemtest.Address(t, "10.7.7.7")
	expectRelays(t, "10.7.7.7", "")
	systemtest.Address(t, "2001:db8::7")
	systemtest.Address(t, "198.51.100.7")
	expectRelays(t, "198.51.100.7", "2001:db8::7")
}

func expectRelays(t *testing.T, want4, want6 string) {
	t.Helper()
	v4, v6, err := Find(t.Context(), configOf("", ""))
	var none netip.Addr
	if want6 == "" {
		want6 = none.String()
	}
	if err != nil || v4.Bind.String() != want4 || v4.Seen != v4.Bind || v6.Bind.String() != want6 || v6.Seen != v6.Bind {
		t.Errorf("got %v, %v, %v, want %s, %s", v4, v6, err, want4, want6)
	}
}

// TestCloudBeforeSTUN runs where the metadata service of a cloud is: it is asked before a STUN server, and only when nothing is set.
func TestCloudBeforeSTUN(t *testing.T) { systemtest.InOwnNetwork(t, askCloud) }

func askCloud(t *testing.T) {
	systemtest.IP(t, "link set lo up", "")
	systemtest.Address(t, "10.7.7.7")
	systemtest.Address(t, "169.254.169.254")
	stunSays := stunServer(t, always(func(r *stun.Message) []byte { return bindingSuccess(r, "198.51.100.8") }))
	expectSeen := func(want, external, stun string, metadata bool) {
		t.Helper()
		cfg := configOf("10.7.7.7", external)
		cfg.STUN, cfg.Metadata = stun, metadata
		if v4, _, err := Find(t.Context(), cfg); err != nil || v4.Seen.String() != want {
			t.Errorf("--turn-external-ip %q, --turn-external-stun %q, metadata %t: %v, %v, want %s", external, stun, metadata, v4, err, want)
		}
	}
	expectSeen("10.7.7.7", "", "", true) // Nobody answers there.
	expectSeen("198.51.100.8", "", stunSays, true)
	listener, err := net.Listen("tcp", strings.TrimPrefix(metadataURL, "http://")+":80")
	if err != nil {
		t.Fatal(err)
	}
	service := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hetzner/v1/metadata/public-ipv4" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, "198.51.100.7")
	})}
	ended := make(chan struct{})
	go func() { _ = service.Serve(listener); close(ended) }()
	defer func() { _ = service.Close(); <-ended }()
	systemtest.Eventually(t, "the cloud is asked in time", func() bool {
		v4, _, err := Find(t.Context(), Config{Relays: []string{"10.7.7.7"}, Metadata: true, Log: slog.New(slog.DiscardHandler)})
		return err == nil && v4.Seen.String() == "198.51.100.7"
	})
	expectSeen("10.7.7.7", "", "", false)
	expectSeen("198.51.100.8", "", stunSays, false)
	expectSeen("198.51.100.9", "198.51.100.9", stunSays, true)
}

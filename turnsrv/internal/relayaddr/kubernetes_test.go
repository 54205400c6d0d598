package relayaddr

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pion/stun/v2"
)

// kubernetesAPI serves Nodes to whoever sends the token north.
func kubernetesAPI(t *testing.T, nodes map[string]string) kubernetes {
	t.Helper()
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		node, ok := nodes[strings.TrimPrefix(r.URL.Path, "/api/v1/nodes/")]
		switch {
		case r.Header.Get("Authorization") != "Bearer north":
			w.WriteHeader(http.StatusForbidden)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = w.Write([]byte(node))
		}
	}))
	t.Cleanup(api.Close)
	k := kubernetes{url: api.URL, files: t.TempDir()}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	for name, content := range map[string][]byte{"token": []byte("north\n"), "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(k.files, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func TestExternalIPOfKubernetesNode(t *testing.T) {
	k := kubernetesAPI(t, map[string]string{
		"both": `{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.7"},{"type":"Hostname","address":"both"},
			{"type":"ExternalIP","address":"198.51.100.7"},{"type":"ExternalIP","address":"2001:db8::7"}]}}`,
		"inner":  `{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.7"}]}}`,
		"broken": `{"status":`,
	})
	for _, tt := range []struct{ node, bind, want, err string }{
		{"both", "10.0.0.7", "198.51.100.7", ""},
		{"both", "fd00::7", "2001:db8::7", ""},
		{"inner", "10.0.0.7", "invalid IP", ""},
		{"broken", "10.0.0.7", "invalid IP", "broken"},
		{"absent", "10.0.0.7", "invalid IP", "404"},
	} {
		got, err := k.externalIP(t.Context(), tt.node, netip.MustParseAddr(tt.bind))
		if got.String() != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s from %s: %v, %v", tt.node, tt.bind, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(k.files, "token"), []byte("south"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.externalIP(t.Context(), "both", loopback); err == nil || !strings.Contains(err.Error(), "right to get nodes") {
		t.Errorf("with a wrong token: %v", err)
	}
}

// TestKubernetesBeforeSTUN asks a STUN server only when Kubernetes has no answer.
func TestKubernetesBeforeSTUN(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	cfg := configOf("127.0.0.1", Auto)
	cfg.KubernetesNode = "n1"
	if _, _, err := Find(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "this is no pod") {
		t.Errorf("outside of a cluster: %v", err)
	}
	cfg.STUN = stunServer(t, always(func(r *stun.Message) []byte { return bindingSuccess(r, "198.51.100.7") }))
	v4, _, err := Find(t.Context(), cfg)
	if err != nil || v4.Seen.String() != "198.51.100.7" {
		t.Errorf("outside of a cluster with a STUN server: %v, %v", v4, err)
	}
}

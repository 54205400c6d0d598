//go:build apiserver

package k8s_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"cline-meet/signal/packaging/systemtest"
)

var kube = flag.String("kube", "", "directory with apiserver and etcd/etcd, as k8s/dry-run.sh builds them")

// TestDryRun has a real API server check what every overlay would apply, without applying it.
func TestDryRun(t *testing.T) {
	api := startAPIServer(t)
	api.installGateway()
	for _, overlay := range overlays {
		api.checks(overlay, render(t, overlay))
	}
	for _, components := range [][]string{{"traefik", "certificate", "auth"}, {"ingress-nginx"}, {"https", "certificate"}} {
		api.checks(strings.Join(components, " and "), renderIn(t, sourceWith(t, []string{"gateway"}, components...), "daemonset"))
	}
	wrong := render(t, "daemonset")
	i := slices.IndexFunc(wrong, func(o object) bool { return o.kind == "DaemonSet" })
	wrong[i].name = "Not A Name"
	if answer := api.apply(wrong[i], "?dryRun=All"); !strings.HasPrefix(answer, "4") {
		t.Errorf("a wrong object is answered with %q", answer)
	}
}

// checks applies objects without keeping them.
func (a *apiServer) checks(what string, objects []object) {
	a.t.Helper()
	for _, o := range objects {
		query := "?dryRun=All"
		if o.kind == "Namespace" {
			query = "?" // Others need it.
		}
		if answer := a.apply(o, query); answer != "" {
			a.t.Errorf("%s: %s %s: %s", what, o.kind, o.name, answer)
		}
	}
	a.t.Logf("%s: %d objects", what, len(objects))
}

// installGateway makes the routes of the Gateway API known, as its release does.
func (a *apiServer) installGateway() {
	a.t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		a.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"))
	if err != nil {
		a.t.Fatal(err)
	}
	const definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutes.gateway.networking.k8s.io?fieldManager=signal"
	if answer := a.ask(http.MethodPatch, definition, text); answer != "" {
		a.t.Fatal(answer)
	}
	systemtest.Eventually(a.t, "the API server knows routes", func() bool { return a.ask(http.MethodGet, "/apis/gateway.networking.k8s.io/v1/httproutes", nil) == "" })
}

// apiServer is a control plane without controllers.
type apiServer struct {
	t      *testing.T
	url    string
	client *http.Client
}

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	dir := t.TempDir()
	store, peers := "http://"+freeAddress(t), "http://"+freeAddress(t)
	background(t, filepath.Join(*kube, "etcd/etcd"), "--data-dir", dir+"/etcd", "--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--log-level", "error")
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	for name, text := range map[string]string{"tokens": "north,admin,admin,system:masters\n", "key": accountKey(t)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	background(t, filepath.Join(*kube, "apiserver"), "--etcd-servers", store, "--bind-address", "127.0.0.1", "--secure-port", port, "--cert-dir", dir+"/certs",
		"--token-auth-file", dir+"/tokens", "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", dir+"/key", "--service-account-signing-key-file", dir+"/key")
	// The server makes its certificate itself.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	api := &apiServer{t, "https://" + address, client}
	systemtest.Eventually(t, "the API server is ready", func() bool { return api.ask(http.MethodGet, "/readyz", nil) == "" })
	return api
}

// background runs a program until the end of the test.
func background(t *testing.T, program string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run make k8s-dry-run", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s ends with\n%s", program, log.Bytes()[max(0, log.Len()-4000):])
		}
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(systemtest.FreePort(t)))
}

func accountKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// apply applies an object as kubectl apply --server-side does, and returns what the server has against
// it.
func (a *apiServer) apply(o object, query string) string {
	a.t.Helper()
	return a.ask(http.MethodPatch, a.path(o)+query+"&force=true&fieldManager=signal&fieldValidation=Strict", o.text)
}

// path is where the server has an object.
func (a *apiServer) path(o object) string {
	gvk := o.GetObjectKind().GroupVersionKind()
	resource, _ := meta.UnsafeGuessKindToResource(gvk)
	path := "/apis/" + gvk.Group + "/" + gvk.Version
	if gvk.Group == "" {
		path = "/api/" + gvk.Version
	}
	if o.namespace != "" {
		path += "/namespaces/" + o.namespace
	}
	return path + "/" + resource.Resource + "/" + o.name
}

// ask returns the status and text of an answer that is no success.
func (a *apiServer) ask(method, path string, body []byte) string {
	a.t.Helper()
	if _, err := a.send(method, path, body); err != nil {
		return err.Error()
	}
	return ""
}

// send returns the text of an answer, or its status and text as error when it is no success.
func (a *apiServer) send(method, path string, body []byte) (string, error) {
	a.t.Helper()
	req, err := http.NewRequest(method, a.url+strings.ReplaceAll(path, " ", "%20"), bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer north")
	req.Header.Set("Content-Type", contentType(method, body))
	res, err := a.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s %s", res.Status, text)
	}
	return string(text), err
}

// contentType is that of an object to apply, which is YAML here, or of a change to merge, which is JSON.
func contentType(method string, body []byte) string {
	switch {
	case method != http.MethodPatch:
		return "application/json"
	case bytes.HasPrefix(body, []byte("{")):
		return "application/merge-patch+json"
	}
	return "application/apply-patch+yaml"
}

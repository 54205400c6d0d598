package relayaddr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// serviceAccount is where Kubernetes puts what a pod needs to ask its API.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// nodeLimit bounds the size of a Node object, which lists the images it has.
const nodeLimit = 8 << 20

// kubernetes is the API of the cluster that a pod runs in. A full client would
// be many times the size of this program, for one question.
type kubernetes struct {
	url   string
	files string // files is the directory with token and ca.crt.
}

// askKubernetes returns the external address of the node that cfg names, in the
// family of bind. It is invalid when cfg names no node or the node has none.
func askKubernetes(ctx context.Context, bind netip.Addr, cfg Config) (netip.Addr, error) {
	if cfg.KubernetesNode == "" {
		return netip.Addr{}, nil
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return netip.Addr{}, errors.New("--turn-kubernetes-node is set, but this is no pod: KUBERNETES_SERVICE_HOST and _PORT are not")
	}
	k := kubernetes{url: "https://" + net.JoinHostPort(host, port), files: serviceAccount}
	return k.externalIP(ctx, cfg.KubernetesNode, bind)
}

// externalIP returns the first ExternalIP of a Node in the family of bind, an
// invalid address if it has none.
func (k kubernetes) externalIP(ctx context.Context, name string, bind netip.Addr) (netip.Addr, error) {
	body, err := k.get(ctx, "/api/v1/nodes/"+url.PathEscape(name))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("asking Kubernetes for node %s: %w", name, err)
	}
	var node struct {
		Status struct {
			Addresses []struct{ Type, Address string }
		}
	}
	if err := json.Unmarshal(body, &node); err != nil {
		return netip.Addr{}, fmt.Errorf("reading what Kubernetes says of node %s: %w", name, err)
	}
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if a.Type == "ExternalIP" && err == nil && addr.BitLen() == bind.BitLen() {
			return addr, nil
		}
	}
	return netip.Addr{}, nil
}

func (k kubernetes) get(ctx context.Context, path string) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(k.files, "token"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(k.files, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s; the service account needs the right to get nodes", res.Status)
	}
	return io.ReadAll(io.LimitReader(res.Body, nodeLimit))
}

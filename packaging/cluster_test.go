package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

// recorder stands in for a program that needs a cluster or a registry: it writes down its arguments.
const recorder = `#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
`

// pusher is Docker, but for the registry.
const pusher = `#!/bin/sh
[ "$1" != push ] || { echo "docker $*" >>"$CALLS"; exit 0; }
exec "$DOCKER" "$@"
`

// cluster is a copy of the source on a machine whose kubectl and minikube only take notes.
type cluster struct {
	t          *testing.T
	dir, calls string
	env        []string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	m := startMachine(t)
	docker := must(t, nil, "sh", "-c", "command -v docker")
	bin := t.TempDir()
	for name, script := range map[string]string{"kubectl": recorder, "minikube": recorder, "docker": pusher} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := &cluster{t: t, dir: copyOfTree(t), calls: filepath.Join(bin, "calls")}
	c.env = append(m.env, "CALLS="+c.calls, "DOCKER="+docker, "PATH="+bin+":"+os.Getenv("PATH"))
	return c
}

// make runs targets and returns what was called, a line each.
func (c *cluster) make(args ...string) []string {
	c.t.Helper()
	if err := os.WriteFile(c.calls, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	if out := must(c.t, c.env, "make", append([]string{"--no-print-directory", "-C", c.dir}, args...)...); out == "" {
		c.t.Errorf("make %s says nothing", strings.Join(args, " "))
	}
	text, err := os.ReadFile(c.calls)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// TestClusterTargets runs the targets of make that are about Kubernetes as the guide has them. What
// they apply is for the tests in k8s.
func TestClusterTargets(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	const (
		answers = "kubectl version --request-timeout 10s"
		image   = "IMAGE=registry.example.org/signal:0.1.0"
		nodes   = "kubectl -n webrtc-signaling rollout status daemonset/signaling --timeout 15m"
		web     = "kubectl -n webrtc-signaling rollout status deployment/signaling-deployment --timeout 15m"
		forward = "kubectl -n webrtc-signaling port-forward service/signaling 8080:80"
	)
	for _, test := range []struct {
		targets string
		want    []string // want are beginnings of calls.
	}{
		{"k8s-deploy " + image, []string{answers, "kubectl apply -k dist/k8s", nodes}},
		{"k8s-deploy OVERLAY=autoscaled " + image, []string{answers, "kubectl apply -k dist/k8s", nodes, web}},
		{"k8s-status", []string{answers, "kubectl -n webrtc-signaling get daemonset,", "kubectl -n webrtc-signaling get events "}},
		{"k8s-port-forward", []string{answers, forward}},
		{"full-deploy " + image, []string{"docker push registry.example.org/signal:0.1.0", answers, "kubectl apply -k dist/k8s", nodes,
			answers, "kubectl -n webrtc-signaling get daemonset,", "kubectl -n webrtc-signaling get events "}},
		{"minikube-start minikube-deploy minikube-service", []string{"minikube start", answers, "minikube image load signal:dev", "kubectl apply -k k8s/minikube",
			nodes, "minikube service -n webrtc-signaling signaling --url"}},
	} {
		got := c.make(strings.Fields(test.targets)...)
		matches := len(got) == len(test.want)
		for i := range min(len(got), len(test.want)) {
			matches = matches && strings.HasPrefix(got[i], test.want[i])
		}
		if !matches {
			t.Errorf("make %s called\n%s", test.targets, strings.Join(got, "\n"))
		}
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "dist/k8s/kustomization.yaml"))
	if err != nil || !strings.Contains(string(text), `newName: registry.example.org/signal, newTag: "0.1.0"`) {
		t.Errorf("applied %s (%v)", text, err)
	}
	secrets, err := os.Stat(filepath.Join(c.dir, "k8s/base/secrets.env"))
	if err != nil || secrets.Mode().Perm() != 0o600 {
		t.Errorf("secrets %v (%v)", secrets, err)
	}
}

// TestTargetsAdvise runs what needs programs or a cluster without them.
func TestTargetsAdvise(t *testing.T) {
	systemtest.NeedRoot(t)
	bin := t.TempDir()
	for _, program := range strings.Fields("sh bash make awk cat cut date dirname env go git mkdir od sed tr docker-compose") {
		if path, err := command(t, nil, "sh", "-c", "command -v "+program); err == nil {
			if err := os.Symlink(strings.TrimSpace(path), filepath.Join(bin, program)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const image = " IMAGE=registry.example.org/signal:0.1.0"
	for targets, advice := range map[string]string{
		"docker-build":            "install docker.io",
		"dev":                     "install docker.io",
		"stop":                    "install docker.io",
		"docker-compose-logs":     "install docker.io",
		"full-deploy" + image:     "install docker.io",
		"k8s-deploy" + image:      "kubectl is missing: install it from",
		"k8s-status":              "kubectl is missing: install it from",
		"k8s-port-forward":        "kubectl is missing: install it from",
		"minikube-start":          "minikube is missing: install it from",
		"minikube-service":        "minikube is missing: install it from",
		"release PLATFORMS=sparc": "install docker.io",
	} {
		args := append([]string{"--no-print-directory"}, strings.Fields(targets)...)
		if out, err := command(t, []string{"PATH=" + bin, "DOCKER_HOST=unix:///nowhere"}, "make", args...); err == nil || !strings.Contains(out, advice) {
			t.Errorf("make %s: %v\n%s", targets, err, out)
		}
	}
	kubectl := filepath.Join(bin, "kubectl")
	if err := os.WriteFile(kubectl, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for args, advice := range map[string]string{
		"":                        "is no image that a cluster can pull",
		"OVERLAY=nowhere" + image: "there is no k8s/nowhere",
	} {
		out, err := command(t, []string{"PATH=" + bin}, "make", append([]string{"k8s-deploy"}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(out, advice) {
			t.Errorf("make k8s-deploy %s: %v\n%s", args, err, out)
		}
	}
	if err := os.WriteFile(kubectl, []byte("#!/bin/sh\necho The connection to the server localhost:8080 was refused >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, targets := range []string{"k8s-deploy" + image, "k8s-status", "k8s-port-forward"} {
		out, err := command(t, []string{"PATH=" + bin}, "make", append([]string{"--no-print-directory"}, strings.Fields(targets)...)...)
		if err == nil || !strings.Contains(out, "no cluster answers") || strings.Contains(out, "localhost:8080") {
			t.Errorf("make %s without a cluster: %v\n%s", targets, err, out)
		}
	}
}

// Package k8s_test renders the manifests as kustomize does and reads them as the API server does.
package k8s_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"go.uber.org/goleak"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	scheduling "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// overlays are the ways to run signal that the guide names.
var overlays = []string{"daemonset", "autoscaled", "minikube"}

// object is one rendered object: its type, what identifies it, and its YAML.
type object struct {
	runtime.Object
	kind, name, namespace string
	text                  []byte
}

// source is a copy of the manifests with the secrets that make k8s-secrets writes.
func source(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("cp", "-r", "base", "daemonset", "autoscaled", "minikube", "components", "secrets.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_ = os.Remove(filepath.Join(dir, "base/secrets.env"))
	for range 2 { // The second time keeps what the first one wrote.
		if out, err := exec.Command(filepath.Join(dir, "secrets.sh")).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return dir
}

// render returns the objects of an overlay as it is in the repository.
func render(t *testing.T, overlay string) []object {
	t.Helper()
	return renderIn(t, source(t), overlay)
}

// renderIn returns the objects of an overlay of a copy, each decoded strictly: a field that its type
// does not have is an error.
func renderIn(t *testing.T, dir, overlay string) []object {
	t.Helper()
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(dir, overlay))
	if err != nil {
		t.Fatal(err)
	}
	decoder := strictDecoder(t)
	var objects []object
	for _, r := range rendered.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		decoded, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", r.GetKind(), r.GetName(), err, text)
		}
		objects = append(objects, object{decoded, r.GetKind(), r.GetName(), r.GetNamespace(), text})
	}
	return objects
}

// edit replaces texts in a file, which must have them; pairs are as for a strings.Replacer.
func edit(t *testing.T, file string, pairs ...string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(string(text), pairs[i]) {
			t.Fatalf("%s has no %q", file, pairs[i])
		}
	}
	if err := os.WriteFile(file, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
}

func strictDecoder(t *testing.T) runtime.Decoder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{apps.AddToScheme, autoscaling.AddToScheme, core.AddToScheme, networking.AddToScheme,
		policy.AddToScheme, gateway.Install, rbac.AddToScheme, scheduling.AddToScheme, monitoring.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// one returns the only object of that type, of that name unless it is empty.
func one[T runtime.Object](t *testing.T, objects []object, name string) T {
	t.Helper()
	var found []T
	for _, o := range objects {
		if typed, ok := o.Object.(T); ok && (name == "" || o.name == name) {
			found = append(found, typed)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of %T called %q", len(found), *new(T), name)
	}
	return found[0]
}

// workload is what makes pods.
type workload struct {
	name string
	pod  core.PodTemplateSpec
}

func workloads(objects []object) []workload {
	var out []workload
	for _, o := range objects {
		switch w := o.Object.(type) {
		case *apps.DaemonSet:
			out = append(out, workload{o.name, w.Spec.Template})
		case *apps.Deployment:
			out = append(out, workload{o.name, w.Spec.Template})
		case *apps.StatefulSet:
			out = append(out, workload{o.name, w.Spec.Template})
		}
	}
	return out
}

// ours drops what is not signal.
func ours(all []workload) []workload {
	return slices.DeleteFunc(all, func(w workload) bool { return w.pod.Labels["app.kubernetes.io/name"] != "signaling" })
}

// environment returns what a container's variables are, as far as manifests say.
func environment(t *testing.T, objects []object, c core.Container) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			for k, v := range one[*core.ConfigMap](t, objects, from.ConfigMapRef.Name).Data {
				env[k] = v
			}
		}
		if from.SecretRef != nil {
			for k, v := range one[*core.Secret](t, objects, from.SecretRef.Name).Data {
				env[k] = string(v)
			}
		}
	}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	return env
}

// settings are the variables that the README's table of settings has, which a test of the project
// compares with the flags.
func settings(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--[a-z-]+` \\| `([A-Z_]+)` \\|").FindAllStringSubmatch(readmes(t, "."), -1) {
		names = append(names, row[1])
	}
	if len(names) < 40 {
		t.Fatalf("only %v are settings", names)
	}
	return names
}

// readmes returns what the READMEs of parts of the project say.
func readmes(t *testing.T, parts ...string) string {
	t.Helper()
	var all strings.Builder
	for _, part := range parts {
		text, err := os.ReadFile(filepath.Join("..", part, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// TestUnknownFieldIsAnError makes sure that strictness is on.
func TestUnknownFieldIsAnError(t *testing.T) {
	_, _, err := strictDecoder(t).Decode([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {no-such-field: 1}\n"), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "no-such-field") {
		t.Errorf("got %v", err)
	}
}

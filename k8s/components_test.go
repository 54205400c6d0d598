package k8s_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// sourceWith is a copy of the manifests whose default overlay leaves out some components and has others, as the guide says: by
// lines with and without comment signs.
func sourceWith(t *testing.T, without []string, with ...string) (dir string) {
	t.Helper()
	dir = source(t)
	for _, name := range without {
		edit(t, filepath.Join(dir, "daemonset/kustomization.yaml"), "  - ../components/"+name, "  # - ../components/"+name)
	}
	for _, name := range with {
		edit(t, filepath.Join(dir, "daemonset/kustomization.yaml"), "# - ../components/"+name, "- ../components/"+name)
	}
	return dir
}

// TestWaysIn leads every way in to the Service.
func TestWaysIn(t *testing.T) {
	for _, overlay := range []string{"daemonset", "autoscaled"} {
		objects := render(t, overlay)
		route := one[*gateway.HTTPRoute](t, objects, "signaling").Spec
		to := route.Rules[0].BackendRefs[0]
		if service := one[*core.Service](t, objects, string(to.Name)); int32(*to.Port) != service.Spec.Ports[0].Port || len(route.Hostnames) != 1 {
			t.Errorf("%s: the route leads to %+v", overlay, to)
		}
		if timeouts := route.Rules[0].Timeouts; timeouts == nil || *timeouts.Request != "0s" {
			t.Errorf("%s: a WebSocket ends after %+v", overlay, timeouts)
		}
	}
	for name, affinity := range map[string]string{"traefik": "traefik.ingress.kubernetes.io/service.sticky.cookie", "ingress-nginx": "nginx.ingress.kubernetes.io/affinity"} {
		objects := renderIn(t, sourceWith(t, []string{"gateway"}, name), "daemonset")
		ingress := one[*networking.Ingress](t, objects, "signaling")
		backend := ingress.Spec.Rules[0].HTTP.Paths[0].Backend.Service
		service := one[*core.Service](t, objects, backend.Name)
		if service.Spec.Ports[0].Name != backend.Port.Name || len(ingress.Spec.TLS) == 0 {
			t.Errorf("%s: backend %+v", name, backend)
		}
		if ingress.Annotations[affinity] == "" && service.Annotations[affinity] == "" {
			t.Errorf("%s: a client that reconnects finds another pod", name)
		}
	}
}

// TestNobodyIsTrustedUntold: the port is open to whoever reaches the machine.
func TestNobodyIsTrustedUntold(t *testing.T) {
	for _, overlay := range overlays {
		objects := render(t, overlay)
		for _, w := range ours(workloads(objects)) {
			if env := environment(t, objects, w.pod.Spec.Containers[0]); env["TRUSTED_PROXIES"] != "" {
				t.Errorf("%s: %s trusts %s", overlay, w.name, env["TRUSTED_PROXIES"])
			}
		}
	}
}

// TestCertificates mounts each Secret where the settings say, and has the kubelet ask as the node serves.
func TestCertificates(t *testing.T) {
	for _, test := range []struct {
		components []string
		scheme     core.URIScheme
		files      map[string]string // files are the mounted Secrets by the setting that names a file of theirs.
	}{
		{nil, "", nil},
		{[]string{"certificate"}, "", map[string]string{"TURN_TLS_CERT": "signaling-turn-tls", "TURN_TLS_KEY": "signaling-turn-tls"}},
		{[]string{"https"}, "HTTPS", map[string]string{"TLS_CERT": "signaling-tls", "TLS_KEY": "signaling-tls"}},
		{[]string{"https", "certificate"}, "HTTPS", map[string]string{"TLS_CERT": "signaling-tls", "TURN_TLS_CERT": "signaling-turn-tls"}},
	} {
		objects := renderIn(t, sourceWith(t, nil, test.components...), "daemonset")
		pod := one[*apps.DaemonSet](t, objects, "signaling").Spec.Template.Spec
		c := pod.Containers[0]
		for _, probe := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if probe.HTTPGet.Scheme != test.scheme || probe.HTTPGet.Path == "" {
				t.Errorf("%v: probe %+v", test.components, probe.HTTPGet)
			}
		}
		env := environment(t, objects, c)
		for name, secret := range test.files {
			if got := mounted(pod, env[name]); got != secret {
				t.Errorf("%v: %s=%s is of the Secret %q, want %s", test.components, name, env[name], got, secret)
			}
		}
		if len(test.files) > 0 && (pod.SecurityContext.FSGroup == nil || *pod.SecurityContext.FSGroup != *pod.SecurityContext.RunAsGroup) {
			t.Errorf("%v: the key cannot be read: %+v", test.components, pod.SecurityContext)
		}
	}
}

// mounted returns the Secret, of type kubernetes.io/tls, that has a file in the container.
func mounted(pod core.PodSpec, file string) string {
	for _, m := range pod.Containers[0].VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name == m.Name && filepath.Dir(file) == m.MountPath && slices.Contains([]string{core.TLSCertKey, core.TLSPrivateKeyKey}, filepath.Base(file)) {
				return v.Secret.SecretName
			}
		}
	}
	return ""
}

// TestBackendMayBeAsked of pods in the cluster's network.
func TestBackendMayBeAsked(t *testing.T) {
	objects := renderIn(t, sourceWith(t, nil, "auth"), "autoscaled")
	p := one[*networking.NetworkPolicy](t, objects, "signaling-auth").Spec
	selector, err := meta.LabelSelectorAsSelector(&p.PodSelector)
	if err != nil {
		t.Fatal(err)
	}
	pod := one[*apps.Deployment](t, objects, "signaling-deployment").Spec.Template
	if !selector.Matches(labels.Set(pod.Labels)) || !slices.Equal(p.PolicyTypes, []networking.PolicyType{networking.PolicyTypeEgress}) || len(p.Egress) != 2 {
		t.Errorf("policy %+v", p)
	}
}

// TestRedisKeepsAll: it refuses to write before it is killed, and evicts nothing.
func TestRedisKeepsAll(t *testing.T) {
	c := one[*apps.StatefulSet](t, render(t, "daemonset"), "redis").Spec.Template.Spec.Containers[0]
	command := strings.Join(c.Command, " ")
	found := regexp.MustCompile(`--maxmemory (\d+)mb`).FindStringSubmatch(command)
	if found == nil || !strings.Contains(command, "--maxmemory-policy noeviction") {
		t.Fatalf("Redis is %s", command)
	}
	if most, _ := strconv.ParseInt(found[1], 10, 64); most<<20 > c.Resources.Limits.Memory().Value()/2 {
		t.Errorf("%d MB of data do not fit twice into %v", most, c.Resources.Limits.Memory())
	}
}

// TestMachineIsLeft: the label that the guide puts on a Node keeps the pod from it, and no other does.
func TestMachineIsLeft(t *testing.T) {
	template := one[*apps.DaemonSet](t, render(t, "daemonset"), "signaling").Spec.Template
	terms := template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	want := core.NodeSelectorRequirement{Key: "webrtc-signaling/leave", Operator: core.NodeSelectorOpDoesNotExist}
	if len(terms) != 1 || len(terms[0].MatchExpressions) != 1 || terms[0].MatchExpressions[0].Key != want.Key || terms[0].MatchExpressions[0].Operator != want.Operator {
		t.Errorf("pods go to %+v", terms)
	}
	if template.Annotations["cluster-autoscaler.kubernetes.io/enable-ds-eviction"] != "true" {
		t.Errorf("annotations %v", template.Annotations)
	}
}

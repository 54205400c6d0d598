package k8s_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// clusterWide are the kinds without a namespace.
var clusterWide = []string{"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass"}

// TestPods holds every pod of every overlay against what must be true of all.
func TestPods(t *testing.T) {
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			objects := render(t, overlay)
			for _, o := range objects {
				if (o.namespace == "webrtc-signaling") == slices.Contains(clusterWide, o.kind) {
					t.Errorf("%s %s is in namespace %q", o.kind, o.name, o.namespace)
				}
			}
			for _, w := range workloads(objects) {
				checkPod(t, w)
				for _, c := range w.pod.Spec.Containers {
					checkContainer(t, w.name, c)
				}
			}
			for _, w := range ours(workloads(objects)) {
				checkSignal(t, objects, w)
			}
		})
	}
}

func checkPod(t *testing.T, w workload) {
	t.Helper()
	s := w.pod.Spec
	if s.SecurityContext == nil || !*s.SecurityContext.RunAsNonRoot || *s.SecurityContext.RunAsUser == 0 ||
		s.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: pod security context %+v", w.name, s.SecurityContext)
	}
	if s.EnableServiceLinks == nil || *s.EnableServiceLinks {
		t.Errorf("%s: Services would set variables such as REDIS_PORT", w.name)
	}
	if s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken != (w.name == "signaling") {
		t.Errorf("%s: the token of the service account is mounted without need, or not where it is needed", w.name)
	}
}

func checkContainer(t *testing.T, name string, c core.Container) {
	t.Helper()
	s := c.SecurityContext
	var added []core.Capability
	if name == "signaling" {
		added = []core.Capability{"NET_BIND_SERVICE"} // Its ports are the machine's.
	}
	if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) ||
		!slices.Equal(s.Capabilities.Add, added) {
		t.Errorf("%s: security context %+v", name, s)
	}
	if !regexp.MustCompile(`^[^:]+:[^:]+$`).MatchString(c.Image) || strings.HasSuffix(c.Image, ":latest") {
		t.Errorf("%s: image %q has no tag of its own", name, c.Image)
	}
	r := c.Resources
	if r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() {
		t.Errorf("%s: resources %+v", name, r)
	}
	if c.LivenessProbe == nil || c.ReadinessProbe == nil {
		t.Errorf("%s: a probe is missing", name)
	}
}

// checkSignal holds a pod of ours against the program: its paths, ports, variables and drain.
func checkSignal(t *testing.T, objects []object, w workload) {
	t.Helper()
	c := w.pod.Spec.Containers[0]
	for probe, path := range map[*core.Probe]string{c.StartupProbe: "/health", c.LivenessProbe: "/health", c.ReadinessProbe: "/ready"} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path {
			t.Errorf("%s: probe %+v, want %s", w.name, probe, path)
		}
	}
	env, known := environment(t, objects, c), settings(t)
	for name := range env {
		if !slices.Contains(known, name) {
			t.Errorf("%s: %s is no setting", w.name, name)
		}
	}
	for _, name := range []string{"TURN_SECRET", "SESSION_SECRET", "REDIS_PASSWORD", "ADMIN_TOKEN"} {
		if len(env[name]) < 32 {
			t.Errorf("%s: %s is %d characters long", w.name, name, len(env[name]))
		}
	}
	drain, err := strconv.ParseInt(env["DRAIN_TIMEOUT"], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if grace := *w.pod.Spec.TerminationGracePeriodSeconds; grace < drain+c.Lifecycle.PreStop.Sleep.Seconds+5 {
		t.Errorf("%s: a grace period of %d s for %d s of preStop and %d s of drain", w.name, grace, c.Lifecycle.PreStop.Sleep.Seconds, drain)
	}
	if env["REDIS_HOST"] != one[*core.Service](t, objects, "redis").Name {
		t.Errorf("%s: REDIS_HOST is %q", w.name, env["REDIS_HOST"])
	}
	checkPorts(t, w, c, env)
}

func checkPorts(t *testing.T, w workload, c core.Container, env map[string]string) {
	t.Helper()
	_, admin, _ := strings.Cut(env["ADMIN_ADDR"], ":")
	want := map[string]string{"http": env["SERVER_PORT"], "metrics": admin, "turn-udp": "3478", "turn-tcp": "3478", "turns-udp": "5349", "turns-tcp": "5349"}
	for _, p := range c.Ports {
		if strconv.Itoa(int(p.ContainerPort)) != want[p.Name] {
			t.Errorf("%s: port %s is %d, want %s", w.name, p.Name, p.ContainerPort, want[p.Name])
		}
		if w.pod.Spec.HostNetwork && p.HostPort != p.ContainerPort {
			t.Errorf("%s: port %s is %d on the host", w.name, p.Name, p.HostPort)
		}
	}
}

// TestDaemonSet is of the pods that relay.
func TestDaemonSet(t *testing.T) {
	for _, overlay := range overlays {
		objects := render(t, overlay)
		d := one[*apps.DaemonSet](t, objects, "signaling")
		s := d.Spec.Template.Spec
		if !s.HostNetwork || s.DNSPolicy != core.DNSClusterFirstWithHostNet || s.PriorityClassName == "" || s.ServiceAccountName != "signaling" {
			t.Errorf("%s: pods %+v", overlay, s)
		}
		u := d.Spec.UpdateStrategy
		if u.Type != apps.RollingUpdateDaemonSetStrategyType || u.RollingUpdate.MaxUnavailable.IntValue() != 1 || u.RollingUpdate.MaxSurge.IntValue() != 0 {
			t.Errorf("%s: update strategy %+v", overlay, u)
		}
		from := map[string]string{}
		for _, e := range s.Containers[0].Env {
			if e.ValueFrom != nil {
				from[e.Name] = e.ValueFrom.FieldRef.FieldPath
			}
		}
		env := environment(t, objects, s.Containers[0])
		if from["TURN_KUBERNETES_NODE"] != "spec.nodeName" || from["TURN_RELAY_IP"] != "status.hostIP" || env["TURN_EXTERNAL_IP"] != "auto" ||
			env["TURN_PUBLIC_HOST"] != "auto" {
			t.Errorf("%s: addresses from %v and %v", overlay, from, env)
		}
		if space := one[*core.Namespace](t, objects, ""); space.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
			t.Errorf("%s: the namespace forbids the host's network: %v", overlay, space.Labels)
		}
		role := one[*rbac.ClusterRole](t, objects, "")
		if r := role.Rules; len(r) != 1 || !slices.Equal(r[0].Resources, []string{"nodes"}) || !slices.Equal(r[0].Verbs, []string{"get"}) {
			t.Errorf("%s: rights %+v", overlay, r)
		}
	}
}

// TestServices reach the pods that they are for, and no others.
func TestServices(t *testing.T) {
	served := map[string]map[string][]string{
		"daemonset":  {"signaling": {"signaling"}, "signaling-metrics": {"signaling"}, "redis": {"redis"}},
		"minikube":   {"signaling": {"signaling"}, "signaling-metrics": {"signaling"}, "redis": {"redis"}},
		"autoscaled": {"signaling": {"signaling-deployment"}, "signaling-metrics": {"signaling", "signaling-deployment"}, "redis": {"redis"}},
	}
	for _, overlay := range overlays {
		objects := render(t, overlay)
		for service, want := range served[overlay] {
			s := one[*core.Service](t, objects, service)
			var got []string
			for _, w := range workloads(objects) {
				if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(w.pod.Labels)) {
					continue
				}
				got = append(got, w.name)
				if !slices.ContainsFunc(w.pod.Spec.Containers[0].Ports, func(p core.ContainerPort) bool { return p.Name == s.Spec.Ports[0].TargetPort.StrVal }) {
					t.Errorf("%s: %s has no port %s for service %s", overlay, w.name, s.Spec.Ports[0].TargetPort.StrVal, service)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: service %s leads to %v, want %v", overlay, service, got, want)
			}
		}
		s := one[*core.Service](t, objects, "signaling")
		if s.Spec.SessionAffinity != core.ServiceAffinityClientIP {
			t.Errorf("%s: affinity %s", overlay, s.Spec.SessionAffinity)
		}
		checkBudget(t, overlay, objects, s.Spec.Selector)
	}
}

func checkBudget(t *testing.T, overlay string, objects []object, selector map[string]string) {
	t.Helper()
	b := one[*policy.PodDisruptionBudget](t, objects, "signaling")
	if b.Spec.MinAvailable.IntValue() < 1 || !labels.Equals(b.Spec.Selector.MatchLabels, selector) {
		t.Errorf("%s: disruption budget %+v", overlay, b.Spec)
	}
}

// TestManagedRedis leaves out the cluster's own Redis, as the guide says.
func TestManagedRedis(t *testing.T) {
	dir := source(t)
	edit(t, filepath.Join(dir, "daemonset/kustomization.yaml"), "  - ../components/redis\n", "")
	edit(t, filepath.Join(dir, "base/secrets.env"), "REDIS_PASSWORD=", "REDIS_URL=rediss://north:south@redis.example.org:6379\nREDIS_PASSWORD=")
	objects := renderIn(t, dir, "daemonset")
	env := environment(t, objects, one[*apps.DaemonSet](t, objects, "signaling").Spec.Template.Spec.Containers[0])
	if env["REDIS_HOST"] != "" || !strings.HasPrefix(env["REDIS_URL"], "rediss://") {
		t.Errorf("Redis is %q and %q", env["REDIS_HOST"], env["REDIS_URL"])
	}
	for _, w := range workloads(objects) {
		if w.name != "signaling" {
			t.Errorf("%s is still there", w.name)
		}
	}
}

// TestAutoscaled scales signaling and leaves TURN to the machines.
func TestAutoscaled(t *testing.T) {
	objects := render(t, "autoscaled")
	deployment := one[*apps.Deployment](t, objects, "signaling-deployment")
	env := environment(t, objects, deployment.Spec.Template.Spec.Containers[0])
	if env["TURN_ENABLED"] != "false" || deployment.Spec.Template.Spec.HostNetwork || deployment.Spec.Replicas != nil {
		t.Errorf("deployment: TURN %q, replicas %v", env["TURN_ENABLED"], deployment.Spec.Replicas)
	}
	relay := one[*apps.DaemonSet](t, objects, "signaling").Spec.Template.Spec.Containers[0]
	if env := environment(t, objects, relay); env["SERVER_HOST"] != "127.0.0.1" || relay.LivenessProbe.HTTPGet.Host != "127.0.0.1" {
		t.Errorf("the DaemonSet serves signaling at %q", env["SERVER_HOST"])
	}
	hpa := one[*autoscaling.HorizontalPodAutoscaler](t, objects, "signaling-deployment")
	if ref := hpa.Spec.ScaleTargetRef; ref.Name != deployment.Name || ref.Kind != "Deployment" || *hpa.Spec.MinReplicas < 2 {
		t.Errorf("scales %+v from %d", ref, *hpa.Spec.MinReplicas)
	}
	var by []string
	for _, m := range hpa.Spec.Metrics {
		switch m.Type {
		case autoscaling.ResourceMetricSourceType:
			by = append(by, string(m.Resource.Name))
		case autoscaling.PodsMetricSourceType:
			by = append(by, m.Pods.Metric.Name)
		}
	}
	if !slices.Equal(by, []string{"cpu", "memory", "signal_connections"}) {
		t.Errorf("scales by %v", by)
	}
}

// TestNetworkPolicies select pods and open their ports.
func TestNetworkPolicies(t *testing.T) {
	objects := render(t, "autoscaled")
	for name, pods := range map[string]string{"signaling": "signaling-deployment", "redis": "redis"} {
		p := one[*networking.NetworkPolicy](t, objects, name)
		selector, err := meta.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range workloads(objects) {
			if w.name != pods {
				continue
			}
			if !selector.Matches(labels.Set(w.pod.Labels)) {
				t.Errorf("policy %s does not select %s", name, pods)
			}
			for _, open := range p.Spec.Ingress[0].Ports {
				if !slices.ContainsFunc(w.pod.Spec.Containers[0].Ports, func(c core.ContainerPort) bool { return c.Name == open.Port.StrVal }) {
					t.Errorf("policy %s opens %s, which %s does not have", name, open.Port, pods)
				}
			}
		}
	}
}

// metricNames finds metrics of ours in an expression.
var metricNames = regexp.MustCompile(`signal_[a-z_]+`)

// TestAlerts are of metrics that exist, and each has its part of the runbook. The components come as
// the guide says, by two lines without their comment signs.
func TestAlerts(t *testing.T) {
	objects := renderIn(t, sourceWith(t, nil, "monitoring", "grafana"), "daemonset")
	guide, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := one[*monitoring.PrometheusRule](t, objects, "signaling").Spec.Groups[0].Rules
	if len(rules) < 5 {
		t.Fatalf("only %d alerts", len(rules))
	}
	for _, r := range rules {
		checkMetrics(t, r.Alert, r.Expr.StrVal)
		if !strings.Contains(string(guide), "\n### "+r.Alert+"\n") || r.Annotations["runbook"] != "k8s/README.md#"+strings.ToLower(r.Alert) {
			t.Errorf("%s has no runbook", r.Alert)
		}
	}
	monitor := one[*monitoring.ServiceMonitor](t, objects, "signaling")
	secret := one[*core.Secret](t, objects, monitor.Spec.Endpoints[0].Authorization.Credentials.Name)
	if len(secret.Data["ADMIN_TOKEN"]) == 0 {
		t.Error("the monitor names a secret without ADMIN_TOKEN")
	}
	service := one[*core.Service](t, objects, "signaling-metrics")
	if !labels.SelectorFromSet(monitor.Spec.Selector.MatchLabels).Matches(labels.Set(service.Labels)) || monitor.Spec.Endpoints[0].Port != service.Spec.Ports[0].Name {
		t.Error("the monitor does not find the service")
	}
	checkDashboard(t, one[*core.ConfigMap](t, objects, "signaling-dashboard").Data["dashboard.json"])
}

func checkMetrics(t *testing.T, what, expression string) {
	t.Helper()
	for _, name := range metricNames.FindAllString(expression, -1) {
		if !strings.Contains(readmes(t, "signal", "turnsrv", "state"), "`"+name) {
			t.Errorf("%s: there is no metric %s", what, name)
		}
	}
}

func checkDashboard(t *testing.T, text string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(text), &dashboard); err != nil || len(dashboard.Panels) < 8 {
		t.Fatalf("%d panels: %v", len(dashboard.Panels), err)
	}
	for _, p := range dashboard.Panels {
		checkMetrics(t, p.Title, p.Targets[0].Expr)
	}
}

//go:build apiserver

package k8s_test

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"

	"cline-meet/signal/packaging/systemtest"
)

// TestMachineIsLeftByTheController does to Nodes what the guide says, and has the controller of DaemonSets act on it. There is no
// other controller and no kubelet: the test sets what Nodes are tainted with, binds pods and ends them.
func TestMachineIsLeftByTheController(t *testing.T) {
	api := startAPIServer(t)
	objects := render(t, "daemonset")
	for _, o := range objects {
		if slices.Contains([]string{"Namespace", "ServiceAccount", "ConfigMap", "Secret", "PriorityClass", "DaemonSet"}, o.kind) {
			api.must(http.MethodPatch, api.path(o)+"?force=true&fieldManager=signal", string(o.text))
		}
	}
	for _, name := range []string{"one", "two"} {
		api.must(http.MethodPost, "/api/v1/nodes", `{"metadata": {"name": "`+name+`", "labels": {"kubernetes.io/os": "linux"}}}`)
		api.must(http.MethodPatch, "/api/v1/nodes/"+name, `{"spec": {"taints": []}}`) // A new one is not ready.
	}
	background(t, filepath.Join(*kube, "daemonsets/daemonsets"), api.url, "north")
	first, second := api.runs("one"), api.runs("two")

	api.must(http.MethodPatch, "/api/v1/nodes/two", `{"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}`)
	api.ends(second)
	if again := api.runs("two"); again == second {
		t.Error("a pod that was deleted does not come back on a machine that is cordoned, which the guide warns of")
	}

	api.must(http.MethodPatch, "/api/v1/nodes/one", `{"metadata": {"labels": {"webrtc-signaling/leave": "yes"}}}`)
	var leaving core.Pod
	systemtest.Eventually(t, "the pod is asked to leave", func() bool {
		api.get("/api/v1/namespaces/webrtc-signaling/pods/"+first, &leaving)
		return leaving.DeletionTimestamp != nil
	})
	want := *one[*apps.DaemonSet](t, objects, "signaling").Spec.Template.Spec.TerminationGracePeriodSeconds
	if got := leaving.DeletionGracePeriodSeconds; got == nil || *got != want {
		t.Errorf("it has %v s for that, want %d", got, want)
	}
	api.ends(first)
	systemtest.Eventually(t, "the DaemonSet wants one machine less", func() bool {
		var d apps.DaemonSet
		api.get("/apis/apps/v1/namespaces/webrtc-signaling/daemonsets/signaling", &d)
		return d.Status.DesiredNumberScheduled == 1 && api.podOn("one") == ""
	})

	api.must(http.MethodPatch, "/api/v1/nodes/one", `{"metadata": {"labels": {"webrtc-signaling/leave": null}}}`)
	api.runs("one")
}

// runs waits until the controller wants a pod on a Node, puts it there as the scheduler does, and returns its name.
func (a *apiServer) runs(node string) (pod string) {
	a.t.Helper()
	systemtest.Eventually(a.t, "there is a pod for "+node, func() bool { pod = a.podOn(node); return pod != "" })
	a.must(http.MethodPost, "/api/v1/namespaces/webrtc-signaling/pods/"+pod+"/binding", `{"metadata": {"name": "`+pod+`"}, "target": {"kind": "Node", "name": "`+node+`"}}`)
	return pod
}

// ends deletes a pod as the kubelet does when its processes are gone.
func (a *apiServer) ends(pod string) {
	a.t.Helper()
	a.must(http.MethodDelete, "/api/v1/namespaces/webrtc-signaling/pods/"+pod, `{"gracePeriodSeconds": 0}`)
}

// podOn returns the pod that is for a Node and is not ending.
func (a *apiServer) podOn(node string) string {
	a.t.Helper()
	var pods core.PodList
	a.get("/api/v1/namespaces/webrtc-signaling/pods", &pods)
	for _, p := range pods.Items {
		terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		if p.DeletionTimestamp == nil && slices.Equal(terms[0].MatchFields[0].Values, []string{node}) {
			return p.Name
		}
	}
	return ""
}

func (a *apiServer) get(path string, into any) {
	a.t.Helper()
	text := a.must(http.MethodGet, path, "")
	if err := json.Unmarshal([]byte(text), into); err != nil {
		a.t.Fatalf("%s: %v\n%s", path, err, text)
	}
}

// must sends what has to succeed and returns the answer.
func (a *apiServer) must(method, path, body string) string {
	a.t.Helper()
	answer, err := a.send(method, path, []byte(body))
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

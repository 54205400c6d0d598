package k8s_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"

	"cline-meet/signal/packaging/systemtest"
)

// TestAlertOfCertificates has Prometheus' own tool follow certificates to their end.
func TestAlertOfCertificates(t *testing.T) {
	systemtest.Need(t, "promtool")
	rules := one[*monitoring.PrometheusRule](t, renderIn(t, sourceWith(t, nil, "monitoring"), "daemonset"), "signaling").Spec
	all := rules.Groups[0].Rules
	alert := all[slices.IndexFunc(all, func(r monitoring.Rule) bool { return r.Alert == "SignalCertificateEnds" })]
	rules.Groups[0].Rules = []monitoring.Rule{alert}
	const day = 24 * time.Hour
	var tests []any
	for lives, fires := range map[time.Duration]time.Duration{6 * day: 16*time.Hour + time.Minute, 90 * day: 10 * day, 398 * day: 10 * day, 0: 0} {
		begins := lives - fires
		series := []any{}
		for name, value := range map[string]float64{"start": 0, "expiry": lives.Seconds()} {
			series = append(series, map[string]any{"series": fmt.Sprintf(`signal_certificate_%s_timestamp_seconds{serves="https",name="a.example"}`, name),
				"values": fmt.Sprintf("%.0fx%d", value, int(lives/time.Hour)+3)})
		}
		firing := map[string]any{"exp_labels": map[string]string{"severity": alert.Labels["severity"], "serves": "https", "name": "a.example"}, "exp_annotations": alert.Annotations}
		tests = append(tests, map[string]any{"name": lives.String(), "interval": "1h", "input_series": series, "alert_rule_test": []any{
			map[string]any{"alertname": alert.Alert, "eval_time": fmt.Sprintf("%.0fs", max(0, begins-time.Hour).Truncate(time.Hour).Seconds()), "exp_alerts": []any{}},
			map[string]any{"alertname": alert.Alert, "eval_time": fmt.Sprintf("%.0fs", (begins + 3*time.Hour).Truncate(time.Hour).Seconds()), "exp_alerts": []any{firing}},
		}})
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "rules.yaml"), rules)
	write(t, filepath.Join(dir, "tests.yaml"), map[string]any{"rule_files": []string{"rules.yaml"}, "evaluation_interval": "1h", "tests": tests})
	if out, err := exec.Command("promtool", "test", "rules", filepath.Join(dir, "tests.yaml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func write(t *testing.T, file string, value any) {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

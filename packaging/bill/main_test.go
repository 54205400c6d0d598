package main

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEveryTextHasAName is of the texts that go with the program: one of a license that is not known would end a release.
func TestEveryTextHasAName(t *testing.T) {
	text, err := os.ReadFile("../licenses.txt")
	if err != nil {
		t.Fatal(err)
	}
	found := parts(string(text))
	modules := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^==== (.*): [^:\n]+$`).FindAllStringSubmatch(string(text), -1) {
		modules[row[1]] = true
	}
	if len(modules) < 20 {
		t.Fatalf("only %d modules in licenses.txt", len(modules))
	}
	for module := range modules {
		if len(found[module]) == 0 {
			t.Errorf("no license is known of %s", module)
		}
	}
	for begin, want := range map[string][]string{"Go standard library": {"BSD-3-Clause"}, "github.com/prometheus/client_golang ": {"Apache-2.0"},
		"github.com/gorilla/websocket ": {"BSD-2-Clause"}, "github.com/pion/turn/v3 ": {"MIT"}, "go.yaml.in/yaml/v3 ": {"Apache-2.0", "MIT"}} {
		for module, got := range found {
			if strings.HasPrefix(module, begin) && !slices.Equal(got, want) {
				t.Errorf("%s is under %v, want %v", module, got, want)
			}
		}
	}
}

const bill = `{"bomFormat": "CycloneDX", "metadata": {"component": {"name": "signal"}}, "components": [
  {"name": "a", "version": "v1"}, {"name": "b", "version": "v2"}, {"name": "./c", "version": "(devel)"}, {"name": "std", "version": "go1"}]}`

func TestComplete(t *testing.T) {
	modules := licensed{"a v1": {"MIT"}, "b v2": {"Apache-2.0", "MIT"}, "Go standard library": {"BSD-3-Clause"}}
	out, err := complete([]byte(bill), modules, []string{"ISC"})
	if err != nil {
		t.Fatal(err)
	}
	type component struct {
		Licenses []struct {
			License    struct{ ID string }
			Expression string
		}
	}
	var got struct {
		BOMFormat  string
		Metadata   struct{ Component component }
		Components []component
	}
	if err := json.Unmarshal(out, &got); err != nil || got.BOMFormat != "CycloneDX" {
		t.Fatalf("%v:\n%s", err, out)
	}
	var named []string
	for _, c := range append(got.Components, got.Metadata.Component) {
		for _, l := range c.Licenses {
			named = append(named, l.License.ID+l.Expression)
		}
	}
	if want := []string{"MIT", "Apache-2.0 AND MIT", "ISC", "BSD-3-Clause", "ISC"}; !reflect.DeepEqual(named, want) {
		t.Errorf("licenses %q, want %q", named, want)
	}
	delete(modules, "b v2")
	if _, err := complete([]byte(bill), modules, []string{"ISC"}); err == nil || !strings.Contains(err.Error(), "b v2") {
		t.Errorf("of a component without a license: %v", err)
	}
	if _, err := complete([]byte(`{}`), modules, nil); err == nil {
		t.Error("something else is taken for a bill")
	}
}

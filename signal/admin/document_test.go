package admin

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocumentAndTextAgree compares the table of the README with the OpenAPI document, and the document with what is served.
func TestDocumentAndTextAgree(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var told, described []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]+ /v1/[^`]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		told = append(told, m[1])
	}
	n := startNodes(t, "a")[0]
	for path, methods := range n.document().Paths {
		for method := range methods {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(told)
	slices.Sort(described)
	if !slices.Equal(told, described) {
		t.Errorf("the README has %v\nthe document %v", told, described)
	}
	for _, r := range n.routes() {
		if status, body := n.call(writeToken, r.method, r.path, `{"data":1,"level":"info"}`); strings.Contains(body, "openapi.json: ") || status == 405 || strings.Contains(body, "there is no "+r.method) {
			t.Errorf("%s %s is not served: %d %s", r.method, r.path, status, body)
		}
	}
}

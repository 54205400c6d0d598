package assets

import (
	"context"
	"io/fs"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cline-meet/signal/packaging/systemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := fs.ReadFile(FS(), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func modules(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.js", "signal/*.js"} {
		found, err := fs.Glob(FS(), pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("no modules %s: %v", pattern, err)
		}
		names = append(names, found...)
	}
	return names
}

func submatches(re *regexp.Regexp, text string) []string {
	var found []string
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

var (
	reference = regexp.MustCompile(`\s(?:href|src)="([^"#][^"]*)"`)
	fragment  = regexp.MustCompile(`\shref="#([^"]+)"`)
	idAttr    = regexp.MustCompile(`\sid="([^"]+)"`)
	pointer   = regexp.MustCompile(`\s(?:for|aria-controls|aria-labelledby|aria-describedby)="([^"]+)"`)
	script    = regexp.MustCompile(`<script([^>]*)>([^<]*)`)
	handler   = regexp.MustCompile(`<[a-z][^>]*\s(on[a-z]+|style)=`)
	imported  = regexp.MustCompile(`(?m)^(?:import|export [{*])[^"]*"([^"]+)";`)
	lookedUp  = regexp.MustCompile(`\$\("([^"]+)"`)
)

// The address of the page's start is not a file.
func isFile(ref string) bool { return ref != "./" }

func TestPageRefersOnlyToFilesThatExist(t *testing.T) {
	page := read(t, "index.html")
	refs := submatches(reference, page)
	if len(refs) < 3 {
		t.Fatalf("found only %q: the expression no longer fits the page", refs)
	}
	for _, ref := range refs {
		if isFile(ref) {
			read(t, ref)
		}
	}
}

func TestModulesImportOnlyFilesThatExist(t *testing.T) {
	for _, name := range modules(t) {
		for _, ref := range submatches(imported, read(t, name)) {
			if !strings.HasPrefix(ref, "./") {
				t.Errorf("%s imports %q, which is not beside it", name, ref)
				continue
			}
			read(t, path.Join(path.Dir(name), ref))
		}
	}
}

// TestClientStandsAlone keeps signal.js apart from the page, for pages that import nothing else.
func TestClientStandsAlone(t *testing.T) {
	refs := submatches(imported, read(t, "signal.js"))
	if len(refs) < 2 {
		t.Fatalf("found only %q: the expression no longer fits signal.js", refs)
	}
	for _, ref := range refs {
		if !strings.HasPrefix(ref, "./signal/") {
			t.Errorf("signal.js imports %q, which is no part of it", ref)
		}
	}
}

func TestNothingInline(t *testing.T) {
	page := read(t, "index.html")
	for _, m := range script.FindAllStringSubmatch(page, -1) {
		if !strings.Contains(m[1], " src=") || strings.TrimSpace(m[2]) != "" {
			t.Errorf("inline script: %s", m[0])
		}
	}
	if found := submatches(handler, page); len(found) > 0 {
		t.Errorf("the content security policy forbids the attributes %q", found)
	}
	if strings.Contains(page, "<style") {
		t.Error("inline style")
	}
}

func TestNoExternalRequests(t *testing.T) {
	external := regexp.MustCompile(`(?:src|href)="(?:https?:)?//|@import|url\(`)
	for _, name := range []string{"index.html", "style.css"} {
		if found := external.FindString(read(t, name)); found != "" {
			t.Errorf("%s loads something from elsewhere: %s", name, found)
		}
	}
}

func TestIDs(t *testing.T) {
	page := read(t, "index.html")
	ids := map[string]bool{}
	for _, id := range submatches(idAttr, page) {
		if ids[id] {
			t.Errorf("id %q twice", id)
		}
		ids[id] = true
	}
	for _, id := range append(submatches(pointer, page), submatches(fragment, page)...) {
		if !ids[id] {
			t.Errorf("the page points to %q, which it does not have", id)
		}
	}
	for _, name := range modules(t) {
		for _, id := range submatches(lookedUp, read(t, name)) {
			if !ids[id] {
				t.Errorf("%s looks for %q, which the page does not have", name, id)
			}
		}
	}
}

func TestModulesParse(t *testing.T) {
	systemtest.Need(t, "node")
	for _, name := range modules(t) {
		cmd := exec.Command("node", "--input-type=module", "--check", "-")
		cmd.Stdin = strings.NewReader(read(t, name))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestClientAgainstAScript runs the tests of the client that need no browser.
func TestClientAgainstAScript(t *testing.T) {
	systemtest.Need(t, "node")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "node", "--test", "signal/client.test.mjs").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

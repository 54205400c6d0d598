package packaging_test

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

var update = flag.Bool("update-licenses", false, "write licenses.txt anew, as make licenses does")

// platforms are those of a release.
var platforms = [][]string{{"GOOS=linux", "GOARCH=amd64"}, {"GOOS=linux", "GOARCH=arm64"}, {"GOOS=linux", "GOARCH=arm", "GOARM=7"}}

// licenseFile is how modules call the files that must go with them.
var licenseFile = regexp.MustCompile(`(?i)^(licen[sc]e|copying|notice|patents)([.-].*)?$`)

// TestLicensesAreComplete compares licenses.txt with what the modules say that are linked.
func TestLicensesAreComplete(t *testing.T) {
	want := licenseTexts(t)
	if *update {
		if err := os.WriteFile("licenses.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("licenses.txt")
	if err != nil || string(got) != want {
		t.Errorf("licenses.txt is not what the modules say (%v): run make licenses", err)
	}
	if said := must(t, nil, systemtest.Executable(t), "licenses"); said != strings.TrimSpace(want) {
		t.Error("signal licenses does not print licenses.txt")
	}
}

// licenseTexts are those of Go and of every module that some platform links, a part each.
func licenseTexts(t *testing.T) string {
	t.Helper()
	dirs := map[string]string{"Go standard library": strings.TrimSpace(must(t, nil, "go", "env", "GOROOT"))}
	for _, platform := range platforms {
		out := must(t, append(platform, "CGO_ENABLED=0"), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}", ".")
		for line := range strings.Lines(out) {
			if name, dir, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && !strings.HasPrefix(dir, tree(t)) {
				dirs[name] = dir
			}
		}
	}
	if len(dirs) < 20 {
		t.Fatalf("only %v are linked", dirs)
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		files := licenseFiles(t, dirs[name])
		if len(files) == 0 {
			t.Errorf("%s has no license", name)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "==== %s: %s\n\n%s\n\n", name, filepath.Base(file), strings.TrimSpace(string(content)))
		}
	}
	return text.String()
}

func licenseFiles(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && licenseFile.MatchString(e.Name()) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files
}

// TestNoKnownFaultIsLinked holds the modules of the executable against the advisories.
func TestNoKnownFaultIsLinked(t *testing.T) {
	text, err := os.ReadFile("advisories.txt")
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(systemtest.Executable(t))
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]string{"std": "v" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, dep := range info.Deps {
		if dep.Replace == nil { // What replaces one is ours.
			linked[dep.Path] = dep.Version
		}
	}
	rows := regexp.MustCompile(`(?m)^(\S+) (v[0-9.]+|-) (CVE-\S+|GO-\S+|GHSA-\S+)$`).FindAllStringSubmatch(string(text), -1)
	if len(rows) < 5 || len(linked) < 20 {
		t.Fatalf("%d advisories, %d modules", len(rows), len(linked))
	}
	for _, row := range rows {
		if version, ok := linked[row[1]]; ok && (row[2] == "-" || older(version, row[2])) {
			t.Errorf("%s %s is linked, which has %s", row[1], version, row[3])
		}
	}
}

// older says whether a version comes before another one.
func older(version, than string) bool {
	numbers := func(v string) (out []int) {
		for part := range strings.SplitSeq(strings.TrimPrefix(strings.SplitN(v, "-", 2)[0], "v"), ".") {
			n, _ := strconv.Atoi(part)
			out = append(out, n)
		}
		return out
	}
	return slices.Compare(numbers(version), numbers(than)) < 0
}

func TestOlder(t *testing.T) {
	for _, test := range []struct {
		version, than string
		want          bool
	}{{"v1.2.3", "v1.2.3", false}, {"v1.2.3", "v1.10.0", true}, {"v2.0.0", "v1.9.9", false}, {"v0.0.0-20190101000000-abcdef", "v0.1.0", true}} {
		if got := older(test.version, test.than); got != test.want {
			t.Errorf("%s older than %s: %v", test.version, test.than, got)
		}
	}
}

package packaging_test

import (
	"debug/elf"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRelease makes a release for all platforms and uses it as someone who downloaded it.
func TestRelease(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	dir := copyOfTree(t)
	m.env = append(m.env, "VERSION=1.2.3", "IMAGE=signal:release")
	must(t, m.env, "make", "--no-print-directory", "-C", dir, "release")
	dist := filepath.Join(dir, "dist")
	for _, pattern := range []string{"*.deb", "*.rpm", "*.tar", "*.tar.gz", "*.cdx.json"} {
		if files, _ := filepath.Glob(filepath.Join(dist, pattern)); len(files) != 3 {
			t.Errorf("%s: %q", pattern, files)
		}
	}
	must(t, nil, "sh", "-euc", `cd "$0" && sha256sum --check --strict SHA256SUMS`, dist)
	for platform, want := range map[string]struct {
		image   string // image is for that architecture and variant.
		machine elf.Machine
	}{"amd64": {"amd64", elf.EM_X86_64}, "arm64": {"arm64", elf.EM_AARCH64}, "armv7": {"arm v7", elf.EM_ARM}} {
		checkBillOfMaterials(t, filepath.Join(dist, "signal-1.2.3-linux-"+platform+".cdx.json"))
		must(t, m.env, "docker", "load", "--input", filepath.Join(dist, "signal-linux-"+platform+".tar"))
		if got := m.docker("image", "inspect", "--format", "{{.Architecture}} {{.Variant}}", "signal:release"); got != want.image {
			t.Errorf("the image for %s is for %q", platform, got)
		}
		root := t.TempDir()
		must(t, nil, "tar", "-xzf", filepath.Join(dist, "signal-1.2.3-linux-"+platform+".tar.gz"), "-C", root)
		checkExecutable(t, filepath.Join(root, "signal-1.2.3-linux-"+platform, "bin/signal"), want.machine)
	}
	root := t.TempDir()
	must(t, nil, "tar", "-xzf", filepath.Join(dist, "signal-1.2.3-linux-"+platform()+".tar.gz"), "-C", root)
	must(t, []string{"DESTDIR=" + filepath.Join(root, "dest")}, filepath.Join(root, "signal-1.2.3-linux-"+platform(), "packaging/install.sh"))
	must(t, nil, filepath.Join(root, "dest/usr/bin/signal"), "version")
}

// checkExecutable looks at a static executable for a machine.
func checkExecutable(t *testing.T, file string, machine elf.Machine) {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if f.Machine != machine || f.Section(".interp") != nil {
		t.Errorf("%s is for %v", file, f.Machine)
	}
}

// component is one in a bill of materials (CycloneDX).
type component struct {
	Name, Version string
	Licenses      []struct {
		License    struct{ ID string }
		Expression string
	}
}

func checkBillOfMaterials(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var bill struct {
		BOMFormat  string
		Metadata   struct{ Component component }
		Components []component
	}
	if err := json.Unmarshal(text, &bill); err != nil || bill.BOMFormat != "CycloneDX" {
		t.Fatalf("%s is %q (%v)", file, bill.BOMFormat, err)
	}
	for _, c := range append(bill.Components, bill.Metadata.Component) {
		if len(c.Licenses) != 1 || c.Licenses[0].License.ID+c.Licenses[0].Expression == "" {
			t.Errorf("%s names no license of %s", file, c.Name)
		}
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"github.com/gorilla/websocket", "github.com/pion/turn/v3", "github.com/redis/go-redis/v9"} {
		i := slices.IndexFunc(bill.Components, func(c component) bool { return c.Name == name })
		if i < 0 || !strings.Contains(string(mod), name+" "+bill.Components[i].Version) {
			t.Errorf("%s does not have %s", file, name)
		}
	}
}

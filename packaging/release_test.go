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

// TestRelease makes a release for a platform of another kind beside this one's, and uses it as someone
// who downloaded it.
func TestRelease(t *testing.T) {
	m := startMachine(t)
	dir := copyOfTree(t)
	m.env = append(m.env, "VERSION=1.2.3", "IMAGE=signal:release")
	must(t, m.env, "make", "--no-print-directory", "-C", dir, "release", "PLATFORMS=armv7 "+platform())
	dist := filepath.Join(dir, "dist")
	for _, pattern := range []string{"*.deb", "*.rpm", "*.tar", "*.tar.gz", "*.cdx.json"} {
		if files, _ := filepath.Glob(filepath.Join(dist, pattern)); len(files) != 2 {
			t.Errorf("%s: %q", pattern, files)
		}
	}
	must(t, nil, "sh", "-euc", `cd "$0" && sha256sum --check --strict SHA256SUMS`, dist)
	for _, file := range []string{"signal-1.2.3-linux-armv7.cdx.json", "signal-1.2.3-linux-" + platform() + ".cdx.json"} {
		checkBillOfMaterials(t, filepath.Join(dist, file))
	}
	root := t.TempDir()
	must(t, nil, "tar", "-xzf", filepath.Join(dist, "signal-1.2.3-linux-"+platform()+".tar.gz"), "-C", root)
	must(t, []string{"DESTDIR=" + filepath.Join(root, "dest")}, filepath.Join(root, "signal-1.2.3-linux-"+platform(), "packaging/install.sh"))
	must(t, nil, filepath.Join(root, "dest/usr/bin/signal"), "version")
	must(t, nil, "tar", "-xzf", filepath.Join(dist, "signal-1.2.3-linux-armv7.tar.gz"), "-C", root)
	f, err := elf.Open(filepath.Join(root, "signal-1.2.3-linux-armv7/bin/signal"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elf.EM_ARM || f.Section(".interp") != nil {
		t.Errorf("the executable for armv7 is for %v", f.Machine)
	}
	_ = f.Close()
}

func checkBillOfMaterials(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var bill struct {
		BOMFormat  string
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(text, &bill); err != nil || bill.BOMFormat != "CycloneDX" {
		t.Fatalf("%s is %q (%v)", file, bill.BOMFormat, err)
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"github.com/gorilla/websocket", "github.com/pion/turn/v3", "github.com/redis/go-redis/v9"} {
		i := slices.IndexFunc(bill.Components, func(c struct{ Name, Version string }) bool { return c.Name == name })
		if i < 0 || !strings.Contains(string(mod), name+" "+bill.Components[i].Version) {
			t.Errorf("%s does not have %s", file, name)
		}
	}
}

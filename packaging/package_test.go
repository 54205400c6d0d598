package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

// chroot is a Debian of its own, as small as it can be.
type chroot struct {
	t   *testing.T
	dir string
}

// newChroot unpacks a Debian with the named packages, which ends with the test. A test that runs beside others calls it before: two that
// make an archive would download to the same place.
func newChroot(t *testing.T, include ...string) *chroot {
	t.Helper()
	systemtest.NeedRoot(t, "debootstrap", "chroot")
	c := &chroot{t: t, dir: t.TempDir()}
	must(t, nil, "tar", "--extract", "--same-owner", "--file", debian(t, append(include, "procps")), "--directory", c.dir)
	return c
}

// debian returns the archive of a Debian with the named packages. To unpack and configure one takes 40 seconds of a core, so the
// first run on this machine keeps it for the others.
func debian(t *testing.T, include []string) string {
	t.Helper()
	cache := filepath.Join(os.TempDir(), "signal-debootstrap")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(cache, strings.Join(include, "-")+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive
	}
	dir := t.TempDir()
	must(t, nil, "debootstrap", "--variant=minbase", "--include="+strings.Join(include, ","), "--cache-dir="+cache, "bookworm", dir)
	must(t, nil, "sh", "-euc", `tar --create --one-file-system --file "$0.$$" --directory "$1" . && mv "$0.$$" "$0"`, archive, dir)
	return archive
}

// run runs a shell script in the chroot, which has no systemd.
func (c *chroot) run(script string) string {
	c.t.Helper()
	return must(c.t, []string{"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}, "chroot", c.dir, "/bin/sh", "-euc", script)
}

// bring copies files into the chroot's /.
func (c *chroot) bring(files ...string) {
	c.t.Helper()
	must(c.t, nil, "cp", append(files, c.dir)...)
}

func (c *chroot) exists(path string) bool {
	_, err := os.Stat(filepath.Join(c.dir, path))
	return err == nil
}

type packageFiles struct{ deb, rpm string }

// made are the packages of each version.
var made = map[string]packageFiles{}

// packages returns the deb and the rpm of a version, which all tests share. A test that runs beside others calls it before.
func packages(t *testing.T, version string) (deb, rpm string) {
	t.Helper()
	files, ok := made[version]
	if !ok {
		files = makePackages(t, version)
		made[version] = files
	}
	return files.deb, files.rpm
}

// makePackages leaves nothing in dist, where somebody may take it for a release.
func makePackages(t *testing.T, version string) (files packageFiles) {
	t.Helper()
	dir := filepath.Join(tree(t), "bin", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	out := must(t, []string{"VERSION=" + version}, "make", "--no-print-directory", "package")
	for line := range strings.Lines(out) {
		_, file, ok := strings.Cut(strings.TrimSpace(line), "created package: ")
		if !ok {
			continue
		}
		moved := filepath.Join(dir, filepath.Base(file))
		if err := os.Rename(filepath.Join(tree(t), file), moved); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".deb") {
			files.deb = moved
		} else {
			files.rpm = moved
		}
	}
	if files.deb == "" || files.rpm == "" {
		t.Fatalf("no packages in:\n%s", out)
	}
	return files
}

// TestDeb installs, upgrades, removes and purges the package.
func TestDeb(t *testing.T) {
	old, _ := packages(t, "1.0.0")
	next, _ := packages(t, "1.1.0")
	c := newChroot(t)
	t.Parallel()
	c.bring(old)
	c.run("dpkg --install /" + filepath.Base(old))
	if got := c.run("signal version"); !strings.HasPrefix(got, "signal ") {
		t.Errorf("version %q", got)
	}
	if got := c.run("getent passwd signal"); !strings.HasSuffix(got, "/nonexistent:/usr/sbin/nologin") {
		t.Errorf("user %q", got)
	}
	if got := c.run("stat --format '%U:%G %a' /etc/signal /etc/signal/signal.yaml /etc/signal/secrets.env | tr '\\n' ' '"); got !=
		"root:signal 750 root:signal 640 root:root 600" {
		t.Errorf("the settings belong to %q", got)
	}
	c.run("signal serve --check --config /etc/signal/signal.yaml")
	for _, file := range []string{"/usr/share/man/man1/signal.1.gz", "/usr/share/bash-completion/completions/signal"} {
		if !strings.Contains(c.run("dpkg --listfiles signal-server"), file) {
			t.Errorf("%s is not in the package", file)
		}
	}
	c.verifyUnit()

	c.run("echo 'max-room-users: 4' >> /etc/signal/signal.yaml")
	c.bring(next)
	c.run("apt install --yes --quiet /" + filepath.Base(next))
	if got := c.run("tail -n 1 /etc/signal/signal.yaml; dpkg-query --show --showformat '${Version}' signal-server"); got != "max-room-users: 4\n1.1.0" {
		t.Errorf("after the upgrade: %q", got)
	}
	c.run("dpkg --remove signal-server")
	if c.exists("usr/bin/signal") || c.exists("usr/lib/systemd/system/signal.service") || !c.exists("etc/signal/signal.yaml") {
		t.Error("a removal takes the program and leaves the settings")
	}
	c.run("dpkg --purge signal-server")
	if got := c.run("dpkg --list signal-server 2>&1 | grep ^ii || true; getent passwd signal || true; ls -d /etc/signal 2>/dev/null || true"); got != "" {
		t.Errorf("a purge leaves %q", got)
	}
}

// verifyUnit has systemd read the unit where the package put it.
func (c *chroot) verifyUnit() {
	c.t.Helper()
	systemtest.NeedRoot(c.t, "systemd-analyze")
	text, err := os.ReadFile(filepath.Join(c.dir, "usr/lib/systemd/system/signal.service"))
	if err != nil {
		c.t.Fatal(err)
	}
	// The chroot has none of the units that this one names, and this machine has no signal.
	file := filepath.Join(c.t.TempDir(), "signal.service")
	here := strings.ReplaceAll(string(text), "/usr/bin/signal", c.dir+"/usr/bin/signal")
	if err := os.WriteFile(file, []byte(here), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if out, err := command(c.t, nil, "systemd-analyze", "--man=no", "verify", file); err != nil || strings.Contains(out, "signal.service:") {
		c.t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	must(c.t, nil, "systemd-analyze", "security", "--offline=true", "--threshold=16", file)
}

// TestRPM has rpm install and remove the package below a directory of its own.
func TestRPM(t *testing.T) {
	systemtest.NeedRoot(t, "rpm")
	_, file := packages(t, "1.0.0")
	root := t.TempDir()
	// There is no shell below root that scripts could run in; the deb's test runs the same scripts.
	must(t, nil, "rpm", "--root", root, "--install", "--nodeps", "--noscripts", "--ignorearch", file)
	if _, err := os.Stat(filepath.Join(root, "usr/bin/signal")); err != nil {
		t.Error(err)
	}
	if got := must(t, nil, "rpm", "--query", "--configfiles", "--package", file); got != "/etc/signal/secrets.env\n/etc/signal/signal.yaml" {
		t.Errorf("configuration files %q", got)
	}
	settings := filepath.Join(root, "etc/signal/signal.yaml")
	if err := os.WriteFile(settings, []byte("max-room-users: 4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, nil, "rpm", "--root", root, "--erase", "--noscripts", "signal-server")
	if _, err := os.Stat(settings + ".rpmsave"); err != nil {
		t.Errorf("changed settings are not kept: %v", err)
	}
}

// TestInstallScript installs below a directory and removes again.
func TestInstallScript(t *testing.T) {
	must(t, nil, "make", "build")
	root := t.TempDir()
	dest := []string{"DESTDIR=" + root}
	must(t, dest, "packaging/install.sh")
	settings := filepath.Join(root, "etc/signal/signal.yaml")
	if err := os.WriteFile(settings, []byte("max-room-users: 4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, dest, "packaging/install.sh", "install", "bin/signal")
	must(t, nil, filepath.Join(root, "usr/bin/signal"), "serve", "--check", "--config", settings)
	if kept, err := os.ReadFile(settings); err != nil || string(kept) != "max-room-users: 4\n" {
		t.Errorf("installing again left the settings %q (%v)", kept, err)
	}
	must(t, dest, "packaging/install.sh", "remove")
	left := must(t, nil, "find", root, "-type", "f", "-printf", "%P ")
	if left != "etc/signal/secrets.env etc/signal/signal.yaml" && left != "etc/signal/signal.yaml etc/signal/secrets.env" {
		t.Errorf("a removal leaves %s", left)
	}
	if out, err := command(t, dest, "packaging/install.sh", "install", "does-not-exist"); err == nil || !strings.Contains(out, "make build") {
		t.Errorf("without an executable: %v, %s", err, out)
	}
}

// TestConfigFileOfPackage tries every setting that the file proposes.
func TestConfigFileOfPackage(t *testing.T) {
	text, err := os.ReadFile("signal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var proposed []string
	for line := range strings.Lines(string(text)) {
		if setting, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(setting, " ") && !strings.HasPrefix(setting, "tls-") {
			proposed = append(proposed, setting)
		}
	}
	file := filepath.Join(t.TempDir(), "signal.yaml")
	if err := os.WriteFile(file, []byte(strings.Join(proposed, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(proposed) < 8 {
		t.Fatalf("only %q are proposed", proposed)
	}
	must(t, nil, systemtest.Executable(t), "serve", "--check", "--config", file)
}

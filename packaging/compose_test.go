package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cline-meet/signal/packaging/systemtest"
)

// standIns names the images that a test has instead of those that cannot be pulled.
const standIns = `
services:
  redis: {image: "signaltest/redis"}
  proxy: {image: "signaltest/nginx"}
`

// TestComposeIsValid with Compose's own eyes.
func TestComposeIsValid(t *testing.T) {
	systemtest.NeedRoot(t, "docker-compose")
	files := []string{"COMPOSE_FILE=packaging/compose.yaml", "REDIS_PASSWORD="}
	if out, err := command(t, files, "docker-compose", "config", "--quiet"); err == nil || !strings.Contains(out, "make dev") {
		t.Errorf("without a password: %v, %s", err, out)
	}
	must(t, append(files, "REDIS_PASSWORD=north"), "docker-compose", "config", "--quiet")
}

// TestCompose runs the whole topology, with Debian's Redis and nginx in the place of the images.
func TestCompose(t *testing.T) {
	m := startMachine(t)
	m.buildStandIns()
	override := filepath.Join(t.TempDir(), "override.yaml")
	if err := os.WriteFile(override, []byte(standIns), 0o600); err != nil {
		t.Fatal(err)
	}
	m.env = append(m.env, "IMAGE=signal:compose", "COMPOSE_FILE=packaging/compose.yaml:"+override, "TURN_ALLOW_PEER="+m.ip, "DRAIN_TIMEOUT=1")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := command(t, m.env, "packaging/compose.sh", "logs")
			t.Logf("containers:\n%s", out)
		}
	})
	must(t, m.env, "make", "dev")
	for _, service := range []string{"node1", "node2", "redis", "proxy"} {
		m.healthy("signaltest_" + service + "_1")
	}
	a := connect(t, "http://"+m.ip+":8080/ws")
	b := a
	systemtest.Eventually(t, "the proxy uses both nodes", func() bool {
		b = connect(t, "http://"+m.ip+":8080/ws")
		return a.turnURLs()[0] != b.turnURLs()[0]
	})
	talk(t, a, b)
	t.Run("Browser", func(t *testing.T) { callAcross(t, m) })
	must(t, m.env, "bash", "-c", `grep -q -m 1 'node1.*"msg":"serving"' <(exec timeout 120 make docker-compose-logs 2>/dev/null)`)
	must(t, m.env, "make", "stop")
	if left := m.docker("ps", "--all", "--quiet") + m.docker("volume", "ls", "--quiet"); left != "" {
		t.Errorf("make stop leaves %s", left)
	}
}

// buildStandIns makes images of the files of this machine.
func (m *machine) buildStandIns() {
	m.t.Helper()
	systemtest.NeedRoot(m.t, "docker-compose", "redis-server", "redis-cli", "nginx", "busybox")
	for name, programs := range map[string]string{"redis": "redis-server redis-cli", "nginx": "nginx"} {
		dir := m.t.TempDir()
		must(m.t, nil, "bash", "-euc", collect, dir, programs)
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY root/ /\nCOPY --chown=999:1000 data/ /data/\n"), 0o600); err != nil {
			m.t.Fatal(err)
		}
		m.docker("build", "--quiet", "--tag", "signaltest/"+name, dir)
	}
}

// collect copies programs, their libraries and a shell to $0/root.
const collect = `
cd "$0" && mkdir -p data root/{bin,etc,run,tmp,var/cache/nginx,var/lib/nginx,var/log/nginx,etc/nginx}
cp "$(command -v busybox)" root/bin/busybox
touch data/.keep
for tool in sh grep wget cat; do ln -s busybox "root/bin/$tool"; done
for program in $1; do
  path=$(command -v "$program") && cp -L "$path" "root/bin/$program"
  ldd "$path" | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "root$library"; done
done
printf 'root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >root/etc/passwd
printf 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n' >root/etc/group
`

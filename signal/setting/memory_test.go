package setting

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemory(t *testing.T) {
	const machine, own, above, none = "8000000", "1000000000", "600000000", "9223372036854771712"
	meminfo := "MemTotal:        " + machine + " kB\nMemFree:  1 kB\n"
	for name, test := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing known": {nil, 0},
		"a machine":     {map[string]string{"proc/meminfo": meminfo}, 8000000 << 10 / 2},
		"no limit": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/a\n0::/a\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": none, "sys/fs/cgroup/a/memory.max": "max\n"}, 8000000 << 10 / 2},
		"version 2": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": own + "\n"}, 750000000},
		"version 2, the group above": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": own, "sys/fs/cgroup/a/memory.max": above}, 450000000},
		"version 1": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/a\n2:cpu:/\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": own + "\n"}, 750000000},
		"version 1 in a container": {map[string]string{"proc/self/cgroup": "4:memory:/docker/0123\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": own}, 750000000},
		"more than there is":       {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "64000000000"}, 8000000 << 10 / 2},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range test.files {
				file = filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := memoryOf(root); got != test.want {
				t.Errorf("%d bytes, want %d", got, test.want)
			}
		})
	}
}

package setting

import (
	"os"
	"path"
	"strconv"
	"strings"
)

// Memory returns how many MiB of memory the process can count on, 0 when that is unknown (anywhere but on Linux): three
// quarters of what its control groups allow, or half of the machine's, whichever is less.
func Memory() int { return int(memoryOf("/") >> 20) }

// memoryOf reads the files of a system under root, and counts in bytes.
func memoryOf(root string) int64 {
	var least int64
	for _, bound := range []int64{machineMemory(root) / 2, groupMemory(root) / 4 * 3} {
		if bound > 0 && (least == 0 || bound < least) {
			least = bound
		}
	}
	return least
}

func machineMemory(root string) int64 {
	text, _ := os.ReadFile(path.Join(root, "proc/meminfo")) // What cannot be read is unknown.
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemTotal:" {
			return wholeNumber(fields[1]) << 10
		}
	}
	return 0
}

// groupMemory returns the least limit of the process' control group and those above it, of either version, 0 for none.
func groupMemory(root string) int64 {
	text, _ := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	var least int64
	for line := range strings.Lines(string(text)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		dir, file := "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		if id == "0" && controllers == "" {
			dir, file = "sys/fs/cgroup", "memory.max"
		} else if controllers != "memory" {
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) { // In a container only the last of them is there.
			limit, _ := os.ReadFile(path.Join(root, dir, group, file))
			if n := wholeNumber(strings.TrimSpace(string(limit))); n > 0 && n < unlimited && (least == 0 || n < least) {
				least = n
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}

// unlimited is what control groups of version 1 say at least when there is no limit; those of version 2 say "max".
const unlimited = 1 << 50

// wholeNumber is 0 for what is no number.
func wholeNumber(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

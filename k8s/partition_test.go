package k8s_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestPartitionFromRedis cuts one machine off from Redis and nothing else. The others see its member
// leave, once, and join again, once, when it can be reached; the member itself sees nothing at all.
func TestPartitionFromRedis(t *testing.T) {
	f := newFleet(t, "daemonset", 2)
	cut, other := f.machines[0], f.machines[1]
	pages := openPages(t, "true", cut.link("parted"), other.link("parted"))
	here, there := pages[0], pages[1]
	cut.partition(true)
	poll(t, "the member of the cut machine leaves", func() string {
		if len(there.left()) == 0 {
			return strings.Join(evaluate[[]string](there, "window.signalPage.log"), "\n")
		}
		return ""
	})
	cut.partition(false)
	poll(t, "it joins again", func() string {
		if n := evaluate[int](there, "window.signalPage.peers().then(all => all.filter(c => c.dataChannel === 'open').length)"); n != 1 {
			return fmt.Sprintf("%d others\n%s", n, strings.Join(evaluate[[]string](there, "window.signalPage.log"), "\n"))
		}
		return ""
	})
	here.say("from the cut one")
	there.hears("from the cut one")
	there.say("to the cut one")
	here.hears("to the cut one")
	for i, want := range []int{0, 1} {
		if left := pages[i].left(); len(left) != want {
			t.Errorf("page %d was told %d times that someone left, want %d: %q", i, len(left), want, left)
		}
		if others := evaluate[int](pages[i], "window.signalPage.peers().then(all => all.length)"); others != 1 {
			t.Errorf("page %d sees %d others", i, others)
		}
	}
}

// link opens the test page of that machine and joins a room, with direct connections.
func (m *machine) link(room string) string {
	return "http://" + m.ip + ":" + m.env["SERVER_PORT"] + "/?autojoin=1&media=synthetic&room=" + room
}

// partition cuts the machine off from Redis, or ends that.
func (m *machine) partition(on bool) {
	m.t.Helper()
	do := "delete"
	if on {
		do = "add"
	}
	m.fleet.ip("-n "+m.name+" rule "+do+" to "+m.gateway+" ipproto tcp dport 6379 blackhole", "")
}

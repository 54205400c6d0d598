package k8s_test

import (
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// TestPartitionFromRedis cuts one machine off from Redis and nothing else, for longer than the grace. The others see
// its member leave, once, and join again when it can be reached. The member itself sees nobody leave: its page, which
// was told nothing for a while, is asked to come back, resumes its session, and follows to the new connection.
func TestPartitionFromRedis(t *testing.T) {
	f := newFleet(t, render(t, "daemonset"), 2)
	cut, other := f.machines[0], f.machines[1]
	pages := f.openPages([]string{cut.link("parted"), other.link("parted")})
	here, there := pages[0], pages[1]
	before := here.User()
	cut.partition(true)
	systemtest.Eventually(t, "the member of the cut machine leaves", func() bool { return len(left(there)) > 0 })
	cut.partition(false)
	there.Connected(1)
	here.Connected(1)
	pagetest.Talk(here, there, "from the cut one")
	pagetest.Talk(there, here, "to the cut one")
	if after := here.User(); after != before {
		t.Errorf("%s became %s", before, after)
	}
	for i, want := range []int{0, 1} {
		if left := left(pages[i]); len(left) != want {
			t.Errorf("page %d was told %d times that someone left, want %d: %q", i, len(left), want, left)
		}
		if others := pages[i].Peers(); len(others) != 1 {
			t.Errorf("page %d sees %+v", i, others)
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
	systemtest.IP(m.t, "-n "+m.name+" rule "+do+" to "+m.gateway+" ipproto tcp dport 6379 blackhole", "")
}

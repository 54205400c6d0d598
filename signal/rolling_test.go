package signal_test

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/state/redistest"
)

// TestRollingRestart restarts three nodes one after another under calls that may only use relays.
// Nobody is told that anybody left, no chat line is lost, and the media of a call pauses for a
// second at most, if nothing else keeps the machine busy.
func TestRollingRestart(t *testing.T) {
	const calls = 3
	slowdown := systemtest.Slowdown(t)
	nodes := startNodes(t, 3, redistest.Start(t), "--turn-allow-peer", "127.0.0.0/8", "--drain-timeout", "20", "--drain-settle", "0")
	var callers []*caller
	for i := range calls {
		room := fmt.Sprint("call", i)
		a := newCaller(t, room+" a", nodes, i%3, room)
		eventually(t, "the first is in", a.alone)
		b := newCaller(t, room+" b", nodes, (i+1)%3, room)
		callers = append(callers, a, b)
	}
	for _, c := range callers {
		eventually(t, "media of "+c.name, c.hears)
	}
	chatting, quiet := context.WithCancel(t.Context())
	defer quiet()
	var chats sync.WaitGroup
	said := make([]int, len(callers))
	for i, c := range callers {
		chats.Go(func() { said[i] = c.chat(chatting) })
	}
	for i, n := range nodes {
		if err := n.End(syscall.SIGTERM); err != nil {
			t.Errorf("node %d: %v", i, err)
		}
		n.Start()
		n.Ready()
		settled := time.Now().Add(25 * beat) // A rollout, too, looks at a node for a while before it takes the next.
		for _, c := range callers {
			eventually(t, "media of "+c.name, func() error { return c.hearsAfter(settled) })
		}
	}
	quiet()
	chats.Wait()
	pause := time.Duration(slowdown()) * time.Second
	for i, c := range callers {
		eventually(t, "all lines of "+callers[i^1].name, func() error { return c.heardLines(said[i^1]) })
		c.mu.Lock()
		if len(c.left) > 0 || c.refused > 0 || c.resumed == 0 {
			t.Errorf("%s saw %v leave, was resumed %d times and refused %d times", c.name, c.left, c.resumed, c.refused)
		}
		if c.gap > pause {
			t.Errorf("the media of %s paused for %s, more than %s", c.name, c.gap, pause)
		}
		t.Logf("%s: %d resumes, %d lines, media paused for %s at most", c.name, c.resumed, len(c.lines), c.gap.Round(time.Millisecond))
		c.mu.Unlock()
	}
}

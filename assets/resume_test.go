package assets_test

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// line is a TCP proxy whose connections a test may cut, as a change of networks does.
type line struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu     sync.Mutex
	target string
	conns  []net.Conn
}

// startLine returns a proxy to target; the test's end closes it.
func startLine(t *testing.T, target string) *line {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{listener: listener, target: target}
	l.serving.Go(l.serve)
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
		l.serving.Wait()
	})
	return l
}

func (l *line) serve() {
	for {
		from, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		target := l.target
		l.mu.Unlock()
		to, err := net.Dial("tcp4", target)
		if err != nil {
			_ = from.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, from, to)
		l.mu.Unlock()
		for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
			l.serving.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				_ = pair[0].Close()
				_ = pair[1].Close()
			})
		}
	}
}

// redirect has connections from now on go to another target.
func (l *line) redirect(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = target
}

// cut closes all connections.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

// TestCallOutlivesTheConnection cuts both pages off the server during a call: they resume under
// their ids, nobody sees anybody leave, and the same peer connections go on.
func TestCallOutlivesTheConnection(t *testing.T) {
	node, browser := systemtest.StartNode(t), pagetest.Start(t)
	l := startLine(t, node.HTTP)
	a, b := call(t, browser, "http://"+l.listener.Addr().String()+"/?autojoin=1&room=resume", "all")
	both := []pagetest.Page{a, b}
	ids := []string{a.User(), b.User()}
	for _, p := range both {
		pagetest.Evaluate[int](p, `(window.resumes = 0, window.leavers = 0,
			window.signalPage.client.addEventListener("resumed", () => window.resumes++),
			window.signalPage.client.addEventListener("userleft", () => window.leavers++), 0)`)
	}
	for cut := 1; cut <= 2; cut++ {
		l.cut()
		for _, p := range both {
			pagetest.Until(p, "the session is resumed", "window.resumes", func(n int) bool { return n == cut })
			p.Connected(1)
		}
	}
	pagetest.Talk(a, b, "still the same call")
	if got := []string{a.User(), b.User()}; !slices.Equal(got, ids) {
		t.Errorf("%v became %v", ids, got)
	}
	for _, p := range both {
		if n := pagetest.Evaluate[int](p, "window.leavers"); n != 0 {
			t.Errorf("%s was told %d times that somebody left", p.User(), n)
		}
	}
}

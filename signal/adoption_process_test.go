package signal_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

// resident is a client that comes back whenever it loses its connection, to any node that runs, after a
// backoff as that of signal.js, and keeps book of what it is told.
type resident struct {
	t      *testing.T
	nodes  []*systemtest.Node
	ctx    context.Context
	living sync.WaitGroup

	mu     sync.Mutex
	conn   *client.Client
	cookie *http.Cookie
	node   int // where it is, by its place among nodes
	user   string
	users  []string
	told   []string // what a resident must not hear
	lines  map[string]bool
	gaps   int
	away   []time.Duration // from each loss of the connection to the greeting after it
}

// settle connects to a node and enters a room, and stays there until ctx ends.
func settle(t *testing.T, ctx context.Context, nodes []*systemtest.Node, first int, room string) *resident {
	t.Helper()
	r := &resident{t: t, nodes: nodes, ctx: ctx, node: first, lines: map[string]bool{}}
	conn, err := client.Dial(ctx, nodes[first].URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.conn, r.cookie = conn, conn.Cookies()[0]
	m, err := conn.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.user = m.UserID
	if err := conn.Join(room); err != nil {
		t.Fatal(err)
	}
	r.living.Go(r.live)
	return r
}

func (r *resident) connection() *client.Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn
}

func (r *resident) live() {
	for r.ctx.Err() == nil {
		conn := r.connection()
		m, err := conn.Next(r.ctx)
		if err == nil {
			r.hear(m)
			continue
		}
		_ = conn.Close()
		r.comeBack(conn)
	}
}

// comeBack resumes at a node that runs.
func (r *resident) comeBack(old *client.Client) {
	lost := time.Now()
	header := http.Header{"Cookie": {r.cookie.Name + "=" + r.cookie.Value}}
	for pause := 500 * time.Millisecond; r.ctx.Err() == nil; pause = min(2*pause, 2*time.Second) {
		wait(r.ctx, time.Duration(rand.Float64()*float64(pause)))
		at := rand.IntN(len(r.nodes))
		for range r.nodes { // A load balancer finds one that runs.
			if r.nodes[at].Running() {
				break
			}
			at = (at + 1) % len(r.nodes)
		}
		conn, err := old.Resume(r.ctx, r.nodes[at].URL+"ws", header)
		if err != nil {
			continue
		}
		m, err := conn.Next(r.ctx)
		if err != nil {
			_ = conn.Close()
			continue
		}
		r.greeted(conn, at, m, lost)
		return
	}
}

func (r *resident) greeted(conn *client.Client, at int, m client.Message, lost time.Time) {
	g, err := m.Greeting()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn, r.node, r.away = conn, at, append(r.away, time.Since(lost))
	if err != nil || !g.Resumed || m.UserID != r.user {
		r.told = append(r.told, string(m.Raw))
	}
	if g.Gap {
		r.gaps++
	}
}

func (r *resident) hear(m client.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch m.Type {
	case "user_joined":
		var joined struct{ Users []string }
		if err := m.Document(&joined); err != nil {
			r.t.Error(err)
		}
		if m.UserID != r.user && slices.Contains(r.users, m.UserID) {
			r.told = append(r.told, string(m.Raw))
		}
		r.users = joined.Users
	case "user_left":
		r.told = append(r.told, string(m.Raw))
	case "message":
		r.lines[string(m.Data)] = true
	}
}

// say sends a line to the room, as long as there is a connection.
func (r *resident) say(line string) {
	_ = r.connection().Send(client.Message{Type: "message", Data: document(line)})
}

// chat says a line every now and then until ctx ends.
func (r *resident) chat(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		r.say(strconv.Itoa(n))
		wait(ctx, 10*beat)
	}
}

// town is residents in rooms of their own.
type town struct {
	t     *testing.T
	nodes []*systemtest.Node
	rooms [][]*resident
}

// found fills rooms with residents that are spread over the nodes, and has them talk until the test ends.
func found(t *testing.T, nodes []*systemtest.Node, rooms, each int) *town {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &town{t: t, nodes: nodes}
	t.Cleanup(func() {
		cancel()
		for _, r := range w.all() {
			r.living.Wait()
			_ = r.connection().Close()
		}
	})
	for i := range rooms {
		var room []*resident
		for j := range each {
			room = append(room, settle(t, ctx, nodes, j%len(nodes), fmt.Sprint("room", i)))
		}
		w.rooms = append(w.rooms, room)
	}
	w.together("at first")
	for _, r := range w.all() {
		r.living.Go(func() { r.chat(ctx) })
	}
	return w
}

func (w *town) all() []*resident { return slices.Concat(w.rooms...) }

// at returns the residents whose connection is at a node now.
func (w *town) at(node int) []*resident {
	return slices.DeleteFunc(w.all(), func(r *resident) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.node != node
	})
}

// together waits until everybody sees everybody of the own room, and hears what everybody says from then on.
func (w *town) together(when string) {
	w.t.Helper()
	for _, room := range w.rooms {
		var users []string
		for _, r := range room {
			users = append(users, r.user)
		}
		for _, r := range room {
			eventually(w.t, r.user+" sees its room "+when, func() error { return r.sees(users) })
		}
		for _, from := range room {
			for _, to := range room {
				line := from.user + " " + when
				eventually(w.t, to.user+" hears "+line, func() error { return to.hears(from, line) })
			}
		}
	}
}

func (r *resident) sees(users []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(slices.Sorted(slices.Values(r.users)), slices.Sorted(slices.Values(users))) {
		return fmt.Errorf("it sees %v, not %v; was told %v", r.users, users, r.told)
	}
	return nil
}

func (r *resident) hears(from *resident, line string) error {
	if r == from {
		return nil
	}
	r.mu.Lock()
	heard := r.lines[string(document(line))]
	r.mu.Unlock()
	if !heard {
		from.say(line)
		return fmt.Errorf("%s has not heard it", r.user)
	}
	return nil
}

// returned waits until residents have come back, checks that exactly they were told of a gap, and nobody
// anything else, and logs how long they were away.
func (w *town) returned(when string, who []*resident, down time.Duration) {
	w.t.Helper()
	var away []time.Duration
	for _, r := range who {
		eventually(w.t, r.user+" comes back "+when, func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.away) == 0 {
				return fmt.Errorf("it was last at node %d; was told %v", r.node, r.told)
			}
			return nil
		})
	}
	w.together(when)
	for _, r := range w.all() {
		r.mu.Lock()
		// A gap is told again when the connection that told it was lost.
		if missed := slices.Contains(who, r); len(r.told) > 0 || (r.gaps > 0) != missed {
			w.t.Errorf("%s was told of %d gaps and %v; its node died: %v", r.user, r.gaps, r.told, missed)
		}
		away = append(away, r.away...)
		r.away, r.gaps = nil, 0
		r.mu.Unlock()
	}
	slices.Sort(away)
	at := func(share float64) time.Duration {
		return away[min(len(away)-1, int(share*float64(len(away))))].Round(time.Millisecond)
	}
	w.t.Logf("%s: %d clients were away for %s (median), %s (p99), %s at most; there was no node for %s",
		when, len(away), at(0.5), at(0.99), at(1), down.Round(time.Millisecond))
}

// TestNodeIsKilled kills one node of three under traffic: its clients come back to the others under their
// ids, and nobody sees them leave.
func TestNodeIsKilled(t *testing.T) {
	nodes := startNodes(t, 3, redistest.Start(t))
	w := found(t, nodes, 6, 6)
	there := w.at(1)
	nodes[1].Kill()
	w.returned("after a node was killed", there, 0)
	nodes[1].Start()
	nodes[1].Ready()
	there = w.at(2)
	nodes[2].Kill()
	w.returned("after another was killed", there, 0)
}

// TestOnlyNodeRestarts ends the only node and starts it again: its clients come back to the new process.
func TestOnlyNodeRestarts(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) []*systemtest.Node{
		"redis": func(t *testing.T) []*systemtest.Node {
			return startNodes(t, 1, redistest.Start(t), "--drain-settle", "0")
		},
		"memory": func(t *testing.T) []*systemtest.Node {
			return []*systemtest.Node{systemtest.StartNode(t, "--session-secret", "a secret of all processes", "--address-connections", "1000")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := start(t)
			w := found(t, nodes, 4, 5)
			for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
				there := w.at(0)
				_ = nodes[0].End(signal)
				ended := time.Now()
				nodes[0].Start()
				nodes[0].Ready()
				w.returned("after "+signal.String(), there, time.Since(ended))
			}
		})
	}
}

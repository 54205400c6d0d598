package signal_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

// firstRelease is the subject of the commit of the last release whose nodes speak protocol 1.
const firstRelease = "repo: release 0.1.0"

// buildRelease builds a release from the history of the repository.
func buildRelease(t *testing.T, subject string) string {
	t.Helper()
	systemtest.Need(t, "git", "tar")
	run := func(dir, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
		out, err := cmd.Output()
		if err != nil {
			systemtest.Unable(t, fmt.Sprintf("building the release: %s %s: %v", name, strings.Join(args, " "), err))
		}
		return strings.TrimSpace(string(out))
	}
	if shallow, err := exec.Command("git", "rev-parse", "--is-shallow-repository").Output(); err != nil || strings.TrimSpace(string(shallow)) == "true" {
		systemtest.Unable(t, "an export or a shallow clone has no release to build: clone the whole history")
	}
	commit := run("..", "git", "log", "-1", "--format=%H", "--fixed-strings", "--grep="+subject)
	if commit == "" {
		systemtest.Unable(t, "the history does not reach back to "+subject)
	}
	dir := t.TempDir()
	archive, program := filepath.Join(dir, "source.tar"), filepath.Join(dir, "release")
	run("..", "git", "archive", "--output="+archive, commit)
	run(dir, "tar", "xf", archive)
	run(dir, "go", "build", "-o", program, ".")
	return program
}

// traveller is a client that goes on at another node when its own goes away, and keeps book of what was said.
type traveller struct {
	t       *testing.T
	nodes   []*systemtest.Node
	user    string
	cookie  *http.Cookie
	ctx     context.Context
	stop    context.CancelFunc
	working sync.WaitGroup

	mu      sync.Mutex
	conn    *client.Client
	leaving bool // nothing must be said now
	pending string
	said    map[string]string // what was said, by id: the answer, or nothing
	users   []string
	left    []string
	heard   []string
	resumed int
}

// travel connects a client to a node and lets it join a room.
func travel(t *testing.T, nodes []*systemtest.Node, first int, room string) *traveller {
	t.Helper()
	c := &traveller{t: t, nodes: nodes, said: map[string]string{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	if err := c.dial(client.Dial, nodes[first]); err != nil {
		t.Fatal(err)
	}
	c.working.Go(c.serve)
	t.Cleanup(func() {
		c.stop()
		_ = c.connection().Close()
		c.working.Wait()
	})
	if err := c.connection().Join(room); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *traveller) dial(dial dialing, node *systemtest.Node) error {
	conn, first, err := dial.to(c.ctx, node, c.cookie)
	if err != nil {
		return err
	}
	var greeting struct{ Resumed bool }
	if err := first.Document(&greeting); err != nil {
		_ = conn.Close()
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.user != "" && (!greeting.Resumed || first.UserID != c.user) {
		c.t.Errorf("%s came back as %s, resumed %v", c.user, first.UserID, greeting.Resumed)
	}
	if cookies := conn.Cookies(); len(cookies) > 0 {
		c.cookie = cookies[0]
	}
	c.conn, c.user, c.leaving, c.pending = conn, first.UserID, false, ""
	return nil
}

func (c *traveller) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

func (c *traveller) connection() *client.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// serve handles what the server says and moves on when it is told to, or cut off.
func (c *traveller) serve() {
	for c.ctx.Err() == nil {
		conn := c.connection()
		m, err := conn.Next(c.ctx)
		if err == nil && m.Type != "reconnect" {
			c.handle(m)
			continue
		}
		if err == nil {
			c.finish(conn)
		}
		c.move(conn)
	}
}

// finish waits for the answer to what was said last.
func (c *traveller) finish(conn *client.Client) {
	for {
		c.mu.Lock()
		c.leaving = true
		done := c.pending == ""
		c.mu.Unlock()
		if done {
			break
		}
		m, err := conn.Next(c.ctx)
		if err != nil {
			return
		}
		c.handle(m)
	}
	bye := websocket.FormatCloseMessage(4000, "moving")
	_ = conn.WebSocket().WriteControl(websocket.CloseMessage, bye, time.Now().Add(patience))
}

func (c *traveller) move(old *client.Client) {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	for { // What had arrived counts.
		m, err := old.Next(c.ctx)
		if err != nil {
			break
		}
		c.handle(m)
	}
	for attempt := 0; c.ctx.Err() == nil; attempt++ {
		if c.dial(old.Resume, c.nodes[attempt%len(c.nodes)]) == nil {
			c.mu.Lock()
			c.resumed++
			c.mu.Unlock()
			return
		}
		wait(c.ctx, beat)
	}
}

func (c *traveller) handle(m client.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Type {
	case "user_joined":
		var joined struct{ Users []string }
		if err := m.Document(&joined); err != nil {
			c.t.Error(err)
		}
		c.users = joined.Users
	case "user_left":
		c.left = append(c.left, m.UserID)
		c.users = slices.DeleteFunc(c.users, func(u string) bool { return u == m.UserID })
	case "message":
		c.heard = append(c.heard, m.UserID+" "+strings.Trim(string(m.Data), `"`))
	case "ack", "error":
		if _, ok := c.said[m.ID]; ok {
			c.said[m.ID] = m.Type
		}
		if c.pending == m.ID {
			c.pending = ""
		}
	}
}

// say says a line, to one member or to all, unless the client is on its way. It waits for the answer.
func (c *traveller) say(ctx context.Context, line, to string) {
	c.mu.Lock()
	if c.leaving || c.pending != "" {
		c.mu.Unlock()
		return
	}
	c.pending, c.said[line] = line, ""
	conn := c.conn
	c.mu.Unlock()
	_ = conn.Send(client.Message{Type: "message", ID: line, TargetID: to, Data: document(line)}) // Or there is no answer.
	for ctx.Err() == nil {
		c.mu.Lock()
		answered := c.pending != line
		c.mu.Unlock()
		if answered {
			return
		}
		wait(ctx, beat/10)
	}
}

// acked returns the lines that were acknowledged, in order.
func (c *traveller) acked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for line, answer := range c.said {
		if answer == "ack" {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// hears returns an error unless the client heard what a member said and was acknowledged. It fails the test when it
// heard a line twice or out of order.
func (c *traveller) hears(from *traveller, lines []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var got []string
	for _, line := range c.heard {
		if text, ok := strings.CutPrefix(line, from.user+" "); ok {
			got = append(got, text)
		}
	}
	for i := 1; i < len(got); i++ {
		if got[i] <= got[i-1] {
			c.t.Fatalf("%s heard %s after %s", c.user, got[i], got[i-1])
		}
	}
	missing := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return slices.Contains(got, line) })
	if len(missing) > 0 {
		return fmt.Errorf("%s did not hear %v of %s", c.user, missing, from.user)
	}
	return nil
}

func (c *traveller) sees(want []*traveller) error {
	var users []string
	for _, o := range want {
		users = append(users, o.user)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(slices.Sorted(slices.Values(c.users)), slices.Sorted(slices.Values(users))) {
		return fmt.Errorf("%s sees %v, not %v", c.user, c.users, users)
	}
	return nil
}

func everybodySees(all []*traveller) error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.sees(all))
	}
	return errors.Join(errs...)
}

// line numbers lines so that they compare in order.
func line(n int) string { return fmt.Sprintf("%06d", n) }

// startVersions starts a node of each program over one Redis.
func startVersions(t *testing.T, programs ...string) []*systemtest.Node {
	t.Helper()
	flags := []string{"--redis-url", redistest.Start(t).URL(), "--state-beat", "1", "--state-lease", strconv.Itoa(int(lease / time.Second)),
		"--address-connections", "10000", "--drain-timeout", "20", "--drain-settle", "0"}
	var nodes []*systemtest.Node
	for _, program := range programs {
		n := systemtest.StartProgram(t, program, flags...)
		t.Cleanup(n.Kill)
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.Ready()
	}
	return nodes
}

// TestVersions runs nodes of the first release beside those of this one.
func TestVersions(t *testing.T) {
	old := buildRelease(t, firstRelease)
	t.Run("ShareRooms", func(t *testing.T) { versionsShareRooms(t, old) })
	t.Run("Upgrade", func(t *testing.T) { upgrade(t, old) })
}

// versionsShareRooms runs a node of the first release among others: rooms are shared, what one says the others
// hear once and in order, and who leaves is seen to.
func versionsShareRooms(t *testing.T, old string) {
	t.Helper()
	now := systemtest.Executable(t)
	nodes := startVersions(t, old, now, now)
	var all []*traveller
	for i := range 6 {
		all = append(all, travel(t, nodes, i%3, "mixed"))
	}
	eventually(t, "everybody sees everybody", func() error { return everybodySees(all) })
	var talking sync.WaitGroup
	for i, c := range all {
		talking.Go(func() {
			for n := range 60 { // Every other line is for all, those between for a member at another node.
				to := ""
				if n%2 == 1 {
					to = all[(i+1)%6].user
				}
				c.say(t.Context(), line(n), to)
				wait(t.Context(), beat/2) // The rate limit allows no more.
			}
		})
	}
	talking.Wait()
	for i, from := range all {
		lines := from.acked()
		if len(lines) != 60 {
			t.Errorf("%s was acknowledged %d lines", from.user, len(lines))
		}
		for k, to := range all {
			expect := slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
				n, _ := strconv.Atoi(line)
				return k == i || n%2 == 1 && k != (i+1)%6
			})
			eventually(t, "all is heard", func() error { return to.hears(from, expect) })
		}
	}
	for i := range 2 {
		if err := all[i].connection().Send(client.Message{Type: "leave_room", ID: "leave"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range all[2:] {
		eventually(t, "two are gone", func() error { return c.sees(all[2:]) })
		c.mu.Lock()
		if got, want := slices.Sorted(slices.Values(c.left)), slices.Sorted(slices.Values([]string{all[0].user, all[1].user})); !slices.Equal(got, want) {
			t.Errorf("%s saw %v leave, not %v", c.user, got, want)
		}
		c.mu.Unlock()
	}
}

// upgrade replaces the nodes of the first release one after another, while everybody talks to
// somebody: nobody is seen to leave, and no line that was acknowledged is lost or doubled.
func upgrade(t *testing.T, old string) {
	t.Helper()
	nodes := startVersions(t, old, old, old)
	var all []*traveller
	for i := range 6 {
		all = append(all, travel(t, nodes, i%3, "moving"))
	}
	eventually(t, "everybody sees everybody", func() error { return everybodySees(all) })
	talking, quiet := context.WithCancel(t.Context())
	defer quiet()
	var talks sync.WaitGroup
	for i, c := range all {
		to := all[(i+1)%6].name() // It stays the same.
		talks.Go(func() {
			for n := 0; talking.Err() == nil; n++ {
				c.say(talking, line(n), to)
				wait(talking, beat)
			}
		})
	}
	for _, n := range nodes {
		if err := n.End(syscall.SIGTERM); err != nil {
			t.Errorf("a node ended with %v", err)
		}
		n.Program = systemtest.Executable(t)
		n.Start()
		n.Ready()
		wait(t.Context(), time.Second) // A rollout, too, looks at a node for a while before it takes the next.
	}
	quiet()
	talks.Wait()
	for i, from := range all {
		lines := from.acked()
		eventually(t, "all is heard", func() error { return all[(i+1)%6].hears(from, lines) })
		from.mu.Lock()
		if len(from.left) > 0 || from.resumed == 0 {
			t.Errorf("%s saw %v leave and was resumed %d times", from.user, from.left, from.resumed)
		}
		t.Logf("%s: %d lines acknowledged, %d resumes", from.user, len(lines), from.resumed)
		from.mu.Unlock()
	}
	eventually(t, "everybody sees everybody", func() error { return everybodySees(all) })
}

package signal

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"cline-meet/signal/state"
)

// wire is a shared state whose messages arrive when the test says so.
type wire struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[string]*wireNode
	ways  map[string][]state.Message // by "from>to"
	// holding has Send wait for take or refuse.
	holding bool
	pending []parcel
	old     map[string]bool // nodes of protocol 1
}

type parcel struct {
	m      state.Message
	copies []state.Copy
	done   func([]error)
}

// wireNode is a node of a wire and its server.
type wireNode struct {
	*wire
	id   string
	srv  *Server
	off  map[string]bool // whom it cannot reach
	left []string        // who was to leave

	doubtful bool
	trust    func() // ends the doubt
	away     error  // why the node cannot reach the others, nil when it can
}

func newWire(t *testing.T, ids ...string) *wire {
	w := &wire{t: t, nodes: map[string]*wireNode{}, ways: map[string][]state.Message{}, old: map[string]bool{}}
	for _, id := range ids {
		n := &wireNode{wire: w, id: id, off: map[string]bool{}}
		w.nodes[id] = n
		n.srv = socketless(t, n)
	}
	return w
}

func (n *wireNode) ID() string   { return n.id }
func (n *wireNode) Ready() error { return n.away }

// Doubtful reports whether the others may have taken the node for dead.
func (n *wireNode) Doubtful(string) bool { return n.doubtful }

func (n *wireNode) AwaitTrust(context.Context, string) {
	if n.trust != nil {
		n.trust()
	}
}

func (n *wireNode) Problems() []string { return nil }
func (n *wireNode) Admits() error      { return nil }

func (n *wireNode) Started() <-chan struct{} { return state.NewMemory().Node("").Started() }

func (n *wireNode) Nodes() (infos []state.NodeInfo) {
	for id := range n.nodes {
		if id != n.id {
			protocol := 2
			if n.old[id] {
				protocol = 1
			}
			infos = append(infos, state.NodeInfo{ID: id, Protocol: protocol})
		}
	}
	return infos
}

func (n *wireNode) Join(context.Context, string, state.Member, int) (state.View, error) {
	return state.View{}, state.ErrUnavailable
}

func (n *wireNode) Leave(_ context.Context, _, id string, _ uint64, _ state.Reason) (state.View, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left = append(n.left, id)
	return state.View{}, state.ErrNotMember
}

// gone returns who was to leave by what the node has said.
func (n *wireNode) gone() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.left)
}

func (n *wireNode) Move(context.Context, string, state.Member, uint64, ...state.Member) (state.View, error) {
	return state.View{}, state.ErrNotMember
}

func (n *wireNode) Adopt(context.Context, string, string, uint64, uint64) (state.View, error) {
	return state.View{}, state.ErrNotMember
}

func (n *wireNode) Send(m state.Message, copies []state.Copy, done func([]error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m.Node = n.id
	p := parcel{m, copies, done}
	if n.holding {
		n.pending = append(n.pending, p)
		return
	}
	n.put(p, func(node string) bool { return n.off[node] })
}

// put puts a parcel on its way, but for the copies that are refused.
func (w *wire) put(p parcel, refused func(node string) bool) {
	errs := make([]error, len(p.copies))
	for i, c := range p.copies {
		if refused(c.Node) {
			errs[i] = state.ErrUnavailable
			continue
		}
		m := p.m
		m.Receivers = c.Receivers
		w.ways[m.Node+">"+c.Node] = append(w.ways[m.Node+">"+c.Node], m)
	}
	go p.done(errs)
}

// answer decides what becomes of the oldest Send that is held.
func (w *wire) answer(refused ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		w.t.Fatal("nothing was sent")
	}
	p := w.pending[0]
	w.pending = w.pending[1:]
	w.put(p, func(node string) bool { return slices.Contains(refused, node) })
}

// lose puts the oldest Send that is held on its way, and its sender does not hear of that.
func (w *wire) lose() {
	w.t.Helper()
	w.mu.Lock()
	done := w.pending[0].done
	w.pending[0].done = func(errs []error) {
		for i := range errs {
			errs[i] = fmt.Errorf("%w: %w", state.ErrUncertain, state.ErrUnavailable)
		}
		done(errs)
	}
	w.mu.Unlock()
	w.answer()
}

// arrive has all arrive that is under way from one node to another, and returns what it is.
func (w *wire) arrive(from, to string) (what []string) {
	synctest.Wait()
	for _, m := range w.cut(from, to) {
		what = append(what, strings.TrimSpace(m.Op+" "+string(m.Frame)))
		w.nodes[to].srv.onMessage(m)
	}
	synctest.Wait()
	return what
}

// cut takes off what is under way from one node to another.
func (w *wire) cut(from, to string) []state.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	ms := w.ways[from+">"+to]
	delete(w.ways, from+">"+to)
	return ms
}

// show has all nodes but some see the room.
func (w *wire) show(v state.View, but ...string) {
	for id, n := range w.nodes {
		if !slices.Contains(but, id) {
			n.srv.onView(v)
		}
	}
	synctest.Wait()
}

// say has a participant say something to all, or to one, with an id if that is not empty.
func say(p *participant, id, to, text string) {
	env := envelope{Type: appMessage, ID: []byte(id), TargetID: []byte(to), Data: []byte(strconv.Quote(text))}
	c := newConn(p.srv, &sink{}, visitor{bound: binding{session: "session"}}, "host", p.conn.from)
	c.participant = p
	c.answer(env, p.handle(env))
	synctest.Wait()
}

// hop moves a participant to another node as its client does. The other nodes do not hear of it.
func (w *wire) hop(p *participant, to string) *participant {
	from, there := p.srv, w.nodes[to].srv
	p.conn.mu.Lock()
	p.conn.queue = nil // It has got all.
	p.conn.mu.Unlock()
	got := p.sent
	snap, move, err := from.pack(p, to, &got)
	if err != nil {
		w.t.Fatal(err)
	}
	from.tasks.run(func() { from.seeOff(move) })
	text, err := json.Marshal(snap)
	if err == nil {
		snap = snapshot{}
		err = json.Unmarshal(text, &snap)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	token := resumeToken{User: p.user, Epoch: p.epoch, Node: from.state.ID()}
	q, l := there.unpack(snap, token)
	q.owner, q.conn = ownerConn, deaf(q.user, 0).conn
	there.participants[q.user] = q
	l.move = there.newIncomingMove(token, q.member())
	q.room = there.addLocal("r", l)
	return q
}

// at is a participant as a member of the room since that version.
func (p *participant) at(joined uint64) state.Member {
	return state.Member{ID: p.user, Node: p.srv.state.ID(), Epoch: p.epoch, Joined: joined}
}

// lines returns the data of the relayed messages that a deaf participant heard.
func lines(p *participant) (out []string) {
	for _, text := range heard(p) {
		var m struct{ Type, Data string }
		if json.Unmarshal([]byte(text), &m) == nil && m.Type == "message" {
			out = append(out, m.Data)
		}
	}
	return out
}

func (w *wire) hears(p *participant, what string, want ...string) {
	w.t.Helper()
	if got := lines(p); !slices.Equal(got, want) {
		w.t.Errorf("%s: %s heard %q, want %q", what, p.user, got, want)
	}
}

// gathering is a room of c at node C, x and y at node A, z at node B, and nobody at D.
type gathering struct {
	*wire
	c, x, y, z *participant
}

func gather(t *testing.T) *gathering {
	w := newWire(t, "A", "B", "C", "D")
	g := &gathering{wire: w}
	for _, one := range []struct {
		p        **participant
		id, node string
	}{{&g.c, "c", "C"}, {&g.x, "x", "A"}, {&g.y, "y", "A"}, {&g.z, "z", "B"}} {
		*one.p = w.nodes[one.node].srv.place("r", member(one.id, one.node, 1))
	}
	w.show(g.view(1))
	for _, p := range []*participant{g.c, g.x, g.y, g.z} {
		heard(p)
	}
	return g
}

func (g *gathering) view(version uint64) state.View {
	return view(version, g.c.at(1), g.x.at(2), g.y.at(3), g.z.at(4))
}

func bubble(t *testing.T, test func(t *testing.T, g *gathering)) {
	synctest.Test(t, func(t *testing.T) { test(t, gather(t)) })
}

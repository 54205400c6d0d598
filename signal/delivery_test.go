package signal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// gathering is a room of c at node C, x and y at node A, z at node B.
type gathering struct {
	*wire
	c, x, y, z *participant
}

func gather(t *testing.T) *gathering {
	w := newWire(t, "A", "B", "C")
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

// TestBroadcastDuringAMove lets x move from A to B, where z is, while broadcasts are on all ways.
func TestBroadcastDuringAMove(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "", "1")
		g.arrive("C", "A")
		g.hears(g.x, "before the move", "1")
		say(g.c, "", "", "2")
		g.x = g.hop(g.x, "B")
		say(g.c, "", "", "3")
		say(g.y, "", "", "a")
		say(g.z, "", "", "b")
		g.show(g.view(2))
		say(g.c, "", "", "4")
		say(g.y, "", "", "c")
		say(g.z, "", "", "d")
		g.arrive("C", "B")
		g.hears(g.z, "the named member", "1", "2", "3", "4")
		g.hears(g.x, "what came too early")
		g.arrive("B", "A")
		g.arrive("C", "A")
		g.arrive("A", "B")
		g.hears(g.y, "who stayed", "1", "b", "d", "2", "3", "4")
		got := lines(g.x)
		slices.Sort(got)
		if want := []string{"2", "3", "4", "a", "b", "c", "d"}; !slices.Equal(got, want) {
			t.Errorf("x heard %q, want %q", got, want)
		}
		time.Sleep(2 * holeTimeout)
		synctest.Wait()
		if g.x.gap {
			t.Error("nothing is missing, but a gap was told")
		}
	})
}

// TestOrderDuringAMove lets what c says come by two ways.
func TestOrderDuringAMove(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		g.x = g.hop(g.x, "B")
		say(g.c, "", "x", "2")
		g.show(g.view(2))
		say(g.c, "", "x", "3")
		say(g.z, "", "x", "z")
		g.arrive("C", "B")
		g.hears(g.x, "before A has forwarded", "z")
		g.arrive("C", "A")
		if got := g.arrive("A", "B"); len(got) != 3 || got[0] != opFollowed {
			t.Errorf("A forwarded %q", got)
		}
		g.hears(g.x, "in the end", "1", "2", "3")
	})
}

// TestChainOfMoves lets x move on, and come back, before anything has followed it.
func TestChainOfMoves(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		say(g.y, "", "x", "y1")
		g.hears(g.x, "at A", "y1")
		g.x = g.hop(g.x, "B")
		say(g.y, "", "x", "y2")
		g.show(g.view(2), "C")
		say(g.y, "", "x", "y3")
		say(g.z, "", "x", "z1")
		g.x = g.hop(g.x, "C")
		say(g.z, "", "x", "z2")
		g.show(g.view(3), "A")
		say(g.c, "", "x", "2")
		g.hears(g.x, "c has come to say 2 at C")
		g.arrive("C", "A")
		g.arrive("A", "B")
		g.arrive("B", "C")
		g.show(g.view(4))
		g.arrive("A", "C")
		got := lines(g.x)
		for _, who := range []string{"y", "z", ""} {
			want := map[string][]string{"y": {"y2", "y3"}, "z": {"z2"}, "": {"1", "2"}}[who]
			var one []string
			for _, text := range got {
				if strings.Trim(text, "0123456789") == who {
					one = append(one, text)
				}
			}
			if !slices.Equal(one, want) {
				t.Errorf("of %q x heard %q, want %q, of %q", who, one, want, got)
			}
		}
	})
}

// TestLostBehindAMoveIsTold has A die with what it should have forwarded. Nothing follows, but the tip shows it.
func TestLostBehindAMoveIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		g.x = g.hop(g.x, "B")
		g.show(g.view(2), "A")
		g.cut("C", "A")
		g.arrive("C", "B")
		time.Sleep(holeTimeout + time.Second)
		synctest.Wait()
		if !g.x.gap || g.x.over {
			t.Errorf("gap: %v, over: %v", g.x.gap, g.x.over)
		}
		say(g.c, "", "x", "2")
		g.arrive("C", "B")
		if kept := g.x.kept.copies(); len(kept) == 0 || !strings.Contains(string(kept[len(kept)-1]), `"data":"2"`) {
			t.Errorf("what follows is not kept: %q", kept)
		}
	})
}

// TestRefusedLeavesNoHole has messages refused while others are under way behind them.
func TestRefusedLeavesNoHole(t *testing.T) {
	for _, refused := range []string{"A...", ".A..", "AA..", "..AA", "A.A.", "AAAA"} {
		bubble(t, func(t *testing.T, g *gathering) {
			g.holding = true
			var want []string
			for i, r := range refused {
				say(g.c, "", "x", fmt.Sprint(i))
				if r != 'A' {
					want = append(want, fmt.Sprint(i))
				}
			}
			for _, r := range refused {
				g.answer(string(r))
			}
			g.holding = false
			for len(g.pending) > 0 {
				g.answer()
			}
			synctest.Wait()
			say(g.c, "", "x", "9")
			g.arrive("C", "A")
			g.hears(g.x, refused, append(want, "9")...)
			time.Sleep(2 * holeTimeout)
			synctest.Wait()
			if g.x.gap {
				t.Errorf("%s: a gap was told", refused)
			}
		})
	}
}

// TestLossIsTold loses messages on the only way there is. The tips show it, but not where nothing is missing.
func TestLossIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "y", "1")
		g.arrive("C", "A")
		say(g.c, "", "x", "2")
		g.cut("C", "A")
		g.nodes["A"].srv.onLost("C")
		g.arrive("A", "C")
		g.arrive("C", "A")
		time.Sleep(holeTimeout + time.Second)
		synctest.Wait()
		if !g.x.gap || g.y.gap || len(g.nodes["A"].srv.doubts) > 0 {
			t.Errorf("gap of x: %v, of y: %v, doubts: %v", g.x.gap, g.y.gap, g.nodes["A"].srv.doubts)
		}
	})
}

// TestDeathInDoubtIsTold has a node die that may have lost something and cannot tell any more.
func TestDeathInDoubtIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"].srv
		a.onDied("C")
		if g.x.gap {
			t.Error("a death is no loss")
		}
		a.onLost("C")
		a.onDied("C")
		if !g.x.gap || !g.y.gap || len(a.doubts) > 0 {
			t.Errorf("gap of x: %v, of y: %v, doubts: %v", g.x.gap, g.y.gap, a.doubts)
		}
	})
}

// TestNumbersOutliveTheRoom lets a node leave a room and come back while x is on its way.
func TestNumbersOutliveTheRoom(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		g.arrive("C", "A")
		g.hears(g.x, "first", "1")
		say(g.c, "", "x", "2")
		say(g.c, "", "y", "lost")
		lost := g.cut("C", "A")[1]
		srv := g.nodes["C"].srv
		srv.removeLocal(g.c.room, g.c)
		delete(srv.participants, "c")
		time.Sleep(lineRetention / 2)
		g.c = srv.place("r", member("c", "C", 2))
		g.show(view(5, g.c.at(5), g.x.at(2), g.y.at(3), g.z.at(4)))
		say(g.c, "", "", "3")
		g.arrive("C", "A")
		g.hears(g.x, "one is missing")
		g.nodes["A"].srv.onMessage(lost)
		g.hears(g.y, "nothing is missing", "lost", "3")
		time.Sleep(holeTimeout + time.Second)
		synctest.Wait()
		if !g.x.gap || g.y.gap {
			t.Errorf("gap of x: %v, of y: %v", g.x.gap, g.y.gap)
		}
		srv.removeLocal(g.c.room, g.c)
		time.Sleep(lineRetention + time.Second)
		synctest.Wait()
		if len(srv.retired) != 0 {
			t.Error("the numbers are kept for ever")
		}
	})
}

// TestAdoptedTakesWhatComes has x at B without its watermarks, since A has died.
func TestAdoptedTakesWhatComes(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		for i := range 3 {
			say(g.c, "", "x", fmt.Sprint(i))
		}
		g.cut("C", "A")
		b := g.nodes["B"].srv
		x := deaf("x", 2)
		x.srv, x.conn.srv = b, b
		b.participants["x"] = x
		l := &localMember{participant: x}
		l.marks.opened = time.Now()
		x.room = b.addLocal("r", l)
		g.x = x
		g.show(g.view(2), "A")
		say(g.c, "", "x", "3")
		say(g.z, "", "x", "z")
		g.arrive("C", "B")
		g.hears(x, "at its new node", "z", "3")
		time.Sleep(2 * holeTimeout)
		synctest.Wait()
		if x.gap {
			t.Error("what it missed is told by its adoption, not by its numbers")
		}

		t.Log("it moves on at once, and the tips overtake what follows it")
		l.marks = watermarks{opened: time.Now()}
		say(g.z, "", "x", "z2")
		say(g.c, "", "x", "4")
		g.x = g.hop(x, "A")
		say(g.z, "", "x", "z3")
		g.nodes["A"].srv.onView(g.view(3))
		g.nodes["C"].srv.onView(g.view(3))
		say(g.y, "", "x", "y1")
		g.arrive("C", "A")
		say(g.c, "", "x", "5")
		g.arrive("C", "B")
		g.nodes["B"].srv.onView(g.view(3))
		say(g.z, "", "x", "z4")
		way := g.cut("B", "A")
		slices.SortStableFunc(way, func(a, b state.Message) int { return len(a.Op) - len(b.Op) }) // What B relays comes last.
		for _, m := range way {
			g.nodes["A"].srv.onMessage(m)
		}
		g.arrive("C", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		for _, m := range g.cut("B", "A") {
			g.nodes["A"].srv.onMessage(m)
		}
		got := lines(g.x)
		for _, want := range [][]string{{"4", "5"}, {"z3", "z4"}, {"y1"}} {
			heard := slices.DeleteFunc(slices.Clone(got), func(text string) bool { return !slices.Contains(want, text) })
			if !slices.Equal(heard, want) {
				t.Errorf("heard %q, want %q in it", got, want)
			}
		}
	})
}

// TestRefusedBehindAnAdoption has what was under way to the dead node refused while the tip is under way to the new one.
func TestRefusedBehindAnAdoption(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.holding = true
		for i := range 3 {
			say(g.c, "", "x", fmt.Sprint(i))
		}
		g.answer("A")
		synctest.Wait()
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		g.answer("A")
		g.answer("A")
		synctest.Wait()
		for len(g.pending) > 0 {
			g.answer()
			synctest.Wait()
		}
		g.holding = false
		say(g.c, "", "x", "3")
		g.arrive("C", "B")
		g.hears(g.x, "at its new node", "3")
		time.Sleep(2 * holeTimeout)
		synctest.Wait()
		if g.x.gap {
			t.Error("nothing is missing that was not refused, but a gap was told")
		}
	})
}

// TestLateForTheAdoptedIsTold lets x move on right after its adoption, and what came to its former node before follow
// later than the new one waits for it.
func TestLateForTheAdoptedIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "0")
		g.cut("C", "A")
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		say(g.c, "1", "x", "1")
		say(g.c, "2", "x", "2")
		g.x = g.hop(g.x, "A")
		g.show(g.view(3))
		g.arrive("B", "A")
		g.arrive("C", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		if g.x.gap {
			t.Error("nothing is known to be missing, but a gap was told")
		}
		say(g.c, "3", "x", "3")
		g.arrive("C", "A")
		g.hears(g.x, "after a while", "3")
		g.arrive("C", "B")
		g.arrive("B", "A")
		g.hears(g.x, "too late")
		if !g.x.gap {
			t.Error("two messages are missing, and no gap is told")
		}
	})
}

// TestForwardingBeginsWithAnyView shows A its own change of the room, in which x has moved already, before the view of
// that move, which is old then.
func TestForwardingBeginsWithAnyView(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.hop(g.x, "B")
		g.show(g.view(2), "A")
		say(g.y, "", "x", "1")
		g.nodes["A"].srv.room("r").apply(g.view(3))
		g.arrive("A", "B")
		g.hears(g.x, "at B", "1")
	})
}

// TestAdoptedWaitsForWhatFollows lets x move on right after its adoption from a node that takes its time.
func TestAdoptedWaitsForWhatFollows(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "0")
		g.cut("C", "A")
		g.x = g.adoptElsewhere()
		g.show(g.view(2), "A")
		say(g.c, "", "x", "1")
		g.x = g.hop(g.x, "A")
		g.show(g.view(3), "B")
		say(g.c, "", "x", "2")
		g.arrive("C", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		g.hears(g.x, "before B has said that all has followed")
		g.arrive("C", "B")
		g.show(g.view(3))
		g.arrive("B", "A")
		time.Sleep(2 * blindTime)
		synctest.Wait()
		g.hears(g.x, "in the end", "1", "2")
		if g.x.gap {
			t.Error("nothing is missing, but a gap was told")
		}
	})
}

// answers returns the acks and errors that a deaf participant heard, in short.
func answers(p *participant) (out []string) {
	for _, text := range heard(p) {
		var m struct {
			Type, ID string
			Missed   []string
			Data     json.RawMessage
		}
		if json.Unmarshal([]byte(text), &m) == nil && (m.Type == "ack" || m.Type == "error") {
			code := ""
			if strings.Contains(string(m.Data), "503") {
				code = " 503"
			}
			out = append(out, strings.TrimSpace(m.Type+" "+m.ID+code+" "+strings.Join(m.Missed, ",")))
		}
	}
	return out
}

func (w *wire) answered(p *participant, want ...string) {
	w.t.Helper()
	synctest.Wait()
	if got := answers(p); !slices.Equal(got, want) {
		w.t.Errorf("%s was answered %q, want %q", p.user, got, want)
	}
}

// TestIDMeansOnce sends messages again after every answer and after none.
func TestIDMeansOnce(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		everywhere := func() {
			g.arrive("C", "A")
			g.arrive("C", "B")
		}
		t.Log("after an ack")
		say(g.c, "1", "", "1")
		g.answered(g.c, "ack 1")
		say(g.c, "1", "", "1")
		g.answered(g.c, "ack 1")
		everywhere()
		g.hears(g.x, "acked", "1")
		g.hears(g.y, "acked", "1")
		g.hears(g.z, "acked", "1")

		t.Log("after an ack that names who missed it")
		g.nodes["C"].off["A"] = true
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2 x,y")
		say(g.c, "2", "", "2")
		g.answered(g.c, "error 2 503")
		g.nodes["C"].off["A"] = false
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2")
		everywhere()
		g.hears(g.x, "missed", "2")
		g.hears(g.y, "missed", "2")
		g.hears(g.z, "not missed", "2")

		t.Log("after an error")
		g.nodes["C"].off["A"] = true
		say(g.c, "3", "x", "3")
		g.answered(g.c, "error 3 503")
		g.nodes["C"].off["A"] = false
		say(g.c, "3", "x", "3")
		g.answered(g.c, "ack 3")
		everywhere()
		g.hears(g.x, "refused", "3")

		t.Log("while it is under way: the answer comes once, when it comes")
		g.holding = true
		say(g.c, "4", "", "4")
		say(g.c, "4", "", "4")
		g.answered(g.c)
		g.answer()
		g.answered(g.c, "ack 4")
		g.holding = false
		everywhere()
		g.hears(g.x, "under way", "4")

		t.Log("for each target it is another message")
		for _, to := range []string{"x", "y", "x", "y"} {
			say(g.c, "5", to, "5 for "+to)
			g.answered(g.c, "ack 5")
		}
		everywhere()
		g.hears(g.x, "targeted", "5 for x")
		g.hears(g.y, "targeted", "4", "5 for y")
		g.hears(g.z, "targeted", "4")
	})
}

// TestIDMeansOnceAfterAMove has senders and receivers move before a message is sent again.
func TestIDMeansOnceAfterAMove(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		before := g.x.sent
		t.Log("the sender moves while its message is under way: nobody knows what became of it")
		g.holding = true
		say(g.c, "1", "", "1")
		g.c = g.hop(g.c, "B")
		g.answer()
		g.holding = false
		g.show(g.view(2))
		for _, way := range []string{"CA", "CB"} {
			g.arrive(way[:1], way[1:])
		}
		g.x = g.hop(g.x, "C")
		g.show(g.view(3))
		say(g.c, "1", "", "1")
		g.answered(g.c, "ack 1")
		for _, way := range []string{"BC", "BA", "AC"} {
			g.arrive(way[:1], way[1:])
		}
		g.hears(g.y, "who stayed", "1")
		g.hears(g.z, "who is where the sender is", "1")
		if g.x.sent != before+1 {
			t.Errorf("x was sent %d frames, %d before", g.x.sent, before)
		}

		t.Log("the sender knows at its new node whom it missed")
		g.nodes["B"].off["A"] = true
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2 y")
		g.nodes["B"].off["A"] = false
		g.c = g.hop(g.c, "A")
		g.show(g.view(4))
		say(g.c, "2", "", "2")
		g.answered(g.c, "ack 2")
		if again := append(g.cut("A", "B"), g.cut("A", "C")...); slices.ContainsFunc(again, func(m state.Message) bool { return bytes.Contains(m.Frame, []byte(`"2"`)) }) {
			t.Error("it was sent to those that have it")
		}
		for _, way := range []string{"BC", "BA"} {
			g.arrive(way[:1], way[1:])
		}
		g.hears(g.x, "not missed", "2")
		g.hears(g.y, "missed", "2")
		g.hears(g.z, "not missed", "2")
	})
}

// TestMemoryIsBounded sends more ids than are remembered, and then none.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory[struct{}]
		for i := range uint64(5 * maxRemembered) {
			m.put(i, struct{}{})
			if _, ok := m.get(max(i, maxRemembered-1) - maxRemembered + 1); !ok {
				t.Fatalf("number %d is forgotten too early", i)
			}
		}
		if n := len(m.young) + len(m.old); n > 2*maxRemembered {
			t.Errorf("%d are remembered", n)
		}
		for range 3 {
			time.Sleep(time.Minute)
			m.age(time.Minute)
		}
		if m.young != nil || m.old != nil {
			t.Error("an empty memory holds something")
		}
		m.put(1, struct{}{})
		time.Sleep(time.Minute - time.Second)
		m.age(time.Minute)
		time.Sleep(time.Second)
		m.age(time.Minute)
		if _, ok := m.get(1); !ok {
			t.Error("forgotten too early")
		}
	})
}

// TestWindowHoldsTheSenderAlone has one who sends more than may be under way, and another who does not.
func TestWindowHoldsTheSenderAlone(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.holding = true
		other := g.nodes["C"].srv.place("r", member("d", "C", 1))
		g.show(view(2, g.c.at(1), g.x.at(2), g.y.at(3), g.z.at(4), other.at(5)))
		var sent sync.WaitGroup
		sent.Go(func() {
			for i := range maxFlying + 2 {
				env := envelope{Type: appMessage, TargetID: []byte("x"), Data: fmt.Append(nil, i)}
				if err := g.c.handle(env); err != errLater {
					t.Error(err)
				}
			}
		})
		synctest.Wait()
		if len(g.pending) != maxFlying {
			t.Errorf("%d are under way", len(g.pending))
		}
		if err := other.handle(envelope{Type: appMessage, Data: []byte("1")}); err != errLater {
			t.Error(err)
		}
		for range maxFlying + 3 {
			g.answer()
		}
		sent.Wait()
	})
}

// TestLastWordsAreAwaited has one leave whose last words are not answered: it stays, unless that is for an outage. Who
// says too much meanwhile is refused after a while.
func TestLastWordsAreAwaited(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.holding = true
		say := envelope{Type: appMessage, TargetID: []byte("x"), Data: []byte("1")}
		for range maxFlying {
			if err := g.c.handle(say); err != errLater {
				t.Fatal(err)
			}
		}
		for _, m := range []envelope{say, {Type: leaveRoom}} {
			var refused *clientError
			if err := g.c.handle(m); !errors.As(err, &refused) || refused.code != codeUnavailable {
				t.Errorf("%v instead of 503", err)
			}
		}
		g.nodes["C"].away = state.ErrUnavailable
		if err := g.c.handle(envelope{Type: leaveRoom}); err != nil || !slices.Equal(g.nodes["C"].gone(), []string{"c"}) {
			t.Errorf("%v, and %v have left", err, g.nodes["C"].gone())
		}
		for range maxFlying {
			g.answer()
		}
	})
}

// detach has the client of a participant go away.
func detach(p *participant) {
	p.conn.released = make(chan struct{})
	p.conn.closing = true
	p.detach(p.conn, true)
}

// asks has a node ask A for x by an epoch, and returns the answer.
func (g *gathering) asks(node string, epoch uint64) (snap snapshot) {
	g.t.Helper()
	question, err := json.Marshal(moveRequest{Ask: "7", Epoch: epoch})
	if err != nil {
		g.t.Fatal(err)
	}
	g.nodes["A"].srv.onControl(state.Message{Node: node, Op: opResume, From: "x", Frame: question})
	synctest.Wait()
	for _, m := range g.cut("A", node) {
		if m.Op == opHandover && json.Unmarshal(m.Frame, &snap) == nil {
			return snap
		}
	}
	g.t.Fatal("no answer")
	return snap
}

// TestHandoverThatWasLostIsGivenAgain has a node ask once more, and another one, but not when the participant
// has arrived.
func TestHandoverThatWasLostIsGivenAgain(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"].srv
		detach(g.x)
		for _, node := range []string{"B", "B", "C"} {
			if snap := g.asks(node, 1); snap.Gone || snap.Room != "r" || !slices.Equal(snap.Stays, []uint64{2}) {
				t.Errorf("%s got %+v", node, snap)
			}
		}
		say(g.y, "", "x", "1")
		moved := g.view(2)
		moved.Members[1].Node, moved.Members[1].Epoch = "C", 2
		a.onView(moved)
		synctest.Wait()
		ms := g.cut("A", "C")
		at := func(op string) int { return slices.IndexFunc(ms, func(m state.Message) bool { return m.Op == op }) }
		if relayed := at(opRelay); relayed < 0 || at(opFollowed) < relayed {
			t.Errorf("forwarded %+v", ms)
		}
		if snap := g.asks("B", 1); !snap.Gone {
			t.Errorf("B got %+v of one who is at C", snap)
		}
	})
}

// TestNextNodeDies has the node die that was given a participant, before it has moved it: the client finds it as long as its grace
// lasts, and nobody sees it leave before.
func TestNextNodeDies(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"]
		detach(g.x)
		if snap := g.asks("B", 1); snap.Gone {
			t.Errorf("B got %+v", snap)
		}
		a.srv.onDied("B")
		time.Sleep(a.srv.cfg.ResumeGrace - time.Second)
		if snap := g.asks("C", 1); snap.Gone || snap.Room != "r" || len(a.gone()) > 0 {
			t.Errorf("C got %+v; %q left", snap, a.gone())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if snap := g.asks("C", 1); !snap.Gone || !slices.Equal(a.gone(), []string{"x"}) {
			t.Errorf("C got %+v in the end; %q left", snap, a.gone())
		}
	})
}

// TestLastWordsOfOneWhoLeft come behind the view that names the departure: they are not heard, which is told.
func TestLastWordsOfOneWhoLeft(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		say(g.c, "", "x", "1")
		gone := view(9, g.x.at(2), g.y.at(3), g.z.at(4))
		gone.Left = []state.Departure{{Member: g.c.at(1), Reason: state.ReasonLeave}}
		g.show(gone, "C")
		g.arrive("C", "A")
		time.Sleep(2 * earlyTimeout)
		synctest.Wait()
		g.hears(g.x, "too late")
		if !g.x.gap || g.y.gap {
			t.Errorf("gap of x: %v, of y: %v", g.x.gap, g.y.gap)
		}
	})
}

// TestLateRequestLeavesTheLiveAlone asks for a participant with what its client had got long ago.
func TestLateRequestLeavesTheLiveAlone(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a, late := g.nodes["A"].srv, uint64(0)
		g.x.confirmed(g.x.conn, strconv.FormatUint(g.x.sent, 10))
		_, _, err := a.release(t.Context(), "x", "B", moveRequest{Epoch: g.x.epoch, Got: &late})
		if !errors.Is(err, errGone) || a.participant("x") != g.x || g.x.conn.isClosing() {
			t.Errorf("%v; x is closing: %v", err, g.x.conn.isClosing())
		}
	})
}

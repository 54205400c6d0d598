package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain looks for leaked goroutines with patience: one of the Redis client's looks only once a second
// whether it is still wanted.
func TestMain(m *testing.M) {
	status := m.Run()
	deadline := time.Now().Add(patience)
	for err := goleak.Find(); status == 0 && err != nil; err = goleak.Find() {
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// node is what the contract asks of every implementation.
type node interface {
	ID() string
	Ready() error
	Join(ctx context.Context, room string, m Member, limit int) (View, error)
	Leave(ctx context.Context, room, id string, epoch uint64, why Reason) (View, error)
	Move(ctx context.Context, room string, old Member, epoch uint64, known ...Member) (View, error)
	Send(m Message, copies []Copy, done func([]error))
	Announce(NodeInfo)
	Nodes() []NodeInfo
	Close(ctx context.Context) error
}

// attach starts one more node of the deployment under test; the test's end closes it.
type attach func(t *testing.T, id string, ev Events) node

func TestMemoryContract(t *testing.T) {
	contract(t, func(*testing.T) attach {
		shared := NewMemory()
		return func(t *testing.T, id string, ev Events) node {
			n := shared.Node(id)
			n.Subscribe(ev)
			t.Cleanup(func() { _ = n.Close(context.Background()) })
			return n
		}
	})
}

// contract is the suite that every implementation passes; fresh makes a new deployment.
func contract(t *testing.T, fresh func(*testing.T) attach) {
	for name, test := range map[string]func(*testing.T, attach){
		"JoinOrder":              testJoinOrder,
		"RoomFull":               testRoomFull,
		"CapUnderRace":           testCapUnderRace,
		"EpochReplacesOnlyOlder": testEpoch,
		"Move":                   testMove,
		"MoveUnknown":            testMoveUnknown,
		"Nodes":                  testNodes,
		"LeaveUnknown":           testLeaveUnknown,
		"VersionsSurviveEmpty":   testVersionsSurviveEmpty,
		"OthersHear":             testOthersHear,
		"JoinPrecedesMessage":    testJoinPrecedesMessage,
		"SendOrder":              testSendOrder,
		"SendToLostNode":         testSendToLostNode,
		"SendToMany":             testSendToMany,
		"CloseRemovesMembers":    testCloseRemovesMembers,
		"RoomsAreSeparate":       testRoomsAreSeparate,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

// ear records what a node hears.
type ear struct {
	mu       sync.Mutex
	views    []View
	messages []Message
	log      []string
}

func (e *ear) events() Events {
	return Events{
		View: func(v View) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.views = append(e.views, v)
			e.log = append(e.log, fmt.Sprintf("view %s %v", v.Room, ids(v)))
		},
		Said: func(View) {},
		Message: func(m Message) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.messages = append(e.messages, m)
			e.log = append(e.log, "message "+string(m.Frame))
		},
		Lost: func(node string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.log = append(e.log, "lost "+node)
		},
		Slept:   func(time.Time) {},
		Present: func(string, string) bool { return true },
		Missed: func(room string, users []string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.log = append(e.log, fmt.Sprintf("missed %s %v", room, users))
		},
		Died: func(node string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.log = append(e.log, "died "+node)
		},
	}
}

// wait polls until the recorded log satisfies ok and returns it.
func (e *ear) wait(t *testing.T, what string, ok func(views []View, messages []Message) bool) []string {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		e.mu.Lock()
		done, log := ok(e.views, e.messages), slices.Clone(e.log)
		e.mu.Unlock()
		if done {
			return log
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: heard only %q", what, log)
		}
		<-time.After(time.Millisecond)
	}
}

func ids(v View) []string {
	var out []string
	for _, m := range v.Members {
		out = append(out, m.ID)
	}
	return out
}

func join(t *testing.T, n node, room, id string, epoch uint64) View {
	t.Helper()
	v, err := n.Join(t.Context(), room, Member{ID: id, Epoch: epoch}, 10)
	if err != nil {
		t.Fatalf("%s joins %s: %v", id, room, err)
	}
	return v
}

func testJoinOrder(t *testing.T, at attach) {
	n := at(t, "n1", new(ear).events())
	if n.ID() != "n1" || n.Ready() != nil {
		t.Fatalf("node is %q, ready: %v", n.ID(), n.Ready())
	}
	var last uint64
	for i, id := range []string{"c", "a", "b"} {
		v := join(t, n, "r", id, 1)
		if got, want := ids(v), []string{"c", "a", "b"}[:i+1]; !slices.Equal(got, want) {
			t.Fatalf("members %v, want %v", got, want)
		}
		if v.Version <= last || v.Room != "r" {
			t.Fatalf("view %+v after version %d", v, last)
		}
		if m, ok := v.Find(id); !ok || m.Node != "n1" || m.Epoch != 1 {
			t.Fatalf("member %+v, found %v", m, ok)
		}
		last = v.Version
	}
	v, err := n.Leave(t.Context(), "r", "a", 1, ReasonLeave)
	if err != nil || !slices.Equal(ids(v), []string{"c", "b"}) || v.Version <= last {
		t.Fatalf("after leave: %+v, %v", v, err)
	}
	if len(v.Left) != 1 || v.Left[0].ID != "a" || v.Left[0].Reason != ReasonLeave {
		t.Fatalf("left %+v", v.Left)
	}
}

func testRoomFull(t *testing.T, at attach) {
	n := at(t, "n1", new(ear).events())
	for i := range 10 {
		join(t, n, "r", fmt.Sprint("u", i), 1)
	}
	if _, err := n.Join(t.Context(), "r", Member{ID: "late", Epoch: 1}, 10); !errors.Is(err, ErrRoomFull) {
		t.Fatalf("11th join: %v", err)
	}
	if _, err := n.Leave(t.Context(), "r", "u3", 1, ReasonLeave); err != nil {
		t.Fatal(err)
	}
	join(t, n, "r", "late", 1)
}

func testCapUnderRace(t *testing.T, at attach) {
	var nodes []node
	for i := range 4 {
		nodes = append(nodes, at(t, fmt.Sprint("n", i), new(ear).events()))
	}
	var mu sync.Mutex
	var in, full int
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			_, err := nodes[i%4].Join(t.Context(), "r", Member{ID: fmt.Sprint("u", i), Epoch: 1}, 10)
			for deadline := time.Now().Add(patience); errors.Is(err, ErrUnavailable) && time.Now().Before(deadline); {
				_, err = nodes[i%4].Join(t.Context(), "r", Member{ID: fmt.Sprint("u", i), Epoch: 1}, 10)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				in++
			case errors.Is(err, ErrRoomFull):
				full++
			default:
				t.Errorf("join: %v", err)
			}
		})
	}
	wg.Wait()
	if in != 10 || full != 190 {
		t.Fatalf("%d got in and %d were refused, want 10 and 190", in, full)
	}
}

func testEpoch(t *testing.T, at attach) {
	n1, n2 := at(t, "n1", new(ear).events()), at(t, "n2", new(ear).events())
	join(t, n1, "r", "u", 5)
	for _, epoch := range []uint64{4, 5} {
		if _, err := n2.Join(t.Context(), "r", Member{ID: "u", Epoch: epoch}, 10); !errors.Is(err, ErrStale) {
			t.Fatalf("join with epoch %d: %v", epoch, err)
		}
	}
	v := join(t, n2, "r", "u", 6)
	if len(v.Members) != 1 || v.Members[0].Node != "n2" || len(v.Left) != 1 || v.Left[0].Epoch != 5 {
		t.Fatalf("after replacement: %+v", v)
	}
	if _, err := n1.Leave(t.Context(), "r", "u", 5, ReasonDisconnect); !errors.Is(err, ErrNotMember) {
		t.Fatalf("the replaced connection's leave: %v", err)
	}
}

// testMove moves a member to another node: it keeps its place, nobody leaves, and the node that had
// it is told even when it has no other member in the room.
func testMove(t *testing.T, at attach) {
	var e1, e3 ear
	n1, n2, n3 := at(t, "n1", e1.events()), at(t, "n2", new(ear).events()), at(t, "n3", e3.events())
	join(t, n1, "r", "u", 5)
	join(t, n3, "r", "v", 1)
	v, err := n2.Move(t.Context(), "r", Member{ID: "u", Epoch: 5}, 6)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ids(v), []string{"u", "v"}) || len(v.Left) != 0 || v.Members[0].Node != "n2" || v.Members[0].Epoch != 6 {
		t.Fatalf("after the move: %+v", v)
	}
	for _, e := range []*ear{&e1, &e3} {
		e.wait(t, "the move", func(views []View, _ []Message) bool {
			return len(views) > 0 && views[len(views)-1].Version == v.Version && views[len(views)-1].Members[0].Node == "n2"
		})
	}
	if _, err := n1.Leave(t.Context(), "r", "u", 5, ReasonDisconnect); !errors.Is(err, ErrNotMember) {
		t.Fatalf("the moved connection's leave: %v", err)
	}
}

func testMoveUnknown(t *testing.T, at attach) {
	n := at(t, "n1", new(ear).events())
	join(t, n, "r", "u", 5)
	for _, old := range []Member{{ID: "u", Epoch: 4}, {ID: "v", Epoch: 5}} {
		if _, err := n.Move(t.Context(), "r", old, 9); !errors.Is(err, ErrNotMember) {
			t.Errorf("moving %+v: %v", old, err)
		}
	}
	newer, err := n.Move(t.Context(), "r", Member{ID: "u", Epoch: 4}, 9)
	if m, there := newer.Find("u"); !errors.Is(err, ErrNotMember) || !there || m.Epoch != 5 || m.Node != n.ID() {
		t.Errorf("a newer one is there: %+v, %v", newer, err)
	}
	if _, err := n.Move(t.Context(), "elsewhere", Member{ID: "u", Epoch: 5}, 9); !errors.Is(err, ErrNotMember) {
		t.Errorf("moving in another room: %v", err)
	}
}

func testNodes(t *testing.T, at attach) {
	var e1 ear
	n1, n2 := at(t, "n1", e1.events()), at(t, "n2", new(ear).events())
	n2.Announce(NodeInfo{TURN: []string{"turn:h"}, Load: 7})
	e1.wait(t, "n2's announcement", func([]View, []Message) bool {
		nodes := n1.Nodes()
		return len(nodes) == 1 && nodes[0].ID == "n2" && nodes[0].Load == 7 && slices.Equal(nodes[0].TURN, []string{"turn:h"})
	})
	if err := n2.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	e1.wait(t, "n2's end", func([]View, []Message) bool { return len(n1.Nodes()) == 0 })
	e1.wait(t, "its death", func([]View, []Message) bool { return slices.Contains(e1.log, "died n2") })
}

func testLeaveUnknown(t *testing.T, at attach) {
	n := at(t, "n1", new(ear).events())
	if _, err := n.Leave(t.Context(), "r", "nobody", 1, ReasonLeave); !errors.Is(err, ErrNotMember) {
		t.Fatalf("leave: %v", err)
	}
}

func testVersionsSurviveEmpty(t *testing.T, at attach) {
	n := at(t, "n1", new(ear).events())
	join(t, n, "r", "u", 1)
	v, err := n.Leave(t.Context(), "r", "u", 1, ReasonLeave)
	if err != nil || len(v.Members) != 0 {
		t.Fatalf("leave: %+v, %v", v, err)
	}
	if again := join(t, n, "r", "u", 2); again.Version <= v.Version {
		t.Fatalf("version %d after %d", again.Version, v.Version)
	}
}

func testCloseRemovesMembers(t *testing.T, at attach) {
	var e1 ear
	n1, n2 := at(t, "n1", e1.events()), at(t, "n2", new(ear).events())
	join(t, n1, "r", "a", 1)
	join(t, n2, "r", "b", 1)
	join(t, n2, "r", "c", 1)
	if err := n2.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	e1.wait(t, "node_lost", func(v []View, _ []Message) bool {
		lost := map[string]int{}
		for _, view := range v {
			for _, d := range view.Left {
				if d.Reason == ReasonNodeLost {
					lost[d.ID]++
				}
			}
		}
		return len(v) > 0 && slices.Equal(ids(v[len(v)-1]), []string{"a"}) && lost["b"] == 1 && lost["c"] == 1
	})
}

func testRoomsAreSeparate(t *testing.T, at attach) {
	n := at(t, "n1", new(ear).events())
	join(t, n, "r1", "a", 1)
	if v := join(t, n, "r2", "a", 1); !slices.Equal(ids(v), []string{"a"}) {
		t.Fatalf("r2 holds %v", ids(v))
	}
	if v := join(t, n, "r1", "b", 1); !slices.Equal(ids(v), []string{"a", "b"}) {
		t.Fatalf("r1 holds %v", ids(v))
	}
}

package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// sendAndWait sends a message to nodes and returns what became of it.
func sendAndWait(ctx context.Context, from node, nodes []string, m Message) error {
	var copies []Copy
	for _, node := range nodes {
		copies = append(copies, Copy{Node: node})
	}
	result := make(chan error, 1)
	from.Send(m, copies, func(errs []error) { result <- errors.Join(errs...) })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func testOthersHear(t *testing.T, at attach) {
	var e1, e2, e3 ear
	n1, n2 := at(t, "n1", e1.events()), at(t, "n2", e2.events())
	at(t, "n3", e3.events())
	join(t, n1, "r", "a", 1)
	join(t, n2, "r", "b", 1)
	e1.wait(t, "b's join", func(v []View, _ []Message) bool {
		return len(v) == 1 && slices.Equal(ids(v[0]), []string{"a", "b"}) && v[0].Members[1].Node == "n2"
	})
	if _, err := n2.Leave(t.Context(), "r", "b", 1, ReasonTimeout); err != nil {
		t.Fatal(err)
	}
	e1.wait(t, "b's leave", func(v []View, _ []Message) bool {
		return len(v) == 2 && slices.Equal(ids(v[1]), []string{"a"}) &&
			len(v[1].Left) == 1 && v[1].Left[0].ID == "b" && v[1].Left[0].Reason == ReasonTimeout &&
			v[1].Version > v[0].Version
	})
	for name, e := range map[string]*ear{"n2": &e2, "n3": &e3} {
		e.mu.Lock()
		if len(e.log) != 0 {
			t.Errorf("%s heard %q, which was its own or none of its business", name, e.log)
		}
		e.mu.Unlock()
	}
}

func testJoinPrecedesMessage(t *testing.T, at attach) {
	var e1 ear
	n1, n2 := at(t, "n1", e1.events()), at(t, "n2", new(ear).events())
	for i := range 50 {
		room := fmt.Sprint("r", i)
		join(t, n1, room, "a", 1)
		join(t, n2, room, "b", 1)
		if err := sendAndWait(t.Context(), n2, []string{"n1"}, Message{Room: room, From: "b", To: "a", Frame: []byte(room)}); err != nil {
			t.Fatal(err)
		}
	}
	log := e1.wait(t, "messages", func(_ []View, m []Message) bool { return len(m) == 50 })
	for i := range 50 {
		room := fmt.Sprint("r", i)
		joined := slices.Index(log, fmt.Sprintf("view %s [a b]", room))
		message := slices.Index(log, "message "+room)
		if joined < 0 || joined > message {
			t.Fatalf("room %s: joined at %d, message at %d", room, joined, message)
		}
	}
}

func testSendOrder(t *testing.T, at attach) {
	var e2 ear
	n1 := at(t, "n1", new(ear).events())
	at(t, "n2", e2.events())
	for i := range 500 {
		m := Message{Room: "r", From: "a", To: "b", Frame: fmt.Append(nil, i)}
		if err := sendAndWait(t.Context(), n1, []string{"n2"}, m); err != nil {
			t.Fatal(err)
		}
	}
	e2.wait(t, "messages", func(_ []View, m []Message) bool { return len(m) == 500 })
	for i, m := range e2.messages {
		if string(m.Frame) != fmt.Sprint(i) || m.Room != "r" || m.From != "a" || m.To != "b" {
			t.Fatalf("message %d is %+v", i, m)
		}
	}
}

func testSendToLostNode(t *testing.T, at attach) {
	n1, n2 := at(t, "n1", new(ear).events()), at(t, "n2", new(ear).events())
	if err := n2.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := sendAndWait(t.Context(), n1, []string{"n2"}, Message{Room: "r", From: "a", To: "b"})
	if !errors.Is(err, ErrNoNode) {
		t.Fatalf("send: %v", err)
	}
}

// subscriber is a node that is not one of the deployment yet.
type subscriber interface {
	node
	Subscribe(Events)
}

// unknownUntilItSubscribes has a node announce itself before it subscribes: nobody sees it and nobody
// can send to it, so nothing is lost. From its first moment in the directory it is there whole.
func unknownUntilItSubscribes(t *testing.T, known node, late subscriber) {
	t.Helper()
	late.Announce(NodeInfo{TURN: []string{"turn:late"}, Load: 3})
	if err := sendAndWait(t.Context(), known, []string{"late"}, Message{Room: "r", Frame: []byte("too early")}); !errors.Is(err, ErrNoNode) {
		t.Errorf("sending to a node that has not subscribed: %v", err)
	}
	if nodes := known.Nodes(); len(nodes) != 0 {
		t.Errorf("nodes before the subscription: %v", nodes)
	}
	var e ear
	late.Subscribe(e.events())
	eventually(t, "the node is in the directory", func() bool { return len(known.Nodes()) == 1 })
	if info := known.Nodes()[0]; info.ID != "late" || info.Load != 3 || !slices.Equal(info.TURN, []string{"turn:late"}) {
		t.Errorf("the directory says %+v", info)
	}
	eventually(t, "the node is ready", func() bool { return late.Ready() == nil })
	if err := sendAndWait(t.Context(), known, []string{"late"}, Message{Room: "r", Frame: []byte("hello")}); err != nil {
		t.Errorf("sending to a node that has subscribed: %v", err)
	}
	e.wait(t, "hello", func(_ []View, m []Message) bool { return len(m) > 0 && string(m[len(m)-1].Frame) == "hello" })
}

func TestMemoryNodeIsUnknownUntilItSubscribes(t *testing.T) {
	shared := NewMemory()
	known := shared.Node("known")
	known.Subscribe(new(ear).events())
	unknownUntilItSubscribes(t, known, shared.Node("late"))
}

// testSendToMany sends to several nodes at once: a lost one does not keep the others from hearing it.
func testSendToMany(t *testing.T, at attach) {
	var e2, e3 ear
	n1, n2, n3 := at(t, "n1", new(ear).events()), at(t, "n2", e2.events()), at(t, "n3", e3.events())
	lost := at(t, "n4", new(ear).events())
	if err := lost.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	send := func(text string, nodes ...string) error {
		return sendAndWait(t.Context(), n1, nodes, Message{Room: "r", From: "a", Frame: []byte(text)})
	}
	if err := send("1", n2.ID(), n3.ID()); err != nil {
		t.Fatal(err)
	}
	if err := send("2", n2.ID(), lost.ID(), n3.ID()); !errors.Is(err, ErrNoNode) || errors.Is(err, ErrUnavailable) {
		t.Fatalf("send to a lost one too: %v", err)
	}
	if err := send("3", n3.ID(), n2.ID()); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*ear{&e2, &e3} {
		log := e.wait(t, "three messages", func(_ []View, m []Message) bool { return len(m) == 3 })
		log = slices.DeleteFunc(log, func(line string) bool { return line == "died n4" })
		if want := []string{"message 1", "message 2", "message 3"}; !slices.Equal(log, want) {
			t.Errorf("heard %q", log)
		}
	}
}

package signal

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/state"
)

// hang has the client of a deaf participant end its connection, of which nobody was told.
func (p *participant) hang() { p.conn.link = &sink{script{hung: true}} }

// TestInDoubtOnlyTheConnectedAreReached has a member say something at a node that the others may have taken for dead.
func TestInDoubtOnlyTheConnectedAreReached(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"]
		v := a.srv.place("r", member("v", "A", 1))
		g.show(view(2, g.c.at(1), g.x.at(2), g.y.at(3), g.z.at(4), v.at(5)))
		for _, p := range []*participant{g.x, g.y, v, g.c, g.z} {
			heard(p)
		}
		g.y.hang()
		a.doubtful = true
		say(g.x, "1", "y", "to one who is gone")
		g.answered(g.x, "error 1 503")
		say(g.x, "2", "", "to all")
		g.answered(g.x, "ack 2 y")
		g.hears(v, "it is there", "to all")
		g.hears(g.y, "it has gone")
		a.doubtful = false
		say(g.x, "2", "", "to all")
		g.answered(g.x, "ack 2")
		g.hears(g.y, "it was not its end", "to all")
		g.hears(v, "it has heard it")
	})
}

// TestTooLateIsNotSaid has a message wait in a connection that its client has ended, while the node does not know
// where the client is.
func TestTooLateIsNotSaid(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.nodes["A"].doubtful = true
		g.x.hang()
		for _, env := range []envelope{
			{Type: appMessage, Data: []byte(`"x"`)},
			{Type: leaveRoom},
			{Type: joinRoom, Data: []byte(`{"room_id":"another"}`)},
		} {
			if err := g.x.handle(env); err != errLater {
				t.Errorf("message %d: %v", env.Type, err)
			}
		}
		g.hears(g.y, "it is too late")
		if g.x.room.id != "r" {
			t.Error("it is in another room")
		}
	})
}

// TestInDoubtNobodyIsHandedOver has another node ask for a participant of one that may have been taken for dead.
func TestInDoubtNobodyIsHandedOver(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"]
		g.x.owner, g.x.until = ownerDetached, time.Now().Add(time.Minute)
		g.x.grace = time.NewTimer(time.Minute)
		a.doubtful = true
		_, _, err := a.srv.release(t.Context(), "x", "B", moveRequest{Epoch: g.x.epoch})
		if !errors.Is(err, state.ErrUnavailable) || !g.x.isDetached() {
			t.Errorf("%v, detached: %v", err, g.x.isDetached())
		}
		a.doubtful = false
		if snap, _, err := a.srv.release(t.Context(), "x", "B", moveRequest{Epoch: g.x.epoch}); err != nil || snap.Room != "r" {
			t.Errorf("%+v, %v", snap, err)
		}
	})
}

// TestWhoCameAndWentIsAbsent has connections come back that waited while the process did not run: one that its client has
// ended meanwhile does not bring it back.
func TestWhoCameAndWentIsAbsent(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x.srv.cfg.ICE = func(string, string) ICEConfig { return ICEConfig{} }
		g.x.srv.sessions = newSessions(nil)
		for _, hung := range []bool{true, false} {
			g.x.absent = true
			c := newConn(g.x.srv, &sink{script{hung: hung}}, visitor{bound: binding{session: "session"}}, "host", g.x.conn.from)
			if err := g.x.attach(c, greeting{Resumed: true}, nil); err != nil {
				t.Fatal(err)
			}
			if present := g.x.srv.isPresent("r", "x"); present == hung {
				t.Errorf("its connection has ended: %v, it is there: %v", hung, present)
			}
		}
	})
}

// TestNobodyIsBackBeforeThatIsKnown has clients come back to a node that the others may have taken for dead: one whom they took out,
// and one whom the node puts back because its client is there.
func TestNobodyIsBackBeforeThatIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a := g.nodes["A"]
		a.doubtful, a.trust = true, func() {
			if !a.srv.isPresent("r", "y") {
				t.Error("a client that waits is not there")
			}
			a.srv.onView(view(2, g.c.at(1), g.y.at(3), g.z.at(4)))
		}
		g.x.absent, g.y.absent = true, true
		if !g.y.stays(t.Context(), g.y.conn) {
			t.Error("the one that was put back is gone")
		}
		if g.x.stays(t.Context(), g.x.conn) {
			t.Error("the one that was taken out is back")
		}
		synctest.Wait()
	})
}

// TestNobodyIsBackWhoWasTakenOut has a client come back when the doubt has ended, in the moment before the end of its participant.
func TestNobodyIsBackWhoWasTakenOut(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.nodes["A"].srv.onView(view(2, g.c.at(1), g.y.at(3), g.z.at(4)))
		if g.x.stays(t.Context(), g.x.conn) {
			t.Error("the one that was taken out is back")
		}
		if !g.y.stays(t.Context(), g.y.conn) {
			t.Error("the one that stayed is gone")
		}
		synctest.Wait()
	})
}

// TestWhoWasTakenOutEnds has a view without a member that was there: others have adopted it and it has left, or they have seen
// it leave.
func TestWhoWasTakenOutEnds(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.nodes["A"].srv.onView(view(2, g.c.at(1), g.y.at(3), g.z.at(4)))
		synctest.Wait()
		if !g.x.over || g.y.over {
			t.Errorf("x has ended: %v, y: %v", g.x.over, g.y.over)
		}
		g.y.room.leaves(g.y)
		g.nodes["A"].srv.onView(view(3, g.c.at(1), g.z.at(4)))
		synctest.Wait()
		if g.y.over {
			t.Error("one that leaves by itself was taken out")
		}
	})
}

// TestPresent asks who was there when a process ran again.
func TestPresent(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		srv := g.nodes["A"].srv
		g.y.hang()
		srv.onSlept(time.Now())
		present := func(room, user string, want bool) {
			t.Helper()
			if got := srv.isPresent(room, user); got != want {
				t.Errorf("%s in %s: %v", user, room, got)
			}
		}
		present("r", "x", true)
		present("r", "y", false)
		present("r", "z", false)
		present("another", "x", false)
		g.x.hang()
		present("r", "x", true) // That was later.
		g.y.absent = false      // It has come.
		present("r", "y", true)
		g.x = g.hop(g.x, "B")
		present("r", "x", true) // On its way.
		g.show(g.view(2))
		present("r", "x", false)
		g.y = g.hop(g.y, "B")
		srv.onSlept(time.Now())
		present("r", "y", false)
	})
}

// TestStrayed gives messages to a node from which a participant was adopted before its greeting and after it: what came after
// is a gap of which nobody has told it.
func TestStrayed(t *testing.T) {
	for _, late := range []bool{false, true} {
		bubble(t, func(t *testing.T, g *gathering) {
			b := g.nodes["B"].srv
			say(g.c, "", "x", "before")
			time.Sleep(time.Second)
			x := deaf("x", 2)
			x.srv, x.conn.srv, x.adopted = b, b, adoption{node: "A", warned: time.Now()}
			b.participants["x"] = x
			x.room = b.addLocal("r", &localMember{participant: x, marks: watermarks{opened: time.Now()}})
			g.x = x
			g.nodes["B"].srv.onView(g.view(2))
			time.Sleep(time.Second)
			if late {
				say(g.c, "", "x", "after")
			}
			g.nodes["C"].srv.onView(g.view(2))
			g.arrive("C", "B")
			if x.gap != late {
				t.Errorf("said after the adoption: %v, gap: %v", late, x.gap)
			}
		})
	}
}

// TestStrayedWhenTaken gives messages to the node from which a participant was adopted, of which it is known only later whether that
// node has taken them. What it has not is no gap: its sender is told.
func TestStrayedWhenTaken(t *testing.T) {
	for _, refused := range []string{"A", ""} {
		bubble(t, func(t *testing.T, g *gathering) {
			b := g.nodes["B"].srv
			g.x = g.adoptElsewhere()
			g.x.adopted = adoption{node: "A", warned: time.Now()}
			b.onView(g.view(2))
			time.Sleep(time.Second)
			g.holding = true
			for range 10 {
				say(g.c, "", "x", "after")
			}
			g.nodes["C"].srv.onView(g.view(2))
			for len(g.pending) > 0 {
				g.answer(refused)
				synctest.Wait()
			}
			g.arrive("C", "B")
			if g.x.gap != (refused == "") {
				t.Errorf("refused at %q, gap: %v", refused, g.x.gap)
			}
		})
	}
}

// TestStrayedFollows has a participant move on before it is told what strayed.
func TestStrayedFollows(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x = g.adoptElsewhere()
		g.x.adopted = adoption{node: "A", warned: time.Now()}
		g.nodes["B"].srv.onView(g.view(2))
		time.Sleep(time.Second)
		say(g.c, "", "x", "after")
		g.nodes["C"].srv.onView(g.view(2))
		g.x = g.hop(g.x, "C")
		g.show(g.view(3))
		g.arrive("C", "B")
		g.arrive("B", "C")
		if !g.x.gap {
			t.Error("no gap was told")
		}
	})
}

// TestBackWhereItWasAdoptedFrom has x go back to the node from which it was adopted, and leave that again: what it was given there
// meanwhile has not strayed.
func TestBackWhereItWasAdoptedFrom(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		g.x.expel(closePolicy, "adopted elsewhere")
		delete(g.nodes["A"].srv.participants, "x")
		g.x = g.adoptElsewhere()
		g.x.adopted = adoption{node: "A", warned: time.Now()}
		g.show(g.view(2))
		time.Sleep(time.Second)
		g.x = g.hop(g.x, "A")
		g.show(g.view(3))
		time.Sleep(time.Second)
		say(g.c, "", "x", "at A again")
		g.arrive("C", "A")
		g.x = g.hop(g.x, "B")
		g.show(g.view(4))
		g.arrive("C", "B")
		if g.x.gap {
			t.Error("nothing has strayed, but a gap was told")
		}
	})
}

// TestBackFromTheDeadTellsWhatStrayed has a member say something to another at a node that is taken for dead, while that one is at
// another node already, which nobody at the dead one knows.
func TestBackFromTheDeadTellsWhatStrayed(t *testing.T) {
	for _, late := range []bool{false, true} {
		bubble(t, func(t *testing.T, g *gathering) {
			a, b := g.nodes["A"], g.nodes["B"].srv
			a.doubtful = true
			say(g.y, "", "x", "before")
			time.Sleep(time.Second)
			old := g.x
			x := deaf("x", 2)
			x.srv, x.conn.srv, x.adopted = b, b, adoption{node: "A", warned: time.Now()}
			b.participants["x"] = x
			x.room = b.addLocal("r", &localMember{participant: x, marks: watermarks{opened: time.Now()}})
			g.x = x
			b.onView(g.view(2))
			time.Sleep(time.Second)
			if late {
				say(g.y, "", "x", "after")
			}
			a.doubtful = false
			a.srv.onView(g.view(2))
			g.arrive("A", "B")
			if x.gap != late || !old.over {
				t.Errorf("said after the adoption: %v, gap: %v, the former has ended: %v", late, x.gap, old.over)
			}
		})
	}
}

// TestMovedIsKnownWhenNothingFollows asks the node that a participant has left for another where it is, when nothing more is to follow
// it, which nodes of protocol 1 say. The client may not have heard its new token.
func TestMovedIsKnownWhenNothingFollows(t *testing.T) {
	bubble(t, func(t *testing.T, g *gathering) {
		a, old := g.nodes["A"].srv, g.x.epoch
		g.x = g.hop(g.x, "B")
		g.show(g.view(2))
		a.moves.of("x").end()
		synctest.Wait()
		_, _, err := a.release(t.Context(), "x", "C", moveRequest{Epoch: old})
		var on elsewhere
		if !errors.As(err, &on) || on.Node != "B" || on.Epoch != g.x.epoch {
			t.Errorf("%v", err)
		}
		time.Sleep(lineRetention + time.Second)
		synctest.Wait()
		if a.moves.of("x") != nil {
			t.Error("it is remembered for ever")
		}
	})
}

// connected returns both ends of a connection, and of one over TLS if that is wanted.
func connected(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if far, err = net.Dial("tcp", l.Addr().String()); err == nil {
		near, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	return near, far
}

// TestHungUp ends connections from the other side, behind something that was not read yet.
func TestHungUp(t *testing.T) {
	ps, err := newPollers(&flusher{})
	if err != nil {
		t.Fatal(err)
	}
	defer ps.close()
	links := map[string]func(net.Conn) link{
		"stream": func(c net.Conn) link { return newStream(c, time.Second, &flusher{}) },
		"TLS":    func(c net.Conn) link { return newStream(tls.Server(c, &tls.Config{}), time.Second, &flusher{}) },
		"poller": ps.link,
	}
	for name, of := range links {
		near, far := connected(t)
		l := of(near)
		if l == nil {
			continue // This system has no poller.
		}
		if l.hungUp() {
			t.Errorf("%s: it has just begun", name)
		}
		_, _ = far.Write([]byte("unread"))
		_ = far.Close()
		eventually(t, name+" hangs up", l.hungUp)
		l.close()
	}
}

package signal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/signal/passwords"
	"cline-meet/signal/state"
)

// provingMembers has the TURN server of a node ask for passwords, which names the nodes in its ICE servers.
func provingMembers(relays ...string) func(*Config) {
	return func(c *Config) {
		c.PeerPasswords, c.Relaying = true, func() []string { return nil }
		ice := c.ICE
		c.ICE = func(host, user string) ICEConfig {
			out := ice(host, user)
			out.Nodes = relays
			return out
		}
	}
}

// counted is a shared state that counts what nodes say to each other.
type counted struct {
	*state.MemoryNode
	mu  *sync.Mutex
	ops map[string]int // copies by op
}

func (c counted) Send(m state.Message, copies []state.Copy, done func([]error)) {
	c.mu.Lock()
	c.ops[m.Op] += len(copies)
	c.mu.Unlock()
	c.MemoryNode.Send(m, copies, done)
}

func (c counted) count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ops[op]
}

// countedNodes runs nodes that ask for passwords, whose messages are counted together.
func countedNodes(t *testing.T, count int, change ...func(*Config)) ([]*testServer, counted) {
	all := counted{mu: new(sync.Mutex), ops: map[string]int{}}
	counting := func(c *Config) { c.State = counted{c.State.(*state.MemoryNode), all.mu, all.ops} }
	return startNodes(t, count, append([]func(*Config){counting}, change...)...), all
}

// described is an SDP with a password by which the test knows it.
func described(number int) (sdp string, p passwords.Password) {
	p = passwords.Password{Ufrag: fmt.Sprint("ufrag", number), Password: fmt.Sprintf("a password of an agent %d", number)}
	p.Password = strings.ReplaceAll(p.Password, " ", "/")
	return "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:" + p.Ufrag + "\r\na=ice-pwd:" + p.Password + "\r\n", p
}

func quote(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// describes sends a message with an SDP, and returns its password when the other has got it.
func (p *peer) describes(to *peer, kind string, number int) passwords.Password {
	p.t.Helper()
	sdp, password := described(number)
	p.say(fmt.Sprintf(`{"type":%q,"target_id":%q,"data":%s}`, kind, to.user, quote(quote(map[string]string{"sdp": sdp, "type": kind}))))
	to.expect(kind)
	return password
}

// knows reports whether the TURN server of the node knows a password that was told to a user.
func (s *testServer) knows(user string, p passwords.Password) bool {
	return slices.ContainsFunc(s.MemberPasswords(user, p.Ufrag), func(known []byte) bool { return string(known) == p.Password })
}

func (s *testServer) learns(what, user string, p passwords.Password) {
	s.t.Helper()
	eventually(s.t, what, func() bool { return s.knows(user, p) })
}

// isTold waits until the node knows a password, and has it ask nobody.
func (s *testServer) isTold(what, user string, p passwords.Password) {
	s.t.Helper()
	eventually(s.t, what, func() bool { return len(s.peers.Of(user, p.Ufrag)) > 0 })
}

// together are two members of a room.
func together(one, two *testServer) (a, b *peer) {
	a = one.enter("r")
	b = two.enter("r")
	a.expect("user_joined")
	return a, b
}

// TestPasswordsOfMembersAreKnown has SDP in all kinds of messages: the node knows the password for the receiver, as soon as that
// has the SDP, and for nobody else.
func TestPasswordsOfMembersAreKnown(t *testing.T) {
	s := start(t, provingMembers())
	a, b := together(s, s)
	for i, kind := range []string{"offer", "answer", "offer", "message", "ice_candidate"} {
		p := a.describes(b, kind, i)
		if !s.knows(b.user, p) || !s.knows(passwords.Session(b.user), p) {
			t.Errorf("that of an %s is not known", kind)
		}
		if s.knows(a.user, p) || s.knows("user-aaaaaaaa-aaaa", p) {
			t.Errorf("that of an %s is known for others", kind)
		}
	}
	sdp, plain := described(10)
	a.say(fmt.Sprintf(`{"type":"offer","target_id":%q,"data":{"type":"offer","sdp":%s}}`, b.user, quote(sdp)))
	b.expect("offer")
	sdp, cast := described(11)
	a.say(fmt.Sprintf(`{"type":"message","data":["call",{"description":%s}]}`, quote(sdp)))
	b.expect("message")
	for _, p := range []passwords.Password{plain, cast} {
		if !s.knows(b.user, p) {
			t.Errorf("%v is not known", p)
		}
	}
	_, first := described(0)
	if !s.knows(b.user, first) {
		t.Error("the first is forgotten after ICE restarts")
	}
}

// TestPasswordsComeToTheRelay has clients that relay through other nodes than those of their WebSockets: the one that their ICE
// servers name knows at once, another when it is asked.
func TestPasswordsComeToTheRelay(t *testing.T) {
	nodes, sent := countedNodes(t, 4, provingMembers("n2", "n9"))
	one, two, named, other := nodes[0], nodes[1], nodes[2], nodes[3]
	a, b := together(one, two)
	p := b.describes(a, "offer", 1)
	if !one.knows(a.user, p) {
		t.Error("the node of the receiver does not know it")
	}
	named.isTold("the named node knows it", a.user, p)
	if told, asked := sent.count(opPasswords), sent.count(opPasswordsWanted); told != 1 || asked != 0 {
		t.Errorf("it took %d messages and %d questions, want 1 and none", told, asked)
	}
	if other.knows(a.user, p) {
		t.Error("a node knows it that nobody has told")
	}
	other.isTold("the node that has asked knows it", a.user, p)
	eventually(t, "both nodes that know it have said so", func() bool { return sent.count(opPasswords) == 3 })
	if asked := sent.count(opPasswordsWanted); asked != 3 {
		t.Errorf("it took %d questions, want 3", asked)
	}
	p = b.describes(a, "offer", 2)
	named.isTold("the named node knows the next one", a.user, p)
	other.isTold("the node that has asked knows the next one", a.user, p)
	if told := sent.count(opPasswords); told != 5 {
		t.Errorf("the next one took %d messages, want 2", told-3)
	}
}

// TestPasswordsCostNothingElse has nodes whose TURN servers ask nobody, and a message without SDP.
func TestPasswordsCostNothingElse(t *testing.T) {
	nodes, sent := countedNodes(t, 2, provingMembers("n1"), func(c *Config) { c.PeerPasswords = false })
	a, b := together(nodes[0], nodes[1])
	p := b.describes(a, "offer", 1)
	if nodes[0].knows(a.user, p) || nodes[0].peers != nil || sent.count(opPasswords)+sent.count(opPasswordsWanted) != 0 {
		t.Errorf("%v was sent", sent.ops)
	}
	nodes, sent = countedNodes(t, 2, provingMembers("n1"))
	a, b = together(nodes[0], nodes[1])
	b.say(fmt.Sprintf(`{"type":"ice_candidate","target_id":%q,"data":{"candidate":"candidate:1","usernameFragment":"abcd"}}`, a.user))
	a.expect("ice_candidate")
	if sent.count(opPasswords)+sent.count(opPasswordsWanted) != 0 {
		t.Errorf("%v was sent", sent.ops)
	}
}

// TestPasswordsAreLookedForOnce sends a message that takes long to go through to many members of a room, from here and from another node.
func TestPasswordsAreLookedForOnce(t *testing.T) {
	const members, texts = 16, 2000
	s := socketless(t, &slowState{})
	s.cfg.PeerPasswords = true
	s.peers = newPeerPasswords(&s.cfg)
	from := s.place("r", member("x", "near", 1))
	everybody := []state.Member{from.asMember()}
	var there []state.Receiver
	for i := range members {
		p := s.place("r", member(fmt.Sprintf("user-%08d-aaaa", i), "near", 1))
		everybody, there = append(everybody, p.asMember()), append(there, state.Receiver{ID: p.user})
	}
	r := from.room
	r.apply(view(1, everybody...))
	frame := []byte("[" + strings.Repeat(`"ice-pwd:",`, texts) + "0]")
	for what, send := range map[string]func(){
		"here": func() { r.deliver(cast{from: from, typ: appMessage, frame: frame}) },
		"from another one": func() {
			for i := range there {
				there[i].Before, there[i].Number = there[i].Number, there[i].Number+1
			}
			r.receive(state.Message{Node: "far", Room: "r", From: "x", Receivers: there, Frame: frame})
		},
	} {
		if n := testing.AllocsPerRun(1, send); n < texts || n >= 2*texts {
			t.Errorf("%s: %.0f allocations for a message with %d strings", what, n, texts)
		}
	}
}

// TestPasswordsMove has a member go to another node, which knows what it was told, while the former one still does.
func TestPasswordsMove(t *testing.T) {
	nodes, sent := countedNodes(t, 2, provingMembers())
	a, b := together(nodes[0], nodes[0])
	p := b.describes(a, "offer", 1)
	_, a, _ = a.back(nodes[1])
	if !nodes[1].knows(a.user, p) || !nodes[0].knows(a.user, p) {
		t.Error("it is not known at both nodes")
	}
	p = b.describes(a, "offer", 2)
	if !nodes[1].knows(a.user, p) {
		t.Error("the next one is not known")
	}
	if n := sent.count(opPasswordsWanted); n != 0 {
		t.Errorf("%d questions", n)
	}
	nodes[0].learns("the former node knows the next one", a.user, p)
}

// TestPasswordsOutliveTheNode kills the node of a member: the one that adopts it gets what it was told from where its relay is.
func TestPasswordsOutliveTheNode(t *testing.T) {
	nodes, dead := startMortals(t, 3, provingMembers("n2"))
	a, b := together(nodes[1], nodes[0])
	p := b.describes(a, "offer", 1)
	nodes[2].isTold("the relay's node knows it", a.user, p)
	dead.kill("n1", 0)
	a = a.resumed(nodes[0], a.user, b.user)
	nodes[0].learns("the new node knows it", a.user, p)
	p = b.describes(a, "offer", 2)
	if !nodes[0].knows(a.user, p) {
		t.Error("the new node does not know the next one")
	}
	nodes[2].isTold("the relay's node knows the next one", a.user, p)
}

// TestPasswordsAreForgotten looks after passwords with members who are here, relays that are here, and neither.
func TestPasswordsAreForgotten(t *testing.T) {
	var relaying []string
	s := start(t, provingMembers(), func(c *Config) { c.Relaying = func() []string { return relaying } })
	a, b := together(s, s)
	c := s.dial(nil)
	c.join("other")
	tell := func(to, room string) passwords.Told {
		_, p := described(len(to) + len(room))
		one := passwords.Told{To: to, From: b.user, Room: room, Password: p}
		s.peers.Tell(one)
		return one
	}
	here, left, moved := tell(a.user, "r"), tell(a.user, "former"), tell("user-aaaaaaaa-aaaa", "r")
	relayed := tell("user-bbbbbbbb-bbbb", "")
	relaying = []string{"user-bbbbbbbb", "static"}
	needed := s.stillNeeded()
	for one, want := range map[passwords.Told]bool{here: true, left: false, moved: false, relayed: true} {
		if got := needed(one); got != want {
			t.Errorf("%v is needed: %v", one, got)
		}
	}
}

// TestPasswordsAreNotTold looks for them in logs and metrics.
func TestPasswordsAreNotTold(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	write := writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	})
	nodes, _ := countedNodes(t, 2, provingMembers("n1"), func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(write, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	a, b := together(nodes[0], nodes[0])
	p := b.describes(a, "offer", 1)
	nodes[1].isTold("the relay's node knows it", a.user, p)
	metrics := nodes[0].metricsText()
	if !strings.Contains(metrics, "signal_peer_passwords 1\n") {
		t.Errorf("the metrics are %s", metrics)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, secret := range []string{p.Password, p.Ufrag} {
		if strings.Contains(metrics, secret) || strings.Contains(log.String(), secret) {
			t.Errorf("%s is in the metrics or in the log", secret)
		}
	}
	if log.Len() == 0 {
		t.Error("nothing is logged")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestQuestionsAreBounded has checks with whatever user name fragments, of many users and of one.
func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := state.NewMemory()
		joined(all, "n1")
		sent := counted{joined(all, "n0"), new(sync.Mutex), map[string]int{}}
		s := socketless(t, sent)
		provingMembers()(&s.cfg)
		s.peers = newPeerPasswords(&s.cfg)
		s.tasks.run(func() { s.keepPasswords(s.ctx) })
		defer s.tasks.end()
		defer s.cancel()
		ask := func(user string) {
			s.MemberPasswords(user, "ufrag")
			synctest.Wait()
		}
		for range maxAsks {
			ask("user-aaaaaaaa-aaaa")
		}
		if n := sent.count(opPasswordsWanted); n != 1 {
			t.Errorf("%d questions for one user, want 1", n)
		}
		for i := range 3 * maxAsks {
			ask(fmt.Sprintf("user-%08d-aaaa", i))
		}
		if n := sent.count(opPasswordsWanted); n != maxAsks {
			t.Errorf("%d questions for many users, want %d", n, maxAsks)
		}
		time.Sleep(askAgain)
		ask("user-aaaaaaaa-aaaa")
		if n := sent.count(opPasswordsWanted); n != maxAsks+1 {
			t.Errorf("%d questions after a while, want %d", n, maxAsks+1)
		}
		for i := range 2 * maxWanted { // Nobody waits until they are taken.
			s.MemberPasswords(fmt.Sprintf("user-b%07d-aaaa", i), "ufrag")
		}
	})
}

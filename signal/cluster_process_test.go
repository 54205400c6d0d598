package signal_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

var outage = flag.Duration("outage", 0, "how long Redis is away at least while rooms go on")

// member is a client that keeps book of who it is told came and went.
type member struct {
	t       *testing.T
	conn    *client.Client
	user    string
	reading sync.WaitGroup

	mu      sync.Mutex
	users   []string
	left    []string
	answers map[string]string // by id: the type of the answer, with the code of an error
	data    []string
	ended   error
}

// enter connects to a node and joins a room; the outcome comes through outcome.
func enter(t *testing.T, n *systemtest.Node, room string) *member {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := client.Dial(ctx, n.URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m := &member{t: t, conn: conn, answers: map[string]string{}}
	first, err := conn.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m.user = first.UserID
	m.reading.Go(m.read)
	m.join("join", room)
	return m
}

func (m *member) join(id, room string) {
	m.say(client.Message{Type: "join_room", ID: id, Data: document(map[string]string{"room_id": room})})
}

func (m *member) say(message client.Message) {
	m.t.Helper()
	if err := m.conn.Send(message); err != nil {
		m.t.Error(err)
	}
}

func (m *member) read() {
	for {
		message, err := m.conn.Next(context.Background())
		m.mu.Lock()
		if err != nil {
			m.ended = err
			m.mu.Unlock()
			return
		}
		m.hear(message)
		m.mu.Unlock()
	}
}

func (m *member) hear(message client.Message) {
	switch message.Type {
	case "user_joined":
		var joined struct{ Users []string }
		if err := message.Document(&joined); err != nil {
			m.t.Error(err)
		}
		m.users = joined.Users
	case "user_left":
		m.left = append(m.left, message.UserID)
		m.users = slices.DeleteFunc(m.users, func(u string) bool { return u == message.UserID })
	case "message":
		m.data = append(m.data, string(message.Data))
	case "error":
		var problem struct{ Code int }
		if err := message.Document(&problem); err != nil {
			m.t.Error(err)
		}
		m.answers[message.ID] = fmt.Sprint("error ", problem.Code)
	default:
		m.answers[message.ID] = message.Type
	}
}

// answer waits for what the server says to the message with that id.
func (m *member) answer(id string) string {
	m.t.Helper()
	var answer string
	eventually(m.t, "an answer to "+id, func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		answer = m.answers[id]
		if answer == "" {
			return fmt.Errorf("%s waits; its connection: %v", m.user, m.ended)
		}
		return nil
	})
	return answer
}

// sees returns an error unless the member was told of exactly those users.
func (m *member) sees(users []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended != nil {
		return fmt.Errorf("the connection of %s ended: %w", m.user, m.ended)
	}
	if !slices.Equal(slices.Sorted(slices.Values(m.users)), slices.Sorted(slices.Values(users))) {
		return fmt.Errorf("%s sees %v, not %v", m.user, m.users, users)
	}
	return nil
}

func allSee(members []*member, users []string) error {
	var errs []error
	for _, m := range members {
		errs = append(errs, m.sees(users))
	}
	return errors.Join(errs...)
}

func usersOf(members ...*member) []string {
	var users []string
	for _, m := range members {
		users = append(users, m.user)
	}
	return users
}

// TestCapOfTheCluster lets 200 clients of four nodes race for the ten places of a room.
func TestCapOfTheCluster(t *testing.T) {
	nodes := startNodes(t, 4, redistest.Start(t))
	var racing sync.WaitGroup
	members := make([]*member, 200)
	for i := range members {
		racing.Go(func() { members[i] = enter(t, nodes[i%4], "small") })
	}
	racing.Wait()
	count := map[string]int{}
	for _, m := range members {
		count[m.answer("join")]++
	}
	if count["ack"] != 10 || count["room_full"] != 190 || len(count) != 2 {
		t.Errorf("the joins were answered %v", count)
	}
}

// TestKilledNode kills one node of three whose clients do not come back; those of the others see each of
// its members leave once, and nobody else.
func TestKilledNode(t *testing.T) {
	nodes := startNodes(t, 3, redistest.Start(t), "--resume-grace", "1")
	var stay, lost []*member
	for room := range 4 {
		for i := range 9 {
			m := enter(t, nodes[i%3], "room"+strconv.Itoa(room))
			if answer := m.answer("join"); answer != "ack" {
				t.Fatalf("join: %s", answer)
			}
			if i%3 == 2 {
				lost = append(lost, m)
			} else {
				stay = append(stay, m)
			}
		}
	}
	room := func(all []*member, i, each int) []*member { return all[i*each : (i+1)*each] }
	for i := range 4 { // Who has not been seen to come is not seen to leave.
		everybody := slices.Concat(room(stay, i, 6), room(lost, i, 3))
		eventually(t, "everybody sees everybody", func() error { return allSee(everybody, usersOf(everybody...)) })
	}
	nodes[2].Kill()
	killed := time.Now()
	for i := range 4 {
		eventually(t, "the survivors are alone", func() error { return allSee(room(stay, i, 6), usersOf(room(stay, i, 6)...)) })
	}
	t.Logf("the survivors know after %s of a lease of %s and a grace of 1 s", time.Since(killed).Round(time.Millisecond), lease)
	for i := range 4 {
		for _, m := range room(stay, i, 6) {
			m.mu.Lock()
			if got, want := slices.Sorted(slices.Values(m.left)), slices.Sorted(slices.Values(usersOf(room(lost, i, 3)...))); !slices.Equal(got, want) {
				t.Errorf("%s saw %v leave, not %v", m.user, got, want)
			}
			m.mu.Unlock()
		}
	}
}

// TestRedisAway stops Redis under three nodes and brings it back empty: nobody is disconnected,
// neighbours on one node go on talking, others are told to try again, and all is well afterwards.
func TestRedisAway(t *testing.T) {
	shared := redistest.Start(t)
	nodes := startNodes(t, 3, shared)
	var all []*member
	for i := range 6 {
		all = append(all, enter(t, nodes[i%3], "room"))
		if answer := all[i].answer("join"); answer != "ack" {
			t.Fatalf("join: %s", answer)
		}
	}
	eventually(t, "everybody sees everybody", func() error { return allSee(all, usersOf(all...)) })
	shared.Kill()
	stopped := time.Now()
	for round := 0; time.Since(stopped) < max(*outage, 3*lease); round++ {
		for i, m := range all {
			near, far := strconv.Itoa(round)+"near", strconv.Itoa(round)+"far"
			m.say(client.Message{Type: "message", ID: near, TargetID: all[(i+3)%6].user, Data: document(near)})
			if answer := m.answer(near); answer != "ack" {
				t.Fatalf("a message to a neighbour is answered %q", answer)
			}
			m.say(client.Message{Type: "message", ID: far, TargetID: all[(i+1)%6].user, Data: document(far)})
			if answer := m.answer(far); answer != "error 503" {
				t.Fatalf("a message to another node is answered %q", answer)
			}
		}
		for _, n := range nodes {
			if err := n.Get("health"); err != nil {
				t.Fatalf("health: %v", err)
			}
		}
		wait(t.Context(), 5*beat) // The rate limit allows no more.
	}
	shared.Start()
	back := time.Now()
	for i := range nodes {
		nodes[i].Ready()
		m := enter(t, nodes[i], "room")
		if answer := m.answer("join"); answer != "ack" {
			t.Fatalf("joining afterwards: %s", answer)
		}
		all = append(all, m)
	}
	eventually(t, "everybody sees everybody again", func() error { return allSee(all, usersOf(all...)) })
	t.Logf("the rooms converged within %s", time.Since(back).Round(time.Millisecond))
	eventually(t, "everybody hears everybody", func() error {
		id := strconv.FormatInt(time.Now().UnixNano(), 10)
		for i, m := range all {
			m.say(client.Message{Type: "message", ID: id, TargetID: all[(i+1)%len(all)].user, Data: document(id)})
			if answer := m.answer(id); answer != "ack" {
				return errors.New(answer)
			}
		}
		return nil
	})
	for _, m := range all {
		m.mu.Lock()
		if len(m.left) > 0 {
			t.Errorf("%s was told that %v left", m.user, m.left)
		}
		m.mu.Unlock()
	}
}

package signal_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"cline-meet/signal/signal/client"
)

// answerTime is how long a participant waits for an answer before it complains.
const answerTime = patience

// participant is one user of the chaos, which keeps book of what it is told.
type participant struct {
	chaos  *chaos
	random *rand.Rand
	number int
	// Owned by the acting goroutine.
	conn    *client.Client
	last    *client.Client // last is the last connection that was greeted, which a resume goes on from.
	reading sync.WaitGroup
	next    int          // next counts ids.
	said    int          // said counts attempts.
	pending []*utterance // pending are the lines that may have to be said again.

	// The chaos' lock guards what follows.
	cookie  *http.Cookie
	life    *life
	room    string // room is where the participant is a member, empty for nowhere.
	leaving bool   // leaving says that a room may still have to be left.
	users   []string
	since   map[string]time.Time // since is when it was shown each of them.
	left    map[string]bool      // left are those who were shown as left in this stay.
	lines   map[string]*utterance
	waiting map[string]chan client.Message // waiting are for the answers, by id.
	ended   chan struct{}                  // ended is closed when the connection has ended.
	started chan struct{}                  // started is closed when the node has greeted and sent what it kept.
	greeted bool
	kept    int    // kept is how many messages of before the greeting are still to come.
	gap     bool   // gap says that it was greeted with one.
	placed  string // placed is the room that it was told it is in since it was greeted.
	moving  bool   // moving says that the node asked to go to another.
	node    int    // node is where the connection is, or is being made.
	source  string
	cutAt   time.Time // cutAt is when the participant itself ended the connection, zero if it did not.
	giveUp  func()    // giveUp ends the connection, or the attempt to make one.
}

func newParticipant(c *chaos, number int, random *rand.Rand) *participant {
	return &participant{chaos: c, random: random, number: number, since: map[string]time.Time{}, lines: map[string]*utterance{}, waiting: map[string]chan client.Message{}, giveUp: func() {}}
}

// Two of three participants enter one room and stay there: what a long stay promises can only be seen there. Every
// fourth comes back to its own node as long as that takes it. Every fifth puts up with nodes of an older version. Every other
// one keeps no cookies, unless there are such nodes, which need them for a resume.
func (p *participant) resident() bool { return p.number%3 != 0 }
func (p *participant) loyal() bool    { return p.number%4 == 1 }
func (p *participant) tolerant() bool { return p.number%5 == 2 }
func (p *participant) jarless() bool  { return p.number%2 == 1 && !p.chaos.plan.older }

func (p *participant) home() string { return "r" + strconv.Itoa(p.number/3%chaosRooms) }

// act does one thing after another until ctx ends.
func (p *participant) act(ctx context.Context) {
	for ctx.Err() == nil {
		wait(ctx, time.Duration(p.random.IntN(600))*time.Millisecond)
		switch {
		case !p.connected() || p.asked():
			p.connect()
		case p.mustLeave():
			p.leave()
		case len(p.pending) > 0:
			p.retry()
		default:
			p.choose()
		}
	}
}

func (p *participant) choose() {
	_, room := p.where()
	switch dice := p.random.IntN(100); {
	case room == "" && p.resident():
		p.join(p.home())
	case room == "" || dice < 5 && !p.resident():
		p.join("r" + strconv.Itoa(p.random.IntN(chaosRooms)))
	case dice < 8 && !p.resident():
		p.leave()
	case dice < 14:
		p.cut()
	case dice < 50:
		p.talk(1, false)
	case dice < 90:
		p.talk(1, true)
	default:
		p.talk(2+p.random.IntN(6), p.random.IntN(2) == 0)
	}
}

func (p *participant) connected() bool {
	if p.conn == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// connect opens a connection to a node, resuming if there is something to resume.
func (p *participant) connect() {
	p.hangUp()
	node := p.chaos.anyNode(p)
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	header := p.prepare(node, cancel)
	dial := client.Dial
	if p.last != nil {
		dial = p.last.Resume
	}
	conn, err := dial(ctx, node.URL+"ws", header)
	if err != nil {
		return // The node may be gone; another may be there the next time.
	}
	p.chaos.mu.Lock()
	if cookies := conn.Cookies(); len(cookies) > 0 && !p.jarless() {
		p.cookie = cookies[0]
	}
	p.chaos.mu.Unlock()
	p.conn = conn
	p.reading.Go(p.read)
	select {
	case <-p.started:
		p.last = conn
	case <-p.ended: // Its session cannot be reached now.
		if p.welcomed() {
			p.last = conn
		}
	case <-ctx.Done():
		conn.Cut()
		<-p.ended
		if context.Cause(ctx) == context.DeadlineExceeded {
			p.fault("no greeting within %s", answerTime)
		}
		if p.welcomed() {
			p.last = conn
		}
	}
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	p.giveUp = conn.Cut
}

// prepare notes that the participant is about to connect to a node and returns the header with its cookie.
func (p *participant) prepare(node *chaosNode, cancel func()) http.Header {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	p.ended, p.started = make(chan struct{}), make(chan struct{})
	p.greeted, p.moving, p.kept, p.cutAt = false, false, 0, time.Time{}
	p.node, p.source = node.number, node.process()
	p.giveUp = cancel
	if p.life != nil {
		p.life.visits = append(p.life.visits, visit{node.number, time.Now()})
		p.life.older = p.life.older || node.older.Load()
	}
	header := http.Header{}
	if p.cookie != nil {
		header.Set("Cookie", p.cookie.Name+"="+p.cookie.Value)
	}
	return header
}

// hangUp cuts the connection, if there is one.
func (p *participant) hangUp() {
	if p.conn != nil {
		p.cut() // What had come is taken in first.
		_ = p.conn.Close()
		p.reading.Wait()
		p.conn = nil
	}
}

// cut ends the connection, if it has not ended, and waits until that has been heard. Nobody knows better than who does it since when it is away.
func (p *participant) cut() {
	p.chaos.mu.Lock()
	p.cutAt = time.Now()
	p.chaos.mu.Unlock()
	p.conn.Cut()
	<-p.ended
}

// revive gets the participant a connection, and has it leave the room that it has given up.
func (p *participant) revive() {
	deadline := time.Now().Add(patience)
	for (!p.connected() || p.mustLeave()) && time.Now().Before(deadline) {
		if p.connected() {
			p.leave()
			continue
		}
		p.connect()
	}
}

// request sends a message under a new id and waits for its answer, whose type is empty when there is none.
func (p *participant) request(m client.Message) client.Message {
	p.next++
	m.ID = strconv.Itoa(p.next)
	answer := p.expect(m.ID)
	if err := p.conn.Send(m); err != nil {
		p.conn.Cut()
	}
	return p.await(answer, m.Type)
}

// expect returns where the answer to an id will come.
func (p *participant) expect(id string) chan client.Message {
	answer := make(chan client.Message, 1)
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	p.waiting[id] = answer
	return answer
}

// await waits for an answer or the end of the connection.
func (p *participant) await(answer chan client.Message, what string) client.Message {
	select {
	case m := <-answer:
		return m
	case <-p.ended:
	case <-time.After(answerTime):
		p.fault("no answer to %s within %s", what, answerTime)
	}
	return client.Message{}
}

// join enters a room. Without an answer it is not known where the participant is before it is told; it tries
// again then.
func (p *participant) join(room string) {
	p.chaos.mu.Lock()
	life, former := p.life, p.room
	if former != "" && former != room {
		life.endings = append(life.endings, ending{former, span{from: time.Now()}})
	}
	p.chaos.mu.Unlock()
	m := p.request(client.Message{Type: "join_room", Data: document(map[string]string{"room_id": room})})
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	if n := len(life.endings) - 1; former != "" && former != room && m.Type != "" {
		life.endings[n].until = time.Now()
	}
}

// leave leaves the room. When the connection ends before the answer it is not known whether it did,
// and it has to be said again.
func (p *participant) leave() {
	p.chaos.mu.Lock()
	life := p.life
	if p.room != "" {
		life.endings = append(life.endings, ending{p.room, span{from: time.Now()}})
		p.endStay()
	}
	p.leaving = true
	p.chaos.mu.Unlock()
	if m := p.request(client.Message{Type: "leave_room"}); m.Type != "" {
		p.chaos.mu.Lock()
		defer p.chaos.mu.Unlock()
		p.leaving = false
		if n := len(life.endings) - 1; n >= 0 {
			life.endings[n].until = time.Now()
		}
	}
}

// talk says some lines to another member or to all without waiting between them, and then waits for the
// answers.
func (p *participant) talk(count int, all bool) {
	var lines []*utterance
	for range count {
		if l := p.compose(all); l != nil {
			lines = append(lines, l)
		}
	}
	p.say(lines)
}

// compose returns a line for another member or for all, nil if there is nobody else.
func (p *participant) compose(all bool) *utterance {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	others := p.others()
	if p.room == "" || len(others) == 0 {
		return nil
	}
	p.next++
	l := &utterance{from: p.life.user, id: strconv.Itoa(p.next), room: p.room}
	if !all {
		l.to = others[p.random.IntN(len(others))]
	}
	p.lines[l.id] = l
	return l
}

// say says lines, new ones or again. What has to be said again is pending afterwards.
func (p *participant) say(lines []*utterance) {
	answers := make([]chan client.Message, len(lines))
	for i, l := range lines {
		answers[i] = p.expect(l.id)
		if err := p.conn.Send(p.attempt(l)); err != nil {
			p.conn.Cut()
			break
		}
	}
	for i, l := range lines {
		m := client.Message{}
		if answers[i] != nil {
			m = p.await(answers[i], "a message")
		}
		if (m.Type != "ack" || len(m.Missed) > 0) && p.random.IntN(5) > 0 {
			p.pending = append(p.pending, l)
		}
	}
}

// attempt notes that a line is said once more, and returns it as it is sent.
func (p *participant) attempt(l *utterance) client.Message {
	p.said++
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	view := p.others()
	if l.to != "" {
		view = []string{l.to}
	}
	if len(l.attempts) == 0 {
		p.chaos.record.lines = append(p.chaos.record.lines, l)
	}
	l.attempts = append(l.attempts, attempt{number: p.said, source: p.source, view: view, since: maps.Clone(p.since), at: time.Now()})
	return client.Message{Type: "message", ID: l.id, TargetID: l.to, Data: document(l.id + "." + strconv.Itoa(p.said))}
}

// retry says what is pending once more, unless that is for another room or was answered meanwhile.
func (p *participant) retry() {
	lines := p.pending
	p.pending = nil
	p.chaos.mu.Lock()
	lines = slices.DeleteFunc(lines, func(l *utterance) bool {
		return l.from != p.life.user || l.room != p.room || l.settled() || len(l.attempts) > 8
	})
	p.chaos.mu.Unlock()
	p.say(lines)
}

// settled reports whether there is nothing to say again: all have the line, or it makes no sense any more.
func (l *utterance) settled() bool {
	if len(l.answers) == 0 {
		return false
	}
	last := l.answers[len(l.answers)-1]
	return last.kind == "ack" && len(last.missed) == 0 || last.refused() && last.kind != "error 503"
}

// others returns who else is in the room, as far as the participant knows. It is called with the lock held.
func (p *participant) others() []string {
	return slices.DeleteFunc(slices.Clone(p.users), func(u string) bool { return u == p.life.user })
}

func (p *participant) fault(format string, args ...any) {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	p.faultLocked(format, args...)
}

func (p *participant) faultLocked(format string, args ...any) {
	user := "somebody"
	if p.life != nil {
		user = p.life.user
	}
	p.chaos.faults = append(p.chaos.faults, fmt.Sprintf("fault: %s, on node %s at %s: ", user, p.source, clock(time.Now()))+fmt.Sprintf(format, args...))
}

// where returns who the participant is and its room, empty for none.
func (p *participant) where() (user, room string) {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	if p.life == nil {
		return "", ""
	}
	return p.life.user, p.room
}

// mustLeave reports whether a room may still have to be left.
func (p *participant) mustLeave() bool {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	return p.leaving
}

// asked reports whether the node asked the participant to go to another one.
func (p *participant) asked() bool {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	return p.moving
}

// welcomed reports whether the last connection was greeted.
func (p *participant) welcomed() bool {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	return p.greeted
}

// sees compares what the participant was told of its room with who is there.
func (p *participant) sees(rooms map[string][]string) error {
	p.chaos.mu.Lock()
	defer p.chaos.mu.Unlock()
	if p.room == "" {
		return nil
	}
	users := slices.Sorted(slices.Values(p.users))
	if !slices.Equal(users, rooms[p.room]) {
		return fmt.Errorf("%s on node %s sees %v in %s, where %v are", p.life.user, p.source, users, p.room, rooms[p.room])
	}
	return nil
}

package signal_test

import (
	"context"
	"encoding/json"
	"fmt"
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
	last    *client.Client // the last connection that was greeted, which a resume goes on from
	reading sync.WaitGroup
	next    int

	mu      sync.Mutex
	cookie  *http.Cookie
	user    string
	room    string // room is where the participant is a member, empty for nowhere.
	since   time.Time
	leaving bool // leaving says that a room may still have to be left.
	users   []string
	heard   map[string][]int // heard are the numbers of messages by sender.
	waiting map[string]chan string
	ended   chan struct{} // ended is closed when the connection has ended.
	started chan struct{} // started is closed when the node has greeted.
	greeted bool
	joined  chan string
	faults  []string
}

func newParticipant(c *chaos, number int, random *rand.Rand) *participant {
	return &participant{chaos: c, random: random, number: number, heard: map[string][]int{}, waiting: map[string]chan string{}}
}

// act does one thing after another until ctx ends.
func (p *participant) act(ctx context.Context) {
	for ctx.Err() == nil {
		wait(ctx, time.Duration(p.random.IntN(600))*time.Millisecond)
		if !p.connected() {
			p.connect()
			continue
		}
		if p.mustLeave() {
			p.leave()
			continue
		}
		_, room := p.where()
		switch dice := p.random.IntN(100); {
		case room == "" || dice < 5:
			p.join("r" + strconv.Itoa(p.random.IntN(chaosRooms)))
		case dice < 8:
			p.leave()
		case dice < 14:
			p.conn.Cut()
			<-p.ended
		default:
			p.talk()
		}
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

// connect opens a connection to any node, resuming if there is something to resume.
func (p *participant) connect() {
	p.hangUp()
	p.mu.Lock()
	target := p.chaos.anyNode(p.random) + "ws"
	header := http.Header{}
	if p.cookie != nil {
		header.Set("Cookie", p.cookie.Name+"="+p.cookie.Value)
	}
	p.ended, p.started, p.joined = make(chan struct{}), make(chan struct{}), make(chan string, 1)
	p.greeted = false
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	dial := client.Dial
	if p.last != nil {
		dial = p.last.Resume
	}
	conn, err := dial(ctx, target, header)
	if err != nil {
		return // The node may be gone; another may be there the next time.
	}
	p.mu.Lock()
	if cookies := conn.Cookies(); len(cookies) > 0 {
		p.cookie = cookies[0]
	}
	p.mu.Unlock()
	p.conn = conn
	p.reading.Go(p.read)
	select {
	case <-p.started:
		p.last = conn
	case <-p.ended: // Its session cannot be reached now.
	case <-ctx.Done():
		p.fault("no stun_config within %s", answerTime)
	}
}

// hangUp cuts the connection, if there is one.
func (p *participant) hangUp() {
	if p.conn != nil {
		p.conn.Cut()
		<-p.ended // What had come is taken in first.
		_ = p.conn.Close()
		p.reading.Wait()
		p.conn = nil
	}
}

// revive gets the participant a connection, and its room if it had one.
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

func (p *participant) join(room string) {
	p.mu.Lock()
	joined := p.joined
	p.mu.Unlock()
	select {
	case <-joined: // An error before was about something else.
	default:
	}
	if err := p.conn.Join(room); err != nil {
		return
	}
	select {
	case <-joined:
	case <-p.ended:
	case <-time.After(8 * time.Second): // It tries again later.
	}
}

// leave leaves the room. When the connection ends before the answer it is not known whether it did,
// and it has to be said again.
func (p *participant) leave() {
	p.next++
	id, answer := strconv.Itoa(p.next), make(chan string, 1)
	p.mu.Lock()
	p.room, p.users, p.leaving = "", nil, true
	p.waiting[id] = answer
	p.mu.Unlock()
	if err := p.conn.Send(client.Message{Type: "leave_room", ID: id}); err != nil {
		return
	}
	select {
	case <-answer:
		p.mu.Lock()
		p.leaving = false
		p.mu.Unlock()
	case <-p.ended:
	case <-time.After(answerTime):
		p.fault("no answer to leaving within %s", answerTime)
	}
}

// talk sends one message to another member and waits for its answer.
func (p *participant) talk() {
	p.mu.Lock()
	others := slices.DeleteFunc(slices.Clone(p.users), func(u string) bool { return u == p.user })
	if len(others) == 0 {
		p.mu.Unlock()
		return
	}
	p.next++
	u := &utterance{from: p.user, to: others[p.random.IntN(len(others))], room: p.room, number: p.next, at: time.Now()}
	id := strconv.Itoa(p.next)
	answer := make(chan string, 1)
	p.waiting[id] = answer
	p.mu.Unlock()
	p.chaos.mu.Lock()
	p.chaos.sent = append(p.chaos.sent, u)
	p.chaos.mu.Unlock()
	if err := p.conn.Send(client.Message{Type: "message", ID: id, TargetID: u.to, Data: document(u.number)}); err != nil {
		return
	}
	select {
	case kind := <-answer:
		p.chaos.mu.Lock()
		u.acknowledged = kind == "ack"
		p.chaos.mu.Unlock()
	case <-p.ended:
	case <-time.After(answerTime):
		p.fault("no answer to a message within %s", answerTime)
	}
}

// read takes in what the server says until the connection ends.
func (p *participant) read() {
	defer close(p.ended)
	for {
		m, err := p.conn.Next(context.Background())
		if err != nil {
			return
		}
		p.mu.Lock()
		p.hear(m)
		p.mu.Unlock()
	}
}

// hear is called with mu held.
func (p *participant) hear(m client.Message) {
	switch m.Type {
	case "stun_config":
		p.hearStart(m)
	case "ack", "room_full":
		p.answered(m)
	case "error":
		p.answered(m)
		var problem struct{ Code int }
		if _ = m.Document(&problem); problem.Code == 410 {
			p.lose()
		}
	case "user_joined":
		p.hearJoined(m)
	case "user_left":
		if m.RoomID == p.room {
			p.users = slices.DeleteFunc(p.users, func(u string) bool { return u == m.UserID })
		}
	case "message":
		p.hearMessage(m)
	}
}

func (p *participant) hearStart(m client.Message) {
	var start struct {
		Resumed bool `json:"resumed"`
	}
	if err := json.Unmarshal(m.Data, &start); err != nil {
		p.faults = append(p.faults, fmt.Sprintf("stun_config: %v", err))
	}
	if p.greeted {
		return // Fresh servers, not a fresh connection.
	}
	p.greeted = true
	close(p.started)
	p.chaos.mu.Lock()
	if start.Resumed {
		p.chaos.resumed++
	} else {
		p.chaos.refused++
	}
	p.chaos.mu.Unlock()
	if start.Resumed && m.UserID != p.user {
		p.faults = append(p.faults, fmt.Sprintf("%s came back as %s", p.user, m.UserID))
	}
	if !start.Resumed {
		p.lose()
		p.user = m.UserID
	}
}

// lose notes that the participant is a member of nothing any more.
func (p *participant) lose() { p.room, p.users, p.leaving = "", nil, false }

func (p *participant) answered(m client.Message) {
	if waiting := p.waiting[m.ID]; waiting != nil {
		waiting <- m.Type
		delete(p.waiting, m.ID)
	}
	if m.Type == "room_full" || m.Type == "error" {
		p.pass()
	}
}

func (p *participant) pass() {
	select {
	case p.joined <- "":
	default:
	}
}

func (p *participant) hearJoined(m client.Message) {
	var joined struct{ Users []string }
	if err := m.Document(&joined); err != nil {
		p.faults = append(p.faults, fmt.Sprintf("user_joined: %v", err))
	}
	if m.UserID == p.user && p.leaving {
		p.pass()
		return // It joined before it said that it leaves, which the server hears after that.
	}
	if m.UserID == p.user {
		if p.room != m.RoomID {
			p.since = time.Now()
		}
		p.room = m.RoomID
		p.pass()
	}
	if m.RoomID == p.room {
		p.users = joined.Users
	}
}

func (p *participant) hearMessage(m client.Message) {
	number, err := strconv.Atoi(string(m.Data))
	if err != nil {
		p.faults = append(p.faults, fmt.Sprintf("a message with data %s", m.Data))
		return
	}
	before := p.heard[m.UserID]
	if len(before) > 0 && before[len(before)-1] >= number {
		p.faults = append(p.faults, fmt.Sprintf("%s heard number %d of %s after number %d", p.user, number, m.UserID, before[len(before)-1]))
	}
	p.heard[m.UserID] = append(before, number)
}

func (p *participant) fault(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, p.user+": "+fmt.Sprintf(format, args...))
}

// where returns who the participant is and its room, empty for none.
func (p *participant) where() (user, room string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.user, p.room
}

// mustLeave reports whether a room may still have to be left.
func (p *participant) mustLeave() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leaving
}

// stayedSince reports whether the participant was in the room at that time and has been since.
func (p *participant) stayedSince(room string, at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.room == room && p.since.Before(at)
}

func (p *participant) heardOnce(u *utterance) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.heard[u.from], u.number) // Twice would be out of order, which is a fault.
}

// sees compares what the participant was told of its room with who is there.
func (p *participant) sees(rooms map[string][]string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.room == "" {
		return nil
	}
	users := slices.Sorted(slices.Values(p.users))
	if !slices.Equal(users, rooms[p.room]) {
		return fmt.Errorf("%s sees %v in %s, where %v are", p.user, users, p.room, rooms[p.room])
	}
	return nil
}

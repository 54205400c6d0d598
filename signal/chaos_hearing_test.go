package signal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"cline-meet/signal/signal/client"
)

// closeLost is the code that says that messages may be missing.
const closeLost = 4002

// read takes in what the server says until the connection ends.
func (p *participant) read() {
	defer close(p.ended)
	for {
		m, err := p.conn.Next(context.Background())
		now := time.Now() // The lock may take long.
		p.chaos.mu.Lock()
		if err != nil {
			p.hearEnd(err, now)
			p.chaos.mu.Unlock()
			return
		}
		p.hear(m)
		p.chaos.mu.Unlock()
	}
}

// What follows is called with the lock held.

func (p *participant) hearEnd(err error, now time.Time) {
	if !p.greeted {
		return
	}
	if !p.cutAt.IsZero() {
		now = p.cutAt
	}
	p.life.away = append(p.life.away, span{from: now})
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		return
	}
	p.chaos.count(fmt.Sprint("close ", closed.Code))
	if closed.Code == closeLost {
		p.life.gaps = append(p.life.gaps, gap{at: now})
	}
}

func (p *participant) hear(m client.Message) {
	switch m.Type {
	case "stun_config":
		p.hearStart(m)
		return
	case "reconnect":
		p.moving = true
		return
	case "ack", "room_full", "error":
		p.hearAnswer(m)
	case "user_joined":
		p.hearJoined(m)
	case "user_left":
		p.hearLeft(m)
	case "message":
		p.hearMessage(m)
	}
	if p.kept--; p.kept == 0 {
		p.start()
	}
}

// start notes that the node has greeted and sent what it kept. Who has missed something and was not told by then of a room
// that it is in is in none: it was away for too long, while its node ended.
func (p *participant) start() {
	if p.gap && p.room != "" && p.room != p.placed {
		p.chaos.count("in no room any more")
		p.life.unplaced = append(p.life.unplaced, p.life.away[len(p.life.away)-1].until)
		p.endStay()
	}
	p.gap = false
	close(p.started)
}

func (p *participant) hearStart(m client.Message) {
	if p.greeted {
		return // Fresh servers, not a fresh connection.
	}
	p.greeted = true
	start, err := m.Greeting()
	if err != nil {
		p.faultLocked("stun_config: %v", err)
	}
	now := time.Now()
	if p.life != nil {
		p.life.back(now)
	}
	switch {
	case start.Resumed && p.life == nil:
		p.faultLocked("a new session is resumed")
	case start.Resumed:
		p.goOn(m.UserID, start.Gap)
	default:
		p.begin(m.UserID, now)
	}
	p.gap, p.placed = start.Resumed && start.Gap, ""
	if p.kept = start.Kept; p.kept == 0 {
		p.start()
	}
}

// goOn notes that the session goes on.
func (p *participant) goOn(user string, missed bool) {
	p.chaos.count("resumed")
	if user != p.life.user {
		p.faultLocked("came back as %s", user)
	}
	if missed {
		p.chaos.count("resumed with a gap")
		p.life.gaps = append(p.life.gaps, gap{greeting: true, at: time.Now()})
	}
}

// begin begins the life of a new user, after the one before has lost its session.
func (p *participant) begin(user string, now time.Time) {
	visited := visit{p.node, now}
	if p.life != nil {
		p.chaos.count("told to join again")
		p.lose(now)
	}
	p.life = &life{user: user, visits: []visit{visited}, older: p.chaos.nodes[p.node].older.Load()}
	p.lines = map[string]*utterance{}
	p.chaos.record.lives = append(p.chaos.record.lives, p.life)
}

// lose notes that the participant is a member of nothing any more.
func (p *participant) lose(now time.Time) {
	p.life.lost = now
	p.endStay()
	p.leaving = false
}

// back notes that a user is not away any more.
func (f *life) back(now time.Time) {
	if n := len(f.away) - 1; n >= 0 && f.away[n].until.IsZero() {
		f.away[n].until = now
	}
}

func (p *participant) endStay() {
	if n := len(p.life.stays) - 1; n >= 0 && p.life.stays[n].until.IsZero() {
		p.life.stays[n].until = time.Now()
	}
	p.room, p.users = "", nil
}

func (p *participant) hearAnswer(m client.Message) {
	kind := m.Type
	if kind == "error" {
		var problem struct {
			Code    int
			Message string
		}
		if err := m.Document(&problem); err != nil {
			p.faultLocked("error: %v", err)
		}
		kind = "error " + strconv.Itoa(problem.Code)
		if m.ID == "" && p.room != "" {
			p.faultLocked("%s: %s", kind, problem.Message)
		}
		if problem.Code == 410 && p.room != "" {
			p.lose(time.Now())
		}
	}
	p.chaos.count(kind)
	if l := p.lines[m.ID]; l != nil {
		l.answers = append(l.answers, answer{kind: kind, missed: m.Missed, attempts: len(l.attempts), at: time.Now()})
		if len(m.Missed) > 0 {
			p.chaos.count("ack with missed")
		}
	}
	if waiting := p.waiting[m.ID]; waiting != nil {
		waiting <- m
		delete(p.waiting, m.ID)
	}
}

func (p *participant) hearJoined(m client.Message) {
	var joined struct{ Users []string }
	if err := m.Document(&joined); err != nil {
		p.faultLocked("user_joined: %v", err)
	}
	if m.UserID != p.life.user {
		if m.RoomID == p.room {
			if slices.Contains(p.users, m.UserID) {
				p.chaos.count("user_joined of somebody who is there")
			}
			p.users, p.since[m.UserID] = joined.Users, time.Now()
			delete(p.left, m.UserID)
		}
		return
	}
	p.placed = m.RoomID
	if p.leaving {
		return // It joined before it said that it leaves, which the server hears after that.
	}
	if p.room != m.RoomID {
		p.endStay()
		p.room, p.since = m.RoomID, map[string]time.Time{}
		p.life.stays = append(p.life.stays, stay{m.RoomID, span{from: time.Now()}})
	}
	p.users, p.left = joined.Users, map[string]bool{}
	for _, user := range joined.Users {
		if p.since[user].IsZero() {
			p.since[user] = time.Now()
		}
	}
}

func (p *participant) hearLeft(m client.Message) {
	if m.RoomID != p.room {
		return
	}
	p.users = slices.DeleteFunc(p.users, func(u string) bool { return u == m.UserID })
	p.left[m.UserID] = true
	delete(p.since, m.UserID)
	p.life.departures = append(p.life.departures, departure{m.UserID, m.RoomID, time.Now()})
}

func (p *participant) hearMessage(m client.Message) {
	var text string
	_ = json.Unmarshal(m.Data, &text) // What is no text is no number either.
	id, after, _ := strings.Cut(text, ".")
	number, err := strconv.Atoi(after)
	if err != nil {
		p.faultLocked("a message with data %s", m.Data)
		return
	}
	h := hearing{from: m.UserID, line: id, number: number, at: time.Now()}
	if m.RoomID == p.room && !slices.Contains(p.users, m.UserID) {
		h.shown = stranger
		if p.left[m.UserID] {
			h.shown = gone
		}
	}
	p.life.heard = append(p.life.heard, h)
}

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"cline-meet/signal/signal/bench/measure"
	"cline-meet/signal/signal/client"
)

const (
	// perRoamRoom is how many clients there are for each room: some rooms become full.
	perRoamRoom = 6

	// maxAway is how long a client stays away at most before it resumes.
	maxAway = 300 * time.Millisecond

	// quiet is how long clients wait for what is owed to them when all have stopped to act.
	quiet = 20 * time.Second
)

// roam lets clients join, send, lose their connection, resume and leave at random, and checks what the
// contract says: who is there gets every message that was acked, once and in order, whatever happens
// to its connection, and sees who is in its room.
func roam(ctx context.Context, s scenario, t *target, o Options) (result, error) {
	book := newLedger()
	all := newCrowd(s, "http://"+t.Address+t.dialect.path(""), book)
	defer all.close()
	if err := all.each(ctx, (*roamer).connect); err != nil {
		return result{}, err
	}
	start, cpu := time.Now(), t.CPU()
	err := all.each(ctx, func(r *roamer, ctx context.Context) error { return r.roam(ctx, start.Add(o.Duration)) })
	if err != nil {
		return result{}, err
	}
	used, seconds := t.CPU()-cpu, time.Since(start).Seconds()
	if err := all.each(ctx, (*roamer).finish); err != nil {
		return result{}, err
	}
	settled := time.Now().Add(quiet)
	err = all.each(ctx, func(r *roamer, ctx context.Context) error { return r.settle(ctx, settled) })
	r := book.result()
	r.Seconds, r.Rate, r.Load = seconds, float64(r.Delivered)/seconds, used.Seconds()/seconds
	r.CPU = float64(used.Microseconds()) / float64(max(r.Delivered, 1))
	return r, err
}

// crowd are the clients of a churn.
type crowd []*roamer

func newCrowd(s scenario, url string, book *ledger) crowd {
	roomOf := newRoomNames()
	all := make(crowd, s.clients)
	for i := range all {
		all[i] = &roamer{
			number: i, url: url, book: book, random: rand.New(rand.NewPCG(uint64(i), rand.Uint64())),
			pause: time.Duration(s.clients) * time.Second / time.Duration(s.rate),
			room:  func(r *rand.Rand) string { return roomOf(r.IntN(s.clients/perRoamRoom + 1)) },
		}
	}
	return all
}

// each lets all clients do something at the same time, until one fails.
func (c crowd) each(ctx context.Context, do func(*roamer, context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for _, r := range c {
		running.Go(func() {
			if err := do(r, ctx); err != nil {
				cancel(fmt.Errorf("client %d: %w", r.number, err))
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}

func (c crowd) close() {
	for _, r := range c {
		r.close()
	}
}

// roamer is one client of a churn. One goroutine at a time uses it.
type roamer struct {
	number int
	url    string
	book   *ledger
	random *rand.Rand
	pause  time.Duration                  // pause is the mean time between two actions.
	room   func(random *rand.Rand) string // room returns a room to go to.

	c     *client.Client
	login http.Header // login is the cookie of the session.
	user  string
	in    string   // in is the room, empty for none.
	seen  []string // seen are the users in it.
	sent  int      // sent counts messages and requests of all sessions.
	leave string   // leave is the id of a leave_room that is not acked.
}

// connect begins a session.
func (r *roamer) connect(ctx context.Context) error {
	c, err := client.Dial(ctx, r.url, nil)
	if err != nil {
		return err
	}
	r.c, r.login = c, http.Header{}
	for _, cookie := range c.Cookies() {
		r.login.Add("Cookie", cookie.Name+"="+cookie.Value)
	}
	hello, err := r.next(ctx)
	if err != nil {
		return err
	}
	r.user, r.in, r.seen, r.leave = hello.UserID, "", nil, ""
	r.book.moved(r.user, "")
	return nil
}

func (r *roamer) next(ctx context.Context) (client.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	return r.c.Next(ctx)
}

func (r *roamer) close() {
	if r.c != nil {
		_ = r.c.Close()
	}
}

// roam acts at random until a moment.
func (r *roamer) roam(ctx context.Context, until time.Time) error {
	for time.Now().Before(until) && ctx.Err() == nil {
		if err := r.act(ctx); err != nil {
			return err
		}
		if err := r.listen(ctx, time.Duration(r.random.Int64N(int64(2*r.pause)))); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// act does one thing.
func (r *roamer) act(ctx context.Context) error {
	switch dice := r.random.IntN(100); {
	case dice < 2:
		return r.begin(ctx)
	case dice < 7:
		return r.lose(ctx)
	case dice < 12 && r.in != "" && r.leave == "":
		r.leave = r.newID()
		return r.c.Send(client.Message{Type: "leave_room", ID: r.leave})
	case dice < 22 || r.in == "":
		return r.c.Join(r.room(r.random))
	}
	return r.speak()
}

func (r *roamer) newID() string {
	r.sent++
	return strconv.Itoa(r.number) + "-" + strconv.Itoa(r.sent)
}

// begin leaves for good and comes back as somebody else.
func (r *roamer) begin(ctx context.Context) error {
	r.book.gone(r.user)
	r.close()
	return r.connect(ctx)
}

// lose cuts the connection, stays away for a moment and resumes.
func (r *roamer) lose(ctx context.Context) error {
	r.c.Cut()
	for {
		m, err := r.next(ctx)
		if err != nil {
			break
		}
		r.heard(m)
	}
	r.close()
	measure.Pause(ctx, time.Duration(r.random.Int64N(int64(maxAway))))
	c, err := r.c.Resume(ctx, r.url, r.login)
	if err != nil {
		return err
	}
	r.c = c
	hello, err := r.next(ctx)
	if err != nil {
		return err
	}
	if hello.UserID != r.user {
		r.book.failed("a session was not resumed")
		r.book.gone(r.user)
		r.user, r.in, r.seen, r.leave = hello.UserID, "", nil, ""
		r.book.moved(r.user, "")
		return nil
	}
	r.book.resumed()
	return nil
}

// speak sends a message to somebody in the room.
func (r *roamer) speak() error {
	to := r.seen[r.random.IntN(len(r.seen))]
	if to == r.user {
		return nil
	}
	id := r.newID()
	r.book.sent(id, entry{from: r.user, to: to, number: r.sent})
	document, _ := json.Marshal(map[string]string{"type": "offer", "sdp": id}) // Strings always encode.
	data, _ := json.Marshal(string(document))
	return r.c.Send(client.Message{Type: "offer", ID: id, TargetID: to, Data: data})
}

// listen takes what comes for a while. Its error is that the server has ended the connection.
func (r *roamer) listen(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		m, err := r.c.Next(ctx)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		r.heard(m)
	}
}

func (r *roamer) heard(m client.Message) {
	switch m.Type {
	case "user_joined":
		r.joined(m)
	case "user_left":
		if m.RoomID == r.in {
			r.seen = slices.DeleteFunc(r.seen, func(user string) bool { return user == m.UserID })
		}
	case "ack":
		r.acked(m.ID)
	case "error":
		r.refused(m)
	case "offer":
		var document struct{ SDP string }
		_ = m.Document(&document) // Without its id it counts as corrupt.
		r.book.got(document.SDP, m.UserID, r.user)
	}
}

func (r *roamer) joined(m client.Message) {
	if m.UserID == r.user {
		r.in = m.RoomID
		r.book.moved(r.user, r.in)
	}
	if m.RoomID == r.in {
		r.seen = users(m.Data)
	}
}

func (r *roamer) acked(id string) {
	if id != r.leave {
		r.book.answered(id, true)
		return
	}
	r.in, r.seen, r.leave = "", nil, ""
	r.book.moved(r.user, "")
}

// refused takes an error. That a target or the own room is gone meanwhile is none of the server's.
func (r *roamer) refused(m client.Message) {
	var document struct {
		Code    int
		Message string
	}
	_ = m.Document(&document) // Without a code it counts as an error.
	if document.Code != http.StatusNotFound && document.Code != http.StatusConflict {
		r.book.failed(fmt.Sprintf("%d %s", document.Code, document.Message))
	}
	if m.ID == r.leave {
		r.leave = ""
	}
	r.book.answered(m.ID, false)
}

// finish returns when the server has answered all that this client has asked.
func (r *roamer) finish(ctx context.Context) error {
	last := r.newID()
	if err := r.c.Send(client.Message{Type: "stun_config", ID: last}); err != nil {
		return err
	}
	for {
		m, err := r.next(ctx)
		if err != nil {
			return err
		}
		r.heard(m)
		if m.Type == "ack" && m.ID == last {
			return nil
		}
	}
}

// settle waits for what is owed to all, and until this client sees who is in its room.
func (r *roamer) settle(ctx context.Context, until time.Time) error {
	for ctx.Err() == nil {
		if err := r.listen(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		sees := r.book.sees(r.user, r.in, r.seen)
		if sees && r.book.owed(r.user) == 0 {
			return nil
		}
		if time.Now().After(until) {
			r.book.blind(!sees)
			return nil
		}
	}
	return ctx.Err()
}

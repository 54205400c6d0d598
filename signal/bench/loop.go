package bench

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxUnsent bounds what waits for a server that does not read.
	maxUnsent = 8 << 20

	// farewell is how long servers have to answer the close frames of a loop.
	farewell = 5 * time.Second

	// inboxSize is how much is read at once, and the room for one message.
	inboxSize = 256 << 10
)

// loop sends and receives for many sockets in one goroutine, which is the only one that may use it.
type loop struct {
	poller  *poller
	sockets []*socket
	ready   []ready
	due     alarms
	late    []time.Duration // late is how long after its moment each alarm was done.
	inbox   []byte
	frame   []byte
	errors  int    // errors counts what servers refused.
	trouble string // trouble is the first of them.
}

func newLoop() (*loop, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	return &loop{poller: p, inbox: make([]byte, inboxSize), frame: make([]byte, 0, maxHeader+maxSize)}, nil
}

// add takes sockets that have been set up. What came for them meanwhile is handled with what comes next.
func (l *loop) add(sockets ...*socket) error {
	for _, s := range sockets {
		fd, err := bare(s.conn)
		if err != nil {
			return err
		}
		s.conn, s.fd, s.number = nil, fd, len(l.sockets)
		l.sockets = append(l.sockets, s)
		if err := l.poller.watch(fd, s.number, true, true, false); err != nil {
			return err
		}
		if beat := s.dialect.beat; beat != "" {
			l.keepAlive(s, []byte(beat))
		}
	}
	return nil
}

// beatTime is how often the clients of PeerJS say that they are there.
const beatTime = 5 * time.Second

func (l *loop) keepAlive(s *socket, beat []byte) {
	a := new(alarm)
	a.do = func(at time.Time) error {
		if s.closed {
			return nil
		}
		l.set(a, at.Add(beatTime))
		return l.send(s, beat)
	}
	l.set(a, time.Now().Add(rand.N(beatTime)))
}

// alarm is something to do at a moment. It may be set again once it has been done.
type alarm struct {
	at time.Time
	do func(at time.Time) error // do gets the moment for which the alarm was set.
}

// alarms is a heap of alarms, the next one first.
type alarms []*alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(*alarm)) }
func (a *alarms) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	return x
}

func (l *loop) set(a *alarm, at time.Time) {
	a.at = at
	heap.Push(&l.due, a)
}

// run works until a moment, or until done says so if it is not nil.
func (l *loop) run(ctx context.Context, until time.Time, done func() bool) error {
	for {
		now := time.Now()
		if err := l.fire(now); err != nil {
			return err
		}
		if ctx.Err() != nil || !now.Before(until) || done != nil && done() {
			return ctx.Err()
		}
		next := until
		if len(l.due) > 0 && l.due[0].at.Before(next) {
			next = l.due[0].at
		}
		if err := l.poll(min(time.Until(next), 100*time.Millisecond)); err != nil {
			return err
		}
	}
}

// fire does all that is due.
func (l *loop) fire(now time.Time) error {
	for len(l.due) > 0 && !l.due[0].at.After(now) {
		a := heap.Pop(&l.due).(*alarm)
		l.late = appendSample(l.late, time.Since(a.at))
		if err := a.do(a.at); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) poll(wait time.Duration) error {
	var err error
	if l.ready, err = l.poller.wait(wait, l.ready[:0]); err != nil {
		return err
	}
	for _, r := range l.ready {
		s := l.sockets[r.number]
		if r.write && !s.closed {
			if err := l.flush(s); err != nil {
				return err
			}
		}
		if r.read && !s.closed {
			if err := l.receive(s); err != nil {
				return fmt.Errorf("client %d: %w", s.number, err)
			}
		}
	}
	return nil
}

// receive reads once and handles all whole frames.
func (l *loop) receive(s *socket) error {
	kept := copy(l.inbox, s.rest)
	n, err := read(s.fd, l.inbox[kept:])
	if n == 0 || err != nil {
		return l.end(s, fmt.Sprintf("the connection is gone (%v)", err))
	}
	if n < 0 {
		return nil
	}
	left := l.inbox[:kept+n]
	now := time.Now()
	for !s.closed {
		op, payload, length, err := parseFrame(left)
		if err != nil {
			return err
		}
		if length == 0 {
			break
		}
		left = left[length:]
		if err := l.handle(s, op, payload, now); err != nil {
			return err
		}
	}
	s.rest = append(s.rest[:0], left...)
	return nil
}

func (l *loop) handle(s *socket, op byte, payload []byte, now time.Time) error {
	switch op {
	case opText:
		return l.text(s, payload, now)
	case opPing:
		return l.sendOp(s, opPong, payload)
	case opClose:
		return l.end(s, closeText(payload))
	}
	return nil
}

func (l *loop) text(s *socket, payload []byte, now time.Time) error {
	var m message
	if !s.dialect.read(payload, &m) {
		return fmt.Errorf("the server sent %q, which is no JSON object", payload[:min(len(payload), 100)])
	}
	if refusal(&m) && !s.lenient {
		l.errors++
		if l.trouble == "" {
			l.trouble = string(m.kind) + " " + string(m.data)
		}
	}
	if s.handle != nil {
		return s.handle(&m, now)
	}
	return nil
}

// end notes that the server has closed a connection, which is an error unless that was expected.
func (l *loop) end(s *socket, why string) error {
	s.closed, s.why, s.out = true, why, nil
	cut(s.fd)
	if s.mayEnd {
		return nil
	}
	return errors.New("the server closed its connection: " + why)
}

// send sends a text message.
func (l *loop) send(s *socket, text []byte) error { return l.sendOp(s, opText, text) }

func (l *loop) sendOp(s *socket, op byte, payload []byte) error {
	if s.closed {
		return nil
	}
	l.frame = appendFrame(l.frame[:0], op, payload, rand.Uint32())
	if len(s.out) > 0 {
		s.out = append(s.out, l.frame...)
		if len(s.out) > maxUnsent {
			return fmt.Errorf("client %d: the server reads nothing", s.number)
		}
		return nil
	}
	return l.write(s, l.frame)
}

// write hands bytes to the kernel and keeps what it does not take.
func (l *loop) write(s *socket, b []byte) error {
	n, err := write(s.fd, b)
	if err != nil {
		return l.end(s, fmt.Sprintf("the connection is gone (%v)", err))
	}
	before := len(s.out) > 0
	s.out = append(s.out[:0], b[max(n, 0):]...)
	if after := len(s.out) > 0; before != after {
		return l.poller.watch(s.fd, s.number, false, !s.deaf, after)
	}
	return nil
}

func (l *loop) flush(s *socket) error { return l.write(s, s.out) }

// listen says whether a socket is read.
func (l *loop) listen(s *socket, yes bool) error {
	s.deaf = !yes
	if s.closed {
		return nil
	}
	return l.poller.watch(s.fd, s.number, false, yes, len(s.out) > 0)
}

// close says goodbye on all sockets, waits a while for the servers to answer, and closes them.
func (l *loop) close() {
	open := func() (n int) {
		for _, s := range l.sockets {
			if !s.closed {
				n++
			}
		}
		return n
	}
	l.due = nil
	for _, s := range l.sockets {
		s.mayEnd, s.handle = true, nil
		_ = l.sendOp(s, opClose, []byte{1000 >> 8, 1000 & 255})
	}
	// A server that answers too late is cut off, which it has to expect.
	_ = l.run(context.Background(), time.Now().Add(farewell), func() bool { return open() == 0 })
	for _, s := range l.sockets {
		if !s.closed {
			cut(s.fd)
		}
	}
	l.poller.close()
}

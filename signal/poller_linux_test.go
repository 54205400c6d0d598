package signal

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// flood is a receiver whose client sends the next message as soon as one is handled, so that there is
// always something to read.
type flood struct {
	echo
	client  net.Conn
	handled func() (more bool)
}

func (f *flood) message(_ opcode, data []byte) {
	if f.handled() {
		_, _ = f.client.Write(clientFrame(0x81, string(data))) // The test sees what is missing.
	}
}

// TestFlood lets one client send without an end: the others of the same poller have their turns.
func TestFlood(t *testing.T) {
	var fl flusher
	p, err := newPoller(&fl)
	if err != nil {
		t.Fatal(err)
	}
	ps := &pollers{all: []*poller{p}}
	defer fl.wait()
	defer ps.close()
	other, client := connect(t, ps, &fl, nil)
	other.s.serve()

	e, flooding := connect(t, ps, &fl, nil)
	answered := make(chan struct{})
	rounds := 0
	f := &flood{echo: *e, client: flooding, handled: func() bool {
		select {
		case <-answered:
			return false
		default:
		}
		if rounds++; rounds == 10 {
			_, _ = client.Write(clientFrame(0x81, "other"))
		}
		return rounds < 10_000
	}}
	f.s.to = f
	for range 24 {
		if _, err := flooding.Write(clientFrame(0x81, strings.Repeat("x", 2<<10))); err != nil {
			t.Fatal(err)
		}
	}
	f.s.serve()
	_ = client.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := client.Read(make([]byte, 7)); err != nil {
		t.Error(err)
	}
	close(answered)
	_ = client.Close()
	_ = flooding.Close()
	other.awaitEnd(t)
	f.awaitEnd(t)
	if rounds >= 10_000 {
		t.Error("the other client had to wait until the flood was over")
	}
}

// TestResumesTakeTurns has many clients read again at once: others are heard after each that is written to.
func TestResumesTakeTurns(t *testing.T) {
	const clients = 24
	var f flusher
	w := new(worker)
	for range clients {
		l := &script{room: 1}
		s := newSocket(l, new(record), &testLimits, &f)
		f.batch(func() {
			if err := s.push([]byte("message")); err != nil {
				t.Fatal(err)
			}
		})
		l.room = -1
		d := &descriptor{socket: s}
		if _, writes := d.happened(unix.EPOLLOUT); !writes {
			t.Fatal("a client that reads again gets no turn")
		}
		w.rest = append(w.rest, s)
		defer s.abort()
	}
	waiting := w.rest
	if err := waiting[0].push(nil); err != nil || len(f.touched) > 0 { // Its turn is for all that it has to write.
		t.Errorf("%d clients have another turn besides (%v)", len(f.touched), err)
	}
	for turn := range clients {
		w.write()
		for i, s := range waiting {
			if s.idle() != (i <= turn) {
				t.Fatalf("after turn %d client %d has its message: %v", turn, i, s.idle())
			}
		}
	}
	if len(w.rest) > 0 {
		t.Errorf("%d clients wait for nothing", len(w.rest))
	}
}

// TestLongWritesTakeTurns queues more for a client than is written in a turn: it comes whole, behind what others are sent.
func TestLongWritesTakeTurns(t *testing.T) {
	var f flusher
	w := new(worker)
	long, short := &script{room: -1}, &script{room: -1}
	to := map[*script]*socket{long: newSocket(long, new(record), &testLimits, &f), short: newSocket(short, new(record), &testLimits, &f)}
	push := func(l *script, size int) {
		f.begin()
		if err := to[l].push(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		w.rest = f.endShortly(w.rest)
	}
	push(long, 3*turnBytes)
	if len(w.rest) == 0 || long.out.Len() > turnBytes {
		t.Fatalf("%d bytes were written before anybody else could be heard", long.out.Len())
	}
	for turns := 1; len(w.rest) > 0; turns++ {
		before := long.out.Len()
		push(short, shortWrite/2)
		push(long, 1)
		if len(w.rest) > 1 || long.out.Len() > before {
			t.Fatalf("%d wait for their turn, and %d bytes were written out of turn", len(w.rest), long.out.Len()-before)
		}
		if sent := short.out.Len(); sent < turns*shortWrite/2 {
			t.Fatalf("%d bytes were sent to the other client before turn %d", sent, turns)
		}
		if w.write(); long.out.Len() > before+turnBytes {
			t.Fatalf("turn %d wrote %d bytes", turns, long.out.Len()-before)
		}
		if turns > 10 {
			t.Fatal("there is no end of turns")
		}
	}
	if got, want := long.out.Len(), 3*turnBytes; got <= want {
		t.Errorf("%d bytes came, want more than %d", got, want)
	}
	if !to[long].idle() || !to[short].idle() {
		t.Error("something waits and nobody writes it")
	}
}

// TestBroadcastsTakeTurns queues a large message for a whole room and a word for somebody else behind it: as many get the message as one
// turn is for, the word is written as well, and the others are left to later turns.
func TestBroadcastsTakeTurns(t *testing.T) {
	const clients, size = 10, turnBytes/3 - 16 // Three of them and their headers are just short of a turn.
	var f flusher
	f.begin()
	var room []*script
	for range clients {
		l := &script{room: -1}
		if err := newSocket(l, new(record), &testLimits, &f).push(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		room = append(room, l)
	}
	other := &script{room: -1}
	if err := newSocket(other, new(record), &testLimits, &f).push(make([]byte, shortWrite/2)); err != nil {
		t.Fatal(err)
	}
	rest := f.endShortly(nil)
	written := 0
	for _, l := range room {
		written += l.out.Len()
	}
	if written < size || written > turnBytes {
		t.Errorf("%d bytes were written to the room at once", written)
	}
	if got := len(rest); got != clients-written/size {
		t.Errorf("%d clients are left to later turns, after %d bytes", got, written)
	}
	if other.out.Len() < shortWrite/2 {
		t.Error("a word waits for the turns of a room")
	}
}

// ownPoller returns a poller whose worker is the test's.
func ownPoller(t *testing.T, f *flusher) (*pollers, *worker) {
	t.Helper()
	p, err := newPoller(f)
	if err != nil {
		t.Fatal(err)
	}
	p.started = true
	t.Cleanup(p.close)
	return &pollers{all: []*poller{p}}, newWorker(p)
}

// TestReadersBehindWriters has one client say something while the system tells of many more that they may be written to: it
// is heard at once.
func TestReadersBehindWriters(t *testing.T) {
	var f flusher
	ps, w := ownPoller(t, &f)
	var ends []net.Conn
	for range 5 * pollerEvents {
		e, client := connect(t, ps, &f, nil)
		e.s.serve()
		defer e.s.link.close()
		ends = append(ends, client)
	}
	if _, err := ends[len(ends)-1].Write([]byte("x")); err != nil { // On this system it has come when that returns.
		t.Fatal(err)
	}
	if !w.wait() || len(w.ready) != 1 {
		t.Errorf("%d clients are to be heard, want 1", len(w.ready))
	}
}

// TestMuchThatComesTakesTurns has clients say much at once: what one of them is answered does not wait for all.
func TestMuchThatComesTakesTurns(t *testing.T) {
	var f flusher
	f.begin() // What is handled is answered, and that stays queued.
	ps, w := ownPoller(t, &f)
	const clients, messages, size = 12, 96, turnBytes / 64
	var sockets []*socket
	for range clients {
		e, client := connect(t, ps, &f, nil)
		e.s.serve()
		defer e.s.link.close()
		if _, err := client.Write(bytes.Repeat(clientFrame(0x81, strings.Repeat("x", size)), messages)); err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, e.s)
	}
	answered := func() (bytes int) {
		for _, s := range sockets {
			bytes += s.backlog()
		}
		return bytes
	}
	for before := 0; before < clients*messages*size; before = answered() {
		if !w.wait() {
			t.Fatal("the poller has ended")
		}
		// Those that are ready may read a half of turnBytes too much, one that was interrupted as much, and each may have kept a message.
		if w.handle(); answered() > before+2*turnBytes+clients*size {
			t.Fatalf("%d bytes were handled between two looks", answered()-before)
		}
	}
}

// TestPollerIsClosedOnce closes a poller again when its descriptors' numbers mean something else.
func TestPollerIsClosedOnce(t *testing.T) {
	var fl flusher
	p, err := newPoller(&fl)
	if err != nil {
		t.Fatal(err)
	}
	numbers := []int{p.fd, p.wake}
	p.close()
	for _, fd := range numbers { // Other tests may be faster, whose descriptors these are then.
		if other, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, fd); err == nil {
			defer func() {
				if err := unix.Close(other); err != nil {
					t.Errorf("descriptor %d was closed by a poller that was closed before: %v", other, err)
				}
			}()
		}
	}
	p.close()
}

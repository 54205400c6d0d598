package signal

import (
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

// TestResumesTakeTurns has many clients read again at once: a batch writes to a few of them only, and a full one to one.
func TestResumesTakeTurns(t *testing.T) {
	const clients = 3 * maxResumes
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
		d.happened(unix.EPOLLOUT, w)
		defer s.abort()
	}
	waiting := w.resume
	for i, batch := range []struct {
		full bool
		want int
	}{{true, 1}, {false, 1 + maxResumes}, {false, 1 + 2*maxResumes}, {false, clients}} {
		w.full = batch.full
		w.write()
		written := 0
		for _, s := range waiting {
			if s.idle() {
				written++
			}
		}
		if written != batch.want || len(w.resume) != clients-written {
			t.Fatalf("after batch %d %d clients got their message and %d wait, want %d of %d", i, written, len(w.resume), batch.want, clients)
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

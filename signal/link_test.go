package signal

import (
	"bytes"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cline-meet/signal/packaging/systemtest"
)

// echo is a receiver that sends every message back and closes done when it has ended.
type echo struct {
	record
	s    *socket
	wait func()
	done chan error
}

func (e *echo) message(_ opcode, data []byte) {
	if e.wait != nil {
		e.s.link.yield()
		e.wait()
	}
	_ = e.s.push(data) // The test sees what is missing.
}

func (e *echo) ended(err error) { go e.finish(err) }

func (e *echo) finish(err error) {
	e.s.finish()
	e.done <- err
}

// awaitEnd waits until the socket has ended, for which there must be a reason.
func (e *echo) awaitEnd(t *testing.T) {
	t.Helper()
	if err := <-e.done; err == nil {
		t.Error("a socket ended without a reason")
	}
}

// connect returns both ends of a TCP connection, the server's as an echo's socket.
func connect(t *testing.T, ps *pollers, f *flusher, wait func()) (*echo, net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var l link = newStream(server, time.Minute, f)
	if ps != nil {
		if l = ps.link(server); l == nil {
			systemtest.Unable(t, "no poller for this system")
		}
	}
	e := &echo{wait: wait, done: make(chan error, 1)}
	e.s = newSocket(l, e, &testLimits, f)
	return e, client
}

func eachLink(t *testing.T, run func(t *testing.T, ps *pollers, f *flusher)) {
	var f flusher
	t.Run("stream", func(t *testing.T) { run(t, nil, &f) })
	t.Run("poller", func(t *testing.T) {
		ps, err := newPollers(&f)
		if err != nil {
			t.Fatal(err)
		}
		defer ps.close()
		run(t, ps, &f)
	})
	f.wait()
}

// TestEcho sends many messages of all sizes, in any portions, to many sockets at once.
func TestEcho(t *testing.T) {
	eachLink(t, func(t *testing.T, ps *pollers, f *flusher) {
		var clients sync.WaitGroup
		for n := range 20 {
			e, client := connect(t, ps, f, nil)
			var want, stream []byte
			for i := range 200 {
				text := strings.Repeat(string(rune('a'+i%26)), i*i%5000+n)
				want = appendFrame(want, opText, []byte(text))
				stream = append(stream, clientFrame(0x81, text)...)
			}
			clients.Go(func() {
				go e.s.serve()
				go func() {
					for _, portion := range portions(stream, 1000*n+77) {
						if _, err := client.Write(portion); err != nil {
							t.Error(err)
						}
					}
				}()
				got := make([]byte, len(want))
				if n, err := io.ReadFull(client, got); !bytes.Equal(got, want) {
					t.Errorf("%d of %d bytes came back, or others: %v", n, len(want), err)
				}
				_ = client.(*net.TCPConn).CloseWrite()
				if more, err := io.ReadAll(client); len(more) > 0 {
					t.Errorf("%q came too, %v", more, err)
				}
				if err := <-e.done; err != io.EOF {
					t.Errorf("ended with %v", err)
				}
			})
		}
		clients.Wait()
	})
}

// TestYield lets a message of one client wait: the other clients of the same poller must not, and the
// messages of the first keep their order.
func TestYield(t *testing.T) {
	var f flusher
	ps, err := newPollers(&f)
	if err != nil {
		t.Fatal(err)
	}
	defer f.wait()
	defer ps.close()
	answer := make(chan struct{})
	waiting, client := connect(t, ps, &f, func() { <-answer })
	go waiting.s.serve()
	send := func(c net.Conn, texts ...string) {
		for _, text := range texts {
			if _, err := c.Write(clientFrame(0x81, text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	receive := func(c net.Conn, size int) []string {
		b := make([]byte, size)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		return sentFrames(t, b)
	}
	send(client, "1", "2")
	for range 8 {
		other, c := connect(t, ps, &f, nil)
		go other.s.serve()
		send(c, "other")
		receive(c, 7)
		_ = c.Close()
		other.awaitEnd(t)
	}
	send(client, "3")
	close(answer)
	if got, want := receive(client, 9), []string{"1 1", "1 2", "1 3"}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	_ = client.Close()
	waiting.awaitEnd(t)
}

// TestSilence ends a socket on which nothing comes, and one that is aborted.
func TestSilence(t *testing.T) {
	eachLink(t, func(t *testing.T, ps *pollers, f *flusher) {
		silent, _ := connect(t, ps, f, nil)
		go silent.s.serve()
		if left := silent.s.silence(); left <= 0 || left > testLimits.read {
			t.Errorf("%v left of %v", left, testLimits.read)
		}
		silent.s.heard.Add(-int64(testLimits.read))
		silent.s.silence()
		if err := <-silent.done; err != errSilent {
			t.Errorf("ended with %v", err)
		}
		aborted, _ := connect(t, ps, f, nil)
		go aborted.s.serve()
		aborted.s.abort()
		if err := <-aborted.done; err == nil || err == errSilent {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestStuckReader fills the connection to a client that does not read: writing is given up.
func TestStuckReader(t *testing.T) {
	old := testLimits
	t.Cleanup(func() { testLimits = old })
	testLimits.queue, testLimits.write = 64<<20, 50*time.Millisecond
	var f flusher
	ps, err := newPollers(&f)
	if err != nil {
		t.Fatal(err)
	}
	defer f.wait()
	defer ps.close()
	e, _ := connect(t, ps, &f, nil)
	go e.s.serve()
	for text := make([]byte, 1<<20); e.s.push(text) == nil && !e.s.isBlocked(); {
		e.s.flush(math.MaxInt)
	}
	if err := <-e.done; err == nil {
		t.Error("a client that reads nothing is served on")
	}
	if e.s.inHand != nil || e.s.queue != nil {
		t.Error("what was for it is kept")
	}
}

func (s *socket) isBlocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked
}

// TestFinishUnserved finishes a socket that was never read, behind a close frame.
func TestFinishUnserved(t *testing.T) {
	eachLink(t, func(t *testing.T, ps *pollers, f *flusher) {
		e, client := connect(t, ps, f, nil)
		e.s.cut(closeUnavailable, "later", time.Second)
		e.s.finish()
		e.s.abort()
		written, err := io.ReadAll(client)
		if got := sentFrames(t, written); err != nil || !slices.Equal(got, []string{"8 \x0f\xa3later"}) {
			t.Errorf("received %q, %v", got, err)
		}
	})
}

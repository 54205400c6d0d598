package transport

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cline-meet/signal/packaging/systemtest"
	"cline-meet/signal/turnsrv/internal/wire"
	"cline-meet/signal/turnsrv/internal/wire/wiretest"
)

// source is a connection that has something to read every so often.
type source struct {
	net.Conn
	every time.Duration
	next  time.Time
}

func (s *source) Read(p []byte) (int, error) {
	time.Sleep(time.Until(s.next))
	n := 0
	for ; n < len(p) && !s.next.After(time.Now()); n++ {
		s.next = s.next.Add(s.every)
	}
	return n, nil
}

// TestBusyStreamIsReadTogether reads bytes that come at a steady pace.
func TestBusyStreamIsReadTogether(t *testing.T) {
	for name, tt := range map[string]struct {
		every    time.Duration
		resting  bool
		room     int
		together int // together is how many bytes come with one read at last.
	}{
		"busy":        {gatherTime / 4, true, 100, 4},
		"a call":      {20 * time.Millisecond, true, 100, 1},
		"behind":      {gatherTime / 4, true, 1, 1},
		"not wanted":  {gatherTime / 4, false, 100, 1},
		"just enough": {gatherTime, true, 100, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &gatherer{Conn: &source{every: tt.every, next: time.Now()}, resting: tt.resting}
				n := 0
				for range 4 * busyReads {
					n, _ = g.Read(make([]byte, tt.room))
				}
				if n != tt.together {
					t.Errorf("%d bytes came together, want %d", n, tt.together)
				}
				if late := time.Since(g.Conn.(*source).next); late > gatherTime {
					t.Errorf("reading is %v behind", late)
				}
			})
		})
	}
}

// written is a connection from which nothing comes and that counts what is written.
type written struct {
	net.Conn
	over chan struct{}

	mu     sync.Mutex
	writes []int
}

func (w *written) Read([]byte) (int, error) {
	<-w.over
	return 0, errors.New("closed")
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, len(p))
	return len(p), nil
}

// take returns how many bytes each write had since the last call.
func (w *written) take() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	writes := w.writes
	w.writes = nil
	return writes
}

func (w *written) SetReadDeadline(time.Time) error  { return nil }
func (w *written) SetWriteDeadline(time.Time) error { return nil }

func (w *written) Close() error {
	close(w.over)
	return nil
}

// TestBusyStreamIsWrittenTogether sends to a client at different paces.
func TestBusyStreamIsWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testOptions()
		cfg.Gather = true
		under := &written{over: make(chan struct{})}
		c := newStreamConn(newTransports(cfg, newEcho()).common, under, layers{}, FiveTuple{Protocol: TCP}, nil)
		frame := wire.Padded(len(wiretest.ChannelData(100)))
		send := func(times int) (writes []int) {
			for range times {
				if err := c.Send(wiretest.ChannelData(100), 0); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			return under.take()
		}
		if len(send(1)) != 1 {
			t.Error("a client that was not busy had to wait")
		}
		if writes := send(3); len(writes) != 0 {
			t.Errorf("writes of %v bytes to a client that was written to just before", writes)
		}
		time.Sleep(gatherTime)
		synctest.Wait()
		if writes := under.take(); !slices.Equal(writes, []int{3 * frame}) {
			t.Errorf("writes of %v bytes, want one of three frames", writes)
		}
		if writes := send(writeChunk/frame + 1); len(writes) == 0 {
			t.Error("a lot had to wait")
		}
		time.Sleep(2 * gatherTime)
		synctest.Wait()
		under.take()
		if len(send(1)) != 1 {
			t.Error("a client had to wait after a pause")
		}
		_ = c.Send(wiretest.ChannelData(100), 0)
		c.close()
		c.writer.Wait()
		if c.common.Metrics.queued.Load() != 0 {
			t.Error("what waited counts after the end")
		}
	})
}

// TestBusyStreamFallsSilent has a client that was busy send a little after a pause, over and over: whoever reads hears of it.
func TestBusyStreamFallsSilent(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	g := &gatherer{Conn: server, resting: true}
	_ = g.SetReadDeadline(time.Now().Add(systemtest.Patience))
	hushed := 0
	for range 5 {
		g.near = busyReads
		for _, n := range []int{1, 700, 1, gatherBytes + 1, 1} {
			go func() { _, _ = client.Write(make([]byte, n)) }()
			if _, err := io.ReadFull(g, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			if g.hushed {
				hushed++
			}
			g.near = busyReads // However slow the machine is.
		}
	}
	t.Logf("hushed after %d of 25 messages", hushed)
	_ = client.Close()
	if _, err := g.Read(make([]byte, 1)); err == nil {
		t.Error("the end is not heard of")
	}
}

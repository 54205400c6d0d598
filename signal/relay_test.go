package signal

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/time/rate"
)

// pair is two clients in a room whose connections take everything, without a network.
type pair struct {
	srv  *Server
	a, b *participant
}

func newPair(t testing.TB) *pair {
	s := socketless(t, &slowState{})
	s.flusher.begin() // The pair flushes by itself.
	p := &pair{s, s.place("room-1", member("user-aaaaaaaa-aaaa", "near", 1)), s.place("room-1", member("user-bbbbbbbb-bbbb", "near", 1))}
	p.a.room.apply(view(1, p.a.asMember(), p.b.asMember()))
	for _, one := range []*participant{p.a, p.b} {
		c := newConn(s, &sink{}, visitor{bound: binding{session: "session"}}, "host", one.conn.from)
		c.limits = &socketLimits{message: 1 << 16, queue: s.cfg.MaxQueue}
		c.rate, c.faults = rate.NewLimiter(rate.Inf, 1), rate.NewLimiter(rate.Inf, 1)
		c.participant, c.log, one.conn = one, one.log, c
	}
	return p
}

// sink is a link that takes all at once.
type sink struct{ script }

func (*sink) Write(p []byte) (int, error) { return len(p), nil }

// confirm answers pings, as clients do.
func (p *pair) confirm() {
	for _, one := range []*participant{p.a, p.b} {
		one.confirmed(one.conn, strconv.FormatUint(one.sent, 10))
	}
}

func (p *pair) flush() {
	p.a.conn.flush(math.MaxInt)
	p.b.conn.flush(math.MaxInt)
}

func testOffer(id string) []byte {
	return []byte(`{"type":"offer",` + id + `"target_id":"user-bbbbbbbb-bbbb","data":"{\"sdp\":\"` +
		strings.Repeat(`a=rtpmap:111 opus/48000/2\\r\\n`, 28) + `\",\"type\":\"offer\"}"}`)
}

// countAllocations counts those of a message with all that follows from it, confirmed now and then. Its id, if it
// has the one of six digits, is another one each time.
func (p *pair) countAllocations(op opcode, frame []byte) float64 {
	n, id := 0, bytes.Index(frame, []byte("100000"))
	return testing.AllocsPerRun(2000, func() {
		if id >= 0 {
			strconv.AppendInt(frame[id:id], int64(100_000+n), 10)
		}
		p.a.conn.handle(op, frame)
		p.flush()
		if n++; n%100 == 0 {
			p.confirm()
		}
	})
}

func BenchmarkRelay(b *testing.B) {
	p := newPair(b)
	frame := testOffer(`"id":"100000",`)
	n, id := 0, bytes.Index(frame, []byte("100000"))
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		strconv.AppendInt(frame[id:id], int64(100_000+n%900_000), 10)
		p.a.conn.handle(opText, frame)
		p.flush()
		if n++; n%100 == 0 {
			p.confirm()
		}
	}
}

func TestFrameLog(t *testing.T) {
	var l frameLog
	var want []string
	for i := range 300 {
		frame := strings.Repeat(strconv.Itoa(i%10), i*i%9000)
		l.add([]byte(frame))
		want = append(want, frame)
		if n := i % 3 / 2 * (i % 4); n > 0 {
			l.drop(n)
			want = want[n:]
		}
		checkLog(t, &l, want)
	}
	l.dropOver(20_000)
	for size(want) > 20_000 {
		want = want[1:]
	}
	checkLog(t, &l, want)
	l.drop(l.count)
	checkLog(t, &l, nil)
	if l.first != nil || l.last != nil {
		t.Error("an empty log holds a buffer")
	}
}

func size(frames []string) (n int) {
	for _, f := range frames {
		n += len(f)
	}
	return n
}

func checkLog(t *testing.T, l *frameLog, want []string) {
	t.Helper()
	var got []string
	for _, frame := range l.copies() {
		got = append(got, string(frame))
	}
	if l.count != len(want) || l.size != size(want) || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("%d frames of %d bytes, want %d of %d", l.count, l.size, len(want), size(want))
	}
}

func TestBufferSizes(t *testing.T) {
	for size := range 70_000 {
		b := newBuffer(size)
		if cap(b.b) < size || len(b.b) != 0 || cap(b.b) > max(minBuffer, 2*size) {
			t.Fatalf("a buffer for %d bytes holds %d", size, cap(b.b))
		}
		b.free()
	}
	b := &buffer{b: make([]byte, 0, 300)} // as append makes them
	b.free()
	if b := newBuffer(512); cap(b.b) < 512 {
		t.Errorf("a buffer for 512 bytes holds %d", cap(b.b))
	}
	var none *buffer
	none.free()
	if b = none.grown(5); cap(b.b) < 5 {
		t.Errorf("no room for 5 bytes")
	}
	b.b = append(b.b, strings.Repeat("x", minBuffer)...)
	if b = b.grown(1); len(b.b) != minBuffer || cap(b.b) <= minBuffer {
		t.Errorf("grown to %d of %d", len(b.b), cap(b.b))
	}
}

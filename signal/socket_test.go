package signal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// script is a link on which bytes come in given portions, and then the end.
type script struct {
	portions [][]byte
	out      bytes.Buffer
	room     int // what may be written before it would have to wait; negative for any
	hung     bool
}

func (l *script) Read(p []byte) (int, error) {
	if len(l.portions) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, l.portions[0])
	if l.portions[0] = l.portions[0][n:]; len(l.portions[0]) == 0 {
		l.portions = l.portions[1:]
	}
	return n, nil
}

func (l *script) Write(p []byte) (int, error) {
	if l.room < 0 || len(p) <= l.room {
		l.room -= len(p)
		return l.out.Write(p)
	}
	n, _ := l.out.Write(p[:l.room])
	l.room = 0
	return n, errWait
}

func (l *script) serve(s *socket) {
	space := make([]byte, 100)
	for {
		if _, err := s.read(space); err != nil {
			return
		}
	}
}

func (l *script) yield()                         {}
func (l *script) flush(s *socket, most int) bool { return s.flush(most) }
func (l *script) hungUp() bool                   { return l.hung }
func (l *script) endReading()                    {}
func (l *script) cut()                           {}
func (l *script) close()                         {}

// record is a receiver that writes down what it hears.
type record struct {
	events []string
	end    error
}

func (r *record) message(op opcode, data []byte) {
	r.events = append(r.events, fmt.Sprintf("message %d %q", op, data))
}
func (r *record) tooLarge(begin []byte) {
	r.events = append(r.events, fmt.Sprintf("too large %q", begin))
}
func (r *record) tooMuch()         { r.events = append(r.events, "too much") }
func (r *record) pinged()          {}
func (r *record) pong(data []byte) { r.events = append(r.events, fmt.Sprintf("pong %q", data)) }
func (r *record) ended(err error)  { r.end = err }

var testLimits = socketLimits{message: 1 << 16, queue: 1 << 20, read: time.Minute, write: time.Minute}

// clientFrame returns a masked frame.
func clientFrame(first byte, payload string) []byte {
	frame := []byte{first, maskBit}
	switch n := len(payload); {
	case n <= maxControl:
		frame[1] |= byte(n)
	case n < 1<<16:
		frame[1] |= 126
		frame = binary.BigEndian.AppendUint16(frame, uint16(n))
	default:
		frame[1] |= 127
		frame = binary.BigEndian.AppendUint64(frame, uint64(n))
	}
	key := []byte{1, 0xfe, 0, 0x55}
	frame = append(frame, key...)
	for i := range len(payload) {
		frame = append(frame, payload[i]^key[i%4])
	}
	return frame
}

// portions cuts bytes into pieces of that many, 0 for one piece.
func portions(b []byte, size int) [][]byte {
	if size == 0 {
		size = len(b)
	}
	var out [][]byte
	for piece := range slices.Chunk(b, max(1, size)) {
		out = append(out, piece)
	}
	return out
}

// FuzzReading compares what a socket makes of a client's bytes, however they are cut, with what another
// implementation of RFC 6455 does.
func FuzzReading(f *testing.F) {
	long := strings.Repeat("long ", 100)
	for _, frames := range [][][]byte{
		{clientFrame(0x81, "hello"), clientFrame(0x82, "\x00\xff"), clientFrame(0x81, "")},
		{clientFrame(0x81, long), clientFrame(0x89, "ping"), clientFrame(0x8a, "pong"), clientFrame(0x88, "\x03\xe8bye")},
		{clientFrame(0x01, "a"), clientFrame(0x89, "between"), clientFrame(0x00, long), clientFrame(0x80, "c"), clientFrame(0x81, "next")},
		{clientFrame(0x88, "")}, {clientFrame(0x88, "\x03")}, {clientFrame(0x88, "\x03\xed")}, {clientFrame(0x88, "\x03\xe9\xff")},
		{clientFrame(0x01, "\xe2\x82"), clientFrame(0x80, "\xac"), clientFrame(0x81, "\xc3"), clientFrame(0x81, "next")},
		{clientFrame(0x80, "no beginning")}, {clientFrame(0x01, "a"), clientFrame(0x81, "b")}, {{0x00, 0x9b}}, {clientFrame(0x01, "a"), {0x81, 0x9b}},
		{clientFrame(0x09, "fragmented ping")}, {clientFrame(0x89, long)}, {clientFrame(0xc1, "rsv")}, {clientFrame(0x83, "opcode")},
		{{0x81, 1, 'x'}}, {{0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}}, {{0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5}},
	} {
		for _, size := range []int{0, 1, 7} {
			f.Add(bytes.Join(frames, nil), size)
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		if len(stream) > testLimits.message || size < 0 {
			return
		}
		var got record
		var fl flusher
		fl.begin() // Nothing is flushed.
		s := newSocket(&script{portions: portions(bytes.Clone(stream), size)}, &got, &testLimits, &fl)
		s.serve()
		want := heardByGorilla(t, stream)
		if !slices.Equal(got.events, want.events) {
			t.Errorf("heard %v, want %v", got.events, want.events)
		}
		if kindOfEnd(got.end) != kindOfEnd(want.end) {
			t.Errorf("ended with %v, want %v", got.end, want.end)
		}
	})
}

// kindOfEnd makes the errors of both implementations comparable.
func kindOfEnd(err error) string {
	var ours closeError
	var theirs *websocket.CloseError
	switch {
	case errors.Is(err, errHalfCode): // To gorilla it is none.
		return fmt.Sprint("close ", websocket.CloseNoStatusReceived)
	case errors.As(err, &ours):
		return fmt.Sprint("close ", ours.code)
	case errors.As(err, &theirs) && theirs.Code != websocket.CloseAbnormalClosure:
		return fmt.Sprint("close ", theirs.Code)
	case errors.Is(err, io.ErrUnexpectedEOF) || theirs != nil:
		return "cut"
	}
	return "protocol"
}

// playback is a connection that a client's bytes come from.
type playback struct {
	net.Conn
	from io.Reader
}

func (c playback) Read(p []byte) (int, error)         { return c.from.Read(p) }
func (c playback) Write(p []byte) (int, error)        { return len(p), nil }
func (c playback) Close() error                       { return nil }
func (c playback) SetDeadline(time.Time) error        { return nil }
func (c playback) SetReadDeadline(time.Time) error    { return nil }
func (c playback) SetWriteDeadline(t time.Time) error { return nil }

// hijacked lets an upgrader take a playback.
type hijacked struct {
	*httptest.ResponseRecorder
	conn playback
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	none := strings.NewReader("")
	return h.conn, bufio.NewReadWriter(bufio.NewReader(none), bufio.NewWriter(io.Discard)), nil
}

func heardByGorilla(t *testing.T, stream []byte) (r record) {
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	request.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	upgrader := websocket.Upgrader{ReadBufferSize: 1 << 10}
	ws, err := upgrader.Upgrade(hijacked{httptest.NewRecorder(), playback{from: bytes.NewReader(stream)}}, request, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetPongHandler(func(data string) error { r.pong([]byte(data)); return nil })
	for r.end == nil {
		kind, data, err := ws.ReadMessage()
		switch {
		case err != nil:
			r.end = err
		case kind == websocket.TextMessage && !utf8.Valid(data): // It leaves that to the application.
			r.end = errNotUTF8
		default:
			r.message(opcode(kind), data)
		}
	}
	return r
}

// TestTooLarge sends messages that are too large, whole and in fragments, between others.
func TestTooLarge(t *testing.T) {
	limits := testLimits
	limits.message = 10
	ten, next, bye := clientFrame(0x81, "1234567890"), clientFrame(0x81, "next"), clientFrame(0x88, "\x03\xe8")
	ping := clientFrame(0x8a, "between")
	for _, test := range []struct {
		frames [][]byte
		begin  string
	}{
		{[][]byte{clientFrame(0x81, "12345678901")}, "1234567890"},
		{[][]byte{clientFrame(0x82, "12345678901"), ping}, "1234567890"},
		{[][]byte{clientFrame(0x81, "123456789\xc3\xa9")}, "123456789\xc3"},
		{[][]byte{clientFrame(0x01, "123456789"), clientFrame(0x00, "0"), clientFrame(0x80, "1")}, "1234567890"},
		{[][]byte{clientFrame(0x01, "1234567"), clientFrame(0x00, "890123"), ping, clientFrame(0x80, "")}, "1234567890"},
		{[][]byte{clientFrame(0x01, ""), clientFrame(0x00, "12345678901"), clientFrame(0x80, "12345678901")}, "1234567890"},
		{[][]byte{clientFrame(0x01, "12345678901"), clientFrame(0x80, "2")}, "1234567890"},
	} {
		for size := range 20 {
			stream := bytes.Join(slices.Concat([][]byte{ten}, test.frames, [][]byte{next, bye}), nil)
			got := readBy(&limits, stream, size)
			got.events = slices.DeleteFunc(got.events, func(e string) bool { return e == `pong "between"` })
			want := []string{`message 1 "1234567890"`, fmt.Sprintf("too large %q", test.begin), `message 1 "next"`}
			if !slices.Equal(got.events, want) || kindOfEnd(got.end) != "close 1000" {
				t.Errorf("in portions of %d: heard %v, ended with %v", size, got.events, got.end)
			}
		}
	}
}

// readBy returns what a socket makes of bytes that come in portions of that size.
func readBy(limits *socketLimits, stream []byte, size int) (got record) {
	var f flusher
	f.begin() // Nothing is flushed.
	newSocket(&script{portions: portions(bytes.Clone(stream), size)}, &got, limits, &f).serve()
	return got
}

// TestTooMuch goes on with what is too large, in each of the ways that there are: it ends, but the client's close frame is
// heard.
func TestTooMuch(t *testing.T) {
	limits := testLimits
	limits.message = 100
	long := strings.Repeat("x", 101)
	for name, test := range map[string]struct {
		first, more []byte
		refused     int
	}{
		"messages":       {clientFrame(0x81, long), clientFrame(0x81, long), 10},
		"one message":    {clientFrame(0x01, long), clientFrame(0x00, long), 1},
		"nothing":        {clientFrame(0x01, long), clientFrame(0x00, ""), 1},
		"one frame":      {clientFrame(0x81, strings.Repeat("x", 1700)), clientFrame(0x81, "next"), 1},
		"without an end": {clientFrame(0x01, ""), clientFrame(0x00, ""), 1},
	} {
		stream := slices.Concat(test.first, bytes.Repeat(test.more, 2*maxFragments), clientFrame(0x88, "\x03\xe8"))
		got := readBy(&limits, stream, 0)
		refused := len(got.events) - 1
		if refused < test.refused || refused > test.refused+10 || got.events[refused] != "too much" || kindOfEnd(got.end) != "close 1000" {
			t.Errorf("%s: heard %.200v, ended with %v", name, got.events, got.end)
		}
	}
}

// TestNotUTF8 sends texts that are not UTF-8, which end the reading with 1007, and bytes of which they are a part, which do not.
func TestNotUTF8(t *testing.T) {
	for name, test := range map[string]struct {
		frames [][]byte
		heard  int
		end    string
	}{
		"byte":               {[][]byte{clientFrame(0x81, "a\xff")}, 0, "protocol"},
		"overlong":           {[][]byte{clientFrame(0x81, "\xc0\x80")}, 0, "protocol"},
		"surrogate":          {[][]byte{clientFrame(0x81, "\xed\xa0\x80")}, 0, "protocol"},
		"too high":           {[][]byte{clientFrame(0x81, "\xf4\x90\x80\x80")}, 0, "protocol"},
		"cut":                {[][]byte{clientFrame(0x81, "\xe2\x82")}, 0, "protocol"},
		"cut in fragments":   {[][]byte{clientFrame(0x01, "\xe2"), clientFrame(0x00, "\x82"), clientFrame(0x80, "")}, 0, "protocol"},
		"whole in fragments": {[][]byte{clientFrame(0x01, "\xe2"), clientFrame(0x00, "\x82"), clientFrame(0x80, "\xac")}, 2, "close 1000"},
		"binary":             {[][]byte{clientFrame(0x82, "\xff")}, 2, "close 1000"},
		"close":              {[][]byte{clientFrame(0x88, "\x03\xe8\xff")}, 0, "protocol"},
	} {
		stream := slices.Concat(bytes.Join(test.frames, nil), clientFrame(0x81, "next"), clientFrame(0x88, "\x03\xe8"))
		for size := range 9 {
			var got record
			var f flusher
			f.begin()
			l := &script{portions: portions(bytes.Clone(stream), size), room: -1}
			s := newSocket(l, &got, &testLimits, &f)
			s.serve()
			s.flush(math.MaxInt)
			if len(got.events) != test.heard || kindOfEnd(got.end) != test.end {
				t.Errorf("%s in portions of %d: heard %v, ended with %v", name, size, got.events, got.end)
			}
			if sent := sentFrames(t, l.out.Bytes()); test.heard == 0 && !slices.Equal(sent, []string{"8 \x03\xeftext that is not UTF-8"}) {
				t.Errorf("%s: sent %q", name, sent)
			}
		}
	}
}

// sentFrames parses what a socket has written.
func sentFrames(t *testing.T, b []byte) (frames []string) {
	t.Helper()
	for len(b) > 0 {
		length, header := int(b[1]), 2
		if length == 126 {
			length, header = int(binary.BigEndian.Uint16(b[2:])), 4
		}
		if b[0]&finBit == 0 || length > 1<<16 || len(b) < header+length {
			t.Fatalf("not whole frames: %.40q", b)
		}
		frames = append(frames, fmt.Sprintf("%d %s", b[0]&15, b[header:header+length]))
		b = b[header+length:]
	}
	return frames
}

// TestWriting queues frames for a client that takes some bytes at a time.
func TestWriting(t *testing.T) {
	for room := 1; room < 40; room++ {
		l := &script{room: room}
		var f flusher
		f.begin()
		s := newSocket(l, new(record), &testLimits, &f)
		long := strings.Repeat("x", 200)
		var want []string
		for _, text := range []string{"a", long, "b"} {
			if err := s.push([]byte(text)); err != nil {
				t.Fatal(err)
			}
			want = append(want, "1 "+text)
		}
		f.end()
		f.begin()
		s.answerPing([]byte("first"))
		s.answerPing([]byte("last")) // The one before is not answered any more.
		if err := s.push([]byte("c")); err != nil {
			t.Fatal(err)
		}
		want = append(want, "1 c", "10 last")
		for range 400 {
			l.room = room
			resume(s)
		}
		s.close(closeGoingAway, "bye")
		want = append(want, "8 \x03\xe9bye")
		if err := s.push([]byte("late")); err != errNotOpen {
			t.Errorf("push after close: %v", err)
		}
		l.room = 1000
		f.end()
		resume(s)
		if got := sentFrames(t, l.out.Bytes()); !slices.Equal(got, want) {
			t.Fatalf("with room for %d sent %q, want %q", room, got, want)
		}
		if s.queue != nil || s.inHand != nil || s.pong != nil {
			t.Error("an idle socket holds a buffer")
		}
		s.finish()
	}
}

// TestQueueBound fills the queue of a client that reads nothing. What is begun stands, the rest gives
// way to the close frame.
func TestQueueBound(t *testing.T) {
	limits := testLimits
	limits.queue = 100
	l := new(script)
	l.room = 5
	var f flusher
	f.begin()
	s := newSocket(l, new(record), &limits, &f)
	first, second := strings.Repeat("1", 40), strings.Repeat("2", 40)
	for _, text := range []string{first, second} {
		if err := s.push([]byte(text)); err != nil {
			t.Fatal(err)
		}
		f.end()
		f.begin()
	}
	if err := s.push([]byte(strings.Repeat("3", 40))); err != errQueueFull {
		t.Fatalf("push over the bound: %v", err)
	}
	s.cut(closeSlow, "slow", time.Hour)
	l.room = -1
	resume(s)
	if got, want := sentFrames(t, l.out.Bytes()), []string{"1 " + first, "8 \x0f\xa0slow"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func newSocket(l link, to receiver, limits *socketLimits, f *flusher) *socket {
	s := new(socket)
	s.init(l, to, limits, f)
	return s
}

// resume tells a socket that its client has read, as a poller does.
func resume(s *socket) {
	if s.unblock() {
		s.flush(math.MaxInt)
	}
}

// TestFragmentsAreReadALittleAtATime has a client send a message in more frames than one needs, and one whose messages are dropped: others
// have their turn meanwhile. With a message as others send it that is over.
func TestFragmentsAreReadALittleAtATime(t *testing.T) {
	for name, tt := range map[string]struct {
		fragments int
		hasty     bool
	}{
		"as many as a buffer makes of the longest": {testLimits.message / (4 << 10), false},
		"many":                               {manyFragments + 2, true},
		"too many":                           {maxFragments + 2, true},
		"so many that it is heard no longer": {maxWaste * testLimits.message / wastedFrame * 2, true},
	} {
		stream := clientFrame(0x01, "")
		for range tt.fragments - 1 {
			stream = append(stream, clientFrame(0x00, "")...)
		}
		l := &script{portions: portions(stream, 1<<10)}
		var f flusher
		f.begin()
		s := newSocket(l, new(record), &testLimits, &f)
		s.serve()
		if s.hasty != tt.hasty {
			t.Errorf("%s: read a little at a time: %v", name, s.hasty)
		}
	}
}
